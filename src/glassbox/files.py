"""Files that are written whole or not at all, digests of files and of code."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def drive_fault(error: BaseException) -> str:
    """A sentence for a drive that is full or cannot be written; empty for any other error."""
    number = getattr(error, "errno", None) or 0
    is_full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
    if not is_full and number not in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ""
    named = getattr(error, "filename", None)
    place = Path(os.fsdecode(named)).absolute() if named else Path.cwd()
    if not is_full:
        return f"{place} cannot be written ({os.strerror(number)}). Make it writable, then the same command again."
    free = shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free
    return (
        f"A drive is full: {place} needs more than the {free:,} bytes that are free there. What was finished "
        "is whole. Free some space, or name folders on another drive in the section `storage`; then the same command "
        "goes on."
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of writing names the file, which the system itself leaves out once a file is open."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the drive, then rename: readers see all of it or nothing.

    Each writer has a partial file of its own, so that of two at once the last one wins and neither fails.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL_SUFFIX}")
    try:
        with naming(path), partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


SEAL = "seal"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """An object with a seal: the digest of all else in it, so that a reader notices a letter that has changed.

    The caller is the only one that writes this file: what a writer that was killed left beside it is removed.
    """
    for left in path.parent.glob(f"{path.name}.*{PARTIAL_SUFFIX}"):
        left.unlink(missing_ok=True)
    whole = {**content, SEAL: _digest_of(content)}
    write_synced(path, (json.dumps(whole, indent=2) + "\n").encode("utf-8"))


def parse_json(text: str | bytes) -> dict[str, Any]:
    """An object without its seal. Raises ValueError where it is no JSON object, or its seal is that of another one.

    One without a seal, which earlier versions and people write, is taken as it is.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _digest_of(content):
        raise ValueError("its seal is that of another content: it was damaged or changed by hand")
    return content


def _digest_of(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is absent, unreadable, damaged or holds something else."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}


def write_seal(path: Path, files: Iterable[Path]) -> None:
    """The sha256 of files that lie beside it, written once they are there: only then do they count."""
    write_json(path, {file.name: sha256_of(file) for file in files})


def is_sealed(path: Path, names: Iterable[str]) -> bool:
    """Whether a seal names exactly these files beside it, and each is the one that was sealed."""
    sealed = read_json(path)
    return {*sealed} == {*names} and all(is_file_of(path.with_name(name), digest) for name, digest in sealed.items())


def is_file_of(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


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
    waiting = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if not (isinstance(node, ast.If) and _is_name(node.test, "TYPE_CHECKING")):
                yield node
                waiting.append(node)


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


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
    in_section = isinstance(node, ast.ClassDef) and any(_is_name(base, "Section") for base in node.bases)
    in_raise = in_raise or isinstance(node, ast.Raise)
    fields = [
        f"{name}={_normal_form(value, in_raise, in_section)}"
        for name, value in ast.iter_fields(node)
        if value not in (None, []) and name not in ("kind", "type_comment")
    ]
    return f"{type(node).__name__}({','.join(fields)})"
