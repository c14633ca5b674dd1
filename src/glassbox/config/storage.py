"""Does DVC keep its copies where the settings want them? DVC reads its own configuration before any stage runs, so
that a stage can only refuse and name the command; DVC itself is never imported."""

from __future__ import annotations

import os
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

from glassbox.config.settings import StorageSettings
from glassbox.errors import GlassboxError

if TYPE_CHECKING:
    pass


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


def root() -> Path:
    """The repository's root: DVC_ROOT under DVC (the parent's in queue and --temp runs), else the working directory."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
