"""data/tasks: one Parquet file per split, published as a whole, and the digest that names its content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from glassbox.config.settings import SPLITS
from glassbox.errors import GlassboxError
from glassbox.tasks.sample import Sample
from glassbox.tasks.table import read_sealed, sealed

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string()), nullable=False),
        pa.field("gold", pa.string(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),
    ]
)


def write_splits(folder: str | Path, splits: Mapping[str, Sequence[Sample]]) -> None:
    """Writes every split beside `folder`, then puts them in its place by one rename: no reader sees half of them."""
    target = Path(folder)
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for split in SPLITS:
        rows = [{**vars(sample), "choices": list(sample.choices)} for sample in splits[split]]
        with (staging / f"{split}.parquet").open("wb") as file:
            pq.write_table(sealed(rows, SCHEMA), file)
            file.flush()
            os.fsync(file.fileno())
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)


def read_split(folder: str | Path, split: str) -> list[Sample]:
    path = Path(folder) / f"{split}.parquet"
    if not path.exists():
        raise GlassboxError(f"{path} does not exist. Run `dvc repro prepare` (or `python src/prepare.py`) first.")
    try:
        schema, rows = read_sealed(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise GlassboxError(f"{path} is damaged ({why}). `dvc repro --force prepare` makes it again.") from error
    if not schema.equals(SCHEMA):
        raise GlassboxError(
            f"{path} has the columns {schema.names} of another version. Run `dvc repro --force prepare`."
        )
    return [Sample(**{**row, "choices": tuple(row["choices"])}) for row in rows]


def tasks_digest(folder: str | Path) -> str:
    """sha256 over every split's samples as canonical JSON in the order of their ids: the same in any file layout."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for sample in sorted(read_split(folder, split), key=lambda sample: sample.sample_id):
            digest.update(json.dumps([split, vars(sample)], sort_keys=True, ensure_ascii=True).encode())
            digest.update(b"\n")
    return digest.hexdigest()
