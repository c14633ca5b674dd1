"""A batch as trials read it: packed positions, decoded on the device they are used on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.snapshot.aligned import Aligned
from glassbox.snapshot.codec import (
    array,
    carried,
    decode_attention,
    empty,
    expert_arrays,
    further_array,
    further_tensor,
    hidden_array,
    hidden_tensor,
)
from glassbox.snapshot.schema import EXPERTS, FURTHER, SIGNAL_COLUMNS, Cell, Format, attention_entries

EXPERT_FIELDS = ("router_logits", "expert_ids", "router_input", "residual", "expert_outputs")


@dataclass(frozen=True)
class Batch:
    """Samples and the teacher's signals at their positions, packed sample by sample in ascending order.

    The positions are those that predict the answer, or all that predict a token: `count` of each sample from column
    `first`, the last `answer_count` of them its answer's. A signal may be there at answer positions alone (`rows`).
    input_ids are padded on the right with 0. `further` holds the columns of schema.FURTHER that were asked for: float32
    or int64, those `everywhere` at all positions of every sample. `attention` is 0 outside a row's columns, and every
    row sums to 1. The fields from `router_logits` on are what the teacher's last mixture is made of
    (models/mixture.py), at answer positions alone.
    `labelled` says which samples have labels (None: all). `partner` is the same batch with the signals of its samples'
    partners (partners.py), where a component is shuffled. Where the student cuts text into other tokens, the batch is
    the student's and carries no signal: the teacher's side stands in `aligned`.
    """

    sample_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    first: Int[Tensor, " batch"]
    count: Int[Tensor, " batch"]
    answer_count: Int[Tensor, " batch"]
    labels: Int[Tensor, " positions"]
    sample_index: Int[Tensor, " positions"]
    answer: Bool[Tensor, " positions"] | None = None
    labelled: Bool[Tensor, " batch"] | None = None
    topk_ids: Int[Tensor, "rows k"] | None = None
    topk_logits: Float[Tensor, "rows k"] | None = None
    log_tail: Float[Tensor, "rows temperatures"] | None = None
    hidden: Float[Tensor, "rows width"] | None = None
    attention: Float[Tensor, "rows heads length"] | None = None
    further: Mapping[str, Tensor] = field(default_factory=dict)
    router_logits: Float[Tensor, "rows experts"] | None = None
    expert_ids: Int[Tensor, "rows kept"] | None = None
    router_input: Float[Tensor, "rows width"] | None = None
    residual: Float[Tensor, "rows width"] | None = None
    expert_outputs: Float[Tensor, "rows kept width"] | None = None
    label_logp: Float[Tensor, " rows"] | None = None
    partner: Batch | None = None
    aligned: Aligned | None = None

    def rows(self, reach: str, by_chunk: bool = False) -> Bool[Tensor, " positions"] | None:
        """Which packed positions are meant by "answer" or "all", or begin such chunks; None for every one of them."""
        if not by_chunk:
            return self.answer if reach == "answer" else None
        assert self.aligned is not None
        marked = torch.zeros_like(self.labels, dtype=torch.bool)
        marked[self.aligned.student_rows(self, self.labels, reach)] = True
        return marked

    def counts(self, reach: str, by_chunk: bool = False) -> Int[Tensor, " batch"]:
        """How many packed positions, or chunks, of each sample are meant by "answer" or "all"."""
        if by_chunk:
            assert self.aligned is not None
            return self.aligned.counts(reach)
        return self.answer_count if reach == "answer" else self.count

    def span(self, reach: str) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """First column and number of the positions that "answer" or "all" means among those packed, by sample.

        "everywhere" are all that predict a token, packed or not.
        """
        if reach == "everywhere":
            end = self.first + self.count
            return torch.zeros_like(end), end
        count = self.counts(reach)
        return self.first + self.count - count, count

    def reach_of(self, signal: Tensor) -> str:
        """At which positions a signal of this batch is there: "answer", or "all" that are packed."""
        return "all" if len(signal) == len(self.labels) else "answer"


@dataclass(frozen=True)
class StoredSample:
    """One sample's ids and the cells that were asked for, by column name; the cells are not copies."""

    sample_id: str
    task: str
    input_ids: np.ndarray
    loss_start: int
    n_positions: int
    cells: dict[str, Cell]

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def n_answer(self) -> int:
        return self.n_tokens - 1 - self.loss_start


def assemble_tokens(samples: Sequence[StoredSample], device: torch.device, whole: bool = False) -> Batch:
    """Pack samples into a batch that carries no signal: their answers' positions, or with `whole` all of them."""
    length = max(sample.n_tokens for sample in samples)
    ids = np.zeros((len(samples), length), dtype=np.int64)
    for row, sample in enumerate(samples):
        ids[row, : sample.n_tokens] = sample.input_ids
    tokens = np.array([sample.n_tokens for sample in samples])
    answer = np.array([sample.n_answer for sample in samples])
    count = tokens - 1 if whole else answer
    sample_index = np.repeat(np.arange(len(samples)), count)
    column = _positions(samples, whole)
    in_answer = column >= (tokens - 1 - answer)[sample_index] if whole else None
    return Batch(
        sample_ids=tuple(sample.sample_id for sample in samples),
        tasks=tuple(sample.task for sample in samples),
        input_ids=carried(ids, device),
        attention_mask=carried(np.arange(length) < tokens[:, None], device),
        first=carried(tokens - 1 - count, device),
        count=carried(count, device),
        answer_count=carried(answer, device),
        labels=carried(ids[sample_index, column + 1], device),
        sample_index=carried(sample_index, device),
        answer=None if in_answer is None else carried(in_answer, device),
    )


