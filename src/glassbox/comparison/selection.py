"""Which trials a comparison is made of: the grid's manifests, and planned groups that only MLflow still has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from glassbox import tracking
from glassbox.config import Group, Settings
from glassbox.errors import GlassboxError, IncomparableRunsError

SCHEMA = 1
DIGESTS = ("snapshot", "tasks", "data_order", "initial_student", "final_student", "items")
Source = Literal["manifest", "store"]
KeyOf = Callable[[Settings, str, int, str, str], str]


@dataclass(frozen=True)
class Trial:
    """One group with one seed. `metrics` are the final values; `digests` and `precision` are what it recorded."""

    group: str
    seed: int
    status: str
    source: Source
    key: str
    study_key: str
    run_id: str
    metrics: dict[str, float]
    objective: dict[str, str]
    digests: dict[str, str | None]
    precision: str
    seconds: float | None

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def name(self) -> str:
        return f"{self.group}/{self.seed}"


@dataclass(frozen=True)
class Selection:
    """groups: those of the grid and those found in the store, in the plan's order, unplanned ones last."""

    groups: tuple[str, ...]
    store_groups: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    missing: tuple[str, ...]
    absent_groups: tuple[str, ...]
    ignored_files: tuple[str, ...]
    lost_runs: tuple[str, ...]
    logged_metrics: Mapping[str, Mapping[str, float]] = field(repr=False)

    def of(self, group: str) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.group == group)


def select_trials(
    settings: Settings, planned: Mapping[str, Group], runs: Path, key_of: KeyOf, use: Mapping[str, str] | None = None
) -> Selection:
    """Read the manifests of `groups` x `seeds`, ask MLflow for exactly their runs, look up other planned groups.

    planned: every planned group's weights. key_of(settings, group, seed, snapshot digest, tasks digest) gives a
    trial's key. use: "group/seed" -> run id, for cells of which the store holds differing runs.
    Raises IncomparableRunsError for those that `use` leaves open.
    """
    cells = [(group, seed) for group in settings.groups for seed in settings.seeds]
    paths = {(group, seed): runs / group / f"{seed}.json" for group, seed in cells}
    trials = [read_manifest(path) for path in paths.values() if path.is_file()]
    missing = [f"{group}/{seed}" for (group, seed), path in paths.items() if not path.is_file()]
    records = {record.original_id: record for record in tracking.find_runs(trial.run_id for trial in trials)}
    store_groups, absent = [], []
    for group, weights in planned.items():
        if group not in settings.groups:
            extended = settings.model_copy(update={"distill": {**settings.distill, group: weights}})
            found = _find_group(extended, group, trials[:1], key_of, use or {})
            (store_groups if found else absent).append(group)
            trials.extend(found)
            held = {trial.seed for trial in found}
            missing.extend(f"{group}/{seed}" for seed in settings.seeds if found and seed not in held)
    return Selection(
        groups=_in_order(planned, (*settings.groups, *store_groups)),
        store_groups=tuple(store_groups),
        seeds=settings.seeds,
        trials=tuple(trials),
        missing=tuple(missing),
        absent_groups=tuple(absent),
        ignored_files=_other_files(runs, set(paths.values())),
        lost_runs=tuple(trial.name for trial in trials if trial.source == "manifest" and trial.run_id not in records),
        logged_metrics={run_id: record.metrics for run_id, record in records.items()},
    )


def _in_order(planned: Mapping[str, Group], groups: tuple[str, ...]) -> tuple[str, ...]:
    return (
        *(group for group in planned if group in groups),
        *(group for group in groups if group not in planned),
    )


def _other_files(runs: Path, selected: set[Path]) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(runs).as_posix() for path in {*runs.glob("*/*.json")} - selected))


def read_manifest(path: Path) -> Trial:
    """A trial from its manifest. Raises GlassboxError for a file that is not a manifest of this schema."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']}, this version reads {SCHEMA}")
        return Trial(
            group=content["group"],
            seed=content["seed"],
            status=content["status"],
            source="manifest",
            key=content["key"],
            study_key=content["study_key"],
            run_id=content["run_id"],
            metrics={key: _number(value) for key, value in content["metrics"].items()},
            objective=_objective(content["params"]),
            digests={name: content["digests"].get(name) for name in DIGESTS},
            precision=str(content["precision"]),
            seconds=content["seconds"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GlassboxError(
            f"{path} cannot be read as a trial's manifest ({type(error).__name__}: {error}): "
            "delete it and run `dvc repro`, which trains that trial again."
        ) from error


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _objective(params: Mapping[str, Any]) -> dict[str, str]:
    """The group's own weights among a trial's flat params, and what it shuffles."""
    return {key: str(value) for key, value in params.items() if key.startswith("weight_") or key == "shuffled"}


def _find_group(
    settings: Settings, group: str, known: Sequence[Trial], key_of: KeyOf, use: Mapping[str, str]
) -> list[Trial]:
    """The group's trials in the store that read the same snapshot and tasks as a known trial of this study."""
    found = []
    for trial in known:
        digests = str(trial.digests["snapshot"]), str(trial.digests["tasks"])
        keys = {seed: key_of(settings, group, seed, *digests) for seed in settings.seeds}
        found += [_find_trial(key, group, seed, use) for seed, key in keys.items()]
    return [trial for trial in found if trial is not None]


def _find_trial(key: str, group: str, seed: int, use: Mapping[str, str]) -> Trial | None:
    """The store's finished or diverged trial of this key; never the latest or the best of several that differ."""
    trials = [_from_record(record, group, seed) for record in tracking.find_by_key(key) if _status(record)]
    chosen = use.get(f"{group}/{seed}")
    trials = [trial for trial in trials if chosen in (None, trial.run_id)]
    finished = [trial for trial in trials if trial.finished] or trials
    results = {(trial.digests["final_student"], trial.digests["items"]) for trial in finished}
    if len(results) > 1:
        ids = ", ".join(trial.run_id for trial in finished)
        raise IncomparableRunsError(
            f"The MLflow store holds finished runs of {group}/{seed} with one key and different results: {ids}. "
            f"Choose with `python src/compare.py --use {group}/{seed}=<run id>`, or delete the wrong one."
        )
    return finished[0] if finished else None


def _status(record: tracking.RunRecord) -> str | None:
    if record.tags.get("outcome") == "diverged":
        return "diverged"
    return "finished" if record.status == "FINISHED" else None


def _from_record(record: tracking.RunRecord, group: str, seed: int) -> Trial:
    return Trial(
        group=group,
        seed=seed,
        status=_status(record) or record.status,
        source="store",
        key=record.tags["key"],
        study_key=record.tags.get("study_key", ""),
        run_id=record.run_id,
        metrics=record.metrics,
        objective=_objective(record.params),
        digests={name: record.tags.get(f"{name}_digest") for name in DIGESTS},
        precision=record.tags.get("precision", "unknown"),
        seconds=record.metrics.get("seconds"),
    )
