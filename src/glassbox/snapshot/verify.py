"""The gate between capture and training: nothing trains on a snapshot that fails here.

In order: files, pages and digests; what the snapshot was made from; every row by itself, as that of its sample and
against the stored output layer; the channels; the audit; samples captured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import Schema

from glassbox.config.curves import points_of
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.files import brief_ids, sha256_of
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.audit import audit_figures, banner
from glassbox.snapshot.capture import Channels
from glassbox.snapshot.checks import (
    TOP_K_AGREEMENT,
    HeadFigures,
    check_against_head,
    experts_fault,
    experts_tolerance,
    origin_fault,
    shape_fault,
    value_fault,
)
from glassbox.snapshot.codec import array
from glassbox.snapshot.composition import Item, captured_answers, compose_items, draw_audit
from glassbox.snapshot.provenance import provenance_differences, provenance_of
from glassbox.snapshot.reader import Snapshot, read_manifest, require_signals
from glassbox.snapshot.recapture import recapture
from glassbox.snapshot.schema import (
    AUDIT_FILE,
    AUDIT_SCHEMA,
    CHANNELS_FILE,
    EXPERTS_FILE,
    HEAD_FILE,
    MANIFEST_FILE,
    AuditRow,
    Format,
    Row,
    logical_digest,
    schema_of,
)
from glassbox.snapshot.sizes import signal_bytes
from glassbox.snapshot.storage import REMEDY, merged_rows, open_part, part_rows, read_audit, read_row_group

CHANNEL_TOLERANCE = 1e-4  # another order of the parts adds up to other last bits


def verify(settings: Settings, snapshot_folder: Path | str, tasks_folder: Path | str) -> dict[str, Any]:
    """Check everything that can be checked and return the figures; GlassboxError names file, row group and samples."""
    folder, tasks_folder = Path(snapshot_folder), Path(tasks_folder)
    manifest = read_manifest(folder)
    require_signals(folder, manifest)
    _check_files(folder, manifest)
    tokenizer = load_tokenizer(settings.teacher)
    labels = captured_answers(settings, tasks_folder)
    current = provenance_of(settings, tokenizer, tasks_folder, labels.digest if labels else None)
    changed = provenance_differences(manifest["provenance"], current)
    if changed:
        raise GlassboxError(
            f"The snapshot in {folder} was made from something else: {', '.join(changed)} changed since. Capture it "
            "again with `dvc repro snapshot`, or restore what it was made from."
        )
    layout = Format.from_json(manifest["format"])
    items = compose_items(settings, tokenizer, tasks_folder, labels.answers if labels else None)
    audit = _whole_audit(settings, folder, items)
    by_id = {item.sample.sample_id: item for item in items}
    audited = {row.sample_id for row in audit}
    head_figures, probability, audited_rows = _check_rows(folder, manifest, layout, audited, by_id)
    curves = {settings.objective.temperature, *(settings.temperature(group) for group in settings.groups)}
    in_use = sorted({value for curve in curves for _, value in points_of(curve)})
    temperatures = sorted({*layout.temperatures, *in_use})
    weight, bias = Snapshot(folder).head()
    figures = audit_figures(folder, audit, audited_rows, layout, (weight, bias), temperatures)
    recaptured = recapture(settings, folder, manifest, items, tokenizer)
    return {
        "logical_digest": manifest["logical_digest"],
        "rows": manifest["rows"],
        "positions": manifest["positions"],
        "counts": manifest["counts"],
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "signal_bytes": signal_bytes(folder, manifest),
        "parts": len(manifest["parts"]),
        "format": layout.as_json(),
        "head": {
            "top_k_agreement": head_figures.top_k_agreement,
            "log_probability_error_max": head_figures.log_probability_error,
            "log_tail_error_max": head_figures.log_tail_error,
            "attention_sum_error_max": head_figures.attention_sum_error,
        },
        "audit": figures,
        "label_probability": probability.means(),
        "banner": banner(figures, settings.objective.logits_target, max(in_use)),
        "recapture": recaptured,
    }


def verify_nothing(snapshot_folder: Path | str) -> dict[str, Any]:
    """The same figures where nothing was captured. Raises GlassboxError where something was: it belongs to others."""
    manifest = read_manifest(Path(snapshot_folder))
    if manifest["signals"]:
        raise GlassboxError(
            f"{snapshot_folder} holds signals, but this teacher and this student cut text into other tokens: it was "
            "captured for another pair. Run `dvc repro snapshot`."
        )
    counted: dict[str, Any] = dict.fromkeys(("rows", "positions", "bytes", "parts"), 0)
    absent = dict.fromkeys(("format", "head", "audit", "recapture"))
    banner = "Nothing was captured: teacher and student cut text into other tokens, so no group compares them."
    return {"logical_digest": manifest["logical_digest"], **counted, "counts": {}, **absent, "banner": banner}


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Part list, schemas, page checksums, both digests, counts, and every id once."""
    listed = {*manifest["files"], MANIFEST_FILE}
    present = {path.name for path in folder.iterdir()}
    layout = Format.from_json(manifest["format"])
    fixed = {AUDIT_FILE, CHANNELS_FILE, HEAD_FILE, *([EXPERTS_FILE] if layout.experts else [])}
    if listed != present or {*fixed, *manifest["parts"]} != set(manifest["files"]):
        raise GlassboxError(
            f"{folder} and its manifest disagree about {', '.join(sorted(listed ^ present)) or 'the parts'}. {REMEDY}"
        )
    for name, entry in manifest["files"].items():
        if name.endswith(".parquet"):
            _check_pages(folder / name, AUDIT_SCHEMA if name == AUDIT_FILE else schema_of(layout.further))
        if sha256_of(folder / name) != entry["sha256"]:
            raise GlassboxError(
                f"{folder / name} is not the file that was captured: its sha256 differs from the manifest's although "
                f"every page is intact (its footer changed, or it was written anew). {REMEDY}"
            )
    rows = merged_rows([folder / name for name in manifest["parts"]])
    try:
        channels, head, experts = (
            manifest["files"].get(name, {}).get("sha256") for name in (CHANNELS_FILE, HEAD_FILE, EXPERTS_FILE)
        )
        digest = logical_digest(layout, channels, head, rows, experts)
    except ValueError as error:
        raise GlassboxError(f"The parts in {folder} repeat a sample or are out of order: {error}. {REMEDY}") from error
    if digest != manifest["logical_digest"]:
        raise GlassboxError(
            f"The logical digest of {folder} is {digest[:16]}..., its manifest says "
            f"{manifest['logical_digest'][:16]}.... {REMEDY}"
        )


