"""How many bytes each signal takes in the snapshot, and which samples one cell cannot hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from glassbox.config.settings import SnapshotSettings
from glassbox.snapshot.schema import CHANNELS_FILE, EXPERTS_FILE, HEAD_FILE, SIGNAL_COLUMNS, attention_entries

# Parquet refuses a value of 2 GiB; a page's header and the value's length take some of that
CELL_BYTES = 2**31 - 2**16


def refused_cells(samples: Iterable[tuple[str, int, int]], heads: int, settings: SnapshotSettings) -> list[str]:
    """A sentence about the largest sample (id, tokens, captured positions) whose attention rows no cell can hold."""
    width = 1 if settings.attention_codec == "sqrt_uint8" else 2
    sizes = [(heads * width * attention_entries(tokens, n), name, tokens, n) for name, tokens, n in samples]
    too_large = [each for each in sizes if each[0] > CELL_BYTES]
    if not too_large:
        return []
    size, name, tokens, positions = max(too_large)
    helpful = [
        *(["`-S snapshot.attention_codec=sqrt_uint8` (half the bytes)"] if width == 2 else []),
        *(["`-S snapshot.positions.attention=answer`"] if settings.positions.attention == "all" else []),
        f"a snapshot.max_length under {settings.max_length}",
    ]
    more = f" ({len(too_large)} samples are too large)" if len(too_large) > 1 else ""
    return [
        f"The attention rows of {name} ({tokens} tokens, {positions} captured positions, {heads} heads) take "
        f"{size / 1e9:.2f} GB, and one cell of the snapshot holds {CELL_BYTES / 1e9:.2f} GB{more}. What helps: "
        f"{', or '.join(helpful)}."
    ]


def signal_bytes(folder: Path, manifest: dict[str, Any]) -> dict[str, int]:
    """Bytes on disk of topk, hidden and attention, and of the head and channels that turn hidden states to use."""
    columns: dict[str, int] = {}
    for name in manifest["parts"]:
        metadata = parquet.read_metadata(folder / name)
        for group in range(metadata.num_row_groups):
            for place in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(place)
                column = chunk.path_in_schema.partition(".")[0]
                columns[column] = columns.get(column, 0) + chunk.total_compressed_size
    sizes = {signal: sum(columns.get(name, 0) for name in names) for signal, names in SIGNAL_COLUMNS.items()}
    sizes = {signal: size for signal, size in sizes.items() if size}
    names = {"head": HEAD_FILE, "channels": CHANNELS_FILE, "experts": EXPERTS_FILE}
    files = {name: manifest["files"].get(file, {"bytes": 0})["bytes"] for name, file in names.items()}
    return sizes | {name: sizes.get(name, 0) + size for name, size in files.items() if size}
