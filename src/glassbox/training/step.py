"""One optimizer step of a trial: its micro-batches, their weights, the update, and the audit of its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from glassbox.errors import DivergedError
from glassbox.objective import Objective, component_weights, layer_router, liveness, shares, totals_of
from glassbox.processes import own_part, whole
from glassbox.snapshot.reader import Batch
from glassbox.training import divergence
from glassbox.training.checkpoint import Progress
from glassbox.training.router import mixture_figures, move_router
from glassbox.training.schedule import learning_rate_factor
from glassbox.training.setup import Setup

LEAST_LOSS_SCALE = 1.0  # float16 gradients that overflow below it overflow without any scaling

# A micro-batch, and whether it counts: where micro-batches run out, a rank takes one again so that all take part.
Turn = tuple[Batch, bool]


def objective_at(setup: Setup, progress: Progress, *, validating: bool = False) -> Objective:
    """The objective with its curves where the updates so far have brought them, and the negatives of the step.

    No sample of the step, whichever rank has it, is among these; all of validation has the same.
    """
    moment = setup.objective.at(progress.updates / len(setup.schedule.steps))
    if progress.layer_losses:
        initial = torch.tensor(progress.layer_losses, device=setup.accelerator.device)
        moment = moment.beside(initial_layer_losses=initial)
    if setup.bank is None:
        return moment
    if validating:
        drawn = setup.bank.drawn("validation")
    else:
        own = {setup.texts.get(each, each) for batch in setup.schedule.steps[progress.step] for each in batch}
        drawn = setup.bank.drawn(f"step-{progress.step}", own)
    return moment.beside(negatives=drawn.to(setup.accelerator.device))


def update(setup: Setup, turns: Sequence[Turn], progress: Progress, due: bool) -> dict[str, float]:
    """One optimizer update over all micro-batches of all ranks; returns what is logged where that is `due`.

    A micro-batch that does not count adds exactly 0. Raises DivergedError, in every rank and before the update, where a
    loss or the gradient is not finite.
    """
    accelerator, optimizer = setup.accelerator, setup.optimizer
    step_weights = weights_of(setup, turns)
    factor = learning_rate_factor(progress.updates, len(setup.schedule.steps), setup.settings.train)
    rate = setup.settings.learning_rate(setup.group) * factor
    for group in optimizer.param_groups:
        group["lr"] = rate
    measure_layers(setup, turns, progress)
    objective, moved = objective_at(setup, progress), {}
    if setup.router is not None and not progress.router_stopped:
        moved = move_router(setup, objective, turns, step_weights, factor)
    objective = balanced(setup, objective, turns)
    sums: dict[str, torch.Tensor] = {}
    for place, ((batch, counts), weights) in enumerate(zip(turns, step_weights, strict=True), start=1):
        with nullcontext() if place == len(turns) else accelerator.no_sync(setup.trainee):
            with accelerator.autocast():
                loss, components = setup.trainee(batch, weights, objective, at_one=due)
            if setup.processes.largest(not math.isfinite(loss.item())):
                raise _diverged(setup, progress.step, turns, components, "loss")
            accelerator.backward(loss * setup.processes.count)  # the average over ranks, multiplied back
        if due:
            values = objective.values(components, weights, batch, setup.task_names)
            values |= mixture_figures(objective, batch, weights)
            sums = {name: sums.get(name, 0.0) + counts * value for name, value in values.items()}
    norm = clip(setup)
    scaler = accelerator.scaler
    if not math.isfinite(norm) and scaler is None:
        raise _diverged(setup, progress.step, turns, components, "gradient")
    for name, projector in setup.student.projectors.items():
        if objective.weights[name] == 0.0:
            projector.zero_grad()  # it stands still, and gathers no moments, while it has nothing to learn
    optimizer.step()
    optimizer.zero_grad()
    progress.updates += not optimizer.step_was_skipped
    if scaler is not None and optimizer.step_was_skipped and scaler.get_scale() < LEAST_LOSS_SCALE:
        raise _diverged(setup, progress.step, turns, components, "gradient")
    if not due:
        return {}
    setup.probe.require(accelerator.mixed_precision)
    logged = setup.processes.totals(sums)
    logged |= shares(logged) | {"learning_rate": rate} | objective.logged | moved
    logged |= {"skipped_steps": float(progress.step + 1 - progress.updates)} if scaler is not None else {}
    logged |= {"gradient_norm": norm} if math.isfinite(norm) else {}
    return {f"train/{name}": value for name, value in logged.items() if not name.startswith("part_")}


def weights_of(setup: Setup, turns: Sequence[Turn]) -> list[dict[str, torch.Tensor]]:
    """What each position of this rank's micro-batches counts in each component, in the step of all ranks."""
    objective, reduction = setup.objective, setup.settings.objective.reduction
    own = totals_of([batch for batch, counts in turns if counts], objective.positions, objective.weights)
    totals = setup.processes.totals(own)
    found = []
    for batch, counts in turns:
        weights = component_weights(batch, objective.positions, objective.weights, totals, reduction)
        found.append({name: counts * values for name, values in weights.items()})
    return found


