"""One trial: a group's objective, one seed, from the snapshot to a published result. Read it from top to bottom.

The teacher is not loaded; everything it has to say is in the snapshot, or in its stored answers. What a trial needs to
resume lies in `.glassbox/`, outside the stage's outputs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean
from typing import Protocol

import torch
from tqdm import tqdm

from glassbox.command import Interruption
from glassbox.config.analysis_plan import plan_digest
from glassbox.config.components import COMPONENTS
from glassbox.config.settings import Settings
from glassbox.config.storage import CONF_FOLDER, SNAPSHOT_FOLDER
from glassbox.errors import DivergedError
from glassbox.evaluation.evaluation import Evaluation, evaluate, scored
from glassbox.objective import Objective, component_weights, liveness
from glassbox.processes import machine, whole_state, whole_weights
from glassbox.snapshot.reader import Batch, SampleInfo
from glassbox.tasks.sample import Sample
from glassbox.tracking import TrialRun, UnrecordedRun
from glassbox.tracking.manifest import flat_params
from glassbox.training import checkpoint
from glassbox.training.checkpoint import Progress
from glassbox.training.diagnostics import initial_similarity, layer_similarity
from glassbox.training.publication import Outcome, publish
from glassbox.training.retention import retention
from glassbox.training.router import mixture_accuracy
from glassbox.training.setup import Setup, prepare
from glassbox.training.step import audit, objective_at, update


class Watch(Protocol):
    """What a caller learns of a running trial, and may decide."""

    def begins(self, step: int, steps: int) -> None:
        """Right before the first step, with the number of those that a checkpoint holds."""

    def step(self, step: int, steps: int, loss: float | None, samples_per_second: float) -> None:
        """After each step; `loss` is the last that was logged."""

    def may_publish(self) -> bool:
        """Whether this process still owns the trial; asked right before anything is published."""
        ...

    def during(self, phase: str, units: int) -> AbstractContextManager[None]:
        """Around each phase: `step` (units: padded tokens), `validation` and `test` (units: samples)."""
        ...


class Unwatched:
    """Nobody watches."""

    def begins(self, step: int, steps: int) -> None: ...

    def step(self, step: int, steps: int, loss: float | None, samples_per_second: float) -> None: ...

    def may_publish(self) -> bool:
        return True

    def during(self, phase: str, units: int) -> AbstractContextManager[None]:
        return nullcontext()


def run_trial(settings: Settings, group: str, seed: int, watch: Watch | None = None) -> str:
    """Set up, train, evaluate and publish; returns the status, "finished" or "diverged"."""
    return run(prepare(settings, group, seed), watch or Unwatched())


def run(setup: Setup, watch: Watch) -> str:
    """The way of a trial that is set up."""
    setup.scratch.mkdir(parents=True, exist_ok=True)
    with Interruption() as interruption:
        progress = resume(setup)
        with open_run(setup, progress) as opened:
            progress.run_id = opened.run_id
            status, evaluation, reason = "finished", None, ""
            try:
                if progress.step == 0:
                    record(opened, progress, initial_similarity(setup))
                train(setup, progress, opened, interruption, watch)
                record(opened, progress, layer_similarity(setup))
                interruption.immediate = True
                interruption.leave()
                evaluation = final_evaluation(setup, progress, opened, watch)
                interruption.immediate = False
            except DivergedError as error:
                status, reason = "diverged", str(error)
                _say(setup, f"{setup.name} diverged: {reason}")
            weights = whole_state(setup.student)
            if setup.processes.is_main and watch.may_publish():
                publish(outcome_of(setup, progress, weights, status, reason, evaluation), opened)
                checkpoint.drop(setup.scratch)
            opened.finish("FINISHED" if status == "finished" else "FAILED")
    setup.processes.wait()
    return status


def outcome_of(
    setup: Setup,
    progress: Progress,
    weights: dict[str, torch.Tensor],
    status: str,
    reason: str,
    found: Evaluation | None,
) -> Outcome:
    """The record of an ended trial, with nothing left in it that can still change."""
    return Outcome(
        settings=setup.settings,
        group=setup.group,
        seed=setup.seed,
        key=setup.key,
        study_key=setup.study_key,
        digests=setup.digests,
        tags=tags(setup, progress),
        progress=progress,
        status=status,
        reason=reason,
        evaluation=found,
        precision=setup.probe.observed or "unknown",
        heads=setup.heads,
        processes=setup.processes.count,
        varies=setup.varies,
        student=setup.student,
        weights=weights,
        tokenizer=setup.tokenizer,
        scratch=setup.scratch,
    )


def open_run(setup: Setup, progress: Progress) -> TrialRun | UnrecordedRun:
    """The run in MLflow, which the main rank alone writes."""
    if not setup.processes.is_main:
        return UnrecordedRun()
    return TrialRun(
        setup.settings.storage,
        name=f"{setup.group}-{setup.seed}",
        params=flat_params(setup.settings, setup.group, setup.seed),
        tags=tags(setup, progress),
        snapshot={"name": "snapshot", "digest": setup.digests["snapshot"], "source": str(SNAPSHOT_FOLDER)},
        resume=progress.run_id,
    )


def tags(setup: Setup, progress: Progress) -> dict[str, str]:
    return {
        "group": setup.group,
        "seed": str(setup.seed),
        "key": setup.key,
        "study_key": setup.study_key,
        "machine": machine(),
        "tuning": setup.settings.tuning.key or "none",
        "initial_student": setup.initial_student,
        "threads": str(setup.settings.train.threads),
        "device": str(setup.accelerator.device),
        "plan": progress.plan,
        "processes": str(setup.processes.count),
    }


def resume(setup: Setup) -> Progress:
    """Where the newest checkpoint of this trial stands, loaded; the beginning where there is none."""
    found = checkpoint.load(setup.scratch, setup.student, setup.optimizer.optimizer, setup.processes, setup.router)
    if found is None:
        return Progress(initial_student=setup.initial_student, plan=plan_digest(CONF_FOLDER, setup.settings.scale))
    if setup.accelerator.scaler is not None:
        setup.accelerator.scaler.load_state_dict(found.scaler)
    _say(setup, f"{setup.name} resumes after step {found.step} of {len(setup.schedule.steps)}")
    return found


def train(
    setup: Setup, progress: Progress, run: TrialRun | UnrecordedRun, interruption: Interruption, watch: Watch
) -> None:
    """The loop: step, log, evaluate at the end of an epoch, stop. Ranks take micro-batches in turn."""
    settings, processes, steps = setup.settings.train, setup.processes, setup.schedule.steps
    setup.student.train()
    started, earlier = time.monotonic(), progress.seconds
    remaining = steps[progress.step :] if not progress.stopped_early else ()
    turns = [processes.turns(step) for step in remaining]
    micro_batches = setup.batches([ids for turn in turns for ids, _ in turn])
    window, loss = Window(), None
    if setup.router is not None and progress.mixture_before is None:
        progress.mixture_before = fmean(mixture_accuracy(setup).values())
    hidden = None if processes.is_main else True
    watch.begins(progress.step, len(steps))
    for turn in tqdm(turns, desc=setup.name, unit="step", disable=hidden):
        batches = [(next(micro_batches), counts) for _, counts in turn]
        due = (progress.step + 1) % settings.logging_interval == 0 or progress.step == 0
        audited = progress.step < settings.liveness_steps
        if audited:
            progress.liveness.append(audit(setup, batches, progress))
        with watch.during("step", sum(batch.input_ids.numel() for batch, _ in batches)):
            metrics = update(setup, batches, progress, due)
        window.add([batch for batch, counts in batches if counts])
        progress.step += 1
        if audited:
            record(run, progress, liveness.metrics(progress.liveness[-1]))
            if progress.step == min(settings.liveness_steps, len(steps)):
                liveness.refuse_dead(progress.liveness, setup.group)
        loss = metrics.get("train/loss_total", loss)
        watch.step(progress.step, len(steps), loss, window.rates()["train/samples_per_second"])
        if due:
            record(run, progress, metrics | processes.totals(window.rates()))
            window = Window()
        at_epoch_end = progress.step in setup.schedule.epoch_ends
        if at_epoch_end:
            with watch.during("validation", len(setup.validation)):
                record(run, progress, validate(setup, objective_at(setup, progress, validating=True)))
            progress.router_stopped = router_has_moved_enough(setup, progress)
            progress.stopped_early = should_stop(setup, progress)
            window = Window()
        progress.seconds = earlier + time.monotonic() - started
        interruption.received = processes.largest(interruption.received or 0) or None
        if at_epoch_end or interruption.received is not None:
            run.flush()
            save_checkpoint(setup, progress)
            interruption.leave()
        if progress.stopped_early:
            break


def record(run: TrialRun | UnrecordedRun, progress: Progress, metrics: dict[str, float]) -> None:
    run.log(metrics, progress.step)
    progress.history += [(progress.step, name, value) for name, value in metrics.items()]


def validate(setup: Setup, objective: Objective) -> dict[str, float]:
    """Every component over the validation split, shuffled where training's is, and its accuracy per task."""
    infos, turns = setup.source.samples("validation"), setup.validation_turns(setup.source)
    micro_batches = setup.batches([ids for ids, _ in turns])
    whole = {f"samples/{name}": float(len(infos)) for name in objective.weights}
    for name in objective.weights:
        whole[f"positions/{name}"] = float(sum(places(info, name, objective.positions[name]) for info in infos))
    sums: dict[str, torch.Tensor] = {}
    setup.student.eval()
    with torch.no_grad():
        for batch, (_, counts) in zip(micro_batches, turns, strict=True):
            weights = component_weights(
                batch, objective.positions, objective.weights, whole, setup.settings.objective.reduction
            )
            weights = {name: counts * values for name, values in weights.items()}
            with setup.accelerator.autocast():
                _, components = setup.trainee(batch, weights, objective)
            values = objective.values(components, weights)
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
    totals = setup.processes.totals(sums)
    metrics = {f"validation/{name}": value for name, value in totals.items() if name != "positions"}
    metrics |= {f"validation/{name}": value for name, value in mixture_accuracy(setup).items()}
    metrics |= evaluated(setup, setup.validation).metrics("validation")
    setup.student.train()
    return metrics


