"""The teacher's own answers to the training prompts: how data/answers stores them, and what is read of them.

Where no selected group learns from them, its manifest says so and no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glassbox.errors import GlassboxError
from glassbox.files import brief_ids, read_json, write_json, write_synced
from glassbox.tasks.table import read_sealed, sealed

MANIFEST_FILE = "manifest.json"
ANSWERS_FILE = "answers.parquet"
OF_THE_DATA = {"labels": "data"}
REMEDY = "Run `dvc repro answers`."
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("ended", pa.bool_(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Answer:
    """The teacher's answer to a training prompt, as text that follows the prompt.

    `ended`: the teacher ended it, rather than the limit on its length. `correct`: it agrees with the data's label.
    """

    sample_id: str
    task: str
    answer: str
    ended: bool
    correct: bool


@dataclass(frozen=True)
class TeacherLabels:
    """Answers by sample id, and the digest that names them."""

    digest: str
    answers: dict[str, Answer]


def answers_digest(answers: Sequence[Answer]) -> str:
    """sha256 in hex over all answers as canonical JSON, in the order of their ids."""
    digest = hashlib.sha256()
    for answer in sorted(answers, key=lambda each: each.sample_id):
        digest.update(json.dumps(asdict(answer), sort_keys=True, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def write_table(path: Path, answers: Sequence[Answer]) -> None:
    """One row per answer in the order of the ids; the file appears whole or not at all."""
    ordered = sorted(answers, key=lambda each: each.sample_id)
    sink = pa.BufferOutputStream()
    pq.write_table(sealed([asdict(answer) for answer in ordered], SCHEMA), sink)
    write_synced(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> list[Answer]:
    """The answers of a file. Raises GlassboxError where it is damaged or holds something else."""
    try:
        return [Answer(**row) for row in read_sealed(path)[1]]
    except (OSError, TypeError, ValueError, pa.ArrowException) as error:
        raise GlassboxError(f"{path} cannot be read as the teacher's answers ({error}). {REMEDY}") from error


def write_data_labels(folder: Path) -> None:
    """The folder of a study whose groups learn from the data's labels alone."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_manifest(folder, OF_THE_DATA)


def write_teacher_labels(folder: Path, answers: Sequence[Answer], facts: Mapping[str, Any]) -> None:
    """The folder of a study that reads the teacher's answers; the manifest, with `facts`, is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / ANSWERS_FILE, answers)
    _write_manifest(folder, {"labels": "teacher", "digest": answers_digest(answers), "rows": len(answers), **facts})


def _write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    write_json(folder / MANIFEST_FILE, content)


def read_teacher_labels(folder: Path, tasks_digest: str) -> TeacherLabels:
    """The answers; GlassboxError where they are absent, damaged, or answer other prompts."""
    path = folder / MANIFEST_FILE
    manifest = read_json(path)
    if manifest.get("labels") != "teacher":
        raise GlassboxError(
            f"{folder} holds no answers of the teacher, which a group reads, or its manifest is damaged. {REMEDY}"
        )
    if manifest["provenance"]["tasks"] != tasks_digest:
        raise GlassboxError(f"The answers in {folder} belong to other samples than those in data/tasks. {REMEDY}")
    answers = read_table(folder / ANSWERS_FILE)
    if answers_digest(answers) != manifest["digest"]:
        raise GlassboxError(
            f"{folder / ANSWERS_FILE} holds other answers ({brief_ids([each.sample_id for each in answers])}) than its "
            "manifest names. Run `dvc checkout --force data/answers`, or `dvc repro --force answers`."
        )
    return TeacherLabels(manifest["digest"], {answer.sample_id: answer for answer in answers})
