"""Row 1: capture of all three signals and writing the parts, beside the teacher's plain forward on the same batches."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from glassbox.config.settings import CapturedPositions, Settings
from glassbox.models.tokenizers import load_tokenizer
from glassbox.processes import join_processes
from glassbox.snapshot.capture import capture_parts
from glassbox.snapshot.composition import Item, batches, compose_items, share_out
from glassbox.snapshot.teacher import Teacher, open_teacher, padded_ids
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import write_splits
from suite.embedded import embedded_settings
from suite.measuring import ratio, side_by_side
from suite.row import Row

GOALS = {"answer": 1.05, "all": 0.75}
NOTE = "the plain forward gets no padding mask, the faster way; with one as tokenizers give it {masked:.2f}{reason}"
MISSED = {
    "answer": ". Capture runs the same layers: only the output layer on prompts is saved, and attention rows, top-k, "
    "tails and files cost more than that",
    "all": ". Every position is captured: beside the plain forward's own work stand a top-k, log-sum-exps at every "
    "temperature, all attention rows, and all their bytes to write",
}


def measure() -> list[Row]:
    with TemporaryDirectory(prefix="glassbox-") as name:
        folder, settings = Path(name), embedded_settings()
        write_splits(folder / "tasks", load_samples(settings.prepare))
        tokenizer, teacher = load_tokenizer(settings.teacher), None
        contestants: dict[str, Callable[[], object]] = {}
        composing = time.perf_counter()
        items = {each: compose_items(_capturing(settings, each), tokenizer, folder / "tasks") for each in GOALS}
        composing = (time.perf_counter() - composing) / len(GOALS)
        for positions in GOALS:
            chosen = _capturing(settings, positions)
            teacher = open_teacher(chosen, tokenizer, torch.device("cpu"))
            contestants[positions] = _capture(chosen, teacher, items[positions], folder / "staging")
        assert teacher is not None
        (part,) = share_out(items["all"], teacher.layout, settings.snapshot.part_megabytes * 10**6)
        inputs = [padded_ids(batch) for batch in batches(part, settings.snapshot.batch_size)]
        contestants |= _plain(settings, inputs)
        times = side_by_side(contestants)
    tokens = sum(item.n_tokens for item in items["all"])
    rows = []
    for positions, goal in GOALS.items():
        found = ratio(times["plain"], times[positions])
        masked = ratio(times["masked"], times[positions])
        reason = MISSED[positions] if found.value < goal else ""
        details: dict[str, Any] = {
            "tokens": tokens,
            "positions": sum(item.n_positions for item in items[positions]),
            "tokens_per_second": {name: tokens / min(times[name].wall) for name in (positions, "plain", "masked")},
            "cpu_seconds": {name: min(times[name].cpu) for name in (positions, "plain", "masked")},
            "seconds_of_tokenizing_beforehand": composing,
            "to_plain_with_mask": masked.value,
        }
        note = NOTE.format(masked=masked.value, reason=reason)
        name = f"capture and writing of parts / plain SDPA forward, tokens/s, positions: {positions}"
        limit = "1.0, answer rows can exceed it"
        shapes = _shapes(settings, teacher, tokens, inputs)
        more = {"at_least": True, "limit": limit, "note": note, "details": details}
        rows.append(Row.of("1", name, shapes, found, goal, **more))
    return rows


def _capturing(settings: Settings, positions: str) -> Settings:
    both = CapturedPositions.model_validate({"hidden": positions, "attention": positions})
    return settings.model_copy(update={"snapshot": settings.snapshot.model_copy(update={"positions": both})})


def _capture(settings: Settings, teacher: Teacher, items: Sequence[Item], staging: Path) -> Callable[[], None]:
    """All of a capture between composing the batches and gathering the finished parts."""
    parts = share_out(items, teacher.layout, settings.snapshot.part_megabytes * 10**6)
    processes = join_processes()

    def work() -> None:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        capture_parts(settings, teacher, items, parts, staging, processes)

    return work


def _plain(settings: Settings, inputs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Callable[[], None]]:
    """The whole causal model over all positions as Transformers runs it, without and with the padding's mask."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings.teacher.model, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()

    @torch.no_grad()
    def plain() -> None:
        for ids, _ in inputs:
            model(input_ids=ids, use_cache=False)

    @torch.no_grad()
    def masked() -> None:
        for ids, mask in inputs:
            model(input_ids=ids, attention_mask=mask.long(), use_cache=False)

    return {"plain": plain, "masked": masked}


def _shapes(settings: Settings, teacher: Teacher, tokens: int, inputs: Sequence[tuple[Tensor, Tensor]]) -> str:
    config = teacher.model.config
    padded = sum(ids.numel() for ids, _ in inputs)
    return (
        f"embedded teacher, {config.num_hidden_layers} layers x {config.hidden_size}, V {teacher.layout.vocabulary}, "
        f"float32; {tokens:,} tokens (padded {padded:,}) in {len(inputs)} batches of {settings.snapshot.batch_size}"
    )
