"""Row 4b: the snapshot's bytes over those of a naive store: dense logits, hidden state and map of every token, float16.

A one-layer Llama with Llama-2-7B's width, heads and vocabulary, random weights in bfloat16, is captured by the
project's own code on a few samples of each task, at the middles of equal shares of the task's lengths; each task then
counts as often as in the mixture. GSM8K (train) and MMLU (val) are the real files, cut by Llama-2's tokenizer. SST-2's
text is not at hand: suite/shapes.py states its lengths, and sentences of GSM8K are cut to them.

Random weights give flat attention maps, which zstd packs better than real ones: attention counts uncompressed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, Settings
from glassbox.models.tokenizers import load_tokenizer
from glassbox.preflight.disk import snapshot_bytes
from glassbox.preflight.memory import Teacher
from glassbox.preflight.workload import Length, Workload
from glassbox.snapshot.reader import read_manifest
from glassbox.snapshot.schema import AUDIT_FILE, BINARY_COLUMNS, CHANNELS_FILE, HEAD_FILE, MANIFEST_FILE
from glassbox.snapshot.schema import Row as StoredRow
from glassbox.snapshot.storage import part_rows
from glassbox.tasks import sst2
from glassbox.tasks.files import READERS
from glassbox.tasks.sample import Sample
from suite.embedded import captured, embedded_settings
from suite.row import Row
from suite.shapes import PROMPTS, SHARES

GOAL, LIMIT = 0.065, "0.05"
NAME = "whole snapshot / naive dense store of all tokens"
SHAPES = "V 32,000, width 4,096, 32 heads, k 64; 5,000 SST-2, 1,000 MMLU, 1,000 GSM8K"
SAMPLES, MAX_LENGTH = 6, 512
AUDITED = 10  # positions; the whole audit's bytes are taken in proportion
TEACHER = LlamaConfig(num_hidden_layers=1)  # the other defaults are Llama-2-7B's


@dataclass(frozen=True)
class Size:
    """Bytes of one sample: cells as they are before compression, and what the naive store takes."""

    task: str
    tokens: int
    positions: int
    cells: int
    naive: int


def measure() -> list[Row]:
    real = os.environ.get("GLASSBOX_REAL_DATA")
    if real is None:
        note = "not measured: GLASSBOX_REAL_DATA names no folder with gsm8k/, mmlu/ and tokenizers/llama2"
        return [Row("4b", NAME, SHAPES, None, GOAL, limit=LIMIT, note=note)]
    with TemporaryDirectory(prefix="glassbox-") as name:
        settings = _settings(Path(name), Path(real) / "tokenizers" / "llama2")
        samples = _samples(Path(real), load_tokenizer(settings.teacher))
        with captured(settings, {"train": samples, "validation": [], "test": []}) as made:
            return [_row(settings, made.folder)]


def _settings(folder: Path, tokenizer: Path) -> Settings:
    TEACHER.save_pretrained(folder)
    teacher = ModelSettings(model=str(folder), tokenizer=str(tokenizer), dtype="bfloat16", initialisation="random")
    settings = embedded_settings()
    snapshot = settings.snapshot.model_copy(
        update={"max_length": MAX_LENGTH, "batch_size": SAMPLES, "audit_positions": AUDITED}
    )
    return settings.model_copy(update={"teacher": teacher, "snapshot": snapshot})


def _samples(real: Path, tokenizer: PreTrainedTokenizerFast) -> list[Sample]:
    gsm8k = [found.sample for found in READERS["gsm8k_jsonl"](real / "gsm8k" / "train.jsonl")]
    mmlu = [found.sample for found in READERS["mmlu_csv"](real / "mmlu" / "val")]
    return [*_typical(mmlu, tokenizer), *_typical(gsm8k, tokenizer), *_reviews(gsm8k, tokenizer)]


def _typical(pool: Sequence[Sample], tokenizer: PreTrainedTokenizerFast) -> list[Sample]:
    """At the middles of equal shares of the lengths of 1,000 random ones."""
    drawn = random.Random(0).sample(pool, min(1_000, len(pool)))
    ordered = sorted(drawn, key=lambda sample: len(tokenizer(sample.prompt + sample.answer)["input_ids"]))
    return [ordered[(2 * place + 1) * len(ordered) // (2 * SAMPLES)] for place in range(SAMPLES)]


def _reviews(texts: Sequence[Sample], tokenizer: PreTrainedTokenizerFast) -> list[Sample]:
    """As long as SST-2's prompts are stated to be, the shortest and the longest among them."""
    low, high = PROMPTS["sst2"]
    frame = len(tokenizer(sst2.sample("train", "", True).prompt)["input_ids"])
    found = []
    for place in range(SAMPLES):
        wanted = low + (high - low) * place // (SAMPLES - 1) - frame
        ids = tokenizer(texts[place].prompt + texts[place].answer, add_special_tokens=False)["input_ids"]
        found.append(sst2.sample("train", tokenizer.decode(ids[4 : 4 + wanted]), place % 2 == 0))
    return found


