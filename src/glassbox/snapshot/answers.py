"""The teacher's answers to the training prompts: what sequence-level distillation learns from (Kim & Rush 2016).

A multiple-choice question is answered by the teacher's best choice, by the scoring that also evaluates students; any
other prompt by generated text. The teacher is asked once: finished answers are kept in a folder named after everything
they depend on, so that another choice of groups, or an interruption, never asks it again.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.settings import EvaluationSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.evaluation.evaluation import Continuation, continuations, evaluate
from glassbox.files import code_digest
from glassbox.models.encoding import decode_answer
from glassbox.models.generation import Sampler, most_likely
from glassbox.models.loading import load_model
from glassbox.models.tokenizers import load_tokenizer, tokenizer_fingerprint
from glassbox.snapshot.labels import Answer, read_table, write_table
from glassbox.snapshot.provenance import teacher_facts
from glassbox.snapshot.schema import canonical_json
from glassbox.tasks.sample import Sample, is_correct_generation, metric_name
from glassbox.tasks.splits import read_split, tasks_digest

CHUNK_SAMPLES = 512
CODE = "snapshot/answers.py"
LIBRARIES = ("torch", "transformers", "tokenizers", "pyarrow")
ACCURACY_NOTE = (
    "the share of these answers that agree with the data's labels of the training split: it describes the labels that "
    "a student is given, and scores no model"
)


def ask_teacher(settings: Settings, tasks_folder: Path, scratch: Path) -> tuple[list[Answer], dict[str, Any]]:
    """An answer to every training prompt, and the facts of their manifest: provenance, accuracy per task, libraries.

    `scratch` keeps what is finished.
    """
    tokenizer = load_tokenizer(settings.teacher)
    provenance = provenance_of(settings, tokenizer, tasks_folder)
    samples = sorted(read_split(tasks_folder, "train"), key=lambda sample: sample.sample_id)
    facts = canonical_json({**provenance, "code": code_digest(CODE)})
    kept = scratch / "answers" / hashlib.sha256(facts).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    chunks = [samples[start : start + CHUNK_SAMPLES] for start in range(0, len(samples), CHUNK_SAMPLES)]
    paths = [kept / f"part-{index:05d}.parquet" for index in range(len(chunks))]
    parts = dict(zip(paths, chunks, strict=True))
    finished = {path: found for path, chunk in parts.items() if (found := kept_answers(path, chunk)) is not None}
    if len(finished) < len(paths):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(settings.teacher).to(device)  # type: ignore[arg-type]
        for path, chunk in tqdm(parts.items(), desc="answers", unit="chunk", disable=None):
            if path not in finished:
                finished[path] = answer_samples(model, tokenizer, chunk, settings)
                write_table(path, finished[path])
    answers = [answer for path in paths for answer in finished[path]]
    versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    return answers, {"provenance": provenance, "accuracy": accuracy_of(answers, samples), "libraries": versions}


def kept_answers(path: Path, samples: Sequence[Sample]) -> list[Answer] | None:
    """The answers of a finished part; None where it is absent, damaged or of other samples."""
    try:
        found = read_table(path) if path.exists() else []
    except GlassboxError:
        return None
    return found if [each.sample_id for each in found] == [each.sample_id for each in samples] else None


def provenance_of(settings: Settings, tokenizer: PreTrainedTokenizerFast, tasks_folder: Path) -> dict[str, Any]:
    """Teacher (id, revision, commit, sha256 of its files), tokenizer, tasks and the settings that bear on an answer."""
    return {
        "teacher": teacher_facts(settings.teacher),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "tasks": tasks_digest(tasks_folder),
        "settings": settings.answers.model_dump(mode="json"),
        "max_length": settings.snapshot.max_length,
        "overflow": settings.snapshot.overflow,
    }


def answer_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample], settings: Settings
) -> list[Answer]:
    """The teacher's answers in the order of the samples; an answer does not depend on what shares its batch."""
    own, limits = settings.answers, settings.snapshot
    reading = EvaluationSettings(batch_size=own.batch_size, max_new_tokens=own.max_new_tokens, teacher_shots=0)
    choosing = [sample for sample in samples if sample.choices]
    writing = [sample for sample in samples if not sample.choices]
    items = evaluate(model, tokenizer, choosing, reading, limits.max_length, limits.overflow).items
    answers = {item.sample_id: Answer(item.sample_id, item.task, item.prediction, True, item.correct) for item in items}
    pick = Sampler(own.temperature, own.seed, own.max_new_tokens) if own.mode == "sampled" else most_likely
    generated = continuations(model, tokenizer, writing, reading, limits.max_length, limits.overflow, pick)
    for sample, continuation in zip(writing, generated, strict=True):
        text = text_after(tokenizer, continuation)
        ended = len(continuation.ids) < own.max_new_tokens or not text
        correct = is_correct_generation(sample, text)
        answers[sample.sample_id] = Answer(sample.sample_id, sample.task, text, ended, correct)
    return [answers[sample.sample_id] for sample in samples]


def text_after(tokenizer: PreTrainedTokenizerFast, continuation: Continuation) -> str:
    """The generated text as it follows its prompt: decoded alone, some tokenizers drop a space at its beginning."""
    before = decode_answer(tokenizer, continuation.prompt)
    whole = decode_answer(tokenizer, continuation.prompt + continuation.ids)
    return whole.removeprefix(before) if whole.startswith(before) else decode_answer(tokenizer, continuation.ids)


def accuracy_of(answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:
    """Per task with labels: the share of right answers, how many there are, are the data's word for word, and were
    cut off."""
    tasks: dict[str, Any] = {}
    labels = {sample.sample_id: sample.answer for sample in samples}
    for task in sorted({sample.task for sample in samples if sample.answer}):
        mine = [answer for answer in answers if answer.task == task]
        has_choices = any(sample.choices for sample in samples if sample.task == task)
        tasks[task] = {
            "metric": metric_name(task, has_choices),
            "value": sum(answer.correct for answer in mine) / len(mine),
            "n": len(mine),
            "word_for_word": sum(answer.answer == labels[answer.sample_id] for answer in mine),
            "cut_off": sum(not answer.ended for answer in mine),
        }
    return {"of": ACCURACY_NOTE, "tasks": tasks}


def refuse_the_datas_labels(accuracy: dict[str, Any], group: str) -> None:
    """Raise GlassboxError where every answer is the data's own: the comparison refuses one student under two names."""
    if accuracy["tasks"] and all(found["word_for_word"] == found["n"] for found in accuracy["tasks"].values()):
        raise GlassboxError(
            f"The teacher's answers are the data's labels word for word, so '{group}' would train what the labels "
            "alone train (`sft`). Take more or harder training samples, sample the answers (`-S answers.mode=sampled "
            f"-S answers.temperature=2`), or leave '{group}' out."
        )
