"""Times, memory and rates on whatever device there is, and the rows they become."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from suite.measuring import Ratio, Times, ratio, side_by_side

MOST_ROUNDS, FEWEST_ROUNDS = 7, 2
# Dense bfloat16 and float16 products per second by the makers' data sheets (SXM), by a word of the device's name
DATA_SHEET = {"H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Figure:
    """One row: `value` between `low` and `high` over the rounds; None with the reason in `note`."""

    name: str
    value: float | None
    unit: str = "ratio"
    low: float | None = None
    high: float | None = None
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, found: Ratio, note: str = "", **details: Any) -> Figure:
        return cls(name, found.value, "ratio", found.low, found.high, note, details)


def guarded(names: Sequence[str], work: Callable[[], Iterator[Figure]]) -> Iterator[Figure]:
    """The figures of `work`; where it fails, those of `names` that it did not come to say why."""
    done = set()
    try:
        for figure in work():
            done.add(figure.name)
            yield figure
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}" if str(error) else repr(error)
        yield from (Figure(name, None, note=reason) for name in names if name not in done)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def synchronised(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The same work, over only when the device has done it."""

    def whole() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return whole


def in_turns(works: Mapping[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, Times]:
    """Times of each work, in turns, after two rounds that warm up as many as fit into `seconds`."""
    contestants = {name: synchronised(work, device) for name, work in works.items()}
    began = time.perf_counter()
    for _ in range(2):  # the first one compiles, loads kernels and takes memory; the second is a round's length
        started = time.perf_counter()
        for work in contestants.values():
            work()
    once = time.perf_counter() - started
    left = seconds - (time.perf_counter() - began)
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(left / once)))
    return side_by_side(contestants, rounds=rounds, warm_ups=0)


def speed_ratio(ours: Times, theirs: Times) -> Ratio:
    """Work per second, ours over theirs: times the other way round."""
    return ratio(theirs, ours)


def median_seconds(times: Times) -> float:
    return statistics.median(times.wall)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors on the device while `work` runs, those already there among them."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


@cache
def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of one large matrix product: what can be reached on this device."""
    size, repeat = (8_192, 20) if device.type == "cuda" else (128, 2)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    work = synchronised(lambda: [left @ right for _ in range(repeat)], device)
    found = in_turns({"product": work}, device, seconds=1.0)["product"]
    return 2 * size**3 * repeat / min(found.wall)


def utilisation(operations: float, seconds: float, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Model operations per second over what a product reaches here, and over the data sheet where that is known."""
    rate = operations / seconds
    found = {"operations_per_second": rate, "of_a_product_here": rate / product_rate(device, dtype)}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    sheet = next((value for word, value in DATA_SHEET.items() if word in name), None)
    return found | ({"of_the_data_sheet": rate / sheet} if sheet else {})
