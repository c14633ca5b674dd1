"""The rows on the snapshot's size: what they count, and what they say where they cannot count."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from suite import snapshot_size, truncation
from suite.embedded import embedded_settings

from glassbox.tasks.sources import load_samples


def test_without_real_files_the_size_is_not_measured_and_the_row_says_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLASSBOX_REAL_DATA", raising=False)
    (row,) = snapshot_size.measure()
    assert row.value is None and row.is_met is None
    assert "GLASSBOX_REAL_DATA" in row.note


def test_logits_of_a_position_are_the_documented_272_bytes_at_llamas_vocabulary():
    settings = embedded_settings(train=1, validation=1, test=2)
    row = truncation._bytes(settings, load_samples(settings.prepare)["test"][:2])
    assert row.details["bytes_per_position"] == 64 * (2 + 2) + 3 * 4 + 4
    assert row.value == 272 / 64_000 and row.is_met


def test_every_tasks_samples_stand_for_its_share_of_the_mixture():
    sizes = [snapshot_size.Size(task, 1, 1, 1, 1) for task in ("sst2", "mmlu", "mmlu", "gsm8k")]
    assert snapshot_size._in_mixture(sizes, [2, 3, 5, 7]) == 5_000 * 2 + 1_000 * 4 + 1_000 * 7
