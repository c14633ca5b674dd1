"""data/tasks counts for the settings and the data that it was drawn from, and for no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sections
from miniatures import tiny_tokenizer

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.tasks.prepared import drawn_samples, origin, read_prepared, write_prepared

SPLITS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    write(tmp_path / "even.jsonl", [question(number) for number in range(12)])
    return tmp_path


def question(number: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"Is {number} even?", "answer": ["yes", "no"][number % 2], "choices": ["yes", "no"], **changes}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def settings_of(path: str = "even.jsonl", seed: int = 0, **counts: int) -> Settings:
    task = {"source": "jsonl", "files": dict.fromkeys(SPLITS, path), "train": 4, "validation": 2, "test": 2, **counts}
    prepare = sections.prepare(tasks={"even": task}, seed=seed)
    teacher = sections.COMMITTED.teacher.model_copy(update={"model": "teacher", "tokenizer": None})
    return sections.COMMITTED.model_copy(update={"prepare": prepare, "teacher": teacher})


def test_prepared_samples_are_read_where_settings_and_data_are_theirs(folder: Path) -> None:
    settings = settings_of()
    splits = drawn_samples(settings)
    assert read_prepared(folder / "tasks", settings) is None
    write_prepared(folder / "tasks", settings, splits)
    assert read_prepared(folder / "tasks", settings) == splits
    (folder / "tasks/test.parquet").write_bytes(b"damaged")
    assert read_prepared(folder / "tasks", settings) is None


def test_prepared_samples_of_others_are_not_read(folder: Path) -> None:
    write_prepared(folder / "tasks", settings_of(), drawn_samples(settings_of()))
    assert read_prepared(folder / "tasks", settings_of(seed=1)) is None
    assert read_prepared(folder / "tasks", settings_of(train=5)) is None
    write(folder / "even.jsonl", [question(number, answer="perhaps") for number in range(12)])
    assert read_prepared(folder / "tasks", settings_of()) is None
    with pytest.raises(GlassboxError, match=r"even\.jsonl, line 1: choices hold the answer 'perhaps'"):
        drawn_samples(settings_of())


def test_samples_have_the_origin_of_their_data_wherever_it_lies(folder: Path) -> None:
    (folder / "moved").mkdir()
    write(folder / "moved/even.jsonl", [question(number) for number in range(12)])
    before = origin(settings_of())
    assert origin(settings_of("moved/even.jsonl")) == before
    (folder / "teacher/chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert origin(settings_of()) != before