def balanced(setup: Setup, objective: Objective, turns: Sequence[Turn]) -> Objective:
    """With `objective.balance: magnitude`, one more pass without gradients scales the signals to the task loss.

    The factors belong to the whole step, so that micro-batches and ranks do not change them.
    """
    if setup.settings.objective.balance == "none" or set(objective.weights) == {"task"}:
        return objective
    losses = dict.fromkeys(objective.weights, 0.0)
    for (batch, _), weights in zip(turns, weights_of(setup, turns), strict=True):
        with torch.no_grad(), setup.accelerator.autocast():
            _, components = setup.trainee(batch, weights, objective)
        losses = {name: losses[name] + float((values * weights[name]).sum()) for name, values in components.items()}
    return objective.balanced(setup.processes.totals(losses))


def measure_layers(setup: Setup, turns: Sequence[Turn], progress: Progress) -> None:
    """Before the first update of a trial with `layer_router`, note the losses of the teacher's layers over the step.

    Each layer then counts in units of its own. One more pass without gradients, which leaves no trace in generators.
    """
    if layer_router.NAME not in setup.objective.weights or progress.layer_losses:
        return
    accelerator, objective = setup.accelerator, objective_at(setup, progress)
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    sums: dict[str, float] = {}
    for (batch, _), weights in zip(turns, weights_of(setup, turns), strict=True):
        with torch.random.fork_rng(devices), torch.no_grad(), accelerator.autocast():
            _, components = setup.trainee(batch, weights, objective, at_one=True)
        found = objective.values(components, weights)
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in found.items()}
    progress.layer_losses = layer_router.initial_losses(setup.processes.totals(sums))


def audit(setup: Setup, turns: Sequence[Turn], progress: Progress) -> liveness.Audit:
    """How each component by itself would move the student at this step; leaves no trace in it.

    The gradients wait in the computer's own memory: the device holds one component's at a time.
    """
    accelerator = setup.accelerator
    parameters = [weight for weight in setup.student.model.parameters() if weight.requires_grad]
    scale = 1.0 if accelerator.scaler is None else liveness.LOSS_SCALE
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    measure_layers(setup, turns, progress)
    objective, gradients = balanced(setup, objective_at(setup, progress), turns), {}
    for name in objective.weights:
        with torch.random.fork_rng(devices):
            for (batch, _), weights in zip(turns, weights_of(setup, turns), strict=True):
                with accelerator.autocast():
                    loss, _ = setup.trainee(batch, weights, objective.alone(name))
                (loss * setup.processes.count * scale).backward()
        found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in parameters]
        gradients[name] = [(own_part(gradient) / scale).cpu() for gradient in found]
        setup.optimizer.zero_grad()
    is_sharded = any(own_part(weight) is not weight for weight in parameters)
    together = setup.processes.totals if is_sharded else dict
    return liveness.audit(gradients, objective.highest_weights, together, accelerator.device)


def clip(setup: Setup) -> float:
    """Scale the gradient down to the largest norm allowed, over all weights and ranks; returns its norm before."""
    norm = setup.accelerator.clip_grad_norm_(setup.student.parameters(), setup.settings.train.clip_norm)
    return math.nan if norm is None else float(whole(norm))


def _diverged(
    setup: Setup, step: int, turns: Sequence[Turn], components: dict[str, torch.Tensor], what: str
) -> DivergedError:
    """The same error in every rank; the main one keeps what is known about it."""
    of_the_loss = {name: components[name] for name in setup.objective.weights}
    found = divergence.describe(step, [batch for batch, _ in turns], of_the_loss, what)
    worst = max(setup.processes.gather(found), key=lambda each: len(each["not_finite"]))
    if setup.processes.is_main:
        divergence.dump(setup.scratch, worst)
    return DivergedError(divergence.sentence(worst))