def _positions(samples: Sequence[StoredSample], whole: bool) -> np.ndarray:
    """The columns of all positions, sample by sample."""
    return np.concatenate([np.arange(0 if whole else s.loss_start, s.n_tokens - 1) for s in samples])


def assemble(
    samples: list[StoredSample], layout: Format, device: torch.device, whole: frozenset[str] = frozenset()
) -> Batch:
    """Pack stored cells into a batch: undecoded bytes travel to `device` and are decoded there.

    `whole` names the signals that are wanted at all positions, and "tokens" where the batch is to hold all of them.
    """
    batch = assemble_tokens(samples, device, "tokens" in whole)
    packed = {name: carried(values, device) for name, values in pack(samples, layout, whole).items()}
    signals: dict[str, Tensor] = {}
    if "hidden" in packed:
        stored = hidden_tensor(packed["hidden"], layout)
        signals["hidden"] = empty(stored.shape, device).copy_(stored)
    if "attention" in packed:
        length, position = batch.input_ids.shape[1], carried(_positions(samples, "attention" in whole), device)
        signals["attention"] = decode_attention(packed["attention"], position, length, layout.attention_codec)
    signals |= {name: packed[name] for name in (*SIGNAL_COLUMNS["topk"], "label_logp") if name in packed}
    signals |= {name: packed[name] for name in EXPERT_FIELDS if name in packed}
    further = {}
    for name in packed.keys() & FURTHER.keys():
        stored = further_tensor(packed[name], FURTHER[name], layout)
        is_float = stored.is_floating_point()
        further[name] = empty(stored.shape, device).copy_(stored) if is_float else stored.to(torch.int64)
    return replace(batch, **signals, further=further)


def pack(samples: Sequence[StoredSample], layout: Format, whole: frozenset[str] = frozenset()) -> dict[str, np.ndarray]:
    """The cells' answer positions by column, sample by sample, in one copy; of signals in `whole` all positions.

    hidden [positions, width] and attention [heads, ragged] are as stored (bfloat16 as its 16 bits), topk_ids int64,
    topk_logits, log_tail and label_logp float32, further columns as stored; of the experts, field by field, float32 and
    int64 ids.
    """
    columns = samples[0].cells.keys()
    packed: dict[str, np.ndarray] = {}
    if "hidden" in columns:
        counts = [_wanted(sample, "hidden" in whole) for sample in samples]
        stored = [hidden_array(sample.cells["hidden"], layout) for sample in samples]
        packed["hidden"] = _last(stored, counts)
    if "attention" in columns:
        entries = [_wanted_entries(sample, layout, "attention" in whole) for sample in samples]
        packed["attention"] = np.concatenate(entries, axis=1)
    if "topk_ids" in columns:
        packed |= _topk(samples, layout, "topk" in whole)
    if EXPERTS in columns:
        packed |= expert_arrays([sample.cells[EXPERTS] for sample in samples], layout)
    for name in columns & FURTHER.keys() - {EXPERTS}:
        column = FURTHER[name]
        counts = [_wanted(sample, column.everywhere or column.signal in whole) for sample in samples]
        stored = [further_array(sample.cells[name], column, layout) for sample in samples]
        packed[name] = _last(stored, counts)
    if "label_logp" in columns:
        stored = [array(sample.cells["label_logp"], "<f4", -1) for sample in samples]
        counts = [_wanted(sample, "label_logp" in whole) for sample in samples]
        packed["label_logp"] = _last(stored, counts)
    return packed


def _last(cells: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """The last positions of every cell, as many as its count, one after another."""
    return np.concatenate([cell[len(cell) - count :] for cell, count in zip(cells, counts, strict=True)])


def _wanted(sample: StoredSample, whole: bool) -> int:
    return sample.n_tokens - 1 if whole else sample.n_answer


def _wanted_entries(sample: StoredSample, layout: Format, whole: bool) -> np.ndarray:
    """[heads, ragged]: the rows of the wanted positions, which are the last ones of each head."""
    stored = layout.attention_count(sample.n_tokens, sample.loss_start)
    entries, wanted = (attention_entries(sample.n_tokens, n) for n in (stored, _wanted(sample, whole)))
    return array(sample.cells["attention"], layout.attention_dtype, layout.heads, entries)[:, entries - wanted :]


def _topk(samples: Sequence[StoredSample], layout: Format, whole: bool) -> dict[str, np.ndarray]:
    dtypes = {
        "topk_ids": (layout.topk_id_dtype, layout.top_k, np.int64),
        "topk_logits": ("<f2", layout.top_k, np.float32),
        "log_tail": ("<f4", len(layout.temperatures), np.float32),
    }
    return {
        name: np.concatenate(
            [array(s.cells[name], stored, -1, width)[s.n_positions - _wanted(s, whole) :] for s in samples],
            dtype=decoded,
        )
        for name, (stored, width, decoded) in dtypes.items()
    }
