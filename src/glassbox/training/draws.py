"""What a seed draws beside the order: which samples of the pool a trial trains on, and which of them have labels.

Ranks are drawn by task, so that every task has its share, and the labels of a small share are among those of a larger
one. All groups of a seed see the same draw.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from glassbox.randomness import derived_seed


@dataclass(frozen=True)
class Draw:
    """A seed's samples by task, each task in the order of its label rank, and those that have labels."""

    ranked: Mapping[str, tuple[str, ...]]
    labelled: frozenset[str]

    @property
    def samples(self) -> list[str]:
        return [sample_id for ranked in self.ranked.values() for sample_id in ranked]

    @property
    def all_labelled(self) -> bool:
        return len(self.labelled) == len(self.samples)

    def digest(self) -> str:
        """sha256 in hex over every task's samples in the order of their label rank; the share does not count."""
        lines = "\x1e".join(f"{task}\x1f" + "\x1f".join(ranked) for task, ranked in sorted(self.ranked.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def draw(tasks: Mapping[str, str], count: int | None, share: float, seed: int) -> Draw:
    """`tasks` is the task of every sample of the pool; `count` of each are drawn (None: all), `share` of them labelled.

    At least one sample of every task has a label.
    """
    by_task: dict[str, list[str]] = defaultdict(list)
    for sample_id in sorted(tasks):
        by_task[tasks[sample_id]].append(sample_id)
    ranked, labelled = {}, set()
    for task, members in by_task.items():
        chosen = sorted(_shuffled(members, seed, f"samples/{task}")[:count]) if count is not None else members
        ranked[task] = tuple(_shuffled(chosen, seed, f"labels/{task}"))
        labelled |= set(ranked[task][: max(1, round(share * len(chosen)))])
    return Draw(ranked, frozenset(labelled))


def _shuffled(sample_ids: list[str], seed: int, purpose: str) -> list[str]:
    generator = np.random.Generator(np.random.PCG64(derived_seed(seed, purpose)))
    return [sample_ids[index] for index in generator.permutation(len(sample_ids))]
