"""Which checks there are and in which order: first what costs nothing, then the course, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from glassbox.comparison.notes import teacher_notes
from glassbox.comparison.plan import plan_or_derived
from glassbox.config.settings import SPLITS, Settings
from glassbox.config.storage import CONF_FOLDER
from glassbox.errors import GlassboxError
from glassbox.evaluation.references import first_scores
from glassbox.models.context import refused_lengths
from glassbox.models.meeting import in_brief as meeting_in_brief
from glassbox.models.meeting import meetings
from glassbox.models.tokenizers import tokens_are_shared
from glassbox.preflight.checks import Course
from glassbox.preflight.disk import drives_of, needs_of
from glassbox.preflight.estimate import memory_on, refused_drives, refused_memory, refused_samples
from glassbox.preflight.findings import Check, Finding, Findings
from glassbox.preflight.memory import parameter_count, teacher_of
from glassbox.preflight.rehearsal import rehearsal, samples_of
from glassbox.preflight.workload import training_of, workload_of
from glassbox.tasks.reading import sample_doubts
from glassbox.tasks.sample import Sample, chance_levels, spread

BATCHES = 2
QUESTIONS = 12
CHOSEN = 64
"""Questions with choices that the teacher is asked: at chance is told from 75 % where guessing gives 50."""


def preflight(settings: Settings, root: Path, tasks_folder: Path, show: Callable[[Finding], None]) -> Findings:
    """Every check in turn, shown as it ends; nothing is left behind but what the caller writes."""
    findings = Findings(show)
    for check in checks_beforehand(settings, root, tasks_folder):
        findings.add(check)
    if findings.failed:
        return findings
    with rehearsal(shortened(settings), longest_samples(settings, tasks_folder)) as short:
        for check in checks_of(Course(short)):
            findings.add(check)
    return findings


def checks_beforehand(settings: Settings, root: Path, tasks_folder: Path) -> list[Check]:
    def tokenizers() -> str:
        if tokens_are_shared(settings):
            return "one tokenizer"
        train = samples_of(settings, tasks_folder)["train"]
        found = meetings(settings, ((sample.task, sample.prompt, sample.answer) for sample in train))
        return meeting_in_brief(found)

    def disk() -> None:
        workload = workload_of(settings, tasks_folder)
        teacher = teacher_of(settings, workload, torch.cuda.is_available())
        parameters = parameter_count(settings.student)
        needs = needs_of(settings, workload, training_of(settings, workload), teacher, parameters, root)
        _refuse(refused_drives(needs, drives_of(needs)))

    def memory() -> None:
        hardest = max(settings.groups, key=lambda group: len(settings.distill[group].active))
        only = settings.model_copy(update={"groups": (hardest,)})
        workload = workload_of(only, tasks_folder)
        _refuse(refused_lengths(only))
        _refuse(refused_samples(only, workload, teacher_of(only, workload, torch.cuda.is_available())))
        _refuse(refused_memory(only, memory_on(only, workload, training_of(only, workload), torch.cuda.is_available())))

    def samples() -> str:
        doubts = sample_doubts(settings, samples_of(settings, tasks_folder))
        return "WARNING: " + " ".join(doubts) if doubts else "every answer can be given, and is read whole"

    def teacher() -> str:
        few = first_look(settings, samples_of(settings, tasks_folder)["test"])
        scores = first_scores(settings, few)
        planned = plan_or_derived(CONF_FOLDER, settings).tasks
        texts = {task for task, each in settings.prepare.tasks.items() if each.text}
        chance = {
            task: None if task in texts else planned[task].chance if task in planned else own
            for task, own in chance_levels(few).items()
        }
        doubts = teacher_notes(scores, chance, Counter(sample.task for sample in few), {})
        shown = ", ".join(
            f"{task} {score:.4g}" if task in texts else f"{task} {100 * score:.0f} %"
            for task, score in scores["teacher"].items()
        )
        told = f"its score on {len(few)} test questions: {shown}"
        return f"WARNING: {told}. {' '.join(doubts)}" if doubts else told

    return [
        Check("tokenizers", tokenizers),
        Check("samples", samples),
        Check("disk", disk, ["samples"]),
        Check("memory", memory, ["samples"]),
        Check("teacher", teacher, ["tokenizers", "memory"]),
    ]


def _refuse(sentences: Iterable[str]) -> None:
    found = list(sentences)
    if found:
        raise GlassboxError(" ".join(found))


def checks_of(course: Course) -> list[Check]:
    def trial_of(group: str) -> Callable[[], None]:
        return lambda: course.trial(group)

    trials = [f"trial {group}" for group in course.settings.groups]
    return [
        Check("settings", lambda: course.stage("settings")),
        Check("student", course.student, ["settings"]),
        Check("answers", lambda: course.stage("answers"), ["settings"]),
        Check("capture", lambda: course.stage("snapshot"), ["settings", "answers"]),
        Check("gate", course.gate, ["capture"]),
        Check("precision", course.precision, ["answers", "capture"]),
        Check("objective", course.objective, ["answers", "capture"]),
        Check("attention maps", course.attention_maps, ["answers", "capture"]),
        Check("components", course.components, ["answers", "capture"]),
        Check("final evaluation", course.final_evaluation, ["answers", "capture"]),
        *(
            Check(name, trial_of(group), ["answers", "gate"])
            for name, group in zip(trials, course.settings.groups, strict=True)
        ),
        Check("resume", course.resume, [f"trial {course.hardest}"]),
        Check("console", course.console, [f"trial {course.hardest}"]),
        Check("report", course.report, trials),
    ]


def shortened(settings: Settings) -> Settings:
    """One seed, one epoch of two steps, every step logged; formats, lengths, models and weights as they are."""
    train = settings.train.model_copy(
        update={
            "epochs": 1,
            "max_steps": None,
            "early_stopping": None,
            "logging_interval": 1,
            "liveness_steps": min(settings.train.liveness_steps, BATCHES),
            "processes": 1,
        }
    )
    snapshot = settings.snapshot.model_copy(update={"processes": 1})
    return settings.model_copy(update={"seeds": settings.seeds[:1], "train": train, "snapshot": snapshot})


def longest_samples(settings: Settings, tasks_folder: Path) -> dict[str, list[Sample]]:
    """The longest samples of each task: two steps to train on, a dozen to validate and a dozen to test."""
    counts = {"train": BATCHES * settings.train.batch_size, "validation": QUESTIONS, "test": QUESTIONS}
    every = samples_of(settings, tasks_folder)
    return {split: _longest(every[split], counts[split]) for split in SPLITS}


def first_look(settings: Settings, samples: Sequence[Sample]) -> list[Sample]:
    """Test questions drawn from each task on which a teacher's worth shows: more of those that take one pass."""
    few: list[Sample] = []
    for task in settings.prepare.tasks:
        mine = [sample for sample in samples if sample.task == task]
        count = CHOSEN if mine and mine[0].choices else QUESTIONS
        order = np.random.default_rng(settings.prepare.seed).permutation(len(mine))
        few += [mine[place] for place in order[:count]]
    return few


def _longest(samples: Sequence[Sample], count: int) -> list[Sample]:
    ordered = sorted(samples, key=lambda sample: -len(sample.prompt) - len(sample.answer))
    return spread(ordered, count)
