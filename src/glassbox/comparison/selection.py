"""Which trials a comparison is made of: the grid's manifests, and planned groups that only MLflow still has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glassbox import tracking
from glassbox.config.settings import Group, Settings
from glassbox.errors import GlassboxError, IncomparableRunsError
from glassbox.tracking.manifest import TrialRecord, outcome_of, read_manifest, trial_of_record

ENDED = {"finished": "FINISHED", "diverged": "FAILED"}
KeyOf = Callable[[Settings, str, int, str, str], str]


@dataclass(frozen=True)
class Selection:
    """groups: those of the grid and those found in the store, in the plan's order, unplanned ones last.

    store_cells: cells of the grid without a manifest that the store has finished or diverged, as "group/seed". missing:
    those that it has not, with what it knows of their runs. gaps: cells of
    groups from the store that it does not hold. out_of_date: trials whose key is not that of the present settings.
    cut_off: manifests whose run MLflow does not show as ended as they say. logged: run id -> final metrics in MLflow.
    attempts: cell -> what became of every run of its key in the store, in the order of ids, where there are several.
    earlier_plans: cells of which the store holds runs that began under other plans -> the digests of those plans.
    """

    groups: tuple[str, ...]
    store_groups: tuple[str, ...]
    store_cells: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: tuple[TrialRecord, ...]
    missing: Mapping[str, str]
    gaps: tuple[str, ...]
    absent_groups: tuple[str, ...]
    ignored_files: tuple[str, ...]
    lost_runs: tuple[str, ...]
    out_of_date: tuple[str, ...]
    cut_off: Mapping[str, str]
    attempts: Mapping[str, tuple[str, ...]]
    earlier_plans: Mapping[str, tuple[str, ...]]
    logged: Mapping[str, Mapping[str, float]] = field(repr=False)

    def of(self, group: str) -> tuple[TrialRecord, ...]:
        return tuple(trial for trial in self.trials if trial.group == group)


@dataclass(frozen=True)
class _Keys:
    """The key of any cell, among trials that read the same snapshot and tasks as a known one."""

    settings: Settings
    planned: Mapping[str, Group]
    key_of: KeyOf
    snapshot: str
    tasks: str

    def of(self, group: str, seed: int) -> str:
        weights = self.settings.distill.get(group, self.planned.get(group))
        assert weights is not None
        settings = self.settings.model_copy(update={"distill": {**self.settings.distill, group: weights}})
        return self.key_of(settings, group, seed, self.snapshot, self.tasks)


def select_trials(
    settings: Settings,
    planned: Mapping[str, Group],
    runs: Path,
    key_of: KeyOf,
    use: Mapping[str, str] | None = None,
) -> Selection:
    """Read the manifests of `groups` x `seeds`, ask MLflow for exactly their runs, look up other planned groups.

    planned: every planned group's weights. key_of(settings, group, seed, snapshot digest, tasks digest) gives a
    trial's key. use: "group/seed" -> run id, for cells of which the store holds differing runs.
    Raises IncomparableRunsError for those that `use` leaves open, and GlassboxError for a `use` without an effect.
    """
    use = dict(use or {})
    paths = {(group, seed): runs / group / f"{seed}.json" for group in settings.groups for seed in settings.seeds}
    trials = [_manifest(path, *cell) for cell, path in paths.items() if path.is_file()]
    known = _runs_by_key(trials)
    trials = [_chosen(trial, known[trial.key], use) for trial in trials]
    keys = _keys(settings, planned, key_of, trials)
    records = {record.original_id: record for record in tracking.find_runs(trial.run_id for trial in trials)}
    present = tuple(trials)
    absent = [cell for cell, path in paths.items() if not path.is_file()]
    stored = _find_trials(absent, keys, use)
    found: dict[str, list[TrialRecord]] = {}
    for group in planned:
        if group not in settings.groups and keys is not None:
            found[group] = _find_trials([(group, seed) for seed in settings.seeds], keys, use)
    store_groups = tuple(group for group, of in found.items() if of)
    trials += [*stored, *(trial for of in found.values() for trial in of)]
    known = _runs_by_key(trials)
    _refuse_unused(use, trials)
    held = {trial.name for trial in trials}
    return Selection(
        groups=_in_order(planned, (*settings.groups, *store_groups)),
        store_groups=store_groups,
        store_cells=tuple(trial.name for trial in stored),
        seeds=settings.seeds,
        trials=tuple(trials),
        missing={
            f"{group}/{seed}": _known_of(keys, group, seed) for group, seed in absent if f"{group}/{seed}" not in held
        },
        gaps=tuple(
            f"{group}/{seed}" for group in store_groups for seed in settings.seeds if f"{group}/{seed}" not in held
        ),
        absent_groups=tuple(group for group in planned if group not in (*settings.groups, *store_groups)),
        ignored_files=_other_files(runs, set(paths.values())),
        lost_runs=tuple(trial.name for trial in present if trial.run_id not in records),
        out_of_date=tuple(
            trial.name for trial in present if keys is not None and trial.key != keys.of(trial.group, trial.seed)
        ),
        cut_off={
            trial.name: records[trial.run_id].status
            for trial in present
            if trial.run_id in records and records[trial.run_id].status != ENDED[trial.status]
        },
        attempts={
            trial.name: tuple(outcome_of(record) or record.status for record in known[trial.key])
            for trial in trials
            if len(known[trial.key]) > 1
        },
        earlier_plans=_earlier_plans(trials, known),
        logged={run_id: record.metrics for run_id, record in records.items()},
    )


def _manifest(path: Path, group: str, seed: int) -> TrialRecord:
    """The manifest at a cell's place. Raises IncomparableRunsError where it is another cell's."""
    trial = read_manifest(path)
    if (trial.group, trial.seed) != (group, seed):
        raise IncomparableRunsError(
            f"{path} is the manifest of {trial.name}, not of {group}/{seed}: it was copied or moved, and nothing is "
            f"compared. Delete it and run `dvc repro`, which trains {group}/{seed} or takes it from its cache."
        )
    return trial


def _runs_by_key(trials: Iterable[TrialRecord]) -> dict[str, list[tracking.RunRecord]]:
    """Key -> every run of it that the store holds, of all these trials; asked for study by study."""
    trials = list(trials)
    known: dict[str, list[tracking.RunRecord]] = {trial.key: [] for trial in trials}
    for study in sorted({trial.study_key for trial in trials}):
        for record in tracking.find_by_key(study, tag="study_key"):
            if record.tags.get("key") in known:
                known[record.tags["key"]].append(record)
    return known


def _chosen(trial: TrialRecord, runs: Sequence[tracking.RunRecord], use: Mapping[str, str]) -> TrialRecord:
    """The manifest's trial, or the run that `use` names. Raises IncomparableRunsError where results leave a choice."""
    others = [record for record in runs if outcome_of(record) == "finished" and record.original_id != trial.run_id]
    named = use.get(trial.name)
    if named == trial.run_id:
        return trial
    for record in others:
        if named == record.run_id:
            return trial_of_record(record, trial.group, trial.seed)
    differing = [record.run_id for record in others if trial.finished and _differs(trial, record)]
    if differing:
        ids = ", ".join(differing)
        raise IncomparableRunsError(
            f"runs/{trial.name}.json names run {trial.run_id}, and the MLflow store holds finished runs of the same "
            f"key with other results: {ids}. Choose with `python src/compare.py --use {trial.name}=<run id>`, or "
            "delete the wrong one."
        )
    return trial


