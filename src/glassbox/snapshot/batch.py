"""A batch as trials read it: packed answer positions, decoded on the device they are used on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.snapshot.codec import array, decode_attention, empty, hidden_array, hidden_tensor
from glassbox.snapshot.schema import SIGNAL_COLUMNS, Cell, Format, attention_entries


@dataclass(frozen=True)
class Batch:
    """Samples and the teacher's signals at their answer positions, packed sample by sample in ascending order.

    input_ids are padded on the right with 0. `attention` is 0 outside a row's columns, and every row sums to 1.
    `partner` is the same batch with the signals of its samples' partners (partners.py), where a component is shuffled.
    """

    sample_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    first: Int[Tensor, " batch"]
    count: Int[Tensor, " batch"]
    labels: Int[Tensor, " positions"]
    sample_index: Int[Tensor, " positions"]
    topk_ids: Int[Tensor, "positions k"] | None = None
    topk_logits: Float[Tensor, "positions k"] | None = None
    log_tail: Float[Tensor, "positions temperatures"] | None = None
    hidden: Float[Tensor, "positions width"] | None = None
    attention: Float[Tensor, "positions heads length"] | None = None
    partner: Batch | None = None


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


def _carried(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`; on its way to CUDA it is pinned."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def assemble_tokens(samples: Sequence[StoredSample], device: torch.device) -> Batch:
    """Pack samples into a batch that carries no signal."""
    length = max(sample.n_tokens for sample in samples)
    ids = np.zeros((len(samples), length), dtype=np.int64)
    for row, sample in enumerate(samples):
        ids[row, : sample.n_tokens] = sample.input_ids
    tokens = np.array([sample.n_tokens for sample in samples])
    first = np.array([sample.loss_start for sample in samples])
    count = tokens - 1 - first
    sample_index = np.repeat(np.arange(len(samples)), count)
    labels = ids[sample_index, _positions(samples) + 1]
    return Batch(
        sample_ids=tuple(sample.sample_id for sample in samples),
        tasks=tuple(sample.task for sample in samples),
        input_ids=_carried(ids, device),
        attention_mask=_carried(np.arange(length) < tokens[:, None], device),
        first=_carried(first, device),
        count=_carried(count, device),
        labels=_carried(labels, device),
        sample_index=_carried(sample_index, device),
    )


def _positions(samples: Sequence[StoredSample]) -> np.ndarray:
    """The columns of all answer positions, sample by sample."""
    return np.concatenate([np.arange(sample.loss_start, sample.n_tokens - 1) for sample in samples])


def assemble(samples: list[StoredSample], layout: Format, device: torch.device) -> Batch:
    """Pack stored cells into a batch: undecoded bytes travel to `device` and are decoded there."""
    batch = assemble_tokens(samples, device)
    packed = {name: _carried(values, device) for name, values in pack(samples, layout).items()}
    signals: dict[str, Tensor] = {}
    if "hidden" in packed:
        stored = hidden_tensor(packed["hidden"], layout)
        signals["hidden"] = empty(stored.shape, device).copy_(stored)
    if "attention" in packed:
        length, position = batch.input_ids.shape[1], _carried(_positions(samples), device)
        signals["attention"] = decode_attention(packed["attention"], position, length, layout.attention_codec)
    signals |= {name: packed[name] for name in SIGNAL_COLUMNS["topk"] if name in packed}
    return replace(batch, **signals)


def pack(samples: Sequence[StoredSample], layout: Format) -> dict[str, np.ndarray]:
    """The cells' answer positions by column, sample by sample, in one copy.

    hidden [positions, width] and attention [heads, ragged] are as stored (bfloat16 as its 16 bits), topk_ids int64,
    topk_logits and log_tail float32.
    """
    columns = samples[0].cells.keys()
    packed: dict[str, np.ndarray] = {}
    if "hidden" in columns:
        packed["hidden"] = np.concatenate([hidden_array(s.cells["hidden"], layout)[-s.n_answer :] for s in samples])
    if "attention" in columns:
        packed["attention"] = np.concatenate([_answer_entries(sample, layout) for sample in samples], axis=1)
    if "topk_ids" in columns:
        packed |= _topk(samples, layout)
    return packed


def _answer_entries(sample: StoredSample, layout: Format) -> np.ndarray:
    """[heads, ragged]: the rows of answer positions, which are the last ones of each head."""
    entries = attention_entries(sample.n_tokens, sample.n_positions)
    wanted = attention_entries(sample.n_tokens, sample.n_answer)
    return array(sample.cells["attention"], layout.attention_dtype, layout.heads, entries)[:, entries - wanted :]


def _topk(samples: Sequence[StoredSample], layout: Format) -> dict[str, np.ndarray]:
    dtypes = {
        "topk_ids": (layout.topk_id_dtype, layout.top_k, np.int64),
        "topk_logits": ("<f2", layout.top_k, np.float32),
        "log_tail": ("<f4", len(layout.temperatures), np.float32),
    }
    return {
        name: np.concatenate([array(s.cells[name], stored, -1, width)[-s.n_answer :] for s in samples], dtype=decoded)
        for name, (stored, width, decoded) in dtypes.items()
    }
