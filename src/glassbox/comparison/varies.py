"""What differs from seed to seed, and what does not: the draws that a study's intervals speak of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glassbox.tracking.manifest import TrialRecord


def variation(trials: Sequence[TrialRecord]) -> list[str]:
    """Sentences about a study's trials; none where they did not record it."""
    known = [trial for trial in trials if trial.varies]
    if not known:
        return []
    first: Mapping[str, Any] = known[0].varies or {}
    changing = ["the order of the samples"]
    if projected := _groups(trial for trial in known if _of(trial)["projector"]):
        changing.append(f"the projector of {projected}")
    few = sorted({_of(trial)["labelled"] for trial in known if _of(trial)["labelled"] < 1})
    if few:
        shares = ", ".join(f"{100 * share:g} %" for share in few)
        changing.append(f"which samples have labels ({shares} of each task, a smaller share within a larger one)")
    fixed = []
    pool, drawn = first["pool"], first["drawn"]
    if pool == drawn:
        fixed.append(f"the training samples ({_counts(pool)})")
    else:
        overlap = ", ".join(f"{task} {100 * drawn[task] / pool[task]:.0f} %" for task in pool)
        changing.append(
            f"the training samples, {_counts(drawn)} drawn from a pool of {_counts(pool)}: two seeds are expected to "
            f"share {overlap} of theirs, and nothing is claimed of samples outside the pool"
        )
    if first["dropout"]:
        changing.append(f"dropout ({first['dropout']:g})")
    else:
        fixed.append("dropout (the student has none)")
    (changing if first["random_student"] else fixed).append("the student's initial weights")
    found = [f"From seed to seed these vary: {'; '.join(changing)}. These do not: {'; '.join(fixed)}."]
    machines = sorted({trial.machine for trial in known if trial.machine})
    if len(machines) > 1:
        found.append(f"Trials ran on different machines ({'; '.join(machines)}), whose last bits differ.")
    return found


def _of(trial: TrialRecord) -> Mapping[str, Any]:
    return trial.varies or {}


def _groups(trials: Iterable[TrialRecord]) -> str:
    return ", ".join(dict.fromkeys(trial.group for trial in trials))


def _counts(by_task: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {task}" for task, count in by_task.items())
