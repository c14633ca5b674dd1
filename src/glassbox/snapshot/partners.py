"""Shuffled signals: what is read off the teacher for another sample of the same task, as a control.

If a signal that belongs to another sample helps as much as the sample's own, it is regularisation and not knowledge.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.randomness import derived_seed
from glassbox.snapshot.batch import EXPERT_FIELDS
from glassbox.snapshot.reader import Batch, SampleInfo, Snapshot
from glassbox.snapshot.schema import FURTHER

STUDY_SEED = 0
"""Not a trial's: partners are the same for every trial of every study on the same samples."""


def partners_of(samples: Iterable[SampleInfo], split: str, share: float = 1.0) -> dict[str, str]:
    """Sample id -> the id of its partner: of its task and, among those, nearest in length.

    Each task is sorted by tokens, then by answer positions, ties as drawn, and neighbours exchange their signals; with
    an odd number the last three pass them round. So every sample of a split lends its signals to one other. A sample
    that is alone in its task is its own partner, and so are those that a `share` under 1 of the neighbours leaves out;
    a smaller share lies within a larger one.
    """
    by_task: dict[str, list[SampleInfo]] = defaultdict(list)
    for sample in sorted(samples, key=lambda each: each.sample_id):
        if sample.n_positions_answer:
            by_task[sample.task].append(sample)
    partners: dict[str, str] = {}
    for task, members in by_task.items():
        generator = np.random.Generator(np.random.PCG64(derived_seed(STUDY_SEED, f"partners/{split}/{task}")))
        drawn = dict(zip((each.sample_id for each in members), generator.permutation(len(members)), strict=True))
        ordered = sorted(members, key=lambda each: (each.n_tokens, each.n_positions_answer, drawn[each.sample_id]))
        ids = [each.sample_id for each in ordered]
        rounds = [ids[at : at + 2] for at in range(0, len(ids), 2)]
        if len(ids) % 2 and len(ids) > 1:
            rounds[-2:] = [rounds[-2] + rounds[-1]]
        exchanging = set(generator.permutation(len(rounds))[: round(share * len(rounds))].tolist())
        for place, members_of_round in enumerate(rounds):
            turn = int(place in exchanging)
            partners |= dict(zip(members_of_round, members_of_round[turn:] + members_of_round[:turn], strict=True))
    return partners


def with_answered(partners: Mapping[str, str], answered: Mapping[str, str]) -> dict[str, str]:
    """The partners, and those of texts with the teacher's own answer: `answered` names such a text by its sample.

    A text's partner is its sample's partner with the teacher's answer, where that one differs from the data's.
    """
    added = {
        text: answered.get(partners[sample_id], partners[sample_id])
        for sample_id, text in answered.items()
        if sample_id in partners
    }
    return {**partners, **added}


def partners_digest(partners: Mapping[str, str]) -> str:
    """sha256 in hex over every sample and its partner, in id order."""
    lines = "\x1e".join(f"{sample_id}\x1f{partner}" for sample_id, partner in sorted(partners.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def batches_with_partners(
    snapshot: Snapshot,
    plan: Sequence[Sequence[str]],
    signals: frozenset[str],
    partner_signals: frozenset[str],
    partners: Mapping[str, str],
    device: torch.device | str = "cpu",
    whole: frozenset[str] = frozenset(),
) -> Iterator[Batch]:
    """The planned batches, and as `partner` of each the signals in `partner_signals` of its samples' partners."""
    if not partner_signals:
        yield from snapshot.batches(plan, signals, device, whole)
        return
    others = [[partners[sample_id] for sample_id in sample_ids] for sample_ids in plan]
    with (
        closing(snapshot.batches(plan, signals, device, whole)) as own,  # pyright: ignore[reportArgumentType]
        closing(snapshot.batches(others, partner_signals, device, whole)) as lent,  # pyright: ignore[reportArgumentType]
    ):
        for batch, other in zip(own, lent, strict=True):
            yield replace(batch, partner=with_signals_of(batch, other))


def with_signals_of(batch: Batch, other: Batch) -> Batch:
    """`batch` with the signals of `other`, sample by sample: position i reads position min(i, n - 1) of n.

    Positions are those at which a signal is there: counted from the prompt's start where it is at all of them, from the
    answer's where it is at the answer's alone.
    """
    names = ("topk_ids", "topk_logits", "log_tail", "hidden", "label_logp", *EXPERT_FIELDS)
    packed = {name: getattr(other, name) for name in names}
    taken: dict[str, Any] = {}
    for name, values in packed.items():
        taken[name] = None if values is None else values.index_select(0, _matched(batch, other, values)[0])
    taken["further"] = {
        name: values.index_select(0, _matched(batch, other, values, FURTHER[name].everywhere)[0])
        for name, values in other.further.items()
    }
    if other.attention is None:
        return replace(batch, **taken, attention=None)
    source, lent, own = _matched(batch, other, other.attention)
    rows = other.attention.index_select(0, source)
    return replace(batch, **taken, attention=right_aligned(rows, lent, own, batch.input_ids.shape[1]))


def _matched(batch: Batch, other: Batch, signal: Tensor, everywhere: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Of every row that `batch` is to get of a signal of `other`: the row there, its column, and the column here.

    everywhere: the signal is there at all positions, whichever are packed.
    """
    reach = "everywhere" if everywhere else other.reach_of(signal)
    (first, count), (other_first, other_count) = batch.span(reach), other.span(reach)
    sample = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    within = torch.arange(len(sample), device=sample.device) - _starts(count)[sample]
    read = torch.minimum(within, other_count[sample] - 1)
    return _starts(other_count)[sample] + read, other_first[sample] + read, first[sample] + within


def right_aligned(
    rows: Float[Tensor, "positions heads columns"],
    last: Int[Tensor, " positions"],
    new_last: Int[Tensor, " positions"],
    length: int,
) -> Float[Tensor, "positions heads length"]:
    """Attention rows whose last live column `last` is moved to `new_last`, cut or filled with 0 on the left.

    Each row sums to 1 again; one whose whole mass was cut is uniform over its columns.
    """
    column = torch.arange(length, device=rows.device)
    source = column - new_last[:, None] + last[:, None]
    visible = column <= new_last[:, None]
    index = source.clamp(0, rows.shape[-1] - 1)[:, None, :].expand(-1, rows.shape[1], -1)
    moved = rows.gather(2, index).masked_fill((~visible | (source < 0))[:, None, :], 0.0)
    sums = moved.sum(-1, keepdim=True)
    uniform = (visible / visible.sum(-1, keepdim=True))[:, None, :].to(moved.dtype)
    return torch.where(sums > 0, moved / torch.where(sums > 0, sums, 1.0), uniform)


def _starts(count: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    return torch.cumsum(count, 0) - count
