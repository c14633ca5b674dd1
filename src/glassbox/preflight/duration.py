"""How long the study will take, from a few real steps of every group on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from glassbox.config.settings import Settings
from glassbox.config.storage import ANSWERS_FOLDER, TASKS_FOLDER
from glassbox.evaluation.references import measure_teacher
from glassbox.models.tokenizers import captures_signals, load_tokenizer
from glassbox.preflight.disk import RESERVE
from glassbox.preflight.memory import has_weights_here, total
from glassbox.preflight.rehearsal import captured_output, rehearsal, run_stage, samples_of
from glassbox.snapshot.composition import batches, compose_items
from glassbox.snapshot.labels import Answer, write_teacher_labels
from glassbox.snapshot.teacher import capture_batch, open_teacher
from glassbox.tasks.sample import spread
from glassbox.tasks.splits import read_split, tasks_digest
from glassbox.training.setup import prepare
from glassbox.training.trial import run

STEPS = 6
LONG_STAGES = 3  # snapshot, verify, answers
SHORT_STAGES = 3  # settings, prepare, compare
# DVC's own time for a stage, mostly reading and writing dvc.lock
DVC_SECONDS = 3.0


class Timings:
    """Watches a trial and notes how long each phase takes: (seconds, units of work) per call.

    Units are padded tokens for `step`, samples for `validation` and `test`. overhead: the trial's other seconds.
    """

    def __init__(self) -> None:
        self.noted: dict[str, list[tuple[float, int]]] = {"step": [], "validation": [], "test": []}
        self.overhead = 0.0

    def begins(self, step: int, steps: int) -> None: ...

    def step(self, step: int, steps: int, loss: float | None, samples_per_second: float) -> None: ...

    def may_publish(self) -> bool:
        return True

    @contextmanager
    def during(self, phase: str, units: int) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.noted[phase].append((time.perf_counter() - started, units))

    def rate(self, phase: str) -> float:
        """Seconds per unit, the median over calls: the first call of a process is slow."""
        return median(seconds / units for seconds, units in self.noted[phase])

    def noted_seconds(self) -> float:
        return sum(seconds for calls in self.noted.values() for seconds, _ in calls)


def measured_time(
    settings: Settings, estimate: Mapping[str, Any], tasks_folder: Path, start_up: float
) -> dict[str, Any]:
    """Seconds of the long stages, of a trial of each group and of the whole; or the `reason` why nothing was measured.

    `start_up` is how long a process takes until it has everything imported, in seconds.
    """
    reason = _reason_against(settings, estimate)
    if reason is not None:
        return {"reason": reason}
    started = time.monotonic()
    capture_rate, teacher_rate, trials = _probe(settings, tasks_folder)
    samples, asked = estimate["samples"], any(settings.reads_answers(group) for group in settings.groups)
    evaluation_rate = trials[settings.groups[0]].rate("test")
    seconds = {
        group: start_up
        + probed.overhead
        + estimate["padded_tokens_per_trial"] * probed.rate("step")
        + settings.train.epochs * samples["validation"] * probed.rate("validation")
        + samples["test"] * evaluation_rate
        for group, probed in trials.items()
    }
    stages = {
        "capture": start_up + estimate["captured_tokens"] * capture_rate,
        "verify": start_up + samples["test"] * (teacher_rate + evaluation_rate),
        "answers": start_up + samples["train"] * teacher_rate if asked else 0.0,
        "all trials": len(settings.seeds) * sum(seconds.values()),
        "between": SHORT_STAGES * start_up + (LONG_STAGES + SHORT_STAGES + 1) * DVC_SECONDS,
    }
    return {
        "device": estimate["memory"]["device"],
        "threads": settings.train.threads,
        "probe_seconds": time.monotonic() - started,
        "seconds_per_padded_token": {group: probed.rate("step") for group, probed in trials.items()},
        "trial_seconds": seconds,
        "stage_seconds": stages,
        "study_seconds": sum(stages.values()),
    }


def _reason_against(settings: Settings, estimate: Mapping[str, Any]) -> str | None:
    """Why no probe runs here; None where one can."""
    for role in ("teacher", "student"):
        if not has_weights_here(getattr(settings, role)):
            return f"the {role}'s weights are in no folder here ({getattr(settings, role).model})"
    if settings.prepare.hub is None and any(task.of_the_hub for task in settings.prepare.tasks.values()):
        return "the tasks' texts lie on the hub"
    memory = estimate["memory"]
    if max(map(total, memory["phases"].values())) * RESERVE > memory["free"]:
        return f"it does not fit {memory['device']}"
    return None


def _probe(settings: Settings, tasks_folder: Path) -> tuple[float, float, dict[str, Timings]]:
    """Seconds per captured token and per question that the teacher answers, and a short trial of each group.

    Only the first group's student answers a full batch of questions.
    """
    splits = samples_of(settings, tasks_folder)
    chosen = {
        "train": spread(splits["train"], STEPS * settings.train.batch_size),
        "validation": spread(splits["validation"], settings.evaluation.batch_size),
        "test": spread(splits["test"], settings.evaluation.batch_size),
    }
    few = settings.train.model_copy(update={"epochs": 1, "max_steps": None, "early_stopping": None, "processes": 1})
    trials = {}
    with rehearsal(settings.model_copy(update={"train": few}), chosen) as small:
        torch.set_num_threads(small.train.threads)
        capture_rate = _capture_rate(small) if captures_signals(small) else 0.0
        started = time.perf_counter()
        measure_teacher(small, TASKS_FOLDER)
        teacher_rate = (time.perf_counter() - started) / len(chosen["test"])
        if any(small.reads_answers(group) for group in small.groups):
            _stand_in_for_answers(ANSWERS_FOLDER)
        run_stage("snapshot")
        for group in small.groups:
            timings, started = Timings(), time.perf_counter()
            with captured_output():
                setup = prepare(small, group, small.seeds[0])
                run(replace(setup, test=setup.test[: small.train.batch_size]) if trials else setup, timings)
            timings.overhead = time.perf_counter() - started - timings.noted_seconds()
            trials[group] = timings
    return capture_rate, teacher_rate, trials


def _stand_in_for_answers(folder: Path) -> None:
    """The data's answers as the teacher's: whose they are makes no difference to a trial's time."""
    samples = read_split(TASKS_FOLDER, "train")
    answers = [Answer(sample.sample_id, sample.task, sample.answer, True, True) for sample in samples]
    write_teacher_labels(folder, answers, {"provenance": {"tasks": tasks_digest(TASKS_FOLDER)}})


def _capture_rate(settings: Settings) -> float:
    """Seconds per token of the teacher over all batches but the first, which is slow."""
    tokenizer = load_tokenizer(settings.teacher)
    teacher = open_teacher(settings, tokenizer)
    parts = batches(compose_items(settings, tokenizer, TASKS_FOLDER), settings.snapshot.batch_size)
    capture_batch(teacher, parts[0], {})
    started = time.perf_counter()
    for part in parts[1:] or parts:
        capture_batch(teacher, part, {})
    return (time.perf_counter() - started) / sum(item.n_tokens for part in parts[1:] or parts for item in part)
