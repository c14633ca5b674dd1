"""Row 3: how long a step waits for its data, how fast the snapshot is read, and what random order costs."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch

from glassbox.snapshot import reader, storage
from glassbox.snapshot.batch import pack
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.snapshot.schema import SIGNAL_COLUMNS
from glassbox.snapshot.sizes import signal_bytes
from glassbox.training.schedule import make_schedule
from suite import shapes
from suite.embedded import embedded
from suite.measuring import Ratio, ratio, side_by_side
from suite.paper_snapshot import LAYOUT, write_snapshot
from suite.row import Row
from suite.step import OurStep
from suite.training import TrainingStep, prepared

STEPS = 48
PAPER_STEPS = 7
LONG = {"gsm8k": 48}
MIXTURE = {"sst2": 500, "mmlu": 100, "gsm8k": 100}
SCALE = 10  # the user's 5,000, 1,000 and 1,000 samples over those of MIXTURE
BATCH = 8
ALL = frozenset(SIGNAL_COLUMNS)
COLUMNS = [column for columns in SIGNAL_COLUMNS.values() for column in columns]
CELLS = f"hidden {LAYOUT.width} float16, {LAYOUT.heads} heads sqrt_uint8 with zstd, k = {LAYOUT.top_k}"


def measure() -> list[Row]:
    """One torch thread, as the embedded study has, but for steps at paper proportions, which take those of row 2."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_waiting_embedded(), *_speed(), _random_order()]
    finally:
        torch.set_num_threads(threads)
    return [*rows, _waiting_paper()]


def _waiting_embedded() -> Row:
    with embedded() as made:
        settings, snapshot = made.settings, made.snapshot
        student, objective = prepared(settings, snapshot, "combined")
        train = settings.train.model_copy(update={"epochs": 3, "max_steps": STEPS})
        plan = make_schedule({each.sample_id: each.n_tokens for each in snapshot.samples("train")}, train, 0)
        step = TrainingStep(student, objective, settings)
        shares, first = _shares(step, snapshot, plan.steps, objective.signals)
        described = f"embedded, combined, {len(plan.steps)} steps of 8 in micro-batches of 4, 1 thread"
    return _waiting_row("embedded", described, shares, first)


def _waiting_paper() -> Row:
    with TemporaryDirectory(prefix="glassbox-") as name:
        folder = Path(name) / "snapshot"
        counts = {
            "sst2": PAPER_STEPS * BATCH * 5 // 7,
            "mmlu": PAPER_STEPS * BATCH // 7,
            "gsm8k": PAPER_STEPS * BATCH // 7,
        }
        write_snapshot(folder, counts, shapes.FORMAT)
        snapshot = Snapshot(folder)
        step = OurStep("combined")
        plan = make_schedule(
            {each.sample_id: each.n_tokens for each in snapshot.samples("train")}, step.settings.train, 0
        )
        shares, first = _shares(step, snapshot, plan.steps, step.objective.signals)
        threads = torch.get_num_threads()
        described = f"{shapes.DESCRIPTION}, combined, {len(plan.steps)} steps of the mixture, {threads} threads"
    return _waiting_row("paper proportions", described, shares, first)


def _waiting_row(name: str, described: str, shares: Sequence[float], first: Sequence[float]) -> Row:
    return Row(
        "3",
        f"waiting for data / wall time of steps, {name}",
        described,
        statistics.median(shares),
        0.01,
        min(shares),
        max(shares),
        limit="0",
        note=f"Time inside next() from the second micro-batch on; the first, which nothing is read ahead of, takes "
        f"{statistics.median(first) * 1e3:.1f} ms once a trial.",
        details={"shares": list(shares), "first_seconds": list(first)},
    )


def _shares(
    step: TrainingStep,
    snapshot: Snapshot,
    steps: Sequence[Sequence[Sequence[str]]],
    signals: frozenset[str],
    rounds: int = 3,
) -> tuple[list[float], list[float]]:
    """The share of wall time spent in next(), and the seconds of the first one, for each way through the steps."""
    shares, first = [], []
    step([snapshot.read(ids, signals) for ids in steps[0]])
    for _ in range(rounds):
        snapshot = Snapshot(snapshot.folder)
        waited: list[float] = []
        batches = _timed(snapshot.batches([ids for turn in steps for ids in turn], signals), waited)
        started = time.perf_counter()
        for turn in steps:
            step(list(itertools.islice(batches, len(turn))))
        elapsed = time.perf_counter() - started
        next(batches, None)  # ends the thread
        waited = waited[: sum(map(len, steps))]
        first.append(waited[0])
        shares.append(sum(waited[1:]) / (elapsed - waited[0]))
    return shares, first


