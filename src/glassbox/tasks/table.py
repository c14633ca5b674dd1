"""Tables that carry the digest of their own rows, so that one flipped bit is noticed when they are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SEAL = b"sha256_of_rows"


def sealed(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table whose metadata name its rows."""
    table = pa.Table.from_pylist(rows, schema=schema)
    return table.replace_schema_metadata({SEAL: _digest_of(table.to_pylist())})


def read_sealed(path: Path) -> tuple[pa.Schema, list[dict[str, Any]]]:
    """Columns and rows. Raises ValueError, OSError or pyarrow's ArrowException where the file is damaged.

    A file without a digest, of an earlier version, is taken as it is.
    """
    table = pq.ParquetFile(path).read()  # read_table imports pandas, which takes longer than all the rest
    rows = table.to_pylist()
    seal = (table.schema.metadata or {}).get(SEAL)
    if seal is not None and seal != _digest_of(rows):
        raise ValueError("its rows are not those that were written")
    return table.schema, rows


def _digest_of(rows: list[dict[str, Any]]) -> bytes:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest().encode()
