"""The gate that learns from the student (SAR, Kim, Chu & Yang 2025): one update of it before each of the student's.

It has its own optimizer, its own clipping and its own place in the checkpoint. Nothing of it reaches the student but
the mixture that it makes of the teacher's experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from glassbox.errors import DivergedError, GlassboxError
from glassbox.objective import Objective
from glassbox.objective.mixture import figures, own_loads, parts_of, told
from glassbox.objective.reading import at, present
from glassbox.snapshot.reader import Batch

if TYPE_CHECKING:
    from glassbox.training.setup import Setup

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of a parameter."""


class Router:
    """The teacher's gate as it is now, and the optimizer that moves it; the objective mixes the experts by it."""

    def __init__(self, objective: Objective) -> None:
        experts = present(objective.ingredients.experts, "experts")
        self.settings = experts.settings
        self.gate = nn.Parameter(experts.mixture.gate.detach().clone())
        self.optimizer = torch.optim.AdamW([self.gate], lr=self.settings.router_rate, weight_decay=0.0)
        objective.ingredients = replace(objective.ingredients, experts=replace(experts, gate=self.gate))

    def move(self, gradient: Tensor, rate: float) -> float:
        """One update along this gradient, clipped, at a share `rate` of the learning rate; returns its norm before.

        A gradient that is not finite moves nothing.
        """
        self.gate.grad = gradient
        norm = float(nn.utils.clip_grad_norm_([self.gate], self.settings.router_clip))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.settings.router_rate
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Gate and moments, for the checkpoint."""
        state = self.optimizer.state.get(self.gate, {})
        return {"gate": self.gate.detach()} | {name: state[name] for name in MOMENTS if name in state}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.gate.copy_(tensors["gate"])
        moments = {name: tensors[name] for name in MOMENTS if name in tensors}
        if moments:
            device = self.gate.device
            self.optimizer.state[self.gate] = {k: v if k == "step" else v.to(device) for k, v in moments.items()}


def move_router(
    setup: Setup,
    objective: Objective,
    turns: Sequence[tuple[Batch, bool]],
    weights: Sequence[Mapping[str, Tensor]],
    rate: float,
) -> dict[str, float]:
    """One update of the gate over all micro-batches of all ranks, before the student's; returns what is logged.

    The student is asked without gradients and without a trace in its generators. `rate` is the share of the learning
    rate. Raises DivergedError for a gradient that is not finite, GlassboxError for one that is exactly 0: this group
    would be moe_all under another name.
    """
    router, experts = present(setup.router, "router"), present(objective.ingredients.experts, "experts")
    processes, accelerator = setup.processes, setup.accelerator
    loads = torch.zeros(len(router.gate), device=router.gate.device)
    for (batch, _), each in zip(turns, weights, strict=True):
        loads += own_loads(experts, parts_of(batch, batch.rows("answer")), answer_weights(batch, each))
    loads = processes.total(loads)
    gradient, sums = torch.zeros_like(router.gate.detach()), {"kl": 0.0, "balance": 0.0}
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    for (batch, _), each in zip(turns, weights, strict=True):
        with torch.random.fork_rng(devices), torch.no_grad(), accelerator.autocast():
            own, found = setup.trainee(batch, each, objective, loads=loads)
        gradient += own
        sums = {name: sums[name] + float(found[name]) for name in sums}
    norm = router.move(processes.total(gradient), rate)
    if not math.isfinite(norm):
        raise DivergedError(f"Group {setup.group}: the gradient of the router is not finite.")
    if norm == 0.0 and experts.speaks == "router":
        raise GlassboxError(
            f"Group {setup.group}: the router's gradient is 0, so that it would never move and this group would be one "
            "with a fixed gate under another name. Check the snapshot with `python src/verify.py`."
        )
    return {f"router_{name}": value for name, value in processes.totals(sums).items()} | {"router_gradient_norm": norm}


def answer_weights(batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
    """What each answer position counts in the mixture component."""
    return at(weights["mixture"], batch.rows("answer"))


def mixture_figures(objective: Objective, batch: Batch, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is logged of a group's mixture, as sums that add up over a step; nothing for a group without one."""
    experts = objective.ingredients.experts
    if experts is None:
        return {}
    return figures(experts, parts_of(batch, batch.rows("answer")), answer_weights(batch, weights))


def mixture_accuracy(setup: Setup) -> dict[str, float]:
    """By task, the share of validation samples whose whole answer the mixture as it is now would give by itself."""
    experts, head = setup.objective.ingredients.experts, setup.objective.ingredients.head
    if experts is None or head is None:
        return {}
    infos, turns = setup.source.samples("validation"), setup.validation_turns(setup.source)
    right = dict.fromkeys(setup.task_names, 0.0)
    for batch, (_, counts) in zip(setup.batches([ids for ids, _ in turns]), turns, strict=True):
        for task, good in zip(batch.tasks, told(experts, batch, head).tolist(), strict=True):
            right[task] += counts * good
    totals = setup.processes.totals(right)
    asked = {task: sum(info.task == task for info in infos) for task in totals}
    return {f"mixture_accuracy_{task}": total / asked[task] for task, total in totals.items() if asked[task]}
