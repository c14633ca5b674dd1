"""A team's store with its real parts: trials write while the server is killed and comes back; nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sections
import team_stack
from team_stack import BUCKET, KEY, PASSWORD, SECRET, TOOLS, TeamStack

from glassbox import tracking
from glassbox.errors import GlassboxError
from glassbox.tracking.journal import folder_of_journals
from glassbox.tracking.writing import write_waiting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(team_stack.missing()), reason=team_stack.missing() or "all is there"),
]
STORAGE = sections.storage()
STEPS = 200
# Logs a step every 50 ms, says how long the slowest call took, and waits for a file before it ends
WRITER = (
    f"""{sections.OPEN_STORAGE}
"""
    + """
import sys, time
from pathlib import Path
from glassbox import tracking
name, steps, gate = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
snapshot = {"name": "snapshot", "digest": "ab" * 32, "source": "data/snapshot"}
import glassbox.tracking.store as store; store.load_mlflow()
begun = time.monotonic()
run = tracking.TrialRun(storage, name=name, params={"seed": name}, tags={"key": name}, snapshot=snapshot)
slowest = time.monotonic() - begun
with run:
    print(run.run_id, flush=True)
    for step in range(steps):
        begun = time.monotonic()
        run.log({"loss": float(step)}, step)
        slowest = max(slowest, time.monotonic() - begun)
        time.sleep(0.05)
    items = Path(sys.argv[4]) / name / "items.parquet"
    items.parent.mkdir()
    items.write_bytes(name.encode())
    run.artifact(items)
    while not gate.exists():
        time.sleep(0.1)
print(slowest, flush=True)
"""
)


@pytest.fixture(scope="module")
def stack() -> Iterator[TeamStack]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # pytest's own are closed to PostgreSQL's user
        Path(folder).chmod(0o755)
        found = TeamStack(Path(folder))
        try:
            found.start()
            yield found
        finally:
            found.close()


@pytest.fixture(autouse=True)
def as_a_member(stack: TeamStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", team_stack.ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def refusal() -> str:
    begun = time.monotonic()
    with pytest.raises(GlassboxError) as error:
        tracking.check_store(STORAGE)
    assert time.monotonic() - begun < 30
    told = str(error.value)
    assert "\n" not in told and not [secret for secret in (PASSWORD, KEY, SECRET) if secret in told]
    return told


def write(name: str, gate: Path, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(tracking.__file__).parents[2])}
    command = [sys.executable, "-c", WRITER, name, str(STEPS), str(gate), str(folder)]
    with (folder / f"{name}.err").open("w", encoding="utf-8") as told:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=told, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_store_that_works_is_made_once_and_a_wrong_password_is_told(
    stack: TeamStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.check_store(STORAGE)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another-word")
    told = refusal()
    assert f"{stack.uri} refuses the user name or password" in told and "another-word" not in told


@pytest.mark.long
def test_the_server_is_killed_and_comes_back_while_four_trials_write(stack: TeamStack, tmp_path: Path) -> None:
    early, late = tmp_path / "early", tmp_path / "late"
    writers = {name: write(name, late if name > "b" else early, tmp_path) for name in "abcd"}
    ids = {name: first_line(process) for name, process in writers.items()}
    stack.kill_server()
    writers["e"] = write("e", late, tmp_path)
    ids["e"] = first_line(writers["e"])
    early.touch()
    slowest = {name: float(first_line(writers[name])) for name in "ab"}
    assert [writers[name].wait(60) for name in "ab"] == [0, 0]
    assert len(list(folder_of_journals().iterdir())) == 5
    told = (tmp_path / "a.err").read_text(encoding="utf-8")
    assert told.count("is away") == 1 and "has not taken all of this run" in told
    stack.start_server()
    late.touch()
    slowest |= {name: float(first_line(writers[name])) for name in "cde"}
    assert [writers[name].wait(60) for name in "cde"] == [0, 0, 0]
    write_waiting(STORAGE)
    assert max(slowest.values()) < 3, slowest
    for name, run_id in ids.items():
        (record,) = tracking.find_runs([run_id])
        assert record.status == "FINISHED" and record.params == {"seed": name}
        assert tracking.history(record.run_id, "loss") == [(step, float(step)) for step in range(STEPS)]
        items = tracking.artifact(record.run_id, "items.parquet")
        assert items is not None and items.read_text(encoding="utf-8") == name
        assert [found.run_id for found in tracking.find_by_key(name)] == [record.run_id]
    assert list(folder_of_journals().iterdir()) == []


@pytest.mark.long
def test_dvc_keeps_its_copies_in_the_same_s3(stack: TeamStack, tmp_path: Path) -> None:
    def dvc(*arguments: str) -> None:
        command = [str(TOOLS / "dvc"), *arguments]
        subprocess.run(command, cwd=tmp_path, env={**stack.environment, "DVC_NO_ANALYTICS": "1"}, check=True)

    dvc("init", "-q", "--no-scm")
    dvc("remote", "add", "-q", "-d", "team", f"s3://{BUCKET}/dvc")
    dvc("remote", "modify", "-q", "team", "endpointurl", stack.s3)
    (tmp_path / "snapshot").write_bytes(b"signals")
    dvc("add", "-q", "snapshot")
    dvc("push", "-q")
    (tmp_path / "snapshot").unlink()
    subprocess.run(["rm", "-r", str(tmp_path / ".dvc" / "cache")], check=True)
    dvc("pull", "-q")
    assert (tmp_path / "snapshot").read_bytes() == b"signals"


@pytest.mark.long
def test_a_full_bucket_is_told_before_training_and_fails_no_trial(stack: TeamStack, tmp_path: Path) -> None:
    stack.fill_s3()
    assert "cannot keep a file of" in refusal()
    gate = tmp_path / "gate"
    gate.touch()
    writer = write("f", gate, tmp_path)
    run_id = first_line(writer)
    assert writer.wait(240) == 0
    (record,) = tracking.find_runs([run_id])
    assert record.status == "FINISHED" and record.metrics["loss"] == STEPS - 1
    assert [path.name for path in folder_of_journals().iterdir()] != []


@pytest.mark.long
def test_a_server_that_is_away_is_told_before_training(stack: TeamStack) -> None:
    stack.kill_server()
    assert f"{stack.uri} does not answer (Connection refused)" in refusal()
