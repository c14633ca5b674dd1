"""Does DVC keep its copies where the settings want them? DVC reads its own configuration before any stage runs, so
that a stage can only refuse and name the command; DVC itself is never imported."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

from glassbox.config import StorageSettings
from glassbox.errors import GlassboxError


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