def _timed(batches: Iterator[Batch], waited: list[float]) -> Iterator[Batch]:
    """The same batches; `waited` gets the seconds inside each next()."""
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        waited.append(time.perf_counter() - started)
        if batch is None:
            return
        yield batch


def _speed() -> list[Row]:
    with TemporaryDirectory(prefix="glassbox-") as name:
        folder = Path(name) / "snapshot"
        write_snapshot(folder, LONG)
        opened = Snapshot(folder)
        ids = [each.sample_id for each in opened.samples("train")]
        lengths = [each.n_positions_answer for each in opened.samples("train")]
        plan = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
        sizes = signal_bytes(folder, opened.manifest)
        stored = sum(sizes[signal] for signal in SIGNAL_COLUMNS)
        cells = sum(len(cell) for ids in plan for each in opened.stored(ids, COLUMNS) for cell in each.cells.values())
        source = np.random.default_rng(0).integers(0, 256, stored, dtype=np.uint8)
        target = source.copy()

        def read() -> None:
            snapshot = Snapshot(folder)
            for sample_ids in plan:
                snapshot.read(sample_ids, ALL)

        def packed() -> None:
            snapshot = Snapshot(folder)
            for sample_ids in plan:
                pack(snapshot.stored(sample_ids, COLUMNS), snapshot.format)

        def first() -> None:
            with patch.object(storage.CheckedOnce, "_found_whole", {}):
                packed()

        times = side_by_side(
            {
                "reused": lambda: np.copyto(target, source),
                "fresh": lambda: source.copy(),
                "read": read,
                "packed": packed,
                "first": first,
            }
        )
    positions = f"{min(lengths)} to {max(lengths)} answer positions"
    shown = f"{len(ids)} samples of {positions} in batches of {BATCH}, {CELLS}; {stored / 1e6:.0f} MB"
    details = {
        "gigabytes_per_second": {name: stored / statistics.median(t.wall) / 1e9 for name, t in times.items()},
        "bytes_on_disk": stored,
        "bytes_of_cells": cells,
    }
    notes = {
        "packed": "Page cache warm, our cache cold, one thread, opening included. Zstd on attention maps alone takes "
        "four times a copy of all.",
        "read": "Float32 rows padded to the batch are many times the stored bytes; on a GPU they are made there.",
        "first": "Every page is checked when a process first reads it: the first epoch of its first trial.",
    }
    names = {
        "packed": "decode excluded, pages that the process has checked before",
        "read": "decode included, pages that the process has checked before",
        "first": "decode excluded, first pass of a process",
    }
    goals = {"packed": 0.3, "read": 0.5, "first": None}
    return [
        Row.of(
            "3",
            f"loader bytes/s over {copy}, {names[way]}",
            shown,
            _speed_ratio(ratio(times[way], times[against])),
            goals[way],
            at_least=True,
            limit="1",
            note=notes[way],
            details=details,
        )
        for way in ("packed", "read", "first")
        for against, copy in (("reused", "numpy copy into a reused buffer"), ("fresh", "numpy copy into a fresh one"))
    ]


def _speed_ratio(of_times: Ratio) -> Ratio:
    """Speeds are to each other as times the other way round."""
    return Ratio(1 / of_times.value, 1 / of_times.high, 1 / of_times.low, 1 / of_times.cpu)


def _random_order() -> Row:
    """Every sample once, in random batches and in the order of the files, with a cache scaled like the data."""
    with TemporaryDirectory(prefix="glassbox-") as name:
        folder = Path(name) / "snapshot"
        write_snapshot(folder, MIXTURE)
        ids = [each.sample_id for each in Snapshot(folder).samples("train")]
        drawn = random.Random(0).sample(ids, len(ids))

        def epoch(order: Sequence[str]) -> None:
            snapshot = Snapshot(folder)
            for start in range(0, len(order), BATCH):
                pack(snapshot.stored(order[start : start + BATCH], COLUMNS), snapshot.format)

        with patch.object(reader, "CACHED_BYTES", reader.CACHED_BYTES // SCALE):
            times = side_by_side({"random": lambda: epoch(drawn), "sequential": lambda: epoch(ids)})
    return Row.of(
        "3",
        "random batches of 8 / sequential ones",
        f"the user's mixture / {SCALE} (500 SST-2 and 100 MMLU with 2 answer positions, 100 GSM8K with about 129), "
        f"{CELLS}; the cache is 1/{SCALE} of its own size, too, and cold",
        ratio(times["random"], times["sequential"]),
        1.3,
        limit="1",
        note="One epoch of the same samples either way, packed and undecoded.",
    )
