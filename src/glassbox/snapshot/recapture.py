"""Some samples captured again, to see whether the teacher still says what the snapshot holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.snapshot.audit import HIDDEN_COSINE
from glassbox.snapshot.checks import LOG_PROBABILITY_TOLERANCE, row_attention, stored_further, stored_hidden
from glassbox.snapshot.codec import array, undo_attention_codec
from glassbox.snapshot.composition import Item, batches, share_out
from glassbox.snapshot.schema import Format, Row
from glassbox.snapshot.storage import part_rows
from glassbox.snapshot.teacher import Teacher, capture_batch, open_teacher

ATTENTION_TOLERANCE = 0.02


def recapture(
    settings: Settings,
    folder: Path,
    manifest: dict[str, Any],
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, Any]:
    """Run random batches again, composed as at capture, and compare their rows, until enough samples are compared."""
    if not settings.verify.recaptured_samples:
        return {"samples": 0, "same_bits": 0}
    teacher = open_teacher(settings, tokenizer)
    again = {
        row.sample_id: row for batch in _drawn(settings, items, teacher) for row in capture_batch(teacher, batch, {})[0]
    }
    same_bits = 0
    for name in manifest["parts"]:
        for group, row in part_rows(folder / name):
            if row.sample_id in again:
                fault = recapture_fault(row, again[row.sample_id], teacher.layout)
                if fault:
                    raise GlassboxError(
                        f"{folder / name}, row group {group}: sample {row.sample_id} captured again differs, {fault}. "
                        "The teacher behaves differently here than at capture: run `dvc repro --force snapshot` on "
                        "this machine."
                    )
                same_bits += _same_bits(row, again[row.sample_id], teacher.layout)
    return {"samples": len(again), "same_bits": same_bits}


def _drawn(settings: Settings, items: Sequence[Item], teacher: Teacher) -> Iterator[list[Item]]:
    """Whole batches, as many as hold verify.recaptured_samples."""
    parts = share_out(items, teacher.layout, settings.snapshot.part_megabytes * 10**6)
    every = [batch for part in parts for batch in batches(part, settings.snapshot.batch_size)]
    order = np.random.default_rng(settings.prepare.seed).permutation(len(every))
    drawn = 0
    for index in order:
        if drawn >= settings.verify.recaptured_samples:
            return
        drawn += len(every[index])
        yield every[index]


def _same_bits(stored: Row, again: Row, layout: Format) -> bool:
    return all(
        bytes(memoryview(stored.cell(name))) == bytes(memoryview(again.cell(name)))
        for name in ("topk_ids", "topk_logits", "log_tail", "label_logp", "hidden", "attention", *layout.further)
    )


def recapture_fault(stored: Row, again: Row, layout: Format) -> str | None:
    """In what a row captured again is further from the stored one than another machine explains; None if in nothing."""
    if bytes(memoryview(stored.input_sha256)) != bytes(memoryview(again.input_sha256)):
        return "its input is another one"
    cosine = torch.nn.functional.cosine_similarity(stored_hidden(stored, layout), stored_hidden(again, layout)).min()
    if not float(cosine) >= HIDDEN_COSINE:
        return f"its hidden states have a cosine of {float(cosine):.6f}"
    for name in layout.further:
        mine, theirs = (stored_further(row, name, layout) for row in (stored, again))
        if not float(torch.nn.functional.cosine_similarity(mine, theirs).min()) >= HIDDEN_COSINE:
            return f"its {name} have a cosine under {HIDDEN_COSINE}"
    label = np.abs(array(stored.label_logp, "<f4", -1) - array(again.label_logp, "<f4", -1)).max()
    if not label <= LOG_PROBABILITY_TOLERANCE:
        return f"its labels' log-probabilities by {label:.3g}"
    if not layout.heads:
        return None
    maps = [undo_attention_codec(row_attention(row, layout)[0], layout.attention_codec) for row in (stored, again)]
    distance = float((maps[0] - maps[1]).abs().max())
    return None if distance <= ATTENTION_TOLERANCE else f"its attention by {distance:.3g}"
