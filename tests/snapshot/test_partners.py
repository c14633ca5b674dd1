"""Shuffled signals: whose they are, and how they lie on another sample's positions."""

from __future__ import annotations

import pytest
import torch
from snapshots import make_study

from glassbox.config.settings import CapturedPositions
from glassbox.snapshot.partners import (
    batches_with_partners,
    partners_digest,
    partners_of,
    right_aligned,
    with_signals_of,
)
from glassbox.snapshot.reader import SampleInfo, Snapshot

SIGNALS = frozenset({"hidden", "attention", "topk"})


def infos(lengths: list[int], task: str = "sst2") -> list[SampleInfo]:
    return [SampleInfo(f"{task}/train/{number:03d}", task, length, 3) for number, length in enumerate(lengths)]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return Snapshot(make_study(tmp_path_factory.mktemp("partners"), samples=21).capture())


@pytest.mark.parametrize("count", [2, 3, 7, 20, 21])
def test_every_sample_lends_its_signals_to_one_other_of_its_task(count: int) -> None:
    samples = infos([10 + 7 * number % 11 for number in range(count)]) + infos([12, 30, 9], "gsm8k")
    partners = partners_of(samples, "train")
    assert set(partners) == set(partners.values()) == {sample.sample_id for sample in samples}
    assert all(sample_id != partner for sample_id, partner in partners.items())
    assert all(sample_id.split("/")[0] == partner.split("/")[0] for sample_id, partner in partners.items())


def test_partners_are_nearest_in_length() -> None:
    partners = partners_of(infos([50, 10, 30, 51, 11, 33]), "train")
    assert partners == {
        f"sst2/train/{a:03d}": f"sst2/train/{b:03d}" for a, b in [(1, 4), (4, 1), (2, 5), (5, 2), (0, 3), (3, 0)]
    }


def test_a_sample_alone_in_its_task_is_its_own_partner_and_one_without_an_answer_has_none() -> None:
    without = SampleInfo("mmlu/train/0", "mmlu", 8, 0)
    assert partners_of([*infos([10]), without], "train") == {"sst2/train/000": "sst2/train/000"}


