"""The benchmarks' own measuring: what is compared with what, and that the page hides nothing; without the peers."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import bench  # noqa: E402
from suite import memory, page, paper_snapshot, shapes, step  # noqa: E402
from suite.measuring import STATUS, Times, peak_bytes, ratio, side_by_side  # noqa: E402
from suite.row import Line, Row  # noqa: E402

from glassbox.snapshot.codec import undo_attention_codec  # noqa: E402
from glassbox.snapshot.reader import Snapshot  # noqa: E402


def measured(*rows: Row | Line, machine: str = "a machine") -> dict[str, Any]:
    return {"rows": [row.as_json() for row in rows], "seconds": 1.0, "machine": machine}


def test_contestants_take_turns_and_the_order_is_turned_every_round() -> None:
    calls: list[str] = []
    work = {name: lambda name=name: calls.append(name) for name in "AB"}
    times = side_by_side(work, rounds=3, warm_ups=1, repeat=2)
    assert "".join(calls) == "AB" + "AABB" + "BBAA" + "AABB"
    assert {name: len(found.wall) for name, found in times.items()} == {"A": 3, "B": 3}


def test_waiting_takes_wall_time_and_no_processor_time() -> None:
    found = side_by_side({"asleep": lambda: time.sleep(0.05)}, rounds=1, warm_ups=0)["asleep"]
    assert found.wall[0] >= 0.05 > found.cpu[0]


def test_the_ratio_is_of_ours_over_theirs_within_each_round() -> None:
    found = ratio(Times((1.0, 4.0, 3.0), (2.0, 2.0, 2.0)), Times((2.0, 4.0, 2.0), (8.0, 8.0, 8.0)))
    assert (found.value, found.low, found.high, found.cpu) == (1.0, 0.5, 1.5, 0.25)


HOLDING = """
import torch
def given_50(megabytes):
    kept = torch.ones(50, 2**18)
    return lambda: kept.sum() + torch.ones(megabytes, 2**18).sum()
