"""Checks of single rows, without the teacher: finite, in range, and consistent with the stored output layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.models.encoding import input_digest
from glassbox.models.mixture import Mixture
from glassbox.snapshot.codec import (
    array,
    decode_attention,
    expert_arrays,
    further_array,
    further_tensor,
    hidden_array,
    hidden_tensor,
    undo_attention_codec,
)
from glassbox.snapshot.composition import Item
from glassbox.snapshot.schema import EXPERTS, FURTHER, Format, Row, attention_entries

LOG_PROBABILITY_TOLERANCE = 0.02
LOG_TAIL_TOLERANCE = 1e-3
TOP_K_AGREEMENT = 0.999
TIE_LOGITS = 1e-3
ATTENTION_SUM_TOLERANCE = 0.15
DECODED_SUM_TOLERANCE = 1e-5


@dataclass
class HeadFigures:
    """How well stored logits agree with head x hidden, over all positions checked."""

    positions: int = 0
    disagreeing_positions: int = 0
    log_probability_error: float = 0.0
    log_tail_error: float = 0.0
    attention_sum_error: float = 0.0
    disagreeing_ids: list[str] = field(default_factory=list)

    @property
    def top_k_agreement(self) -> float:
        return 1 - self.disagreeing_positions / max(self.positions, 1)


def shape_fault(row: Row, layout: Format) -> str | None:
    """What is wrong with a row's sizes and digest, as a phrase; None where nothing is."""
    n, tokens = row.n_positions, len(row.input_ids)
    if not 0 <= row.loss_start < tokens - 1 or n != layout.count(tokens, row.loss_start):
        return f"{n} positions do not fit {tokens} tokens with the answer's loss from {row.loss_start}"
    expected = {
        "topk_ids": n * layout.top_k * layout.topk_id_dtype.itemsize,
        "topk_logits": n * layout.top_k * 2,
        "log_tail": n * len(layout.temperatures) * 4,
        "label_logp": n * 4,
        "hidden": n * layout.width * 2,
        "attention": layout.heads
        * attention_entries(tokens, layout.attention_count(tokens, row.loss_start))
        * layout.attention_dtype.itemsize,
        "byte_spans": tokens * 8,
    }
    for name, column in layout.further.items():
        expected[name] = column.count(layout, tokens, row.loss_start) * column.position_bytes(layout)
    for name, size in expected.items():
        if len(memoryview(row.cell(name))) != size:
            return f"{name} has {len(memoryview(row.cell(name)))} bytes instead of {size}"
    if bytes(memoryview(row.input_sha256)) != input_digest(row.input_ids.tolist(), row.loss_start):
        return "input_sha256 is not the digest of its input_ids and loss mask"
    if int(row.input_ids.min()) < 0 or int(row.input_ids.max()) >= layout.vocabulary:
        return "an input id is outside the vocabulary"
    return None


def origin_fault(row: Row, item: Item | None) -> str | None:
    """In what a row is not that of the sample it names, as a phrase; None where it is that."""
    if item is None:
        return "no sample of the tasks has this id"
    found = {
        "task": row.task == item.sample.task,
        "split": row.split == item.split,
        "input": row.input_ids.tolist() == list(item.encoded.ids) and row.loss_start == item.encoded.loss_start,
        "byte_spans": bytes(memoryview(row.byte_spans)) == item.byte_spans().tobytes(),
    }
    wrong = [name for name, same in found.items() if not same]
    return f"its {', '.join(wrong)} is not that of the sample with this id" if wrong else None


