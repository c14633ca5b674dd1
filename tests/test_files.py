"""The digest of code: it follows what computes, and nothing that is only said."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glassbox import files

ENTRIES = {"trial": "training/trial.py", "snapshot": "snapshot/capture.py", "verify": "snapshot/verify.py"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that may be changed."""
    copy = tmp_path / "src" / "glassbox"
    shutil.copytree(files.SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(files, "SOURCE", copy)
    return copy


def digest(entry: str) -> str:
    files.code_digest.cache_clear()
    files._tree.cache_clear()
    return files.code_digest(entry)


def covered(package: Path, entry: str) -> list[Path]:
    waiting, found = [package / entry], set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += files.imported_files(path)
    names = {path: path.relative_to(package).as_posix() for path in found}
    return sorted(path for path in found if not names[path].startswith(files.BEARS_ON_NO_RESULT))


class Mutation(ast.NodeTransformer):
    """Changes the first place of a kind that computes: a comparison, an operator, a number, a call's keyword."""

    def __init__(self) -> None:
        self.done = False

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if not self.done:
            self.done = True
            node.ops[0] = ast.Lt() if not isinstance(node.ops[0], ast.Lt) else ast.GtE()
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if not self.done and not isinstance(node.left, ast.JoinedStr):
            self.done = True
            node.op = ast.Sub() if not isinstance(node.op, ast.Sub) else ast.Add()
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not self.done and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            self.done = True
            return ast.Constant(node.value + 1)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if not self.done and node.value is not None:
            self.done = True
            return ast.Return(ast.List([node.value], ast.Load()))
        return self.generic_visit(node)


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_every_change_that_computes_otherwise_changes_the_digest(package: Path, entry: str) -> None:
    before, unchanged, mutated = digest(entry), [], []
    for path in covered(package, entry):
        text, mutation = path.read_text(encoding="utf-8"), Mutation()
        tree = ast.fix_missing_locations(mutation.visit(ast.parse(text)))
        if mutation.done:
            mutated.append((path, ast.unparse(tree)))
            if files._normal_form(tree) == files._normal_form(ast.parse(text)):
                unchanged.append(path.relative_to(package).as_posix())
    assert unchanged == [] and len(mutated) > 10
    path, text = mutated[-1]
    path.write_text(text, encoding="utf-8")
    assert digest(entry) != before


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_comments_docstrings_and_texts_of_errors_change_nothing(package: Path, entry: str) -> None:
    before = digest(entry)
    for path in covered(package, entry):
        rewrite(path, lambda text: reworded(ast.parse(text)) + "\n# another comment\n")
    assert digest(entry) == before


def reworded(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            for part in ast.walk(node):
                if isinstance(part, ast.Call) and part.args and isinstance(part.args[0], ast.Constant | ast.JoinedStr):
                    part.args[0] = ast.Constant("other words")
                    break
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Expr(ast.Constant("Other words."))
    return ast.unparse(ast.fix_missing_locations(tree))


def test_a_setting_that_is_declared_changes_nothing_and_a_method_of_settings_does(package: Path) -> None:
    entry, path = ENTRIES["trial"], package / "config" / "settings.py"
    before = digest(entry)
    rewrite(
        path,
        lambda text: text.replace(
            "class VerifySettings(Section):\n", "class VerifySettings(Section):\n    more: int\n"
        ),
    )
    assert digest(entry) == before
    rewrite(path, lambda text: text.replace("if highest(weight) > 0", "if highest(weight) > 1"))
    assert digest(entry) != before


def test_a_module_that_only_writes_or_shows_changes_nothing(package: Path) -> None:
    before = digest(ENTRIES["trial"])
    for name in ("tracking/store.py", "errors.py", "training/publication.py"):
        rewrite(package / name, lambda text: text + "\nMORE = 1\n")
    assert digest(ENTRIES["trial"]) == before


def test_line_ends_change_nothing(package: Path) -> None:
    before, path = digest(ENTRIES["snapshot"]), package / "snapshot" / "codec.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert digest(ENTRIES["snapshot"]) == before


def test_two_writers_of_one_file_at_once_both_succeed_and_leave_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "digests.json"
    contents = [bytes([letter]) * 50_000 for letter in b"ab"]
    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(files.write_synced, target, contents[turn % 2]) for turn in range(40)]:
            written.result()
    assert target.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [target]


def test_an_object_with_another_letter_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    files.write_json(path, {"score": 0.25, "of": ("a", "b")})
    assert files.read_json(path) == {"score": 0.25, "of": ["a", "b"]}
    text = path.read_text(encoding="utf-8")
    for changed in (
        text.replace("0.25", "0.75"),
        text.replace('"a"', '"c"'),
        text[:-9],
        text.replace("score", "scorf"),
    ):
        path.write_text(changed, encoding="utf-8")
        assert files.read_json(path) == {}
        with pytest.raises(ValueError):
            files.parse_json(changed)


def test_an_object_without_a_seal_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"score": 0.25}', encoding="utf-8")
    assert files.read_json(tmp_path / "old.json") == {"score": 0.25}


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "manifest.json.4711-1.partial").write_text("{", encoding="utf-8")
    files.write_json(tmp_path / "manifest.json", {"score": 0.25})
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_seal_holds_for_the_files_that_it_names_and_for_their_bytes(tmp_path: Path) -> None:
    for name in ("state", "progress"):
        (tmp_path / name).write_bytes(name.encode())
    assert not files.is_sealed(tmp_path / "seal.json", ("state", "progress"))
    files.write_seal(tmp_path / "seal.json", [tmp_path / "state", tmp_path / "progress"])
    assert files.is_sealed(tmp_path / "seal.json", ("state", "progress"))
    assert not files.is_sealed(tmp_path / "seal.json", ("state",))
    (tmp_path / "state").write_bytes(b"statf")
    assert not files.is_sealed(tmp_path / "seal.json", ("state", "progress"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "data/part"),
            r"A drive is full: .*data/part needs more than",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "bytes that are free there"),
        (OSError(errno.EROFS, "Read-only file system", "runs/sft"), r"runs/sft cannot be written \(Read-only"),
    ],
)
def test_a_drive_that_takes_nothing_is_a_sentence(error: Exception, told: str) -> None:
    assert re.search(told, files.drive_fault(error))


def test_another_error_is_no_fault_of_a_drive() -> None:
    assert (
        files.drive_fault(FileNotFoundError(errno.ENOENT, "No such file", "a")) == files.drive_fault(KeyError()) == ""
    )


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as error:
        files.write_synced(tmp_path / "manifest.json", b"{}")
    assert str(tmp_path / "manifest.json") in files.drive_fault(error.value) and not list(tmp_path.iterdir())
