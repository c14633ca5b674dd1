"""Whether every component of a group really moves the student, measured on the first steps of a trial.

A component whose gradient changes nothing makes its group another group under a wrong name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.models.dtypes import widest_dtype

LOSS_SCALE = 1024.0  # lifts float16 gradients over underflow while they are measured
FIGURES = ("gradient_norm", "cosine_to_task", "share")
Audit = dict[str, dict[str, float | None]]


def audit(
    gradients: Mapping[str, Sequence[Tensor]],
    weights: Mapping[str, float],
    together: Callable[[dict[str, float]], dict[str, float]] = dict,
    device: torch.device | str = "cpu",
) -> Audit:
    """Per component, from its unweighted gradient on every weight of the student:

    `gradient_norm` (unweighted); `cosine_to_task`, None without a task; `share`, its weighted norm in the sum of all
    components' weighted norms; `alive`, 1 where its weighted gradient is finite and changes the sum of the others.
    `together` sums over processes where each holds a part of the gradients. They may lie elsewhere than on `device`,
    which takes one weight's at a time.
    """
    sums: dict[str, float] = {}
    for each in zip(*gradients.values(), strict=True):
        own = {name: gradient.to(device) for name, gradient in zip(gradients, each, strict=True)}
        for name, gradient in own.items():
            others = [weights[other] * own[other] for other in own if other != name]
            parts = {
                f"square/{name}": _dot(gradient, gradient),
                f"dot/{name}": _dot(gradient, own["task"]) if "task" in own else 0.0,
                f"changes/{name}": float(_changes(gradient, others, weights[name])),
            }
            sums |= {key: sums.get(key, 0.0) + value for key, value in parts.items()}
    sums = together(sums)
    norms = {name: math.sqrt(sums[f"square/{name}"]) for name in gradients}
    total = sum(weights[name] * norm for name, norm in norms.items())
    found: Audit = {}
    for name, norm in norms.items():
        product = norm * norms.get("task", 0.0)
        found[name] = {
            "gradient_norm": norm,
            "cosine_to_task": sums[f"dot/{name}"] / product if product else None,
            "share": weights[name] * norm / total if total else 0.0,
            "alive": float(math.isfinite(norm) and sums[f"changes/{name}"] > 0),
        }
    return found


def _dot(left: Tensor, right: Tensor) -> float:
    return float((left.to(widest_dtype(left)) * right.to(widest_dtype(right))).sum())


def _changes(own: Tensor, others: Sequence[Tensor], weight: float) -> bool:
    rest = torch.stack([torch.zeros_like(own), *others]).sum(dim=0)
    return not torch.equal(rest + weight * own, rest)


def metrics(found: Audit) -> dict[str, float]:
    """What is logged of one audited step: `liveness/<component>_<figure>`, finite values only."""
    return {
        f"liveness/{name}_{figure}": value
        for name, figures in found.items()
        for figure in FIGURES
        if (value := figures[figure]) is not None and math.isfinite(value)
    }


def summary(audits: Sequence[Audit]) -> dict[str, dict[str, float | None]]:
    """Component -> each figure's mean over the audited steps where it was finite, else None."""
    names = audits[0] if audits else ()
    return {name: {figure: _mean([each[name][figure] for each in audits]) for figure in FIGURES} for name in names}


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def refuse_dead(audits: Sequence[Audit], group: str) -> None:
    """Raise GlassboxError for components that were alive in no audited step."""
    dead = [name for name in (audits[0] if audits else ()) if not any(each[name]["alive"] for each in audits)]
    if dead:
        norms = ", ".join(f"{name} {audits[-1][name]['gradient_norm']:.3g}" for name in dead)
        raise GlassboxError(
            f"Group {group}: in the first {len(audits)} steps {', '.join(dead)} did not move the student (norm of the "
            f"gradient on its weights: {norms}; it is 0, not finite, or too small to change the sum of the others), so "
            "that this group would be a group without it under another name. Check the snapshot with "
            f"`python src/verify.py` and the weights in conf/distill/{group}.yaml, then run `dvc repro` again."
        )