def value_fault(row: Row, layout: Format, figures: HeadFigures) -> str | None:
    """What is wrong with a row's values, as a phrase; None where nothing is. Notes the attention rows' sums."""
    hidden = stored_hidden(row, layout)
    values = array(row.topk_logits, "<f2", -1, layout.top_k).astype(np.float32)
    tails = array(row.log_tail, "<f4", -1, len(layout.temperatures))
    checks: dict[str, Callable[[], Any]] = {
        "hidden states are not finite": lambda: not bool(torch.isfinite(hidden).all()),
        "a row of hidden states is all equal": lambda: bool((hidden.amax(1) == hidden.amin(1)).any()),
        "top-k logits are not finite": lambda: not np.isfinite(values).all(),
        "a row of top-k logits is all equal": lambda: layout.top_k > 1 and (values.max(1) == values.min(1)).any(),
        "top-k logits do not descend from 0": lambda: (values[:, 0] != 0).any() or (np.diff(values) > 0).any(),
        "log-tails are not finite": lambda: layout.top_k < layout.vocabulary and not np.isfinite(tails).all(),
        "label log-probabilities are not finite and at most 0": lambda: _bad_label_logp(row),
        "top-k ids are outside the vocabulary or not unique": lambda: _bad_ids(row, layout),
    }
    checks |= {f"{name} are not finite": lambda name=name: _is_infinite(row, name, layout) for name in layout.further}
    for phrase, is_wrong in checks.items():
        if is_wrong():
            return phrase
    return _attention_fault(row, layout, figures)


def experts_fault(row: Row, layout: Format, mixture: Mixture | None, tolerance: float) -> str | None:
    """Form the last state again from the experts that the model itself chooses, and compare it with the stored one."""
    if mixture is None:
        return None
    stored = {name: torch.from_numpy(value) for name, value in expert_arrays([row.further[EXPERTS]], layout).items()}
    ids, logits = stored["expert_ids"], stored["router_logits"]
    if bool((ids.diff(dim=1) <= 0).any()) or int(ids.max()) >= layout.experts:
        return "ids of experts are outside the gate or do not ascend"
    weights = mixture.own_weights(logits).gather(1, ids)
    if not bool(torch.isclose(weights.sum(1), mixture.mass(logits), atol=1e-5).all()):
        return "an expert that the model chooses is not among those that are stored"
    formed = mixture.states(stored["residual"], stored["expert_outputs"], weights)
    hidden = stored_hidden(row, layout)[row.n_positions - len(formed) :]
    error = float(((formed - hidden).norm(dim=1) / hidden.norm(dim=1)).mean())
    if not error <= tolerance:
        return f"the last state formed from the experts differs by {error:.2g} of its norm (at most {tolerance:g})"
    return None


def experts_tolerance(layout: Format, teacher_dtype: str) -> float:
    """Mean relative error of a row's states that rounding explains: of what is stored, and of the teacher itself."""
    coarsest = {layout.experts_dtype, layout.hidden_dtype, teacher_dtype}
    return 0.08 if "bfloat16" in coarsest else 0.02 if teacher_dtype == "float16" else 5e-3


def stored_hidden(row: Row, layout: Format) -> Float[Tensor, "positions width"]:
    return hidden_tensor(hidden_array(row.hidden, layout).copy(), layout).float()


def stored_further(row: Row, name: str, layout: Format) -> Float[Tensor, "positions entries"]:
    """A further column's entries, those of a position side by side."""
    if name == EXPERTS:
        found = expert_arrays([row.further[name]], layout).values()
        return torch.cat([torch.from_numpy(each).float().flatten(1) for each in found], dim=1)
    stored = torch.from_numpy(further_array(row.further[name], FURTHER[name], layout).copy())
    return further_tensor(stored, FURTHER[name], layout).float().flatten(1)


def _is_infinite(row: Row, name: str, layout: Format) -> bool:
    return not bool(torch.isfinite(stored_further(row, name, layout)).all())


def _bad_label_logp(row: Row) -> bool:
    values = array(row.label_logp, "<f4", -1)
    return not np.isfinite(values).all() or bool((values > 1e-5).any())


def _bad_ids(row: Row, layout: Format) -> bool:
    ids = np.sort(array(row.topk_ids, layout.topk_id_dtype, -1, layout.top_k).astype(np.int64), axis=1)
    return bool((ids[:, -1] >= layout.vocabulary).any() or (np.diff(ids) == 0).any())