def places(info: SampleInfo, component: str, reach: str) -> int:
    """At how many positions of a sample, or in how many of its chunks, a component counts."""
    if COMPONENTS[component].by_chunk:
        return info.n_chunks[reach == "all"]
    return info.n_tokens - 1 if reach == "all" else info.n_positions_answer


def evaluated(setup: Setup, samples: Sequence[Sample]) -> Evaluation:
    """Every rank scores its share; all raise DivergedError where one meets a logit that is not finite."""
    accelerator, snapshot = setup.accelerator, setup.settings.snapshot
    with whole_weights(setup.trainee):
        try:
            found = evaluate(
                setup.student.model,
                setup.tokenizer,
                setup.processes.share(samples),
                setup.settings.evaluation,
                snapshot.max_length,
                snapshot.overflow,
                lambda: accelerator.autocast() if accelerator.mixed_precision != "no" else nullcontext(),
            )
            outcome = found.items, None
        except DivergedError as error:
            outcome = [], error
    outcomes = setup.processes.gather(outcome)
    for _, error in outcomes:
        if error is not None:
            raise error
    return scored(samples, setup.processes.in_order([items for items, _ in outcomes]))


def final_evaluation(setup: Setup, progress: Progress, run: TrialRun | UnrecordedRun, watch: Watch) -> Evaluation:
    with watch.during("test", len(setup.test)):
        evaluation = evaluated(setup, setup.test)
    scores = evaluation.metrics("test")
    record(run, progress, scores | evaluation.counts("test") | retention(setup) | {"seconds": progress.seconds})
    shown = ", ".join(f"{name.removeprefix('test/')} {value:.3f}" for name, value in sorted(scores.items()))
    _say(setup, f"{setup.name}: {progress.step} steps in {progress.seconds:.0f} s, test {shown}")
    return evaluation


