"""Files that are written whole or not at all, digests of files and of code."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from glassbox.errors import GlassboxError

PARTIAL_SUFFIX = ".partial"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise GlassboxError where the drive of `folder` cannot hold `needed_bytes` and a tenth more."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.1:
        raise GlassboxError(
            f"{what} needs about {needed_bytes * 1.1 / 1e9:.2f} GB in {folder.resolve()}, but its drive has "
            f"{free / 1e9:.2f} GB free. Free some space, or name a folder on another drive (storage.scratch for work "
            "in progress, storage.cache for DVC's copies)."
        )


def write_synced(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the drive, then rename: readers see all of it or nothing.

    Each writer has a partial file of its own, so that of two at once the last one wins and neither fails.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is absent, unreadable or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def brief_ids(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:3])
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more"


def publish_folder(staging: Path, target: Path) -> None:
    """Put a finished folder in place by one rename; from another drive it is first copied beside the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
    shutil.rmtree(beside, ignore_errors=True)
    _synchronise(staging)
    try:
        os.replace(staging, beside)
    except OSError:
        require_free_space(target.parent, sum(path.stat().st_size for path in staging.iterdir()), f"Copying {target}")
        beside.mkdir()
        for path in sorted(staging.iterdir()):
            shutil.copyfile(path, beside / path.name)
        _synchronise(beside)
    if target.exists():
        shutil.rmtree(target)
    os.replace(beside, target)
    shutil.rmtree(staging, ignore_errors=True)


def _synchronise(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


SOURCE = Path(__file__).resolve().parent
# What these hold decides how a result is read, written, shown or refused, never what it is.
BEARS_ON_NO_RESULT = (
    *("command.py", "errors.py", "files.py", "models/hub_errors.py", "training/publication.py"),
    *("comparison", "report", "tracking", "grid", "preflight"),
    *("config/analysis_plan.py", "config/problems.py", "config/rules.py", "config/storage.py", "config/yaml_files.py"),
)


@cache
def code_digest(*entries: str) -> str:
    """sha256 over the code that `entries` (paths in this package) run: they and all that they import of the package.

    A module counts by its syntax tree without comments, docstrings and the texts of raised errors, so that another
    wording changes nothing. Fields that settings declare do not count either: their values are in the keys.
    """
    waiting, found = [SOURCE / entry for entry in entries], set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported_files(path)
    digest = hashlib.sha256()
    for path in sorted(found):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(BEARS_ON_NO_RESULT):
            digest.update(f"{name}\x1f{_normal_form(_tree(path))}\x1f".encode())
    return digest.hexdigest()


def imported_files(path: Path) -> list[Path]:
    """The files of this package that one of them imports, at any depth of its code but not for types alone."""
    names: list[str] = []
    for node in _running_nodes(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    package = SOURCE.name
    places = [SOURCE.parent / name.replace(".", "/") for name in names if name.partition(".")[0] == package]
    candidates = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return [file for file in candidates if file.is_file()]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _running_nodes(node)


def _normal_form(node: Any, in_raise: bool = False, in_section: bool = False) -> str:
    """A node as text: its kind and its fields that are not empty, the same in every version of Python."""
    if isinstance(node, list):
        parts = [_normal_form(each, in_raise, in_section) for each in node]
        return f"[{','.join(part for part in parts if part)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    is_text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    if in_raise and is_text:
        return "text"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return ""  # a docstring
    if in_section and isinstance(node, ast.AnnAssign):
        return ""
    in_section = isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Section" for base in node.bases)
    in_raise = in_raise or isinstance(node, ast.Raise)
    fields = [
        f"{name}={_normal_form(value, in_raise, in_section)}"
        for name, value in ast.iter_fields(node)
        if value not in (None, []) and name not in ("kind", "type_comment")
    ]
    return f"{type(node).__name__}({','.join(fields)})"
