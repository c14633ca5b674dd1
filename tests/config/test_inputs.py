"""Local models and data files count by their content, wherever they lie and whatever they are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sections

from glassbox.config.inputs import contents, digests_of, files_in, local_inputs, tokenizer_inputs
from glassbox.files import sha256_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ".hidden" / "work"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return folder


def test_files_beside_and_above_count_and_hidden_ones_inside_a_folder_do_not(here: Path) -> None:
    for name in ("../data.jsonl", "model/config.json", "model/deep/weights.safetensors", "model/.cache/x"):
        place = here / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name, encoding="utf-8")
    found = [path.as_posix() for path in files_in(["../data.jsonl", "model", None, "owner/on-the-hub"])]
    assert found == ["../data.jsonl", "model/config.json", "model/deep/weights.safetensors"]


def test_a_file_that_is_overwritten_in_place_has_another_digest(here: Path) -> None:
    path = here / "data.jsonl"
    path.write_text("one", encoding="utf-8")
    first = digests_of([path])
    assert first == digests_of([path]) == {path.as_posix(): sha256_of(path)}
    path.write_text("two", encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert digests_of([path]) == {path.as_posix(): sha256_of(path)} != first


def test_a_file_is_read_once_per_size_time_and_inode(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = here / "weights", []
    path.write_text("one", encoding="utf-8")
    monkeypatch.setattr("glassbox.config.inputs.sha256_of", lambda each: read.append(each) or "digest")
    digests_of([path])
    digests_of([path])
    assert read == [path]


def test_a_damaged_memory_of_digests_is_made_again(here: Path) -> None:
    path = here / "weights"
    path.write_text("one", encoding="utf-8")
    digests_of([path])
    (here / ".glassbox" / "digests.json").write_text("{", encoding="utf-8")
    assert digests_of([path]) == {path.as_posix(): sha256_of(path)}


def test_the_embedded_models_are_inputs_and_the_embedded_tasks_have_no_file() -> None:
    inputs = local_inputs(sections.COMMITTED)
    assert {Path(name).name for name in inputs["teacher"]} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert inputs["tasks"] == {}
    assert all("safetensors" not in name for name in tokenizer_inputs(sections.COMMITTED.student))


def test_two_files_of_one_name_both_count_and_their_folder_does_not() -> None:
    first = contents({"here/config.json": "a", "here/deep/config.json": "b"})
    assert first == contents({"there/config.json": "a", "there/deep/config.json": "b"})
    assert first != contents({"here/config.json": "c", "here/deep/config.json": "b"})
    assert first != contents({"here/config.json": "a", "here/deep/config.json": "c"})
