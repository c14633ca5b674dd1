"""How many bytes each signal takes in the snapshot, from the metadata of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from glassbox.snapshot.schema import CHANNELS_FILE, HEAD_FILE, SIGNAL_COLUMNS


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
    return sizes | {
        "head": manifest["files"][HEAD_FILE]["bytes"],
        "channels": manifest["files"][CHANNELS_FILE]["bytes"],
    }
