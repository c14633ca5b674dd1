"""Workers of one machine: the bits of a trial alone, and nothing lost where one is killed, stopped or interrupted."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import grids
import psutil
import pytest

pytestmark = pytest.mark.slow

LONG = {"train": {"epochs": 12}}


@pytest.fixture(scope="module")
def fresh(captured: Path, initialised_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own, in which nothing has been trained."""
    folder = tmp_path_factory.mktemp("fresh")
    for name in ("models", "data"):
        shutil.copytree(captured / name, folder / name)
    shutil.copy(initialised_store, folder)
    return folder


@pytest.fixture(scope="module")
def alone(fresh: Path) -> dict[str, tuple[str, str]]:
    """Student and answers of two trials, each in a process of its own, and of two that one worker trained."""
    grids.write_params(fresh, **LONG, engine={"workers": 1})
    for group, seed in (("sft", "0"), ("combined", "1")):
        grids.train(fresh, "--group", group, "--seed", seed)
    grids.train(fresh)
    return grids.digests(fresh)


def test_two_workers_train_the_bits_of_each_trial_alone(project: Path, alone: dict) -> None:
    grids.write_params(project, **LONG, engine={"workers": 2})
    said = grids.train(project)
    assert said.startswith("4 trials due of 4")
    assert said.count("finished in") == 4 and "4 trials in" in said.splitlines()[-1]
    assert "starts again" not in said
    assert grids.digests(project) == alone
    assert "Nothing to train: all 4 trials (2 groups x 2 seeds) are there." in grids.train(project)


def test_a_killed_worker_costs_its_trial_what_came_after_the_last_checkpoint(project: Path, alone: dict) -> None:
    grids.write_params(project, **LONG, engine={"workers": 2})
    process = grids.start(project)
    key = grids.wait_for_checkpoint(project).parent.name
    grids.owner(project, key).kill()
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert said.count("was killed by signal 9 (out of memory, perhaps); it starts again from its last checkpoint") == 1
    assert grids.digests(project) == alone
    (log,) = (project / ".glassbox/logs").glob(f"*-{key[:8]}.log")
    assert "resumes after step" in log.read_text(encoding="utf-8")


@pytest.mark.long
def test_a_stopped_worker_is_killed_and_its_trial_goes_on_elsewhere(project: Path, alone: dict) -> None:
    grids.write_params(project, **LONG, engine={"workers": 1, "silence_seconds": 6})
    process = grids.start(project)
    grids.owner(project, grids.wait_for_checkpoint(project).parent.name).suspend()
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "A worker gave no sign of life for" in said
    assert grids.digests(project) == alone


@pytest.mark.long
def test_workers_end_when_the_process_that_leads_them_is_killed(project: Path, alone: dict) -> None:
    grids.write_params(project, **LONG, engine={"workers": 2})
    process = grids.start(project)
    grids.wait_for_checkpoint(project)
    workers = grids.workers(process)
    process.kill()
    process.communicate()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert len(gone) == 2 and alive == []
    before = set(grids.manifests(project))
    time.sleep(1)
    assert set(grids.manifests(project)) == before
    grids.train(project)
    assert grids.digests(project) == alone


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_ends_the_study_at_checkpoints_and_the_same_command_goes_on(
    project: Path, number: signal.Signals, code: int, alone: dict
) -> None:
    grids.write_params(project, **LONG, engine={"workers": 2})
    process = grids.start(project)
    grids.wait_for_checkpoint(project)
    process.send_signal(number)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == code, said
    assert (
        f"Stopped by {number.name}: " in said.splitlines()[-1]
        and "wrote checkpoints. The same" in said.splitlines()[-1]
    )
    grids.train(project)
    assert grids.digests(project) == alone


@pytest.mark.long
def test_a_second_signal_ends_the_study_at_once(project: Path, alone: dict) -> None:
    grids.write_params(project, **LONG, engine={"workers": 2})
    process = grids.start(project)
    grids.wait_for_checkpoint(project)
    workers = grids.workers(process)
    for worker in workers:
        worker.suspend()  # what would write a checkpoint cannot
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "lost what came after their last checkpoints. The same command resumes." in said
    assert psutil.wait_procs(workers, timeout=5)[1] == []
    grids.train(project)
    assert grids.digests(project) == alone


@pytest.mark.long
def test_a_trial_that_fails_is_retried_and_reported_while_the_others_finish(project: Path) -> None:
    grids.write_params(project, engine={"workers": 1, "retries": 1})
    (project / "runs").mkdir()
    (project / "runs/sft").write_text("a file where a folder must be", encoding="utf-8")
    said = grids.train(project, expect=1)
    assert "2 of 4 trials are missing, the others are there. The same command trains only these." in said
    assert set(grids.manifests(project)) == {"combined/0", "combined/1"}
    assert said.count("it starts again from its last checkpoint") == 2
    (project / "runs/sft").unlink()
    said = grids.train(project)
    assert said.startswith("2 trials due of 4")


@pytest.mark.long
def test_two_studies_of_one_repository_train_nothing_twice(project: Path, tmp_path: Path) -> None:
    grids.write_params(project, **LONG, engine={"workers": 2})
    other = tmp_path / "other"
    for name in ("models", "data"):
        shutil.copytree(project / name, other / name)
    shutil.copy(project / "params.yaml", other)
    first, second = grids.start(project), grids.start(other, DVC_ROOT=str(project))
    outputs = [process.communicate(timeout=900)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, outputs
    assert sum(output.count(" finished in ") for output in outputs) == 4
    assert "Waiting for a free place on this machine: core-" in "".join(outputs)
    assert grids.digests(project) == grids.digests(other)
