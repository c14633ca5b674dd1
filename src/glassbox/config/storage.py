"""Where everything lies: the repository's root, the stages' folders, unfinished work, and DVC's cache."""

from __future__ import annotations

import os
from configparser import ConfigParser
from pathlib import Path

from glassbox.config.settings import StorageSettings
from glassbox.errors import GlassboxError

CONF_FOLDER = Path("conf")
INPUTS_FOLDER = Path("data/inputs")
TASKS_FOLDER = Path("data/tasks")
ANSWERS_FOLDER = Path("data/answers")
SNAPSHOT_FOLDER = Path("data/snapshot")
RUNS_FOLDER = Path("runs")
REPORTS_FOLDER = Path("reports")


def root() -> Path:
    """The repository's root: DVC_ROOT under DVC (the parent's in queue and --temp runs), else the working directory."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def scratch_folder(storage: StorageSettings) -> Path:
    """Where unfinished work, locks and kept trials lie, outside DVC's outputs: `storage.scratch`, or .glassbox at the
    root, which the git worktrees of a repository share."""
    return root() / storage.scratch if storage.scratch else main_worktree(root()) / ".glassbox"


def main_worktree(folder: Path) -> Path:
    """The first worktree of the git repository that `folder` is a further worktree of; `folder` itself otherwise."""
    link = folder / ".git"
    if not link.is_file():
        return folder
    repository = folder / link.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    common = repository / "commondir"
    if not common.is_file():
        return folder
    shared = (repository / common.read_text(encoding="utf-8").strip()).resolve()
    return shared.parent if shared.name == ".git" else folder


def checkpoints_folder(storage: StorageSettings, key: str) -> Path:
    """The checkpoints of the unfinished trial of this key."""
    return scratch_folder(storage) / "running" / key


def require_cache(storage: StorageSettings, root: Path) -> None:
    """Raise GlassboxError where `storage.cache` is set and is not the cache that DVC uses in the repository `root`."""
    if storage.cache is None:
        return
    wanted, used = (root / storage.cache).resolve(), cache_in_use(root / ".dvc")
    if wanted != used:
        raise GlassboxError(
            f"`storage.cache` = {storage.cache}: DVC keeps its copies in {used}, because its cache is set outside "
            f'params.yaml. Next: `dvc cache dir --local "{wanted}"`, then the same command again.'
        )


def cache_in_use(dvc_folder: Path) -> Path:
    """The cache folder that `.dvc/config` and `.dvc/config.local` name, relative ones meaning: under `.dvc`."""
    parser = ConfigParser(interpolation=None)
    parser.read([dvc_folder / "config", dvc_folder / "config.local"], encoding="utf-8")
    return (dvc_folder / parser.get("cache", "dir", fallback="cache")).resolve()
