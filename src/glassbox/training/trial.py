"""One trial: a group's objective, one seed, from the snapshot to a published result. Read it from top to bottom.

The teacher is not loaded; everything it has to say is in the snapshot, or in its stored answers. What a trial needs to
go on after an interruption lies in `.glassbox/trials/<key>/`, outside the stage's outputs, which DVC removes first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from glassbox.command import Interruption
from glassbox.config.analysis_plan import plan_digest
from glassbox.errors import DivergedError
from glassbox.evaluation.evaluation import Evaluation, evaluate, scored
from glassbox.objective import Objective, liveness, position_weights, shares
from glassbox.processes import own_part, whole, whole_state, whole_weights
from glassbox.snapshot.reader import Batch
from glassbox.tasks.sample import Sample
from glassbox.tracking import TrialRun, UnrecordedRun
from glassbox.tracking.manifest import flat_params
from glassbox.training import checkpoint, divergence, publication
from glassbox.training.checkpoint import Progress
from glassbox.training.schedule import learning_rate
from glassbox.training.setup import SNAPSHOT_FOLDER, Preparation

CONF_FOLDER = Path("conf")
LEAST_LOSS_SCALE = 1.0  # float16 gradients that overflow below it overflow without any scaling


class Trial(Preparation):
    """The way through one trial; what it works with is its preparation."""

    def run(self) -> str:
        """Train, evaluate and publish; returns the status, "finished" or "diverged"."""
        self.join()
        self.scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.scratch / "lock") if self.processes.is_main else nullcontext()
        with lock, Interruption() as interruption:
            self.prepare()
            progress = self._resume()
            with self.open_run(progress) as run:
                progress.run_id = run.run_id
                status, evaluation, reason = "finished", None, ""
                try:
                    self.train(run, progress, interruption)
                    interruption.immediate = True
                    interruption.leave()
                    evaluation = self.final_evaluation(run, progress)
                    interruption.immediate = False
                except DivergedError as error:
                    status, reason = "diverged", str(error)
                    self._say(f"{self.group}/{self.seed} diverged: {reason}")
                weights = whole_state(self.student)
                if self.processes.is_main:
                    publication.publish(self, weights, run, progress, status, evaluation, reason)
                run.finish("FINISHED" if status == "finished" else "FAILED")
        if self.processes.is_main:
            publication.clean(self.scratch)
        self.processes.wait()
        return status

    def open_run(self, progress: Progress) -> TrialRun | UnrecordedRun:
        """The run in MLflow, which the main process alone writes."""
        if not self.processes.is_main:
            return UnrecordedRun()
        return TrialRun(
            self.settings.storage,
            name=f"{self.group}-{self.seed}",
            params=flat_params(self.settings, self.group, self.seed),
            tags=self.tags(progress),
            snapshot={"name": "snapshot", "digest": self.digests["snapshot"], "source": str(SNAPSHOT_FOLDER)},
            resume=progress.run_id,
        )

    def _say(self, text: str) -> None:
        if self.processes.is_main:
            print(text)

    def tags(self, progress: Progress) -> dict[str, str]:
        return {
            "group": self.group,
            "seed": str(self.seed),
            "scale": self.settings.scale,
            "key": self.key,
            "study_key": self.study_key,
            "snapshot": self.digests["snapshot"],
            "tasks": self.digests["tasks"],
            "data_order": self.digests["data_order"],
            "initial_student": self.initial_student,
            "threads": str(self.settings.train.threads),
            "device": str(self.accelerator.device),
            "plan": progress.plan,
            "processes": str(self.processes.count),
        }

    def _resume(self) -> Progress:
        found = checkpoint.load(self.scratch, self.student, self.optimizer.optimizer, self.processes)
        if found is None:
            return Progress(initial_student=self.initial_student, plan=plan_digest(CONF_FOLDER))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(found.scaler)
        self._say(f"{self.group}/{self.seed} goes on after step {found.step} of {len(self.plan.steps)}")
        return found

    def train(self, run: TrialRun | UnrecordedRun, progress: Progress, interruption: Interruption) -> None:
        """The loop: step, log, evaluate at the end of an epoch, stop. Processes take micro-batches in turn."""
        settings = self.settings.train
        self.student.train()
        started, earlier = time.monotonic(), progress.seconds
        remaining = self.plan.steps[progress.step :] if not progress.stopped_early else ()
        turns = [self.processes.turns(step) for step in remaining]
        micro_batches = self.batches([ids for turn in turns for ids, _ in turn])
        window = Window()
        hidden = None if self.processes.is_main else True
        for turn in tqdm(turns, desc=f"{self.group}/{self.seed}", unit="step", disable=hidden):
            batches = [(next(micro_batches), counts) for _, counts in turn]
            due = (progress.step + 1) % settings.logging_interval == 0 or progress.step == 0
            audited = progress.step < settings.liveness_steps
            if audited:
                progress.liveness.append(self.audit(batches, progress))
            metrics = self.step(batches, progress, due)
            window.add([batch for batch, counts in batches if counts])
            progress.step += 1
            if audited:
                self.record(run, progress, liveness.metrics(progress.liveness[-1]))
                if progress.step == min(settings.liveness_steps, len(self.plan.steps)):
                    liveness.refuse_dead(progress.liveness, self.group)
            if due:
                self.record(run, progress, metrics | self.processes.totals(window.rates()))
                window = Window()
            at_epoch_end = progress.step in self.plan.epoch_ends
            if at_epoch_end:
                self.record(run, progress, self.validate(self.objective_at(progress)))
                progress.stopped_early = self.should_stop(progress)
                window = Window()
            progress.seconds = earlier + time.monotonic() - started
            interruption.received = self.processes.largest(interruption.received or 0) or None
            if at_epoch_end or interruption.received is not None:
                run.flush()
                self.save_checkpoint(progress)
                interruption.leave()
            if progress.stopped_early:
                break

    def objective_at(self, progress: Progress) -> Objective:
        """The objective with its curves where the updates so far have brought them."""
        return self.objective.at(progress.updates / len(self.plan.steps))

    def weights_of(self, batches: Sequence[tuple[Batch, bool]]) -> list[torch.Tensor]:
        """What each position of this process's micro-batches counts in the step of all processes."""
        counted = [batch for batch, counts in batches if counts]
        size = self.processes.totals(
            {
                "samples": sum(int((batch.count > 0).sum()) for batch in counted),
                "positions": sum(len(batch.labels) for batch in counted),
            }
        )
        return [
            counts
            * position_weights(
                batch.sample_index,
                batch.count,
                samples_in_step=int(size["samples"]),
                positions_in_step=int(size["positions"]),
                reduction=self.settings.objective.reduction,
            )
            for batch, counts in batches
        ]

    def balanced(self, objective: Objective, batches: Sequence[tuple[Batch, bool]]) -> Objective:
        """With `objective.balance: magnitude`, one more pass without gradients scales the signals to the task loss.

        The factors belong to the whole step, so that micro-batches and processes do not change them.
        """
        if self.settings.objective.balance == "none" or set(objective.weights) == {"task"}:
            return objective
        losses = dict.fromkeys(objective.weights, 0.0)
        for (batch, _), weights in zip(batches, self.weights_of(batches), strict=True):
            with torch.no_grad(), self.accelerator.autocast():
                _, components = self.trainee(batch, weights, objective)
            losses = {name: losses[name] + float((values * weights).sum()) for name, values in components.items()}
        return objective.balanced(self.processes.totals(losses))

    def audit(self, batches: Sequence[tuple[Batch, bool]], progress: Progress) -> liveness.Audit:
        """How each component by itself would move the student at this step; leaves no trace in it.

        Their gradients wait in the computer's own memory: the device holds one component's at a time.
        """
        parameters = [weight for weight in self.student.model.parameters() if weight.requires_grad]
        scale = 1.0 if self.accelerator.scaler is None else liveness.LOSS_SCALE
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        objective, gradients = self.balanced(self.objective_at(progress), batches), {}
        for name in objective.weights:
            with torch.random.fork_rng(devices):
                for (batch, _), weights in zip(batches, self.weights_of(batches), strict=True):
                    with self.accelerator.autocast():
                        loss, _ = self.trainee(batch, weights, objective.alone(name))
                    (loss * self.processes.count * scale).backward()
            found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in parameters]
            gradients[name] = [(own_part(gradient) / scale).cpu() for gradient in found]
            self.optimizer.zero_grad()
        is_sharded = any(own_part(weight) is not weight for weight in parameters)
        together = self.processes.totals if is_sharded else dict
        return liveness.audit(gradients, objective.highest_weights, together, self.accelerator.device)

    def step(self, batches: Sequence[tuple[Batch, bool]], progress: Progress, due: bool) -> dict[str, float]:
        """One optimizer update over all micro-batches of all processes; returns what is logged where that is `due`.

        A micro-batch that does not count was taken to keep the others company; it adds exactly 0. Raises DivergedError,
        in every process and before the update, where a loss or the gradient is not finite.
        """
        objective = self.balanced(self.objective_at(progress), batches)
        rate = learning_rate(progress.updates, len(self.plan.steps), self.settings.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums: dict[str, torch.Tensor] = {}
        weights_of_step = self.weights_of(batches)
        for turn, ((batch, counts), weights) in enumerate(zip(batches, weights_of_step, strict=True), start=1):
            is_last = turn == len(batches)
            with nullcontext() if is_last else self.accelerator.no_sync(self.trainee):
                with self.accelerator.autocast():
                    loss, components = self.trainee(batch, weights, objective, at_one=due)
                if self.processes.largest(not math.isfinite(loss.item())):
                    raise self._diverged(progress.step, batches, components, "loss")
                self.accelerator.backward(loss * self.processes.count)  # the average over processes, multiplied back
            if due:
                values = objective.values(components, weights, batch, self.task_names)
                sums = {name: sums.get(name, 0.0) + counts * value for name, value in values.items()}
        norm = self.clip()
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and scaler is None:
            raise self._diverged(progress.step, batches, components, "gradient")
        if self.student.projector is not None and objective.weights["hidden"] == 0.0:
            self.student.projector.zero_grad()  # it stands still, and gathers no moments, while it has nothing to learn
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.updates += not self.optimizer.step_was_skipped
        if scaler is not None and self.optimizer.step_was_skipped and scaler.get_scale() < LEAST_LOSS_SCALE:
            raise self._diverged(progress.step, batches, components, "gradient")
        if not due:
            return {}
        self.probe.require(self.accelerator.mixed_precision)
        logged = self.processes.totals(sums)
        logged |= shares(logged) | {"learning_rate": rate} | objective.logged
        logged |= {"skipped_steps": float(progress.step + 1 - progress.updates)} if scaler is not None else {}
        logged |= {"gradient_norm": norm} if math.isfinite(norm) else {}
        return {f"train/{name}": value for name, value in logged.items() if not name.startswith("part_")}

    def clip(self) -> float:
        """Scale the gradient down to the largest norm allowed, over all weights and processes; returns its norm."""
        norm = self.accelerator.clip_grad_norm_(self.student.parameters(), self.settings.train.clip_norm)
        return math.nan if norm is None else float(whole(norm))

    def _diverged(
        self, step: int, batches: Sequence[tuple[Batch, bool]], components: dict[str, torch.Tensor], what: str
    ) -> DivergedError:
        """The same error in every process; the main one keeps what is known about it."""
        of_the_loss = {name: components[name] for name in self.objective.weights}
        found = divergence.describe(step, [batch for batch, _ in batches], of_the_loss, what)
        worst = max(self.processes.gather(found), key=lambda each: len(each["not_finite"]))
        if self.processes.is_main:
            divergence.dump(self.scratch, worst)
        return DivergedError(divergence.sentence(worst))

    def record(self, run: TrialRun | UnrecordedRun, progress: Progress, metrics: dict[str, float]) -> None:
        run.log(metrics, progress.step)
        progress.history += [(progress.step, name, value) for name, value in metrics.items()]

    def validate(self, objective: Objective) -> dict[str, float]:
        """Every component over the validation split, shuffled where training's is, and its accuracy per task."""
        infos = sorted(self.source.samples("validation"), key=lambda info: info.n_tokens)
        size = self.settings.train.micro_batch_size
        plan = [tuple(s.sample_id for s in infos[at : at + size]) for at in range(0, len(infos), size)]
        turns = self.processes.turns(plan)
        micro_batches = self.batches([ids for ids, _ in turns])
        sums: dict[str, torch.Tensor] = {}
        self.student.eval()
        with torch.no_grad():
            for batch, (_, counts) in zip(micro_batches, turns, strict=True):
                weights = counts * position_weights(
                    batch.sample_index,
                    batch.count,
                    samples_in_step=len(infos),
                    positions_in_step=sum(info.n_positions_answer for info in infos),
                    reduction=self.settings.objective.reduction,
                )
                with self.accelerator.autocast():
                    _, components = self.trainee(batch, weights, objective)
                values = objective.values(components, weights)
                sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        totals = self.processes.totals(sums)
        metrics = {f"validation/{name}": value for name, value in totals.items() if name != "positions"}
        metrics |= self._evaluate(self.validation).metrics("validation")
        self.student.train()
        return metrics

    def _evaluate(self, samples: list[Sample]) -> Evaluation:
        """Every process scores its share; all raise DivergedError where one meets a logit that is not finite."""
        snapshot = self.settings.snapshot
        with whole_weights(self.trainee):
            try:
                found = evaluate(
                    self.student.model,
                    self.tokenizer,
                    self.processes.share(samples),
                    self.settings.evaluation,
                    snapshot.max_length,
                    snapshot.overflow,
                    lambda: self.accelerator.autocast() if self.accelerator.mixed_precision != "no" else nullcontext(),
                )
                outcome = found.items, None
            except DivergedError as error:
                outcome = [], error
        outcomes = self.processes.gather(outcome)
        for _, error in outcomes:
            if error is not None:
                raise error
        return scored(samples, self.processes.in_order([items for items, _ in outcomes]))

    def final_evaluation(self, run: TrialRun | UnrecordedRun, progress: Progress) -> Evaluation:
        evaluation = self._evaluate(self.test)
        scores = evaluation.metrics("test")
        self.record(run, progress, scores | {"seconds": progress.seconds})
        shown = ", ".join(f"{name.removeprefix('test/')} {value:.3f}" for name, value in sorted(scores.items()))
        self._say(f"{self.group}/{self.seed}: {progress.step} steps in {progress.seconds:.0f} s, test {shown}")
        return evaluation

    def should_stop(self, progress: Progress) -> bool:
        """Early stopping on the validation loss of the task, which every group has."""
        settings = self.settings.train.early_stopping
        if settings is None:
            return False
        newest = next(value for _, name, value in reversed(progress.history) if name == "validation/loss_task")
        best = progress.best_validation
        if best is None or newest < best - settings.minimum_improvement:
            progress.best_validation, progress.epochs_without_improvement = newest, 0
        else:
            progress.epochs_without_improvement += 1
        return progress.epochs_without_improvement >= settings.patience

    def save_checkpoint(self, progress: Progress) -> None:
        if self.accelerator.scaler is not None:
            progress.scaler = self.accelerator.scaler.state_dict()
        checkpoint.save(self.scratch, progress, self.student, self.optimizer.optimizer, self.processes)


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
