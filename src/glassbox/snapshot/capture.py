"""Capture: the teacher over every training and validation sample, once, into a folder that appears whole or not at all.

Finished parts of an interrupted capture lie in a staging folder named after what they were made from; the same command
goes on with them and ends in the same logical digest. Several processes take a part's batches in turn, whole, for
padding changes the last bits; the main one puts the part together.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.files import is_sealed, publish_folder, require_free_space, sha256_of, write_json, write_seal
from glassbox.models.agreement import ask_plainly, draw_probes, require_agreement
from glassbox.models.context import require_lengths
from glassbox.models.tokenizers import load_tokenizer
from glassbox.processes import Processes, join_processes
from glassbox.snapshot.codec import further_array, further_tensor, hidden_array, hidden_tensor
from glassbox.snapshot.composition import (
    Item,
    batches,
    captured_answers,
    compose_items,
    draw_audit,
    estimated_bytes,
    share_out,
)
from glassbox.snapshot.provenance import provenance_key, provenance_of
from glassbox.snapshot.schema import (
    AUDIT_FILE,
    CHANNELS_FILE,
    EXPERTS_FILE,
    FURTHER,
    HEAD_FILE,
    MANIFEST_FILE,
    NOTHING_CAPTURED,
    SCHEMA_VERSION,
    AuditRow,
    Format,
    Row,
    logical_digest,
    part_file,
)
from glassbox.snapshot.sizes import refused_cells
from glassbox.snapshot.storage import merged_rows, part_rows, read_audit, write_audit, write_part
from glassbox.snapshot.teacher import Teacher, open_teacher, read_teacher, rows_of

LIBRARIES = ("torch", "transformers", "tokenizers", "pyarrow", "numpy", "safetensors")
BATCHES_BEHIND = 2

Captured = tuple[list[Row], list[AuditRow]]


def capture(
    settings: Settings, tasks_folder: Path | str, out_folder: Path | str, scratch: Path | str, key: str = ""
) -> None:
    """Write the snapshot of `tasks_folder` to `out_folder`; work in progress lies under `scratch`.

    key: the stage's own, kept in the manifest.
    """
    tasks_folder, out_folder = Path(tasks_folder), Path(out_folder)
    processes = join_processes()
    require_lengths(settings)
    tokenizer = load_tokenizer(settings.teacher)
    labels = captured_answers(settings, tasks_folder)
    provenance = provenance_of(settings, tokenizer, tasks_folder, labels.digest if labels else None)
    items = compose_items(settings, tokenizer, tasks_folder, labels.answers if labels else None)
    teacher = open_agreeing_teacher(settings, tokenizer, items, processes.device)
    sizes = [(item.sample.sample_id, item.n_tokens, item.n_attention) for item in items]
    for sentence in refused_cells(sizes, teacher.layout.heads, settings.snapshot):
        raise GlassboxError(sentence)
    staging = Path(scratch) / f"snapshot-{provenance_key(provenance)}"
    staging.mkdir(parents=True, exist_ok=True)
    require_free_space(staging, estimated_bytes(items, teacher.layout), "The snapshot")
    parts = share_out(items, teacher.layout, settings.snapshot.part_megabytes * 10**6)
    capture_parts(settings, teacher, items, parts, staging, processes)
    if processes.is_main:
        _finish(teacher, items, len(parts), provenance, staging, key)
        finished = staging / "finished"
        publish_folder(finished, out_folder)
        shutil.rmtree(staging, ignore_errors=True)
    processes.wait()


def open_agreeing_teacher(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item], device: torch.device
) -> Teacher:
    """The teacher, once it says here what it says in Transformers' own forward. The two are never loaded together.

    Raises GlassboxError for a teacher that differs, and for one without the maps that a selected group learns from.
    """
    probes = draw_probes(
        tokenizer, [(item.sample.prompt, item.sample.answer) for item in items], settings.snapshot.max_length
    )
    plain = ask_plainly(settings.teacher, probes, end=int(tokenizer.eos_token_id), device=device)  # type: ignore[arg-type]
    teacher = open_teacher(settings, tokenizer, device)
    asking = [group for group in settings.groups if "attention" in settings.distill[group].needs("reads")]
    if asking and not teacher.layout.heads:
        raise GlassboxError(
            f"The last layer of {type(teacher.model).__name__} ('{settings.teacher.model}') gives no attention map, "
            f"and {', '.join(asking)} learn from it. Choose groups without attention "
            "(`-S distill=[sft,black_box]`), or another teacher."
        )
    require_agreement(settings.teacher, teacher.model, plain, wants_attention=teacher.layout.heads > 0)
    return teacher


def capture_nothing(out_folder: Path | str, key: str = "") -> None:
    """A snapshot without a signal, for teachers whose tokens mean nothing to the student: a manifest and no more."""
    out_folder = Path(out_folder)
    staging = out_folder.with_name(f".{out_folder.name}-nothing")
    staging.mkdir(parents=True, exist_ok=True)
    nothing = {"schema_version": SCHEMA_VERSION, "logical_digest": NOTHING_CAPTURED, "signals": [], "key": key}
    write_manifest(staging, nothing)
    publish_folder(staging, out_folder)


def capture_parts(
    settings: Settings,
    teacher: Teacher,
    items: Sequence[Item],
    parts: Sequence[Sequence[Item]],
    staging: Path,
    processes: Processes,
) -> None:
    """Run the teacher over all parts that are not finished yet, and store each with its share of the audit.

    A thread beside it makes the rows and writes the parts, at most `BATCHES_BEHIND` batches behind the teacher.
    """
    generator = np.random.default_rng(settings.prepare.seed)
    audit = draw_audit(items, settings.snapshot.audit_positions, generator)
    hidden = None if processes.is_main else True
    with (
        tqdm(total=len(items), desc="snapshot", unit="sample", disable=hidden) as progress,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot-writer") as writer,
    ):
        storing: Future[None] | None = None
        for index, part in enumerate(parts):
            if not _is_finished(staging, index):
                made: list[Future[Captured]] = []
                for batch in processes.share(batches(part, settings.snapshot.batch_size)):
                    reading = read_teacher(teacher, batch, audit)
                    made.append(writer.submit(rows_of, reading, teacher.layout))
                    if len(made) > BATCHES_BEHIND:
                        made[-1 - BATCHES_BEHIND].result()
                    progress.update(len(batch))
                if storing is not None:
                    storing.result()
                if processes.count > 1:  # they meet in it, each in its main thread
                    _store_rows(staging, index, made, processes)
                else:
                    storing = writer.submit(_store_rows, staging, index, made, processes)
            progress.update(sum(map(len, parts[: index + 1])) - progress.n)
        if storing is not None:
            storing.result()


def _store_rows(staging: Path, index: int, made: Sequence[Future[Captured]], processes: Processes) -> None:
    """A part from the rows of all its batches; raises what made one of them fail."""
    captured = [each.result() for each in made]
    rows = [row for rows, _ in captured for row in rows]
    _share_part(staging, index, rows, [row for _, audited in captured for row in audited], processes)


def _share_part(staging: Path, index: int, rows: list[Any], audited: list[Any], processes: Processes) -> None:
    """Bring the shares of all processes together in the main one, which stores the part; they travel as files."""
    folders = [staging / f"of-process-{other}" for other in range(1, processes.count)]
    if not processes.is_main:
        own = folders[processes.index - 1]
        own.mkdir(exist_ok=True)
        write_part(own / part_file(index), rows)
        write_audit(_piece_of_audit(own, index), audited)
    processes.wait()
    if processes.is_main:
        rows += [row for folder in folders for _, row in part_rows(folder / part_file(index))]
        audited += [row for folder in folders for row in read_audit(_piece_of_audit(folder, index))]
        _store_part(staging, index, rows, audited)


def _seal(staging: Path, index: int) -> Path:
    return staging / f"{part_file(index)}.json"


def _piece_of_audit(staging: Path, index: int) -> Path:
    return staging / f"audit-{index:05d}.parquet"


def _store_part(staging: Path, index: int, rows: list[Any], audited: list[Any]) -> None:
    """Write a part, its share of the audit, and last the seal that counts it as finished."""
    paths = [staging / part_file(index), _piece_of_audit(staging, index)]
    write_part(paths[0], rows)
    write_audit(paths[1], audited)
    write_seal(_seal(staging, index), paths)


def _is_finished(staging: Path, index: int) -> bool:
    return is_sealed(_seal(staging, index), [part_file(index), _piece_of_audit(staging, index).name])


def _finish(
    teacher: Teacher, items: Sequence[Item], n_parts: int, provenance: dict[str, Any], staging: Path, key: str
) -> None:
    """Gather parts, audit, head, channels and manifest in one folder, ready to be published."""
    finished = staging / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    names = [part_file(index) for index in range(n_parts)]
    for name in names:
        _link_or_copy(staging / name, finished / name)
    pieces = [row for index in range(n_parts) for row in read_audit(_piece_of_audit(staging, index))]
    write_audit(finished / AUDIT_FILE, pieces)
    weight, bias = teacher.head()
    head = {"weight": weight.contiguous().cpu()} | ({} if bias is None else {"bias": bias.contiguous().cpu()})
    save_file(head, finished / HEAD_FILE)
    if teacher.last_layer is not None:
        save_file(teacher.last_layer.mixture.as_tensors(), finished / EXPERTS_FILE)
    save_file(channel_statistics([finished / name for name in names], teacher.layout), finished / CHANNELS_FILE)
    manifest = build_manifest(finished, names, teacher.layout, provenance, counts_of(items))
    write_manifest(finished, manifest | {"key": key})


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for a finished part, or a copy where the drive knows no hard links."""
    try:
        target.hardlink_to(source)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def channel_statistics(parts: Sequence[Path], layout: Format) -> dict[str, Tensor]:
    """What `Channels` finds in the rows of all parts."""
    channels = Channels(layout)
    for path in parts:
        for _, row in part_rows(path):
            channels.add(row)
    return channels.statistics()


