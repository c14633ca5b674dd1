"""docs/settings.md and `python src/settings.py --list` know every setting, group, task and scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import settings as stage
from glassbox.config.problems import every_key
from glassbox.config.reference import Entry, listing, page
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> dict[str, list[Entry]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return stage.entries()


def test_every_key_is_listed_described_and_read_by_something(found: dict[str, list[Entry]]) -> None:
    entries = {entry.key: entry for entry in found["settings"]}
    assert set(every_key(Settings)) <= set(entries)
    assert {"prepare.tasks.TASK.files.test", "distill.GROUP.replica", "train.early_stopping.patience"} <= set(entries)
    # Of a component, that is `meaning` in src/glassbox/config/components.py
    bare = [entry.key for entry in entries.values() if not entry.meaning]
    assert bare == [], "Write a text under each of these keys in src/glassbox/config/settings.py, then run `make docs`"
    assert [entry.key for entry in entries.values() if not entry.readers] == []


@pytest.mark.parametrize("kind", ["tasks", "groups", "scales"])
def test_every_file_that_can_be_selected_says_what_it_is(found: dict[str, list[Entry]], kind: str) -> None:
    assert found[kind]
    assert [entry.key for entry in found[kind] if len(entry.meaning) < 10] == [], (
        "say it in (...) on the file's first line"
    )


@pytest.mark.parametrize(
    ("key", "default", "values", "readers"),
    [
        ("train.learning_rate", "0.0004", "number above 0", "train"),
        ("train.warmup", "0.05", "number from 0 below 1", "train"),
        ("train.max_steps", "null", "whole number above 0 or null", "train"),
        ("snapshot.overflow", '"truncate"', "truncate, refuse", "snapshot"),
        ("snapshot.max_length", "256", "whole number above 0", "train"),
        ("weights.hidden", "0.5", "number or curve", "conf/distill, compare"),
        ("engine.workers", "null", "whole number above 0 or null", "train"),
        ("prepare.tasks.TASK.train", "null", "whole number above 0 or null", "prepare, compare"),
        ("distill.GROUP.shuffled_share", "1.0", "number above 0 to 1", "train"),
    ],
)
def test_a_key_has_its_default_its_values_and_its_readers(
    found: dict[str, list[Entry]], key: str, default: str | None, values: str, readers: str
) -> None:
    (entry,) = (each for each in found["settings"] if each.key == key)
    assert (entry.default, entry.values) == (default, values)
    assert readers in entry.readers


def test_the_page_is_what_the_command_writes(found: dict[str, Any]) -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == page(**found), "Run `make docs` after a change of settings, conf/ or dvc.yaml"


def test_a_word_finds_keys_and_meanings_and_an_unknown_one_its_nearest(found: dict[str, list[Entry]]) -> None:
    said = listing(found["settings"], "AdamW")
    assert "train.weight_decay = 0.01" in said and "train.learning_rate" in said and "seeds" not in said
    with pytest.raises(
        GlassboxError, match="has 'learnin_rate' in its name or description; the nearest is `learning_rate`"
    ):
        listing(found["settings"], "learnin_rate")
