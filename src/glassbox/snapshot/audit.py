"""The stored targets against the dense, unrounded signals of some hundred positions: what rounding costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.errors import GlassboxError
from glassbox.snapshot.checks import row_attention, stored_hidden
from glassbox.snapshot.codec import array, decode_attention
from glassbox.snapshot.schema import AUDIT_FILE, AuditRow, Format, Row
from glassbox.snapshot.storage import REMEDY

HIDDEN_COSINE = 0.99999
ATTENTION_KL_PER_COLUMN = 3e-6
BANNER_ABOVE = 0.05


def audit_figures(
    folder: Path,
    audit: Sequence[AuditRow],
    rows: Mapping[str, Row],
    layout: Format,
    head: tuple[Tensor, Tensor | None],
    temperatures: Sequence[float],
) -> dict[str, Any]:
    """Cosine of hidden states, KL of attention rows, and per temperature what each target of the logits loses.

    `rows` holds the stored row of every audited sample. Raises GlassboxError where hidden states or attention rows are
    worse than rounding explains.
    """
    dense = torch.from_numpy(np.stack([array(each.logits, "<f4", layout.vocabulary) for each in audit]))
    true_hidden = torch.from_numpy(np.stack([array(each.hidden, "<f4", layout.width) for each in audit]))
    if not bool(torch.isfinite(dense).all() and torch.isfinite(true_hidden).all()):
        raise _worse(folder, "the audit's own logits or hidden states are not finite")
    offsets = [
        each.position - (len(rows[each.sample_id].input_ids) - 1 - rows[each.sample_id].n_positions) for each in audit
    ]
    hidden = torch.stack(
        [stored_hidden(rows[each.sample_id], layout)[offset] for each, offset in zip(audit, offsets, strict=True)]
    )
    cosine = float(nn.functional.cosine_similarity(hidden.double(), true_hidden.double(), dim=1).min())
    attention = [
        _attention_kl_per_column(each, rows[each.sample_id], layout)
        for each in audit
        if len(memoryview(each.attention))
    ]
    figures: dict[str, Any] = {
        "positions": len(audit),
        "hidden_cosine_min": cosine,
        "attention_kl_per_column_mean": float(np.mean(attention)) if attention else None,
    }
    if not cosine >= HIDDEN_COSINE:
        raise _worse(folder, f"hidden states have a cosine of {cosine:.7f} (at least {HIDDEN_COSINE})")
    if attention and not figures["attention_kl_per_column_mean"] <= ATTENTION_KL_PER_COLUMN:
        raise _worse(
            folder,
            f"attention rows have a mean KL of {figures['attention_kl_per_column_mean']:.2e} per column (at most "
            f"{ATTENTION_KL_PER_COLUMN}; `-S snapshot.attention_codec=float16` keeps diffuse maps better)",
        )
    topk = [_stored_topk(rows[each.sample_id], o, layout) for each, o in zip(audit, offsets, strict=True)]
    ids, values = (torch.from_numpy(np.stack(columns)) for columns in zip(*topk, strict=True))
    rebuilt = nn.functional.linear(hidden, *head)
    for temperature in temperatures:
        figures[f"temperature_{temperature:g}"] = _target_figures(dense, rebuilt, ids, values, temperature)
    return figures


def _worse(folder: Path, what: str) -> GlassboxError:
    return GlassboxError(f"Against {folder / AUDIT_FILE}, {what}. {REMEDY}")


def _stored_topk(row: Row, offset: int, layout: Format) -> tuple[np.ndarray, np.ndarray]:
    ids = array(row.topk_ids, layout.topk_id_dtype, -1, layout.top_k)[offset].astype(np.int64)
    return ids, array(row.topk_logits, "<f2", -1, layout.top_k)[offset].astype(np.float32)


def _attention_kl_per_column(audited: AuditRow, row: Row, layout: Format) -> float:
    """KL(decoded | dense) of one position, mean over heads, divided by the row's length."""
    length = audited.position + 1
    true = torch.from_numpy(array(audited.attention, "<f4", layout.heads, length).copy()).double()
    stored, position = row_attention(row, layout)
    decoded = decode_attention(stored, position, len(row.input_ids), layout.attention_codec)[
        int(audited.position - position[0]), :, :length
    ].double()
    tiny = torch.finfo(torch.float32).tiny
    terms = torch.xlogy(decoded, decoded) - torch.xlogy(decoded, true.clamp(min=tiny))
    return float(terms.sum(1).mean()) / length


def _target_figures(
    dense: Float[Tensor, "positions vocabulary"],
    rebuilt: Float[Tensor, "positions vocabulary"],
    ids: Tensor,
    values: Tensor,
    temperature: float,
) -> dict[str, float]:
    """Means over the audited positions; gradients are those at a student that knows nothing (uniform).

    The gradient of the dense KL with respect to the student's logits is q - p. With one tail bucket it is q - p on the
    top-k ids and q - q (tail of p) / (tail of q) on the others. Errors are relative to the norm of q - p.
    """
    p = torch.softmax(dense.double() / temperature, 1)
    rebuilt_p = torch.softmax(rebuilt.double() / temperature, 1)
    top = torch.zeros_like(p, dtype=torch.bool).scatter(1, ids, True)
    tail = p.masked_fill(top, 0).sum(1, keepdim=True)
    shares = torch.softmax(values.double() / temperature, 1) * (1 - tail)
    spread = tail / max(p.shape[1] - ids.shape[1], 1)
    truncated = spread.expand_as(p).clone().scatter(1, ids, shares)
    norm = (p - 1 / p.shape[1]).norm(dim=1)
    return {
        "tail_mass": float(tail.mean()),
        "dense_kl": float(_kl(p, rebuilt_p)),
        "dense_gradient_error": float(((rebuilt_p - p).norm(dim=1) / norm).mean()),
        "topk_kl": float(_kl(p, truncated)),
        "topk_gradient_error": float(((truncated - p).norm(dim=1) / norm).mean()),
    }


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1).mean().clamp(min=0)


def banner(figures: Mapping[str, Any], target: str, temperature: float) -> str | None:
    """A warning where the target in use loses more than 5 % of the gradient at the temperature in use."""
    error = figures[f"temperature_{temperature:g}"][f"{target}_gradient_error"]
    if error <= BANNER_ABOVE:
        return None
    return (
        f"objective.logits_target '{target}' at temperature {temperature:g} changes the gradient by {error:.0%} "
        "against the dense teacher: `-S objective.logits_target=dense` or a larger snapshot.top_k avoids that."
    )
