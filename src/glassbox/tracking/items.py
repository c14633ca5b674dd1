"""items.parquet: every test question of a trial and how it was answered, for the trial to write and others to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

FILE = "items.parquet"


def write_items(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    parquet.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)


def read_items(path: Path) -> list[dict[str, Any]]:
    """One mapping per question. Raises OSError or pyarrow's ArrowException for a file that is damaged."""
    return parquet.read_table(path, page_checksum_verification=True).to_pylist()


def items_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 in hex over every question's result; the order of the rows does not count."""
    lines = sorted(json.dumps(dict(row), sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def marks(flags: Sequence[bool]) -> str:
    """Truth values in hexadecimal, eight in two digits, the first in the highest bit; `marked` reads them."""
    padded = [*flags, *[False] * (-len(flags) % 8)]
    eights = (padded[at : at + 8] for at in range(0, len(padded), 8))
    return bytes(sum(flag << (7 - bit) for bit, flag in enumerate(eight)) for eight in eights).hex()


def marked(text: str, count: int) -> list[bool] | None:
    """The first `count` truth values of `marks`; None where it holds another number of them."""
    packed = bytes.fromhex(text)
    if len(packed) != -(-count // 8):
        return None
    return [bool(packed[place // 8] >> (7 - place % 8) & 1) for place in range(count)]