def should_stop(setup: Setup, progress: Progress) -> bool:
    """Early stopping on the validation loss of the task, which every group has."""
    settings = setup.settings.train.early_stopping
    if settings is None:
        return False
    newest = next(value for _, name, value in reversed(progress.history) if name == "validation/loss_task")
    best = progress.best_validation
    if best is None or newest < best - settings.minimum_improvement:
        progress.best_validation, progress.epochs_without_improvement = newest, 0
    else:
        progress.epochs_without_improvement += 1
    return progress.epochs_without_improvement >= settings.patience


def router_has_moved_enough(setup: Setup, progress: Progress) -> bool:
    """Whether the mixture answers worse than before the first step, by more than the settings allow."""
    if setup.router is None or progress.router_stopped or progress.mixture_before is None:
        return progress.router_stopped
    tasks = len(setup.task_names)
    newest = [v for _, name, v in progress.history if name.startswith("validation/mixture_accuracy_")][-tasks:]
    return fmean(newest) < progress.mixture_before - setup.router.settings.stop_below / 100


def save_checkpoint(setup: Setup, progress: Progress) -> None:
    if setup.accelerator.scaler is not None:
        progress.scaler = setup.accelerator.scaler.state_dict()
    checkpoint.save(setup.scratch, progress, setup.student, setup.optimizer.optimizer, setup.processes, setup.router)


def _say(setup: Setup, text: str) -> None:
    if setup.processes.is_main:
        print(text)


class Window:
    """Samples and tokens since the last log line, over the seconds they took."""

    def __init__(self) -> None:
        self.started, self.samples, self.tokens = time.perf_counter(), 0, 0

    def add(self, batches: Sequence[Batch]) -> None:
        self.samples += sum(len(batch.sample_ids) for batch in batches)
        self.tokens += sum(int(batch.attention_mask.sum()) for batch in batches)

    def rates(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        return {
            "train/samples_per_second": self.samples / seconds,
            "train/tokens_per_second": self.tokens / seconds,
        }
