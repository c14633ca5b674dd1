"""Evidence made up for the tests of the statistics: right answers of every group, seed and question, drawn anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glassbox.comparison.evidence import Evidence, Items
from glassbox.comparison.plan import Plan, read_plan

GROUPS = ("sft", "black_box", "hidden_state", "attention", "combined")
TASKS = ("sst2", "mmlu", "gsm8k")
CONF = Path(__file__).parents[1] / "conf"


def plan(scale: str = "embedded") -> Plan:
    return read_plan(CONF, scale)


def evidence(
    gains: dict[tuple[str, str], float] | None = None,
    *,
    levels: tuple[float, float, float] = (0.9, 0.55, 0.5),
    seeds: int = 7,
    questions: int = 400,
    noise: float = 0.01,
    clusters: int | None = None,
    number: int = 0,
) -> Evidence:
    """gains: (group, task) -> what is added to the task's level. noise: the deviation of a seed's own level.

    A share of the questions is right for every trial alike, so that groups of one seed go together.
    """
    generator = np.random.default_rng(number)
    items, scores = {}, np.empty((len(GROUPS), len(TASKS), seeds))
    for t, task in enumerate(TASKS):
        added = np.asarray([(gains or {}).get((group, task), 0.0) for group in GROUPS])
        shared, own = generator.normal(0, noise, seeds), generator.normal(0, noise / 2, (len(GROUPS), seeds))
        level = np.clip(levels[t] + added[:, None] + shared + own, 0.0, 1.0)
        difficulty = generator.permutation((np.arange(questions) + 0.5) / questions)
        jitter = generator.normal(0, 0.02, (len(GROUPS), seeds, questions))
        correct = ((difficulty + jitter) < level[:, :, None]).astype(np.float64)
        number_of = np.arange(questions) % clusters if clusters and task == "mmlu" else None
        items[task] = Items(tuple(f"{task}/{i}" for i in range(questions)), correct, number_of)
        scores[:, t] = correct.mean(axis=-1)
    return Evidence(
        groups=GROUPS,
        tasks=TASKS,
        seeds=tuple(range(seeds)),
        scores=scores,
        diverged=np.zeros((len(GROUPS), seeds), dtype=bool),
        paired=True,
        items=items,
        teacher={"sst2": 0.99, "mmlu": 0.93, "gsm8k": 0.81},
        start={"sst2": 0.5, "mmlu": 0.25, "gsm8k": 0.0},
    )


def everyone_gains(white: float = 0.06) -> dict[tuple[str, str], float]:
    """The hypothesis as it would like to be true: alike on sst2, white-box groups better on mmlu and gsm8k."""
    return {(group, task): white for group in GROUPS[2:] for task in ("mmlu", "gsm8k")}
