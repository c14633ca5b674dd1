"""What each group's signals cost: bytes of the snapshot that it reads, seconds of a step, memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.contrasts import Contrast
from glassbox.comparison.inference.observation import observe
from glassbox.comparison.statistics.estimates import t_interval
from glassbox.config.components import COMPONENTS
from glassbox.tracking.manifest import TrialRecord

MOST_SPREAD = 1.5  # of one group's slowest trial over its quickest
SURELY = 1.05  # by how much a group that does less must be slower before its times are not believed


def group_cost(
    components: Collection[str],
    trials: Sequence[TrialRecord],
    signal_bytes: Mapping[str, int] | None,
    logits_target: str,
) -> dict[str, Any]:
    """Signals, their bytes, and medians over the finished trials; None where the trials or the gate did not say.

    Seconds include the evaluations on the validation split. step_seconds_range: the quickest and the slowest trial's.
    """
    parts = _parts(components, logits_target)
    finished = [trial for trial in trials if trial.finished]
    known = signal_bytes is not None and all(part in signal_bytes for part in parts)
    steps = [trial.seconds / trial.steps for trial in finished if trial.seconds is not None and trial.steps]
    return {
        "signals": [component for component in components if component != "task"],
        "snapshot_bytes": sum(signal_bytes[part] for part in parts) if signal_bytes is not None and known else None,
        "step_seconds": _median(steps),
        "step_seconds_range": [min(steps), max(steps)] if steps else None,
        "train_seconds": _median([trial.seconds for trial in finished]),
        "peak_memory_bytes": _median([trial.peak_memory_bytes for trial in finished]),
    }


def unequal_load(costs: Sequence[Mapping[str, Any]]) -> str | None:
    """Why step times cannot be compared, where they contradict what groups do; None where they do not.

    A group that does all that another does, and more, cannot be quicker in every trial; nor can trials of one group
    take half as long again as others, where nothing but the seed differs.
    """
    timed = [row for row in costs if row["step_seconds_range"]]
    for row in timed:
        low, high = row["step_seconds_range"]
        if high > MOST_SPREAD * low:
            return _unequal(f"trials of {row['group']} took {1000 * low:.0f} to {1000 * high:.0f} ms a step")
    for more in timed:
        for less in timed:
            if set(more["signals"]) > set(less["signals"]) and more["step_seconds_range"][1] < (
                less["step_seconds_range"][0] / SURELY
            ):
                return _unequal(
                    f"{less['group']} took {1000 * less['step_seconds']:.0f} ms a step and {more['group']}, which does "
                    f"all of that and more, {1000 * more['step_seconds']:.0f} ms"
                )
    return None


def _unequal(what: str) -> str:
    return f"Step times are not compared: {what}, so they were measured under different load."


def gain_intervals(evidence: Evidence, group: str, control: str, confidence: float) -> dict[str, list[float] | None]:
    """Task -> the t interval of the group's gain over the control on each of its seeds; None where there is none."""
    found: dict[str, list[float] | None] = {}
    for task in evidence.tasks:
        weights = {group: 1.0, control: -1.0}
        gain = Contrast(group, group, "", "", weights, {task: 1.0}, "descriptive", "points", "", None)
        observation = observe(gain, evidence) if group != control else None
        if observation is None or observation.absent:
            found[task] = None
            continue
        limits = [float(limit) for limit in t_interval(observation.estimate(paired=evidence.paired), confidence)]
        found[task] = limits if all(map(math.isfinite, limits)) else None
    return found


def _parts(components: Collection[str], logits_target: str) -> list[str]:
    """By the names of the gate's `signal_bytes`, each once: states that serve two components are read once."""
    return sorted(
        {part for component in components for part in COMPONENTS[component].parts(logits_target) if part != "negatives"}
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
