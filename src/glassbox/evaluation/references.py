"""Test scores that trials are read beside: the teacher's, and the student's before its first step.

Both are measured by the code that measures every trial's student.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.settings import EvaluationSettings, ModelSettings, Settings
from glassbox.evaluation.evaluation import Evaluation, evaluate
from glassbox.evaluation.exemplars import draw_exemplars, judged_alone, shares_in_format, with_exemplars
from glassbox.models.context import context_of
from glassbox.models.loading import load_model
from glassbox.models.tokenizers import load_tokenizer
from glassbox.randomness import derived_seed
from glassbox.tasks.sample import Sample
from glassbox.tasks.splits import read_split
from glassbox.tracking.items import marks

LEAST_IN_FORMAT = 0.5


def first_scores(settings: Settings, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Scores of `teacher` (without exemplars) and `initial_student` on a few samples, by task: a first look."""
    student = settings.student.model_copy(update={"dtype": "float32"})
    models = {
        "teacher": (settings.teacher, 0),
        "initial_student": (student, derived_seed(settings.seeds[0], "student")),
    }
    found = {}
    for role, (model_settings, seed) in models.items():
        model, tokenizer = _open(model_settings, seed)
        scores = _evaluate(model, tokenizer, samples, settings).scores
        found[role] = {score.task: score.value for score in scores.values()}
        del model
    return found


def measure_student(settings: Settings, tasks_folder: Path) -> dict[str, float]:
    """Test scores of the first seed's student as its trials begin with it, by metric."""
    student = settings.student.model_copy(update={"dtype": "float32"})
    model, tokenizer = _open(student, derived_seed(settings.seeds[0], "student"))
    return _evaluate(model, tokenizer, read_split(tasks_folder, "test"), settings).metrics("test")


def measure_teacher(settings: Settings, tasks_folder: Path) -> dict[str, Any]:
    """The teacher's entries in the report: scores at `evaluation.teacher_shots`, and whether they can be read as such.

    `teacher_exemplars` are sample ids by task, `teacher_fewer_shots` counts prompts without room for all of them.
    `teacher_unread` names the tasks whose score tells of the answer's format: no head-room may be read from them.
    `teacher_right` says by task which questions it has right, as `marks` writes them.
    """
    shots, samples = settings.evaluation.teacher_shots, read_split(tasks_folder, "test")
    model, tokenizer = _open(settings.teacher, 0)
    report: dict[str, Any] = {"teacher_shots": shots}
    if shots:
        exemplars = draw_exemplars(read_split(tasks_folder, "train"), shots, settings.prepare.seed)
        context = _context(model, settings)
        shown = with_exemplars(samples, exemplars, tokenizer, context - settings.evaluation.max_new_tokens)
        evaluation = judged_alone(_evaluate(model, tokenizer, shown.samples, settings, shots, context), samples)
        report["teacher_exemplars"] = {task: [each.sample_id for each in drawn] for task, drawn in exemplars.items()}
        report["teacher_fewer_shots"] = shown.fewer
    else:
        evaluation = _evaluate(model, tokenizer, samples, settings)
    in_format = shares_in_format(evaluation, samples)
    unread = [task for task, share in in_format.items() if share < LEAST_IN_FORMAT]
    return report | {
        "teacher_scores": evaluation.metrics("test"),
        "teacher_right": right_marks(evaluation),
        "teacher_in_format": in_format,
        "teacher_unread": unread,
        "teacher_notes": [*(_note(task, in_format[task], shots) for task in unread), *count_notes(evaluation)],
    }


def right_marks(evaluation: Evaluation) -> dict[str, str]:
    """Task -> `marks` of its questions in the order of their ids; tasks of running text have no right answers."""
    found = {}
    for task, score in evaluation.scores.items():
        if score.text is None:
            items = sorted((item for item in evaluation.items if item.task == task), key=lambda item: item.sample_id)
            found[task] = marks([item.correct for item in items])
    return found


def count_notes(evaluation: Evaluation) -> list[str]:
    """A sentence for each task in which exact ties or cut-off answers of the teacher bear on its score."""
    notes = []
    for score in evaluation.scores.values():
        if score.n_ties:
            notes.append(
                f"{score.n_ties} of {score.n_evaluated} {score.task} questions are exact ties for the teacher, which "
                "count as wrong."
            )
        if score.n_cut_off:
            notes.append(
                f"{score.n_cut_off} of {score.n_evaluated} {score.task} answers of the teacher ran into "
                "evaluation.max_new_tokens without an end. A larger limit shows whether they would have been right."
            )
    return notes


def _open(model_settings: ModelSettings, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(model_settings, seed=seed).to(device), load_tokenizer(model_settings)  # type: ignore[arg-type]


def _evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    settings: Settings,
    shots: int = 0,
    context: int | None = None,
) -> Evaluation:
    """Prompts with exemplars may fill the model's context; their batches are smaller by as much as they are longer."""
    evaluation: EvaluationSettings = settings.evaluation
    batch_size = max(1, evaluation.batch_size // (shots + 1))
    return evaluate(
        model,
        tokenizer,
        samples,
        evaluation.model_copy(update={"batch_size": batch_size}),
        context or settings.snapshot.max_length,
        settings.snapshot.overflow,
    )


def _context(model: PreTrainedModel, settings: Settings) -> int:
    """Tokens that the model reads at most."""
    known = context_of(model.config)
    return known or settings.snapshot.max_length * (settings.evaluation.teacher_shots + 1)


def _note(task: str, share: float, shots: int) -> str:
    found = f"The teacher gave a number after '####' in {share:.0%} of its {task} answers at {shots} shots"
    reading = "its score there measures the answer's format, and no head-room can be read from it"
    following = (
        "`-S evaluation.teacher_shots=8` shows it examples; no trial is trained again"
        if not shots
        else "raise evaluation.teacher_shots, or evaluation.max_new_tokens where answers were cut off"
    )
    return f"{found}: {reading}. Next: {following}."