class Channels:
    """Sums over the hidden channels of the training rows that are added: at answer positions, and at all captured."""

    def __init__(self, layout: Format) -> None:
        self.layout = layout
        self.reaches = ("answer", "all") if layout.positions == "all" else ("answer",)
        self.counts: dict[str, int] = dict.fromkeys(self.reaches, 0)
        states = {"": (layout.width,)} | ({"layers_": FURTHER["layers"].shape(layout)} if layout.layers else {})
        self.sums: dict[tuple[str, str], Tensor] = {
            (prefix, reach): torch.zeros(2, *shape, dtype=torch.float64)
            for prefix, shape in states.items()
            for reach in self.reaches
        }

    def add(self, row: Row) -> None:
        if row.split != "train":
            return
        stored = {"": hidden_tensor(hidden_array(row.hidden, self.layout).copy(), self.layout)}
        if self.layout.layers:
            cell = torch.from_numpy(further_array(row.further["layers"], FURTHER["layers"], self.layout).copy())
            stored["layers_"] = further_tensor(cell, FURTHER["layers"], self.layout)
        answer = len(row.input_ids) - 1 - row.loss_start
        for reach in self.reaches:
            first = 0 if reach == "all" else row.n_positions - answer
            self.counts[reach] += row.n_positions - first
            for prefix, states in stored.items():
                read = states[first:].double()
                self.sums[prefix, reach] += torch.stack([read.sum(0), read.square().sum(0)])

    def statistics(self) -> dict[str, Tensor]:
        """`mean_<positions>` and `deviation_<positions>` (of the population) of every channel, float32.

        Those of further layers [layers, width] are named `layers_mean_<positions>` and `layers_deviation_<positions>`.
        """
        found = {}
        for (prefix, reach), (total, squares) in self.sums.items():
            mean = total / max(self.counts[reach], 1)
            deviation = (squares / max(self.counts[reach], 1) - mean.square()).clamp(min=0).sqrt()
            found |= {f"{prefix}mean_{reach}": mean.float(), f"{prefix}deviation_{reach}": deviation.float()}
        return found


