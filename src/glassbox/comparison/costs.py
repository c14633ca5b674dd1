"""What each group's signals cost: bytes of the snapshot that it reads, seconds of a step, memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from glassbox.tracking.manifest import TrialRecord

# component -> what a trial reads of the snapshot for it, as named in the gate's `signal_bytes`
READ_FOR = {"hidden": ("hidden", "channels"), "attention": ("attention",)}
READ_FOR_LOGITS = {"dense": ("hidden", "head"), "topk": ("topk",)}


def group_cost(
    components: Collection[str],
    trials: Sequence[TrialRecord],
    signal_bytes: Mapping[str, int] | None,
    logits_target: str,
) -> dict[str, Any]:
    """Signals, their bytes, and medians over the finished trials; None where the trials or the gate did not say.

    Seconds include the evaluations on the validation split.
    """
    parts = _parts(components, logits_target)
    finished = [trial for trial in trials if trial.finished]
    known = signal_bytes is not None and all(part in signal_bytes for part in parts)
    return {
        "signals": [component for component in components if component != "task"],
        "snapshot_bytes": sum(signal_bytes[part] for part in parts) if signal_bytes is not None and known else None,
        "step_seconds": _median([t.seconds / t.steps for t in finished if t.seconds is not None and t.steps]),
        "train_seconds": _median([trial.seconds for trial in finished]),
        "peak_memory_bytes": _median([trial.peak_memory_bytes for trial in finished]),
    }


def _parts(components: Collection[str], logits_target: str) -> list[str]:
    """Each part once: hidden states that serve two components are stored and read once."""
    parts = [part for component in components for part in READ_FOR.get(component, ())]
    parts += READ_FOR_LOGITS[logits_target] if "logits" in components else ()
    return sorted(set(parts))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
