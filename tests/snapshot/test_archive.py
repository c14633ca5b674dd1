"""Snapshots archived with real DVC in a real small repository, and brought back by name."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import archive
from glassbox.errors import GlassboxError
from glassbox.snapshot.archive import archive_snapshot, read_index, recorded_output, restore_snapshot

NOON = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)
DIGEST = "ab12" * 16
STAGES = """\
stages:
  snapshot:
    cmd: python make.py
    params: [words]
    outs: [data/snapshot]
"""
MAKE = """\
import json, pathlib, hashlib
words = pathlib.Path("params.yaml").read_text(encoding="utf-8")
folder = pathlib.Path("data/snapshot"); folder.mkdir(parents=True, exist_ok=True)
digest = "ab12" * 16 if "first" in words else "cd34" * 16
(folder / "manifest.json").write_text(json.dumps({"logical_digest": digest}), encoding="utf-8")
(folder / "part-00000.parquet").write_bytes(words.encode())
"""


def run(folder: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture(scope="module")
def finished_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "repository"
    folder.mkdir()
    run(folder, "git", "init", "--quiet")
    dvc(folder, "init", "--quiet")
    (folder / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    (folder / "make.py").write_text(MAKE, encoding="utf-8")
    (folder / "params.yaml").write_text("words: first\n", encoding="utf-8")
    dvc(folder, "repro", "--quiet")
    return folder


@pytest.fixture
def repository(finished_repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_repository, tmp_path / "repository")
    return tmp_path / "repository"


@pytest.mark.slow
def test_a_snapshot_is_named_pushed_and_brought_back_after_everything_local_is_lost(repository: Path) -> None:
    remote = str(repository.parent / "remote")
    entry = archive_snapshot(repository, remote, NOON)
    assert entry.name == "snapshot-2026-11-21-ab12ab12ab12"
    assert entry.md5.endswith(".dir") and entry.nfiles == 2
    assert archive_snapshot(repository, remote, NOON + datetime.timedelta(days=3)) == entry
    assert read_index(repository) == [entry]

    (repository / "params.yaml").write_text("words: second\n", encoding="utf-8")
    dvc(repository, "repro", "--quiet")
    shutil.rmtree(repository / ".dvc" / "cache")
    assert restore_snapshot(repository, remote, entry.name) == repository / "data" / "snapshot"
    manifest = json.loads((repository / "data" / "snapshot" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["logical_digest"] == DIGEST
    assert (repository / "data" / "snapshot" / "part-00000.parquet").read_text(encoding="utf-8") == "words: first\n"
    assert not list(repository.glob("snapshot-*")) and not list((repository / "data").glob("*.replaced"))
    with pytest.raises(GlassboxError, match=r"not what dvc\.lock records"):
        archive_snapshot(repository, remote, NOON)


@pytest.mark.long
@pytest.mark.slow
def test_a_restored_snapshot_is_what_the_lock_of_its_settings_records(repository: Path) -> None:
    dvc(repository, "remote", "add", "--default", "store", str(repository.parent / "remote"))
    entry = archive_snapshot(repository, None, NOON)
    shutil.rmtree(repository / "data" / "snapshot")
    restore_snapshot(repository, None, entry.name)
    assert "up to date" in dvc(repository, "status")
    aside = restore_snapshot(repository, "store", entry.name, repository / "elsewhere")
    assert (aside / "manifest.json").is_file()


@pytest.mark.slow
def test_without_a_remote_or_a_snapshot_or_under_an_unknown_name_the_error_says_what_to_do(repository: Path) -> None:
    with pytest.raises(GlassboxError, match="set storage.remote"):
        archive_snapshot(repository, None, NOON)
    with pytest.raises(GlassboxError, match="no snapshot named 'absent'; it holds: none"):
        restore_snapshot(repository, None, "absent")
    (repository / "dvc.lock").unlink()
    assert recorded_output(repository) is None
    with pytest.raises(GlassboxError, match="run `dvc repro verify`"):
        archive_snapshot(repository, None, NOON)


def test_an_empty_list_says_how_to_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["archive.py", "--list"])
    archive.main()
    assert "No snapshot is archived here (archive.json). `make archive`" in capsys.readouterr().out