def counts_of(items: Sequence[Item]) -> dict[str, Any]:
    """Rows, captured positions, re-tokenized answers and shortened prompts, by split and task."""
    counts: dict[str, Any] = {}
    for item in items:
        entry = counts.setdefault(item.split, {}).setdefault(
            item.sample.task, {"rows": 0, "positions": 0, "retokenised": 0, "truncated": 0}
        )
        entry["rows"] += 1
        entry["positions"] += item.n_positions
        entry["retokenised"] += item.encoded.retokenised
        entry["truncated"] += item.encoded.truncated
    return counts


def build_manifest(
    folder: Path, parts: Sequence[str], layout: Format, provenance: dict[str, Any], counts: dict[str, Any]
) -> dict[str, Any]:
    """Describe the files in `folder`: their sha256 and sizes, what they hold, and the logical digest."""
    names = [*parts, AUDIT_FILE, CHANNELS_FILE, HEAD_FILE, *([EXPERTS_FILE] if layout.experts else [])]
    files = {name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    digest = logical_digest(
        layout,
        files[CHANNELS_FILE]["sha256"],
        files[HEAD_FILE]["sha256"],
        merged_rows([folder / name for name in parts]),
        files[EXPERTS_FILE]["sha256"] if layout.experts else None,
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "logical_digest": digest,
        "signals": layout.signals,
        "format": layout.as_json(),
        "counts": counts,
        "rows": sum(entry["rows"] for tasks in counts.values() for entry in tasks.values()),
        "positions": sum(entry["positions"] for tasks in counts.values() for entry in tasks.values()),
        "parts": list(parts),
        "files": files,
        "provenance": provenance,
        "libraries": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_json(folder / MANIFEST_FILE, manifest)