def _differs(trial: TrialRecord, record: tracking.RunRecord) -> bool:
    recorded = {name: record.tags.get(f"{name}_digest") for name in ("final_student", "items")}
    return any(digest and trial.digests[name] and digest != trial.digests[name] for name, digest in recorded.items())


def _earlier_plans(
    trials: Iterable[TrialRecord], known: Mapping[str, Sequence[tracking.RunRecord]]
) -> dict[str, tuple[str, ...]]:
    """Cell -> digests of plans, not its trial's own, under which the store holds a run of the same key."""
    plans = {
        trial.name: tuple(sorted({record.tags.get("plan", "") for record in known[trial.key]} - {"", trial.plan}))
        for trial in trials
    }
    return {name: digests for name, digests in plans.items() if digests}


def _keys(
    settings: Settings, planned: Mapping[str, Group], key_of: KeyOf, trials: Sequence[TrialRecord]
) -> _Keys | None:
    """Keys among the trials of the first manifest's snapshot and tasks; None where there is no manifest."""
    if not trials:
        return None
    digests = trials[0].digests
    return _Keys(settings, planned, key_of, str(digests["snapshot"]), str(digests["tasks"]))


def _in_order(planned: Iterable[str], groups: tuple[str, ...]) -> tuple[str, ...]:
    known = list(planned)
    return (*(group for group in known if group in groups), *(group for group in groups if group not in known))


def _other_files(runs: Path, selected: set[Path]) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(runs).as_posix() for path in {*runs.glob("*/*.json")} - selected))


def _known_of(keys: _Keys | None, group: str, seed: int) -> str:
    """What MLflow knows of a cell without a trial: its runs, none of which came to an outcome, and their status."""
    if keys is None:
        return ""
    records = tracking.find_by_key(keys.of(group, seed))
    return ", ".join(f"run {record.run_id[:8]} {record.status}" for record in records)


def _find_trials(cells: Iterable[tuple[str, int]], keys: _Keys | None, use: Mapping[str, str]) -> list[TrialRecord]:
    """What the store has of these cells; nothing where no manifest says which snapshot and tasks are meant."""
    if keys is None:
        return []
    found = (_find_trial(keys.of(group, seed), group, seed, use) for group, seed in cells)
    return [trial for trial in found if trial is not None]


def _find_trial(key: str, group: str, seed: int, use: Mapping[str, str]) -> TrialRecord | None:
    """The store's finished or diverged trial of this key; never the latest or the best of several that differ."""
    records = [record for record in tracking.find_by_key(key) if outcome_of(record)]
    chosen = use.get(f"{group}/{seed}")
    trials = [trial_of_record(record, group, seed) for record in records if chosen in (None, record.run_id)]
    finished = [trial for trial in trials if trial.finished] or trials
    results = {(trial.digests["final_student"], trial.digests["items"]) for trial in finished}
    if len(results) > 1:
        ids = ", ".join(trial.run_id for trial in finished)
        raise IncomparableRunsError(
            f"The MLflow store holds finished runs of {group}/{seed} with one key and different results: {ids}. "
            f"Choose with `python src/compare.py --use {group}/{seed}=<run id>`, or delete the wrong one."
        )
    return finished[0] if finished else None


def _refuse_unused(use: Mapping[str, str], trials: Sequence[TrialRecord]) -> None:
    for cell, run_id in use.items():
        if not any(trial.name == cell and trial.run_id == run_id for trial in trials):
            named = next((trial for trial in trials if trial.name == cell and trial.source == "manifest"), None)
            why = (
                f"runs/{cell}.json names {named.run_id}, and a cell of the grid is always its manifest's run"
                if named
                else "MLflow holds no finished or diverged run of that id under the key of this cell"
            )
            raise GlassboxError(f"--use {cell}={run_id} has no effect: {why}. Omit it, or name another run.")
