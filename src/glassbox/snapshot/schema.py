"""Columns, files and digests of the snapshot: the only place that names them.

Each signal of a sample is one raw binary cell, little-endian in C order, over its captured positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 2

MANIFEST_FILE = "manifest.json"
CHANNELS_FILE = "channels.safetensors"
AUDIT_FILE = "audit.parquet"
HEAD_FILE = "head.safetensors"
EXPERTS_FILE = "experts.safetensors"
EXPERTS = "experts"
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
    byte_spans [n_tokens, 2] uint32. further: the cells of `FURTHER` that the format has, by column.
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
    further: Mapping[str, Cell] = field(default_factory=dict)

    def cell(self, column: str) -> Any:
        """What stands in a column of this row."""
        return self.further[column] if column in self.further else getattr(self, column)


_TYPES = {
    "sample_id": pa.string(),
    "task": pa.string(),
    "split": pa.string(),
    "input_sha256": pa.binary(32),
    "input_ids": pa.list_(pa.int32()),
    "loss_start": pa.int32(),
    "n_positions": pa.int32(),
}
COLUMNS = tuple(each.name for each in fields(Row) if each.name != "further")
SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, pa.large_binary()), nullable=False) for name in COLUMNS])
BINARY_COLUMNS = tuple(name for name in COLUMNS if name not in _TYPES)
INDEX_COLUMNS = ("sample_id", "task", "split", "input_ids", "loss_start", "n_positions")

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
    layers: tuple[int, ...] = ()
    relations: tuple[int, ...] = ()
    relations_layer: int = 0
    n_layers: int = 0
    experts: int = 0
    experts_kept: int = 0
    experts_dtype: str = ""

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

    @property
    def expert_dtype(self) -> np.dtype:
        """What is stored of the last layer's mixture at one answer position, in the names of models/mixture.py.

        `expert_ids` ascend and name the experts of `expert_outputs`; bfloat16 stands as its 16 bits.
        """
        real = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}[self.experts_dtype]
        return np.dtype(
            [
                ("router_logits", "<f4", (self.experts,)),
                ("expert_ids", "<u2", (self.experts_kept,)),
                ("router_input", real, (self.width,)),
                ("residual", real, (self.width,)),
                ("expert_outputs", real, (self.experts_kept, self.width)),
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """Every fact that says something: what only further columns have is left out where there are none."""
        facts = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {name: value for name, value in facts.items() if name not in OF_FURTHER or value}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Format:
        facts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return cls(**facts)

    @property
    def further(self) -> dict[str, FurtherColumn]:
        """The further columns that a snapshot of this format has."""
        return {name: column for name, column in FURTHER.items() if prod(column.shape(self))}

    @property
    def signals(self) -> list[str]:
        """The signals that a snapshot of this format holds."""
        absent = {column.signal for column in FURTHER.values()} - {column.signal for column in self.further.values()}
        return sorted(SIGNAL_COLUMNS.keys() - absent - (set() if self.heads else {"attention"}))


@dataclass(frozen=True)
class FurtherColumn:
    """A column that is there where a group of the study needs its `signal`: an array of one `shape` per position.

    dtype: None for the format's hidden_dtype. everywhere: at all positions of a sample, where hidden states may be at
    its answer's alone; answer: always at these alone.
    """

    signal: str
    shape: Callable[[Format], tuple[int, ...]]
    dtype: str | Callable[[Format], np.dtype] | None = None
    everywhere: bool = False
    answer: bool = False

    def stored_dtype(self, layout: Format) -> np.dtype:
        """bfloat16 has no numpy type and comes as its 16 bits."""
        if callable(self.dtype):
            return self.dtype(layout)
        return np.dtype(self.dtype or ("<f2" if layout.hidden_dtype == "float16" else "<u2"))

    def count(self, layout: Format, n_tokens: int, loss_start: int) -> int:
        """How many positions of a sample have it."""
        if self.answer:
            return n_tokens - 1 - loss_start
        return n_tokens - 1 if self.everywhere else layout.count(n_tokens, loss_start)

    def position_bytes(self, layout: Format) -> int:
        return prod(self.shape(layout)) * self.stored_dtype(layout).itemsize


FURTHER: dict[str, FurtherColumn] = {
    "layers": FurtherColumn("layers", lambda layout: (len(layout.layers), layout.width)),
    "relations": FurtherColumn("relations", lambda layout: (sum(layout.relations),), everywhere=True),
    EXPERTS: FurtherColumn(EXPERTS, lambda layout: (min(layout.experts, 1),), lambda f: f.expert_dtype, answer=True),
}
"""layers [n, layers, width]: states after the layers in `Format.layers`, counted from 1. relations [n_tokens - 1,
widths]: queries and keys after rotary embedding, and values, of all heads of the layer `Format.relations_layer`, side
by side; `Format.relations` are the three widths. experts: a record of `Format.expert_dtype` at answer positions."""
OF_FURTHER = ("layers", "relations", "relations_layer", "n_layers", "experts", "experts_kept", "experts_dtype")
SIGNAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "topk": ("topk_ids", "topk_logits", "log_tail"),
    "hidden": ("hidden",),
    "attention": ("attention",),
    "label_logp": ("label_logp",),
    **{
        signal: tuple(name for name, column in FURTHER.items() if column.signal == signal)
        for signal in dict.fromkeys(column.signal for column in FURTHER.values())
    },
}


def schema_of(further: Iterable[str]) -> pa.Schema:
    """The schema of a part with these further columns."""
    return pa.schema([*SCHEMA, *(pa.field(name, pa.large_binary(), nullable=False) for name in sorted(further))])


def answered_id(sample_id: str) -> str:
    """The id under which a sample stands with the teacher's own answer."""
    return f"{sample_id}@teacher"


def attention_entries(n_tokens: int, n_positions: int) -> int:
    """Entries of the ragged rows of one head: the sum of t + 1 over the captured positions t."""
    first = n_tokens - 1 - n_positions
    return n_positions * first + n_positions * (n_positions + 1) // 2


def canonical_json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def logical_digest(
    layout: Format, channels_sha256: str, head_sha256: str, rows: Iterable[Row], experts_sha256: str | None = None
) -> str:
    """sha256 in hex of what the snapshot says, however it is packed.

    Hashed: canonical JSON of schema version, format and the digests of channels, head and, of a mixture of experts, its
    gate, then, in the order of the
    ids, every column as length-prefixed name (uint32) and length-prefixed bytes (uint64). Raises ValueError for rows
    out of order.
    """
    description = {
        "schema_version": SCHEMA_VERSION,
        **layout.as_json(),
        "channels_sha256": channels_sha256,
        "head_sha256": head_sha256,
        **({} if experts_sha256 is None else {"experts_sha256": experts_sha256}),
    }
    digest = hashlib.sha256(canonical_json(description))
    previous = ""
    for row in rows:
        if row.sample_id <= previous:
            raise ValueError(f"{row.sample_id!r} follows {previous!r}: rows must ascend by sample id, each once")
        previous = row.sample_id
        for name in (*COLUMNS, *sorted(row.further)):
            content = _column_bytes(row.cell(name))
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
