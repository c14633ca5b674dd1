"""The digest of a part of this package's code."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).resolve().parent


def code_digest(names: Sequence[str]) -> str:
    """sha256 over the names and texts of modules, given as files and folders of the package; line ends do not count."""
    digest = hashlib.sha256()
    for name in names:
        place = SOURCE / name
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
            digest.update(f"{path.relative_to(SOURCE).as_posix()}\x1f{len(text)}\x1f{text}".encode())
    return digest.hexdigest()
