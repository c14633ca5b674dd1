"""Which rows each part has, and what measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from suite.gpu import capturing, stepping
from suite.gpu.measuring import Figure

Part = tuple[Sequence[str], Callable[[], Iterator[Figure]]]


def parts_of(device: torch.device, seconds: float, missing: Sequence[str]) -> dict[str, Part]:
    """By the part's name; `missing` are packages that are stood in for."""
    return {
        "memory": (stepping.MEMORY, lambda: stepping.memory_of_groups(device, seconds)),
        "waiting": ((stepping.WAITING,), lambda: stepping.waiting(device, seconds, missing)),
        "step-fp16": (stepping.step_names("fp16"), lambda: stepping.measure("fp16", device, seconds)),
        "capture": (capturing.NAMES, lambda: capturing.measure(device, seconds, missing)),
        "step-bf16": (stepping.step_names("bf16"), lambda: stepping.measure("bf16", device, seconds)),
        "compile": (tuple(stepping.COMPILED.values()), lambda: stepping.compiled(device, seconds)),
    }
