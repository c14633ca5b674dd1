"""Slots of this machine, and locks that end with their process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT, shrunk_settings

from glassbox.config.storage import main_worktree
from glassbox.errors import GlassboxError
from glassbox.grid import locks
from glassbox.grid.locks import Booking, Lease, is_valid, slots_of


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "core_count", lambda: 4)
    monkeypatch.setattr(locks, "visible_gpus", list)


def resources(tmp_path: Path, threads: int = 1, processes: int = 1, **engine: object) -> list[tuple[str, ...]]:
    settings = shrunk_settings(tmp_path, train={"threads": threads, "processes": processes}, engine=engine)
    return [slot.resources for slot in slots_of(settings)]


def test_there_are_as_many_slots_as_the_cores_have_room_for(tmp_path: Path) -> None:
    assert resources(tmp_path, threads=2) == [("core-0", "core-1"), ("core-2", "core-3")]
    assert len(resources(tmp_path)) == 4
    assert len(resources(tmp_path, threads=16)) == 1
    assert len(resources(tmp_path, workers=1)) == 1
    assert resources(tmp_path, cpus=3) == [("core-0", "core-1", "core-2")]


def test_a_gpu_is_a_slot_and_may_be_divided_or_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "visible_gpus", lambda: ["0", "1"])
    assert resources(tmp_path) == [("gpu-0",), ("gpu-1",)]
    assert resources(tmp_path, processes=2) == [("gpu-0", "gpu-1")]
    assert resources(tmp_path, gpus=0.5) == [("gpu-0.0",), ("gpu-1.0",), ("gpu-0.1",), ("gpu-1.1",)]
    assert resources(tmp_path, gpus=0, threads=4) == [("core-0", "core-1", "core-2", "core-3")]
    (first, second) = slots_of(shrunk_settings(tmp_path))
    assert (first.environment, second.environment) == ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"})
    with pytest.raises(
        GlassboxError, match="`engine.gpus` = 3: a trial asks for more GPUs than this machine has, which"
    ):
        resources(tmp_path, gpus=3)
    with pytest.raises(GlassboxError, match="room for 2. Next: `-S engine.workers=2`"):
        resources(tmp_path, workers=3)


HOLD = """
import sys; sys.path.insert(0, {source!r})
from pathlib import Path
from glassbox.grid.locks import Booking, Lease
folder = Path({folder!r})
booking, lease = Booking(folder, ["core-0", "core-1"]), Lease(folder, "key")
assert not booking.take() and not lease.take()
print(lease.token, flush=True)
sys.stdin.read()
"""


def test_what_another_process_holds_is_free_once_it_is_killed_and_its_number_is_worth_nothing(tmp_path: Path) -> None:
    code = HOLD.format(source=str(ROOT / "src"), folder=str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin and holder.stdout
    token = holder.stdout.readline().strip()
    lease = Lease(tmp_path, "key")
    assert Booking(tmp_path, ["core-1", "core-2"]).take() == f"core-1 is held by process {holder.pid}"
    assert Booking(tmp_path, ["core-2"]).take() == ""  # what a partly free slot had taken is given back
    assert lease.take() == f"process {holder.pid}" and is_valid(token)
    holder.kill()
    holder.communicate()
    assert Booking(tmp_path, ["core-0", "core-1"]).take() == "" and lease.take() == ""
    assert is_valid(lease.token) and not is_valid(token)


def test_git_worktrees_share_one_folder(tmp_path: Path) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    subprocess.run(["git", "init", "-q", str(main)], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], cwd=main, check=True)
    subprocess.run(["git", "worktree", "add", "-q", str(other)], cwd=main, check=True, capture_output=True)
    assert main_worktree(other) == main_worktree(main) == main
    assert main_worktree(tmp_path) == tmp_path