"""


@pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's /proc")
def test_the_peak_holds_what_the_work_took_and_not_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holding.py").write_text(HOLDING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert 95 < peak_bytes("holding:given_50", megabytes=100) / 2**20 < 125


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="No module named 'suite.nothing'"):
        peak_bytes("suite.nothing:at_all")


def test_a_goal_is_a_ceiling_unless_it_is_a_floor() -> None:
    assert Row("1", "a", "s", 1.0, 1.05).is_met is True
    assert Row("1", "a", "s", 1.0, 1.05, at_least=True).is_met is False
    assert Row("1", "a", "s", None, 1.05).is_met is None
    assert Row("1", "a", "s", 1.0).is_met is None


def test_missed_goals_come_first_with_their_reason_and_rows_come_in_the_order_of_their_numbers() -> None:
    numbers = ("10", "4b", "2c", "2", "4", "2b")
    rows = [Row(number, f"name {number}", "same shapes", 1.0, 2.0) for number in numbers]
    rows += [Row("3", "slow one", "other shapes", 0.0312, 0.01, note="The disk is slow."), Row("3b", "lost", "", None)]
    text = page.tables({"step": measured(*rows), "memory": measured(Line({"library": "ours", "cosine": 1.0}))})
    lines = text.splitlines()
    assert "**6 of 7 goals are met.** Missed:" in lines
    assert "- row 3, slow one: 0.0312, goal at most 0.01. The disk is slow." in lines
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [line[0] for line in cells[2:10]] == ["2", "2b", "2c", "3", "3b", "4", "4b", "10"]
    assert [line[6] for line in cells[2:10]] == ["yes", "yes", "yes", "**no**", "", "yes", "yes", "yes"]
    assert cells[6][2] == "not measured"
    assert cells[10:] == [["library", "cosine"], ["-------", "------"], ["ours", "1.00"]]


def test_columns_line_up_and_a_bar_in_a_cell_stays_in_it() -> None:
    table = page.tables({"step": measured(Row("2", "a | b", "s", 1.0), Row("2", "longer than that", "s", 1.0))})
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert "a \\| b" in table


def test_the_words_around_the_tables_stay(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n\n{page.BEGIN}\n\nold\n\n{page.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        page.write(path, {"step": measured(Row("2", "new", "s", 1.0))})
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{page.BEGIN}\n\nMeasured on: a machine.")
    assert text.endswith(f"\n\n{page.END}\nafter\n") and "old" not in text


def test_a_part_is_announced_with_the_time_that_remains() -> None:
    known = {"step": {"seconds": 100.0}}
    said = bench.announcement(["step", "data"], 3, known)
    assert said == "2 of 3: step, about 100 s; about 3 min left in all"
    assert sum(bench.PARTS.values()) <= 20 * 60


def test_the_scaled_pair_keeps_the_papers_proportions() -> None:
    def layers(count: int, width: int, feed_forward: int, heads: int, key_heads: int) -> float:
        return count * (2 * width * width * (1 + key_heads / heads) + 3 * width * feed_forward)

    student, teacher = (
        layers(c.num_hidden_layers, c.hidden_size, c.intermediate_size, c.num_attention_heads, c.num_key_value_heads)
        for c in (shapes.STUDENT, shapes.TEACHER)
    )
    tiny_llama, llama = layers(22, 2048, 5632, 32, 4), layers(32, 4096, 11008, 32, 32)
    assert teacher / student == pytest.approx(llama / tiny_llama, rel=0.01)
    assert shapes.VOCABULARY * shapes.STUDENT.hidden_size / student == pytest.approx(
        32_000 * 2048 / tiny_llama, rel=0.01
    )
    assert shapes.TEACHER.hidden_size == 2 * shapes.STUDENT.hidden_size


def test_the_mixture_has_the_papers_lengths() -> None:
    lengths = shapes.mixture(7_000)
    answers = sum(answer for _, _, answer in lengths)
    assert answers == pytest.approx(141_000, rel=0.01)
    few = shapes.mixture(4 * shapes.BATCH)
    share, of_all = (sum(a for _, _, a in m) / sum(p + a for _, p, a in m) for m in (few, lengths))
    assert share == pytest.approx(of_all, rel=0.1)


def test_a_batch_carries_every_signal_and_the_trainers_batch_the_same_labels() -> None:
    (micro_batches,) = shapes.steps(1)
    assert [len(samples) for samples in micro_batches] == [4, 4]
    for samples, batch in zip(micro_batches, shapes.assembled(micro_batches), strict=True):
        assert batch.hidden is not None and batch.attention is not None and batch.topk_ids is not None
        assert all(len(set(ids.tolist())) == shapes.FORMAT.top_k for ids in batch.topk_ids)
        theirs = step.trainer_batch(samples)
        assert torch.equal(theirs["input_ids"], batch.input_ids)
        assert torch.equal(theirs["labels"][theirs["labels"] != step.IGNORED], batch.labels)


def test_both_loss_heads_have_one_value_and_one_gradient() -> None:
    found = []
    for loss in (memory.ours, memory.plain):
        generator = torch.Generator().manual_seed(0)
        hidden, weight, theirs, layer = (
            torch.randn(rows, width, generator=generator) for rows, width in ((30, 8), (90, 8), (30, 16), (90, 16))
        )
        value = loss(hidden.requires_grad_(), weight.requires_grad_(), theirs, layer, torch.arange(30))
        found.append((value, *torch.autograd.grad(value, (hidden, weight))))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_made_up_maps_of_a_paper_snapshot_are_distributions_as_the_reader_reads_them(tmp_path: Path) -> None:
    layout = replace(shapes.FORMAT, width=64, heads=4)
    paper_snapshot.write_snapshot(tmp_path / "snapshot", {"gsm8k": 1, "sst2": 1}, layout)
    snapshot = Snapshot(tmp_path / "snapshot")
    for sample in snapshot.stored([each.sample_id for each in snapshot.samples("train")], ["attention"]):
        maps = torch.from_numpy(np.frombuffer(sample.cells["attention"], dtype=np.uint8).reshape(4, -1).copy())
        entries = undo_attention_codec(maps, layout.attention_codec)
        sizes = [position + 1 for position in range(sample.loss_start, sample.n_tokens - 1)]
        sums = torch.stack([row.sum(-1) for row in entries.split(sizes, dim=1)])
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=0.15, rtol=0.0)
