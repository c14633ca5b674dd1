"""Bytes that a study writes, by what they are and by the drive that they land on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from glassbox.config.settings import Settings, Weights
from glassbox.config.storage import cache_in_use
from glassbox.preflight.memory import Teacher, format_of
from glassbox.preflight.workload import Training, Workload
from glassbox.snapshot.schema import CHANNELS_FILE, HEAD_FILE, attention_entries

# Measured on the embedded study: attention cells under zstd (sqrt_uint8 7.92 to 5.87 MB, float16 15.83 to 14.13 MB,
# float32 of the audit), 30,608 values in MLflow's sqlite file with its indices, 1,500 items in items.parquet
ATTENTION_COMPRESSED = {"sqrt_uint8": 0.74, "float16": 0.89, "float32": 0.92}
BYTES_PER_LOGGED_VALUE = 300
BYTES_PER_ITEM = 45
PARQUET_PER_CELL = 4
ROW_INDEX = 140
RESERVE = 1.1


@dataclass(frozen=True)
class Need:
    """`setting` is what moves or shrinks it."""

    what: str
    folder: Path
    size: int
    setting: str

    @property
    def drive(self) -> int:
        return drive_of(self.folder)


@dataclass(frozen=True)
class Drive:
    """`number` is the operating system's for the device, `folder` one that lies on it."""

    number: int
    folder: Path
    needed: int
    free: int

    @property
    def fits(self) -> bool:
        return self.needed * RESERVE <= self.free


def snapshot_bytes(settings: Settings, workload: Workload, teacher: Teacher) -> dict[str, int]:
    """By signal, as on the drive. Only attention cells are compressed."""
    layout = format_of(settings, teacher)
    lengths = workload.lengths
    positions = sum(length.n_captured for length in lengths)
    tokens = sum(length.n_tokens for length in lengths)
    answers = sum(length.n_answer for length in lengths)
    entries = sum(attention_entries(length.n_tokens, length.n_attention) for length in lengths) * layout.heads
    audited = min(settings.snapshot.audit_positions, positions)
    audit_attention = 4 * entries / positions * ATTENTION_COMPRESSED["float32"]
    itemsize = teacher.dtype.itemsize
    return {
        "logits": positions * (layout.top_k * (layout.topk_id_dtype.itemsize + 2) + 4 * len(layout.temperatures) + 4),
        "hidden states": positions * 2 * layout.width,
        "attention maps": round(
            entries * layout.attention_dtype.itemsize * ATTENTION_COMPRESSED[layout.attention_codec]
        ),
        **{
            f"{name}, for the groups that read them": column.position_bytes(layout)
            * (tokens - len(lengths) if column.everywhere else answers if column.answer else positions)
            for name, column in layout.further.items()
        },
        "texts and index": tokens * 12 + len(lengths) * (ROW_INDEX + (7 + len(layout.further)) * PARQUET_PER_CELL),
        "audit": round(audited * (4 * layout.vocabulary + 4 * layout.width + audit_attention)),
        f"{HEAD_FILE}, {CHANNELS_FILE}": itemsize * layout.vocabulary * layout.width
        + 8 * layout.width * (1 + len(layout.layers)),
    }


def needs_of(
    settings: Settings, workload: Workload, training: Training, teacher: Teacher, parameters: int, root: Path
) -> list[Need]:
    """Everything a study leaves behind, and the most that it holds beside that while it runs."""
    snapshot = sum(snapshot_bytes(settings, workload, teacher).values())
    student = 4 * parameters
    kept = {"all": len(settings.groups) * len(settings.seeds), "one_per_group": len(settings.groups), "none": 0}
    students = kept[settings.storage.keep_students] * student
    trials = len(settings.groups) * len(settings.seeds)
    items = trials * len(workload.questions) * BYTES_PER_ITEM
    values = sum(logged_values(settings, settings.distill[group], training) for group in settings.groups)
    scratch = Path(settings.storage.scratch) if settings.storage.scratch else root / ".glassbox"
    cache = cache_in_use(root / ".dvc")
    needs = [
        Need("snapshot", root / "data", snapshot, "snapshot.top_k, snapshot.max_length, prepare.tasks"),
        Need("students that are kept", root / "runs", students, "storage.keep_students"),
        Need("results of trials", root / "runs", items, "seeds"),
        Need(
            "MLflow",
            root,
            len(settings.seeds) * values * BYTES_PER_LOGGED_VALUE,
            "train.logging_interval",
        ),
        Need("MLflow's artifacts", root / (settings.storage.artifacts or "mlartifacts"), items, "storage.artifacts"),
        Need("two checkpoints, while a trial runs", scratch, 2 * 3 * student, "storage.scratch"),
    ]
    if not shares_bytes(root / ".dvc"):
        needs.append(Need("DVC's copy of the snapshot", cache, snapshot, "storage.cache"))
        needs.append(Need("DVC's copy of students and results", cache, students + items, "storage.cache"))
    if drive_of(scratch) != drive_of(root / "data"):
        needs.append(Need("the snapshot, while it is captured", scratch, snapshot, "storage.scratch"))
    return needs


def logged_values(settings: Settings, weights: Weights, training: Training) -> int:
    """Metric values that one trial logs."""
    components = len(weights.active)
    tasks = len(settings.prepare.tasks)
    per_line = 2 * components + 1 + 2 + ("logits" in weights.active) + components * tasks + 4
    lines = training.steps // settings.train.logging_interval + 1
    return lines * per_line + settings.train.epochs * (2 * components + 2 + tasks)


def shares_bytes(dvc_folder: Path) -> bool:
    """Whether DVC links the workspace to its cache, so that its copy costs nothing (`cache.type`)."""
    parser = ConfigParser(interpolation=None)
    parser.read([dvc_folder / "config", dvc_folder / "config.local"], encoding="utf-8")
    first = parser.get("cache", "type", fallback="reflink,copy").split(",")[0].strip()
    return first in ("hardlink", "symlink")


def drive_of(folder: Path) -> int:
    """The device that a folder lies on, or will lie on once it is made."""
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    return folder if folder.exists() else _existing(folder.parent)


def drives_of(needs: Sequence[Need]) -> list[Drive]:
    """What each drive must hold, and what it has free."""
    by_drive: dict[int, list[Need]] = {}
    for need in needs:
        by_drive.setdefault(need.drive, []).append(need)
    drives = []
    for number, found in by_drive.items():
        folder = _existing(found[0].folder)
        drives.append(Drive(number, folder, sum(need.size for need in found), shutil.disk_usage(folder).free))
    return drives
