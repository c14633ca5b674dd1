"""Parts on disk: written in small row groups with page checksums, read back by rows, published by one rename."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from glassbox.errors import GlassboxError
from glassbox.files import PARTIAL_SUFFIX, brief_ids, naming
from glassbox.snapshot.schema import AUDIT_SCHEMA, BINARY_COLUMNS, COLUMNS, AuditRow, Row, schema_of

ROW_GROUP_BYTES = 1 << 20
WRITER_OPTIONS: dict[str, Any] = {
    "compression": {"attention": "zstd"},
    "compression_level": {"attention": 1},
    "use_dictionary": False,
    "write_statistics": ["sample_id"],
    "write_batch_size": 1,
    "write_page_checksum": True,
}
REMEDY = "Restore it with `dvc checkout --force data/snapshot`, or capture it again with `dvc repro --force snapshot`."


def write_part(path: Path, rows: Sequence[Row], row_group_bytes: int = ROW_GROUP_BYTES) -> None:
    """Write rows in the order of their ids; a failure leaves only a partial file under another name."""
    schema = schema_of(rows[0].further if rows else ())
    _write_parquet(path, schema, _row_groups(sorted(rows, key=lambda row: row.sample_id), row_group_bytes))


def write_audit(path: Path, rows: Sequence[AuditRow]) -> None:
    ordered = sorted(rows, key=lambda row: (row.sample_id, row.position))
    groups = (ordered[start : start + 32] for start in range(0, len(ordered), 32))
    _write_parquet(path, AUDIT_SCHEMA, groups)


def _row_groups(rows: Iterable[Row], limit: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(memoryview(row.cell(name))) for name in (*BINARY_COLUMNS, *row.further))
        if size >= limit:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_parquet(path: Path, schema: pa.Schema, groups: Iterable[Sequence[Any]]) -> None:
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    with naming(path), partial.open("wb") as file:
        with pq.ParquetWriter(file, schema, **WRITER_OPTIONS) as writer:
            for group in groups:
                columns = [pa.array([_cell(row, field.name) for row in group], field.type) for field in schema]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=len(group))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _cell(row: Row | AuditRow, column: str) -> Any:
    return row.cell(column) if isinstance(row, Row) else getattr(row, column)


def open_part(path: Path) -> pq.ParquetFile:
    """Memory-mapped, not read ahead (which would copy it), and every page checked as it is read."""
    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise GlassboxError(f"{path} is missing or its footer is damaged ({_reason(error)}). {REMEDY}") from error


class CheckedOnce:
    """Which handle a part is read by: pages that this process has already found whole are not checked again.

    A part counts by its path, inode, size and time of change, so that one that is replaced or written to, even while it
    is open, is checked anew. One byte is kept for each row group and column.
    """

    _found_whole: ClassVar[dict[object, dict[str, bytearray]]] = {}

    def __init__(self, path: Path) -> None:
        self.path, self._state = path, _state(path)
        self.checking = open_part(path)
        self._unchecking = pq.ParquetFile(path, memory_map=True, pre_buffer=False, metadata=self.checking.metadata)
        self._whole = self._found_whole.setdefault(self._state, {}) if self._is_unchanged() else {}

    def handle(self, group: int, columns: Sequence[str]) -> pq.ParquetFile:
        known = self._is_unchanged() and all(self._of(column)[group] for column in columns)
        return self._unchecking if known else self.checking

    def found_whole(self, group: int, columns: Sequence[str]) -> None:
        for column in columns:
            self._of(column)[group] = True

    def _of(self, column: str) -> bytearray:
        return self._whole.setdefault(column, bytearray(self.checking.num_row_groups))

    def _is_unchanged(self) -> bool:
        return self._state == _state(self.path)


def _state(path: Path) -> tuple[str, int, int, int] | None:
    """What is different of a file that somebody wrote to; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns


def read_row_group(file: pq.ParquetFile, path: Path, group: int, columns: Sequence[str]) -> pa.Table:
    """One row group; GlassboxError names file, row group and the samples it holds, where a page is damaged."""
    try:
        return file.read_row_group(group, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        held = _readable_ids(file, group)
        raise GlassboxError(
            f"{path}, row group {group} (of {file.num_row_groups}; samples {held}), is damaged: "
            f"{_reason(error)}. {REMEDY}"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".").splitlines()[0][:200]


def _readable_ids(file: pq.ParquetFile, group: int) -> str:
    try:
        ids = file.read_row_group(group, columns=["sample_id"], use_threads=False).column(0).to_pylist()
    except (OSError, pa.ArrowException):
        return "unreadable"
    return brief_ids(ids)


def cells(table: pa.Table, name: str) -> list[memoryview]:
    """A binary column's cells, without copies."""
    return [memoryview(value.as_buffer()) for value in table.column(name)]


def rows_of_group(table: pa.Table) -> list[Row]:
    ids = table.column("input_ids").combine_chunks()
    values, offsets = ids.values.to_numpy(), ids.offsets.to_numpy()
    columns: dict[str, Sequence[Any]] = {
        name: table.column(name).to_pylist() for name in COLUMNS if name not in (*BINARY_COLUMNS, "input_ids")
    }
    columns |= {name: cells(table, name) for name in BINARY_COLUMNS}
    columns["input_ids"] = [values[offsets[i] : offsets[i + 1]] for i in range(table.num_rows)]
    further = {name: cells(table, name) for name in table.column_names if name not in COLUMNS}
    return [
        Row(**{name: columns[name][i] for name in COLUMNS}, further={name: each[i] for name, each in further.items()})
        for i in range(table.num_rows)
    ]


def part_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Every row of a part with its row group, in the order of the ids."""
    file = open_part(path)
    for group in range(file.num_row_groups):
        for row in rows_of_group(read_row_group(file, path, group, file.schema_arrow.names)):
            yield group, row


def merged_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """The rows of all parts in the order of the ids, whichever part holds them."""
    return heapq.merge(*((row for _, row in part_rows(path)) for path in paths), key=lambda row: row.sample_id)


def read_audit(path: Path) -> list[AuditRow]:
    file = open_part(path)
    rows = []
    for group in range(file.num_row_groups):
        table = read_row_group(file, path, group, AUDIT_SCHEMA.names)
        columns = [table.column("sample_id").to_pylist(), table.column("position").to_pylist()]
        columns += [cells(table, name) for name in ("logits", "hidden", "attention")]
        rows += [AuditRow(*values) for values in zip(*columns, strict=True)]
    return rows
