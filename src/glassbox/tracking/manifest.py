"""One trial as the comparison sees it, from its manifest under runs/ or from its run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glassbox import tracking
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.files import parse_json, sha256_of
from glassbox.tracking.key import sections_of

SCHEMA = 1
DIGESTS = ("snapshot", "tasks", "answers", "label_rank", "data_order", "initial_student", "final_student", "items")
OBJECTIVE = ("shuffled", "experts", "labelled", "positions", "replica")
Source = Literal["manifest", "store"]


@dataclass(frozen=True)
class TrialRecord:
    """One group with one seed. `metrics` are the final values; `digests` and `precision` are what it recorded.

    varies: what its seed drew. machine: the processor or GPU. plan: the digest of the analysis plan when it started.
    files: name -> sha256 of what lies in `folder`; the folder is None for a trial from the store, whose files are
    artifacts. liveness: by component, what its signal did.
    """

    group: str
    seed: int
    status: str
    source: Source
    key: str
    study_key: str
    run_id: str
    metrics: Mapping[str, float]
    objective: Mapping[str, str]
    digests: Mapping[str, str | None]
    precision: str
    seconds: float | None
    plan: str
    steps: int | None = None
    peak_memory_bytes: int | None = None
    liveness: Mapping[str, Any] | None = None
    varies: Mapping[str, Any] | None = None
    machine: str | None = None
    files: Mapping[str, str] | None = None
    folder: Path | None = None

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def name(self) -> str:
        return f"{self.group}/{self.seed}"

    def file(self, name: str) -> Path | None:
        """Where one of its files lies, or None; a trial from the store has its artifacts fetched."""
        if self.folder is None:
            return tracking.artifact(self.run_id, name)
        path = self.folder / name
        return path if path.is_file() else None

    def whole_file(self, name: str) -> Path | None:
        """The same. Raises GlassboxError where it is not the file that the manifest names."""
        path, named = self.file(name), (self.files or {}).get(name)
        if path is not None and named is not None and sha256_of(path) != named:
            raise GlassboxError(
                f"{path} is damaged: it is not the file that the manifest of {self.name} names. `dvc repro` puts it "
                "right from the trial that is kept, or trains it again."
            )
        return path


def read_manifest(path: Path) -> TrialRecord:
    """A trial from its manifest. Raises GlassboxError for a file that is not a manifest of this schema."""
    try:
        content = parse_json(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']}, this version reads {SCHEMA}")
        return TrialRecord(
            group=content["group"],
            seed=content["seed"],
            status=content["status"],
            source="manifest",
            key=content["key"],
            study_key=content["study_key"],
            run_id=content["run_id"],
            metrics={key: _number(value) for key, value in content["metrics"].items()},
            objective=_objective(content["params"]),
            digests={name: content["digests"].get(name) or None for name in DIGESTS},
            precision=str(content["precision"]),
            seconds=content["seconds"],
            files=content["files"],
            folder=path.with_suffix(""),
            **_extras(content),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GlassboxError(
            f"{path} cannot be read as a trial's manifest ({type(error).__name__}: {error}): "
            "delete it and run `dvc repro`, which trains that trial again."
        ) from error


def _extras(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "plan": content.get("plan") or "",
        "steps": content.get("steps"),
        "peak_memory_bytes": content.get("peak_memory_bytes"),
        "liveness": content.get("liveness"),
        "varies": content.get("varies"),
        "machine": content.get("machine"),
    }


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _objective(params: Mapping[str, Any]) -> dict[str, str]:
    """The group's own weights among a trial's flat params, and what else is its own."""
    return {key: str(value) for key, value in params.items() if key.startswith("weight_") or key in OBJECTIVE}


def outcome_of(record: tracking.RunRecord) -> str | None:
    """ "finished" or "diverged"; None for a run that came to no outcome: RUNNING, KILLED, FAILED for another reason."""
    if record.tags.get("outcome") == "diverged":
        return "diverged" if record.status == "FAILED" else None
    return "finished" if record.status == "FINISHED" else None


def trial_of_record(record: tracking.RunRecord, group: str, seed: int) -> TrialRecord:
    """A trial from its run in MLflow, with what its manifest among the artifacts adds."""
    path = tracking.artifact(record.run_id, f"{seed}.json")
    try:
        content = parse_json(path.read_bytes()) if path else {}
    except ValueError as error:
        raise GlassboxError(
            f"{path} of run {record.run_id} is damaged ({error}). Delete that run in MLflow; `dvc repro` trains its "
            "trial again."
        ) from error
    extras = _extras({**content, "plan": record.tags.get("plan")})
    return TrialRecord(
        group=group,
        seed=seed,
        status=outcome_of(record) or record.status,
        source="store",
        key=record.tags["key"],
        study_key=record.tags.get("study_key", ""),
        run_id=record.run_id,
        metrics=record.metrics,
        objective=_objective(record.params),
        digests={name: record.tags.get(f"{name}_digest") or None for name in DIGESTS},
        precision=record.tags.get("precision", "unknown"),
        seconds=record.metrics.get("seconds"),
        files=content.get("files"),
        **extras,
    )


def flat_params(settings: Settings, group: str, seed: int) -> dict[str, Any]:
    """What MLflow shows and groups by: `group`, `seed`, `weight_hidden`, `train.learning_rate`, ..."""
    params: dict[str, Any] = {"group": group, "seed": seed, "scale": settings.scale}
    objective = settings.distill[group]
    params |= {f"weight_{name}": weight for name, weight in objective.components.items()}
    params |= {"labels": objective.labels, "labelled": f"{settings.labelled(group):g}"}
    params |= {"positions": ", ".join(f"{c} {settings.positions(group)[c]}" for c in objective.active)}
    params |= {} if objective.temperature is None else {"temperature": objective.temperature}
    params |= {} if objective.learning_rate is None else {"learning_rate": f"{objective.learning_rate:g}"}
    params |= {"replica": objective.replica} if objective.replica else {}
    params |= {"shuffled": ", ".join(objective.shuffled)} if objective.shuffled else {}
    params |= {"experts": objective.experts} if objective.experts else {}
    params |= {"teacher": settings.teacher.model, "student": settings.student.model}
    for section, values in sections_of(settings).items():
        params |= _flatten(section, values)
    return params


def _flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(f"{prefix}.{name}", value)
        else:
            flat[f"{prefix}.{name}"] = value
    return flat