def _check_pages(path: Path, expected: Schema) -> None:
    file = open_part(path)
    if not file.schema_arrow.equals(expected):
        raise GlassboxError(f"{path} has the schema {file.schema_arrow.names} instead of {expected.names}. {REMEDY}")
    for group in range(file.num_row_groups):
        read_row_group(file, path, group, expected.names)


def _whole_audit(settings: Settings, folder: Path, items: Sequence[Item]) -> list[AuditRow]:
    """The audit, once it holds the positions that the settings draw and no other."""
    audit = read_audit(folder / AUDIT_FILE)
    drawn = draw_audit(items, settings.snapshot.audit_positions, np.random.default_rng(settings.prepare.seed))
    first = {item.sample.sample_id: item.first for item in items}
    wanted = {(sample_id, first[sample_id] + offset) for sample_id, offsets in drawn.items() for offset in offsets}
    if len(audit) != len(wanted) or {(row.sample_id, row.position) for row in audit} != wanted:
        raise GlassboxError(
            f"{folder / AUDIT_FILE} holds {len(audit)} positions, which are not the {len(wanted)} that "
            f"snapshot.audit_positions draws. {REMEDY}"
        )
    return audit


def _check_channels(folder: Path, found: Channels) -> None:
    """The stored statistics of hidden channels against those of the rows."""
    stored = Snapshot(folder).channel_tensors()
    for name, true in found.statistics().items():
        own, scale = stored.get(name, torch.empty(0)), true.abs().clamp(min=float(true.abs().mean()))
        if own.shape != true.shape or not bool(((own - true).abs() <= CHANNEL_TOLERANCE * scale).all()):
            raise GlassboxError(
                f"{folder / CHANNELS_FILE}: the channels' {name} is not that of the stored states. {REMEDY}"
            )


class LabelProbability:
    """The mean probability that the teacher gives the training labels' tokens, by task."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, row: Row) -> None:
        if row.split == "train":
            answer = array(row.label_logp, "<f4", -1)[row.n_positions - (len(row.input_ids) - 1 - row.loss_start) :]
            total, count = self._sums.get(row.task, (0.0, 0))
            self._sums[row.task] = total + float(np.exp(answer.astype(np.float64)).sum()), count + len(answer)

    def means(self) -> dict[str, float]:
        return {task: total / count for task, (total, count) in sorted(self._sums.items()) if count}


def _check_rows(
    folder: Path, manifest: dict[str, Any], layout: Format, audited: set[str], items: Mapping[str, Item]
) -> tuple[HeadFigures, LabelProbability, dict[str, Row]]:
    """Every row by itself, as its sample's and against the output layer; also returns the rows of audited samples."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weight, bias = (None if tensor is None else tensor.to(device) for tensor in Snapshot(folder).head())
    assert weight is not None
    mixture = Snapshot(folder).mixture() if layout.experts else None
    tolerance = experts_tolerance(layout, manifest["provenance"]["teacher"]["dtype"])
    figures, probability, channels = HeadFigures(), LabelProbability(), Channels(layout)
    kept: dict[str, Row] = {}
    counted: dict[tuple[str, str], list[int]] = {}
    for name in manifest["parts"]:
        for group, row in part_rows(folder / name):
            fault = (
                shape_fault(row, layout)
                or origin_fault(row, items.get(row.sample_id))
                or value_fault(row, layout, figures)
                or check_against_head(row, layout, weight, bias, figures)
                or experts_fault(row, layout, mixture, tolerance)
            )
            if fault:
                raise GlassboxError(f"{folder / name}, row group {group}, sample {row.sample_id}: {fault}. {REMEDY}")
            channels.add(row)
            probability.add(row)
            count = counted.setdefault((row.split, row.task), [0, 0])
            count[0] += 1
            count[1] += row.n_positions
            if row.sample_id in audited:
                kept[row.sample_id] = row
    if figures.top_k_agreement < TOP_K_AGREEMENT:
        raise GlassboxError(
            f"Only {figures.top_k_agreement:.2%} of the positions in {folder} have the top-k ids that head x hidden "
            f"gives (samples {brief_ids(figures.disagreeing_ids)}). {REMEDY}"
        )
    told = {(s, t): [e["rows"], e["positions"]] for s, tasks in manifest["counts"].items() for t, e in tasks.items()}
    if counted != told or audited - kept.keys():
        raise GlassboxError(f"The rows in {folder} are not as many as its manifest counts. {REMEDY}")
    _check_channels(folder, channels)
    return figures, probability, kept
