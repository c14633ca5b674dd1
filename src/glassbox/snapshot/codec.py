"""Signals to cells and back: rounding, top-k with its tail, and ragged attention rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from glassbox.snapshot.schema import Cell, Format, FurtherColumn

BLOCK = 1 << 18
"""Attention entries that are decoded at a time on a CPU: a megabyte of float32."""


def byte_rows(tensor: Tensor) -> Shaped[np.ndarray, "rows bytes"]:
    """Each row's little-endian bytes in C order (every platform that torch supports is little-endian)."""
    return tensor.detach().cpu().contiguous().reshape(len(tensor), -1).view(torch.uint8).numpy()


def top_k_with_tails(
    logits: Float[Tensor, "positions vocabulary"], k: int, temperatures: Sequence[float]
) -> tuple[Int[Tensor, "positions k"], Float[Tensor, "positions k"], Float[Tensor, "positions temperatures"]]:
    """Ids and logits of the k largest, minus the row's maximum, and log-sum-exp of the others at each temperature.

    The tail is summed over its own members, before rounding; at k = V it is empty and its logarithm minus infinity.
    """
    values, ids = torch.topk(logits, k, dim=-1)
    offset = values[:, :1]
    others = (logits - offset).scatter_(1, ids, float("-inf"))
    largest = others.amax(dim=1, keepdim=True)
    tails = [log_sum_exp(others / temperature, largest / temperature) for temperature in temperatures]
    return ids, values - offset, torch.stack(tails, dim=1)


def log_sum_exp(scratch: Float[Tensor, "rows columns"], largest: Float[Tensor, "rows 1"]) -> Float[Tensor, " rows"]:
    """torch.logsumexp to the bit, in the memory of `scratch`, for rows whose largest entry is known already."""
    shift = largest.masked_fill(largest == float("-inf"), 0)
    return scratch.sub_(shift).exp_().sum(dim=1).log_().add_(shift[:, 0])


def encode_attention(rows: Float[Tensor, ...], codec: str) -> Tensor:
    """`sqrt_uint8`: round(255 sqrt(p)); `float16`: p itself."""
    return rows.sqrt().mul_(255).round_().to(torch.uint8) if codec == "sqrt_uint8" else rows.to(torch.float16)


def undo_attention_codec(stored: Tensor, codec: str) -> Float[Tensor, ...]:
    """Stored entries as probabilities, not yet divided by their row's sum."""
    values = stored.to(torch.float32)
    return (values / 255).square() if codec == "sqrt_uint8" else values


def visible_columns(position: Int[Tensor, " positions"], length: int) -> Bool[Tensor, "positions length"]:
    """Which columns the row of each position has: its own and all earlier ones."""
    return torch.arange(length, device=position.device) <= position[:, None]


def pack_ragged(
    rows: Float[Tensor, "positions heads length"], position: Int[Tensor, " positions"]
) -> Float[Tensor, "heads ragged"]:
    """The live entries of padded rows, position by position."""
    return rows.transpose(0, 1)[:, visible_columns(position, rows.shape[-1])]


def decode_attention(
    ragged: Tensor, position: Int[Tensor, " positions"], length: int, codec: str
) -> Float[Tensor, "positions heads length"]:
    """Ragged stored entries [heads, ragged] as rows that sum to 1, with zeros outside their columns.

    A row is copied as a window of `length` entries over the stored ones, and what belongs to the next row is struck
    out. On a CPU this goes block by block, so that a block is finished while it is in the cache.
    """
    heads, entries = ragged.shape
    start = torch.cumsum(position + 1, 0) - (position + 1)
    bits = ragged.view(torch.uint8 if codec == "sqrt_uint8" else torch.int16)
    windows = nn.functional.pad(bits, (0, length)).as_strided((entries, heads, length), (1, entries + length, 1))
    own = visible_columns(position, length)[:, None].to(bits.dtype).neg_()
    rows = empty((len(position), heads, length), ragged.device)
    step = max(1, BLOCK // (heads * length)) if ragged.device.type == "cpu" else len(position)
    for at in range(0, len(position), step):
        block = slice(at, at + step)
        stored = windows.index_select(0, start[block]).bitwise_and_(own[block])
        values = rows[block].copy_(stored.view(ragged.dtype))
        if codec == "sqrt_uint8":
            values.div_(255).square_()
        sums = values.sum(-1, keepdim=True)
        values.div_(torch.where(sums > 0, sums, 1.0))
    return rows


def empty(shape: Sequence[int], device: torch.device) -> Float[Tensor, ...]:
    """Room for float32 numbers. On a CPU numpy takes it, which asks the kernel for large pages; torch does not."""
    return torch.from_numpy(np.empty(shape, np.float32)) if device.type == "cpu" else torch.empty(shape, device=device)


def carried(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`; on its way to CUDA it is pinned."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def array(cell: Cell, dtype: np.dtype | str, *shape: int) -> np.ndarray:
    """A cell as an array, without a copy."""
    return np.frombuffer(cell, dtype=dtype).reshape(shape)


def hidden_array(cell: Cell, layout: Format) -> np.ndarray:
    """[n, width]; bfloat16 has no numpy type and comes as its 16 bits."""
    return array(cell, "<f2" if layout.hidden_dtype == "float16" else "<u2", -1, layout.width)


def expert_records(signals: Mapping[str, Tensor], layout: Format) -> np.ndarray:
    """What was read of the experts at some positions, by the field names of `Format.expert_dtype`, as its records."""
    count = len(signals["router_logits"])
    records = np.empty(count, layout.expert_dtype)
    for name in layout.expert_dtype.names or ():
        value = signals[name].detach().cpu()
        if name == "router_logits":
            records[name] = value.float().numpy()
        elif name == "expert_ids":
            records[name] = value.numpy()
        else:
            rounded = value.to(getattr(torch, layout.experts_dtype))
            bits = rounded.view(torch.int16).numpy().view("<u2") if layout.experts_dtype == "bfloat16" else None
            records[name] = rounded.numpy() if bits is None else bits
    return records


def expert_arrays(cells: Sequence[Cell], layout: Format) -> dict[str, np.ndarray]:
    """The records of these cells one after another, field by field: ids int64, anything else float32."""
    records = np.concatenate([array(cell, layout.expert_dtype, -1) for cell in cells])
    found = {}
    for name in layout.expert_dtype.names or ():
        stored = records[name]
        if name == "expert_ids":
            found[name] = stored.astype(np.int64)
        elif stored.dtype == np.uint16:
            found[name] = (stored.astype("<u4") << 16).view("<f4")
        else:
            found[name] = stored.astype(np.float32)
    return found


def hidden_tensor(stored: np.ndarray | Tensor, layout: Format) -> Tensor:
    """A tensor, or writable array, of stored hidden states as a tensor of its true dtype."""
    tensor = torch.from_numpy(stored) if isinstance(stored, np.ndarray) else stored
    return tensor if layout.hidden_dtype == "float16" else tensor.view(torch.bfloat16)


def further_array(cell: Cell, column: FurtherColumn, layout: Format) -> np.ndarray:
    """[n, *shape] as stored."""
    return array(cell, column.stored_dtype(layout), -1, *column.shape(layout))


def further_tensor(stored: Tensor, column: FurtherColumn, layout: Format) -> Tensor:
    """Stored entries as a tensor of their true dtype."""
    return hidden_tensor(stored, layout) if column.dtype is None else stored