def test_a_share_of_the_neighbours_exchange_and_a_smaller_share_lies_within_a_larger_one() -> None:
    samples = infos([10 + number // 2 for number in range(40)]) + infos([5] * 20, "gsm8k")
    exchanged = {}
    for share in (0.1, 0.5, 1.0):
        partners = partners_of(samples, "train", share)
        assert set(partners) == set(partners.values()) == {sample.sample_id for sample in samples}
        exchanged[share] = {own for own, partner in partners.items() if own != partner}
        for task, count in (("sst2", 40), ("gsm8k", 20)):
            assert sum(each.startswith(task) for each in exchanged[share]) == round(share * count)
    assert exchanged[0.1] < exchanged[0.5] < exchanged[1.0]
    assert partners_of(samples, "train", 1.0) == partners_of(samples, "train")


def test_ties_are_drawn_by_split_and_task_and_never_depend_on_the_order_of_the_samples() -> None:
    samples = infos([10] * 40)
    assert partners_of(samples, "train") == partners_of(samples[::-1], "train")
    assert partners_of(samples, "train") != partners_of(samples, "validation")
    assert partners_of(samples, "train") == partners_of(infos([20] * 40), "train")


def test_the_digest_is_that_of_the_map() -> None:
    partners = partners_of(infos([10, 11, 12, 13]), "train")
    assert partners_digest(partners) == partners_digest(dict(reversed(partners.items())))
    assert partners_digest(partners) != partners_digest({**partners, "sst2/train/000": "sst2/train/002"})


def test_position_i_reads_the_partners_position_i_or_its_last(snapshot: Snapshot) -> None:
    samples = snapshot.samples("train")
    by_length = sorted(samples, key=lambda sample: sample.n_positions_answer)
    short, long = by_length[0].sample_id, by_length[-1].sample_id
    assert by_length[0].n_positions_answer < by_length[-1].n_positions_answer
    batch, other = snapshot.read([short, long], SIGNALS), snapshot.read([long, short], SIGNALS)
    lent = with_signals_of(batch, other)
    starts, sizes = (0, int(batch.count[0])), batch.count.tolist()
    for row, partner in ((0, long), (1, short)):
        alone = snapshot.read([partner], SIGNALS)
        last = int(alone.count[0]) - 1
        for i in range(sizes[row]):
            for name in ("hidden", "topk_ids", "topk_logits", "log_tail"):
                mine, theirs = getattr(lent, name)[starts[row] + i], getattr(alone, name)[min(i, last)]
                assert torch.equal(mine, theirs), (name, row, i)
    assert torch.equal(lent.labels, batch.labels) and torch.equal(lent.input_ids, batch.input_ids)
    assert lent.attention is not None and batch.attention is not None
    assert lent.attention.shape == batch.attention.shape
    torch.testing.assert_close(lent.attention.sum(-1), torch.ones_like(lent.attention[..., 0]))
    assert ((batch.attention == 0).all(1) <= (lent.attention == 0).all(1)).all(), "no column that the row cannot see"


def test_attention_rows_are_moved_so_that_their_ends_meet() -> None:
    rows = torch.tensor([[[0.1, 0.2, 0.3, 0.4]], [[0.5, 0.5, 0.0, 0.0]], [[0.6, 0.4, 0.0, 0.0]]])
    moved = right_aligned(rows, torch.tensor([3, 1, 1]), torch.tensor([1, 3, 1]), 5)
    expected = torch.tensor(
        [[[0.3 / 0.7, 0.4 / 0.7, 0, 0, 0]], [[0, 0, 0.5, 0.5, 0]], [[0.6, 0.4, 0, 0, 0]]], dtype=torch.float32
    )
    torch.testing.assert_close(moved, expected)


def test_a_row_whose_mass_was_all_cut_is_uniform_over_its_columns() -> None:
    moved = right_aligned(torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([2]), torch.tensor([1]), 4)
    assert moved.tolist() == [[[0.5, 0.5, 0.0, 0.0]]]


def test_batches_carry_their_own_signals_and_those_of_their_partners(snapshot: Snapshot) -> None:
    samples = snapshot.samples("train")
    partners = partners_of(samples, "train")
    ids = [sample.sample_id for sample in samples]
    plan = [ids[at : at + 4] for at in range(0, len(ids), 4)]
    found = list(batches_with_partners(snapshot, plan, frozenset({"hidden"}), frozenset({"attention"}), partners))
    assert [batch.sample_ids for batch in found] == [tuple(step) for step in plan]
    for batch in found:
        assert batch.partner is not None and batch.partner.partner is None
        assert batch.hidden is not None and batch.attention is None
        assert batch.partner.hidden is None and batch.partner.attention is not None
        assert not torch.equal(batch.partner.attention, snapshot.read(batch.sample_ids, SIGNALS).attention)
    unfinished = batches_with_partners(snapshot, plan, frozenset({"hidden"}), frozenset({"attention"}), partners)
    next(unfinished)
    unfinished.close()  # type: ignore[attr-defined]


def test_without_shuffled_signals_nothing_is_read_twice(snapshot: Snapshot) -> None:
    ids = [sample.sample_id for sample in snapshot.samples("train")[:3]]
    (batch,) = batches_with_partners(snapshot, [ids], SIGNALS, frozenset(), {})
    assert batch.partner is None and batch.hidden is not None


def test_at_all_positions_a_sample_reads_from_its_partners_first_token_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    positions = CapturedPositions(hidden="all", attention="answer")
    snapshot = Snapshot(make_study(tmp_path_factory.mktemp("wide"), samples=9, positions=positions).capture())
    by_length = sorted(snapshot.samples("train"), key=lambda sample: sample.n_tokens)
    ids = [by_length[0].sample_id, by_length[-1].sample_id]
    whole = frozenset({"tokens", "hidden"})
    batch, other = (snapshot.read(each, SIGNALS, whole=whole) for each in (ids, ids[::-1]))
    lent = with_signals_of(batch, other)
    assert lent.hidden is not None and lent.attention is not None and lent.topk_ids is not None
    for row, partner in ((0, ids[1]), (1, ids[0])):
        alone = snapshot.read([partner], SIGNALS, whole=whole)
        mine, answer = lent.hidden[batch.sample_index == row], snapshot.read([partner], SIGNALS)
        assert alone.hidden is not None and answer.topk_ids is not None
        assert len(mine) == int(batch.count[row])
        for i, state in enumerate(mine):
            assert torch.equal(state, alone.hidden[min(i, len(alone.hidden) - 1)])
        start = int(batch.answer_count[:row].sum())
        assert torch.equal(lent.topk_ids[start], answer.topk_ids[0]), "the answer's signals from the answer's start"
    assert len(lent.attention) == int(batch.answer_count.sum())
    torch.testing.assert_close(lent.attention.sum(-1), torch.ones_like(lent.attention[..., 0]))