def row_attention(row: Row, layout: Format) -> tuple[Tensor, Tensor]:
    """A row's stored entries [heads, ragged] and the positions whose rows they are."""
    tokens = len(row.input_ids)
    count = layout.attention_count(tokens, row.loss_start)
    entries = attention_entries(tokens, count)
    stored = torch.from_numpy(array(row.attention, layout.attention_dtype, layout.heads, entries).copy())
    return stored, torch.arange(count) + tokens - 1 - count


def _attention_fault(row: Row, layout: Format, figures: HeadFigures) -> str | None:
    if not layout.heads:
        return None
    stored, position = row_attention(row, layout)
    raw = undo_attention_codec(stored, layout.attention_codec)
    owner = torch.repeat_interleave(torch.arange(len(position)), position + 1)
    sums = torch.zeros(layout.heads, len(position)).index_add_(1, owner, raw)
    error = float((sums - 1).abs().max())
    if not error <= ATTENTION_SUM_TOLERANCE:
        return f"an attention row sums to 1 only within {error:.3g} before decoding (at most {ATTENTION_SUM_TOLERANCE})"
    figures.attention_sum_error = max(figures.attention_sum_error, error)
    decoded = decode_attention(stored, position, len(row.input_ids), layout.attention_codec)
    if float((decoded.sum(-1) - 1).abs().max()) > DECODED_SUM_TOLERANCE:
        return "a decoded attention row does not sum to 1"
    return None


def check_against_head(
    row: Row, layout: Format, weight: Tensor, bias: Tensor | None, figures: HeadFigures
) -> str | None:
    """Form the logits again from head x hidden and compare what is stored; log-probabilities at every temperature."""
    device = weight.device
    logits = nn.functional.linear(stored_hidden(row, layout).to(device), weight, bias)
    ids = torch.from_numpy(array(row.topk_ids, layout.topk_id_dtype, -1, layout.top_k).astype(np.int64)).to(device)
    values = torch.from_numpy(array(row.topk_logits, "<f2", -1, layout.top_k).astype(np.float32)).to(device)
    tails = torch.from_numpy(array(row.log_tail, "<f4", -1, len(layout.temperatures)).copy()).to(device)
    offset = logits.max(1, keepdim=True).values
    smallest = torch.topk(logits, layout.top_k, dim=1).values[:, -1:]
    disagrees = (logits.gather(1, ids) < smallest - TIE_LOGITS).any(1)
    figures.positions += len(ids)
    figures.disagreeing_positions += int(disagrees.sum())
    if bool(disagrees.any()):
        figures.disagreeing_ids.append(row.sample_id)
    others = (logits - offset).scatter(1, ids, float("-inf"))
    log_probability_error = tail_error = 0.0
    for index, temperature in enumerate(layout.temperatures):
        tail = torch.logsumexp(others / temperature, 1)
        if layout.top_k < layout.vocabulary:
            tail_error = max(tail_error, float((tail - tails[:, index]).abs().max()))
        mass = torch.logaddexp(torch.logsumexp(values / temperature, 1), tails[:, index])
        stored = values / temperature - mass[:, None]
        true = torch.log_softmax(logits / temperature, 1).gather(1, ids)
        log_probability_error = max(log_probability_error, float((stored - true).abs().max()))
    labels = torch.from_numpy(row.input_ids[-row.n_positions :].astype(np.int64)).to(device)
    label = torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0].cpu().numpy()
    log_probability_error = max(log_probability_error, float(np.abs(label - array(row.label_logp, "<f4", -1)).max()))
    figures.log_probability_error = max(figures.log_probability_error, log_probability_error)
    figures.log_tail_error = max(figures.log_tail_error, tail_error)
    if log_probability_error > LOG_PROBABILITY_TOLERANCE:
        return f"log-probabilities differ by {log_probability_error:.3g} from head x hidden (at most 0.02)"
    if tail_error > LOG_TAIL_TOLERANCE:
        return f"log-tails differ by {tail_error:.3g} from head x hidden (at most 1e-3)"
    return None