def _row(settings: Settings, folder: Path) -> Row:
    manifest = read_manifest(folder)
    parts = [folder / name for name in manifest["parts"]]
    sizes = [_size(row) for part in parts for _, row in part_rows(part)]
    attention, packed = _attention_bytes(parts)
    beside_cells = sum(part.stat().st_size for part in parts) + attention - packed - sum(size.cells for size in sizes)
    files = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    audit = files[AUDIT_FILE] * embedded_settings().snapshot.audit_positions / AUDITED
    fixed = (folder / MANIFEST_FILE).stat().st_size + files[HEAD_FILE] + files[CHANNELS_FILE] + audit
    count = sum(SHARES.values())
    naive = _in_mixture(sizes, [size.naive for size in sizes])
    cells = _in_mixture(sizes, [size.cells for size in sizes])
    snapshot = cells + count * beside_cells / len(sizes) + fixed
    predicted = sum(_predicted(settings, sizes).values())
    tokens = _in_mixture(sizes, [size.tokens for size in sizes])
    positions = _in_mixture(sizes, [size.positions for size in sizes])
    note = (
        f"{snapshot / 1e9:.2f} of {naive / 1e9:.1f} GB, the teacher's head and the audit ({fixed / 1e9:.2f} GB) among "
        f"them; {tokens:,.0f} tokens, {positions:,.0f} answer positions, from {SAMPLES} samples of each task that a "
        f"random layer captured. Attention counts uncompressed; `make plan` predicts {predicted / 1e9:.2f} GB. "
        "SST-2's lengths are stated, not counted; MMLU's are those of its val split"
    )
    details: dict[str, Any] = {
        "bytes_per_sample": {task: _mean(sizes, task, "cells") for task in SHARES},
        "naive_bytes_per_sample": {task: _mean(sizes, task, "naive") for task in SHARES},
        "parquet_and_index_bytes_per_sample": beside_cells / len(sizes),
        "attention_packed_by": packed / attention,
        "predicted_ratio": predicted / naive,
        "without_head_and_audit": (snapshot - fixed) / naive,
    }
    return Row("4b", NAME, SHAPES, snapshot / naive, GOAL, limit=LIMIT, note=note, details=details)


def _size(row: StoredRow) -> Size:
    tokens = len(row.input_ids)
    cells = sum(len(memoryview(getattr(row, name))) for name in BINARY_COLUMNS)
    position = 2 * TEACHER.vocab_size + 2 * TEACHER.hidden_size + 2 * TEACHER.num_attention_heads * tokens
    return Size(row.task, tokens, row.n_positions, cells, tokens * position)


def _attention_bytes(parts: Sequence[Path]) -> tuple[int, int]:
    """Of all attention cells, before and after compression."""
    before = after = 0
    for part in parts:
        described = pq.read_metadata(part)
        for group in range(described.num_row_groups):
            columns = [described.row_group(group).column(index) for index in range(described.num_columns)]
            (column,) = (column for column in columns if column.path_in_schema == "attention")
            before += column.total_uncompressed_size
            after += column.total_compressed_size
    return before, after


def _in_mixture(sizes: Sequence[Size], values: Sequence[int]) -> float:
    """The sum over the whole mixture, each task's samples standing for all of it."""
    tasks = [size.task for size in sizes]
    return sum(SHARES[task] / tasks.count(task) * value for task, value in zip(tasks, values, strict=True))


def _mean(sizes: Sequence[Size], task: str, field: str) -> float:
    found = [getattr(size, field) for size in sizes if size.task == task]
    return sum(found) / len(found)


def _predicted(settings: Settings, sizes: Sequence[Size]) -> dict[str, int]:
    """What `make plan` says of the whole mixture at these lengths."""
    lengths = tuple(
        Length(f"{task}/{index}", task, "train", size.tokens, size.positions, size.positions, size.positions)
        for task, share in SHARES.items()
        for own in [[size for size in sizes if size.task == task]]
        for index, size in enumerate((own * (share // len(own) + 1))[:share])
    )
    workload = Workload(lengths, (), True, "", TEACHER.vocab_size)
    shapes = Teacher(TEACHER.vocab_size, TEACHER.hidden_size, TEACHER.num_attention_heads, torch.bfloat16)
    whole = settings.snapshot.model_copy(update={"audit_positions": embedded_settings().snapshot.audit_positions})
    return snapshot_bytes(settings.model_copy(update={"snapshot": whole}), workload, shapes)
