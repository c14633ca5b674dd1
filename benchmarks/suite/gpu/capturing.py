"""Capture beside the teacher's plain forward pass: speed, finite signals, peak memory against `plan`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from glassbox.preflight import memory
from glassbox.processes import Processes
from glassbox.snapshot.batch import StoredSample, assemble
from glassbox.snapshot.capture import capture_parts
from glassbox.snapshot.composition import Item, batches, share_out
from glassbox.snapshot.schema import Row
from glassbox.snapshot.teacher import Teacher, capture_batch, padded_ids
from suite.gpu import shapes
from suite.gpu.measuring import Figure, guarded, in_turns, median_seconds, peak_bytes, speed_ratio, utilisation

POSITIONS = ("answer", "all")
SPEED = {positions: f"capture, {positions} rows / plain forward, tokens/s" for positions in POSITIONS}
PLAIN = "plain forward, model FLOP utilisation"
FINITE = "captured signals that are finite and decode"
MEMORY = "capture, peak memory / plan's estimate"
NAMES = (*SPEED.values(), PLAIN, FINITE, MEMORY)


def measure(device: torch.device, seconds: float, missing: Sequence[str]) -> Iterator[Figure]:
    pair = shapes.pair_for(device)
    model: Any = shapes.teacher(pair, device)
    teachers = {positions: shapes.capturing(pair, model, positions) for positions in POSITIONS}
    items = {positions: shapes.items(pair, positions) for positions in POSITIONS}
    yield from guarded((FINITE,), lambda: _finite(teachers["all"], batches(items["all"], pair.capture_batch)[0]))
    yield from guarded((MEMORY,), lambda: _memory(teachers["answer"], items["answer"], pair))
    timed = (*SPEED.values(), PLAIN)
    yield from guarded(timed, lambda: _speed(teachers, items, pair, device, seconds * 0.6, missing))


def _speed(
    teachers: dict[str, Teacher],
    items: dict[str, list[Item]],
    pair: shapes.Pair,
    device: torch.device,
    seconds: float,
    missing: Sequence[str],
) -> Iterator[Figure]:
    model = teachers["answer"].model
    planned = batches(items["answer"], pair.capture_batch)
    inputs = [padded_ids(batch)[0].to(device) for batch in planned]

    @torch.no_grad()
    def plain() -> None:
        for ids in inputs:
            model(input_ids=ids, use_cache=False)

    with TemporaryDirectory(prefix="glassbox-") as folder:
        works: dict[str, Callable[[], object]] = {"plain": plain}
        for positions, teacher in teachers.items():
            works[positions] = _work(teacher, items[positions], pair, Path(folder), "pyarrow" in missing)
        times = in_turns(works, device, seconds)
    lengths = [item.n_tokens for item in items["answer"]]
    written = "rows made but not written: PyArrow is not installed" if "pyarrow" in missing else "parts written"
    for positions, name in SPEED.items():
        rates = {f"tokens_per_second_{way}": sum(lengths) / median_seconds(times[way]) for way in (positions, "plain")}
        yield Figure.of(name, speed_ratio(times[positions], times["plain"]), written, **rates)
    operations = shapes.forward_operations(model, lengths, sum(lengths))
    used = utilisation(operations, median_seconds(times["plain"]), device, model.dtype)
    yield Figure(PLAIN, used["of_a_product_here"], "share", note=str(model.dtype), details=used)


def _work(teacher: Teacher, items: Sequence[Item], pair: shapes.Pair, folder: Path, bare: bool) -> Callable[[], None]:
    """All of a capture between composing the batches and gathering the parts; without PyArrow nothing is written."""
    snapshot = SimpleNamespace(batch_size=pair.capture_batch, audit_positions=100)
    settings: Any = SimpleNamespace(snapshot=snapshot, prepare=SimpleNamespace(seed=0))
    parts = share_out(items, teacher.layout, 256 * 10**6)

    def work() -> None:
        if bare:
            for batch in batches(items, pair.capture_batch):
                capture_batch(teacher, batch, {})
            return
        shutil.rmtree(folder / "staging", ignore_errors=True)
        (folder / "staging").mkdir()
        capture_parts(settings, teacher, items, parts, folder / "staging", Processes(teacher.device))

    return work


def _finite(teacher: Teacher, batch: list[Item]) -> Iterator[Figure]:
    """A captured batch as trials read it: every number finite, every attention row a distribution."""
    rows, _ = capture_batch(teacher, batch, {})
    decoded = assemble([stored(row) for row in rows], teacher.layout, teacher.device)
    assert decoded.hidden is not None and decoded.attention is not None and decoded.topk_logits is not None
    sums = decoded.attention.sum(-1)
    checked = {
        "hidden": decoded.hidden,
        "top-k logits": decoded.topk_logits,
        "log-tails": decoded.log_tail,
        "attention": decoded.attention,
    }
    faults = [name for name, values in checked.items() if values is None or not bool(torch.isfinite(values).all())]
    faults += ["sums of attention rows"] if not bool(((sums - 1).abs() < 1e-3).all()) else []
    logp = [np.frombuffer(row.label_logp, dtype="<f4") for row in rows]
    faults += ["label log-probabilities"] if not all(np.isfinite(each).all() for each in logp) else []
    yield Figure(FINITE, float(not faults), "1: all", note=f"not: {', '.join(faults)}" if faults else "")


def stored(row: Row) -> StoredSample:
    """A captured row as the reader gives it."""
    cells = {name: getattr(row, name) for name in ("topk_ids", "topk_logits", "log_tail", "hidden", "attention")}
    return StoredSample(row.sample_id, row.task, row.input_ids, row.loss_start, row.n_positions, cells)


def _memory(teacher: Teacher, items: Sequence[Item], pair: shapes.Pair) -> Iterator[Figure]:
    longest = batches(items, pair.capture_batch)[0]
    lengths = tuple(
        memory.Length(
            item.sample.sample_id, item.sample.task, item.split, item.n_tokens, item.n_positions, item.n_attention, 1
        )
        for item in longest
    )
    with TemporaryDirectory() as folder:
        pair.teacher.save_pretrained(Path(folder) / "teacher")
        settings = shapes.settings(Path(folder), pair)
        config = pair.teacher
        known = memory.Teacher(config.vocab_size, config.hidden_size, config.num_attention_heads, teacher.model.dtype)
        workload: Any = SimpleNamespace(lengths=lengths)
        plan = memory.total(memory.capture_peak(settings, workload, known))
    if teacher.device.type != "cuda":
        note = "a CPU does not count the bytes of its tensors"
        yield Figure(MEMORY, None, note=note, details={"plan_bytes": plan})
        return
    peak = peak_bytes(lambda: capture_batch(teacher, longest, {}), teacher.device)
    yield Figure(MEMORY, peak / plan, details={"peak_bytes": peak, "plan_bytes": plan})
