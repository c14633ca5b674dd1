"""Columns, files and digests of the snapshot: the only place that names them.

Each signal of a sample is one raw binary cell, little-endian in C order, over its captured positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 2

MANIFEST_FILE = "manifest.json"
CHANNELS_FILE = "channels.safetensors"
AUDIT_FILE = "audit.parquet"
HEAD_FILE = "head.safetensors"
NOTHING_CAPTURED = "none"
CAPTURED_SPLITS = ("train", "validation")
ANSWERED = "answered"
"""The split of rows that hold a training prompt with the teacher's own answer, where it is not the data's."""

Cell = bytes | memoryview | pa.Buffer


def part_file(index: int) -> str:
    return f"part-{index:05d}.parquet"


@dataclass(frozen=True, eq=False)
class Row:
    """One sample. n captured positions end at the one that predicts the last token: [n_tokens - 1 - n, n_tokens - 1).

    n is `n_positions`; of attention it is what `Format.attention_count` says.
    topk_ids [n, k] uint16 or uint32, by descending logit; topk_logits [n, k] float16 minus the row's maximum;
    log_tail [n, temperatures] float32, log-sum-exp of the rest under the same offset; label_logp [n] float32;
    hidden [n, width] after the final norm; attention [heads, ragged], the row of position t with t + 1 entries;
    byte_spans [n_tokens, 2] uint32.
    """

    sample_id: str
    task: str
    split: str
    input_sha256: Cell
    input_ids: np.ndarray
    loss_start: int
    n_positions: int
    topk_ids: Cell
    topk_logits: Cell
    log_tail: Cell
    label_logp: Cell
    hidden: Cell
    attention: Cell
    byte_spans: Cell


_TYPES = {
    "sample_id": pa.string(),
    "task": pa.string(),
    "split": pa.string(),
    "input_sha256": pa.binary(32),
    "input_ids": pa.list_(pa.int32()),
    "loss_start": pa.int32(),
    "n_positions": pa.int32(),
}
COLUMNS = tuple(Row.__dataclass_fields__)
SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, pa.large_binary()), nullable=False) for name in COLUMNS])
BINARY_COLUMNS = tuple(name for name in COLUMNS if name not in _TYPES)
INDEX_COLUMNS = ("sample_id", "task", "split", "input_ids", "loss_start", "n_positions")
SIGNAL_COLUMNS = {
    "topk": ("topk_ids", "topk_logits", "log_tail"),
    "hidden": ("hidden",),
    "attention": ("attention",),
}

AUDIT_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("logits", pa.large_binary(), nullable=False),
        pa.field("hidden", pa.large_binary(), nullable=False),
        pa.field("attention", pa.large_binary(), nullable=False),
    ]
)


@dataclass(frozen=True, eq=False)
class AuditRow:
    """The teacher's signals at one position, all float32 and unrounded: logits [vocabulary], hidden [width],
    attention [heads, position + 1]."""

    sample_id: str
    position: int
    logits: Cell
    hidden: Cell
    attention: Cell


@dataclass(frozen=True)
class Format:
    """What a reader needs to turn cells into arrays; kept in the manifest and part of the logical digest."""

    vocabulary: int
    width: int
    heads: int
    top_k: int
    temperatures: tuple[float, ...]
    hidden_dtype: str
    attention_codec: str
    positions: str
    attention_positions: str

    def count(self, n_tokens: int, loss_start: int) -> int:
        """How many positions of a sample have hidden states and logits."""
        return n_tokens - 1 - (0 if self.positions == "all" else loss_start)

    def attention_count(self, n_tokens: int, loss_start: int) -> int:
        """How many positions of a sample have attention rows."""
        return n_tokens - 1 - (0 if self.attention_positions == "all" else loss_start)

    @property
    def topk_id_dtype(self) -> np.dtype:
        return np.dtype("<u2" if self.vocabulary <= 2**16 else "<u4")

    @property
    def attention_dtype(self) -> np.dtype:
        return np.dtype("u1" if self.attention_codec == "sqrt_uint8" else "<f2")

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "temperatures": list(self.temperatures)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Format:
        return cls(**{**content, "temperatures": tuple(content["temperatures"])})


def answered_id(sample_id: str) -> str:
    """The id under which a sample stands with the teacher's own answer."""
    return f"{sample_id}@teacher"


def attention_entries(n_tokens: int, n_positions: int) -> int:
    """Entries of the ragged rows of one head: the sum of t + 1 over the captured positions t."""
    first = n_tokens - 1 - n_positions
    return n_positions * first + n_positions * (n_positions + 1) // 2


def canonical_json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def logical_digest(layout: Format, channels_sha256: str, head_sha256: str, rows: Iterable[Row]) -> str:
    """sha256 in hex of what the snapshot says, however it is packed.

    Hashed: canonical JSON of schema version, format and the digests of channels and head, then, in the order of the
    ids, every column as length-prefixed name (uint32) and length-prefixed bytes (uint64). Raises ValueError for rows
    out of order.
    """
    description = {
        "schema_version": SCHEMA_VERSION,
        **layout.as_json(),
        "channels_sha256": channels_sha256,
        "head_sha256": head_sha256,
    }
    digest = hashlib.sha256(canonical_json(description))
    previous = ""
    for row in rows:
        if row.sample_id <= previous:
            raise ValueError(f"{row.sample_id!r} follows {previous!r}: rows must ascend by sample id, each once")
        previous = row.sample_id
        for name in COLUMNS:
            content = _column_bytes(getattr(row, name))
            digest.update(len(name).to_bytes(4, "little") + name.encode("ascii"))
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def _column_bytes(value: Any) -> bytes | memoryview:
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, int):
        return value.to_bytes(4, "little", signed=True)
    if isinstance(value, np.ndarray):
        return value.astype("<i4").tobytes()
    return memoryview(value)
