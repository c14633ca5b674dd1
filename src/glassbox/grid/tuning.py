"""Weights, learning rate and epochs, chosen by the mean of chance-corrected validation scores.

Each component is tried at as many weights as every other one, alone beside the task's loss and the logits, and the
control at as many pairs of learning rate and epochs. Seeds and items are the tuning's own.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glassbox.comparison.evidence import score_of
from glassbox.config.settings import Group, Settings
from glassbox.errors import GlassboxError
from glassbox.grid.side_study import SideStudy, side_study
from glassbox.tasks.sample import METRICS
from glassbox.tracking.manifest import TrialRecord

COMPONENTS = ("logits", "hidden", "attention")


@dataclass(frozen=True)
class Point:
    """One candidate with one seed: the mean of its chance-corrected scores, and the component's gradient share."""

    component: str
    candidate: str
    weight: float
    seed: int
    score: float
    share: float | None
    tasks: Mapping[str, float]


def tune(settings: Settings, chance: Mapping[str, float]) -> dict[str, Any]:
    """Try every candidate of `settings.tuning`; returns the table that docs/tuning holds. `chance` is by task."""
    points: list[Point] = []
    study = side_study(settings, "tuning")
    own = _own(settings)
    for candidate in settings.tuning.control:
        train = own.train.model_copy(update={"learning_rate": candidate.learning_rate, "epochs": candidate.epochs})
        name = f"{candidate.learning_rate:g} x {candidate.epochs} epochs"
        changed = own.model_copy(update={"train": train})
        points += _points(study, changed, {name: Group.model_validate({"task": 1.0})}, "control", {name: 0.0}, chance)
    chosen: dict[str, float] = {}
    for component in COMPONENTS:
        weights = {_name(component, weight): weight for weight in getattr(settings.tuning, component)}
        groups = {name: _group(component, weight, chosen) for name, weight in weights.items()}
        found = list(_points(study, own, groups, component, weights, chance))
        points += found
        chosen[component] = _best(found).weight
    both = {"combined": Group.model_validate({"task": 1.0, **chosen})}
    _run(study, own, both)
    trials = study.trials(["combined"], own.seeds).values()
    share = statistics.fmean(sum(_share(trial, component) or 0.0 for component in COMPONENTS) for trial in trials)
    logits = [point for point in points if point.component == "logits" and point.weight == chosen["logits"]]
    best_control = _best([point for point in points if point.component == "control"]).candidate
    content: dict[str, Any] = {
        "scale": settings.scale,
        "seeds": list(own.seeds),
        "items_seed": own.prepare.seed,
        "validation_items": settings.tuning.validation,
        "chosen": {**chosen, "matched_logits": matched(logits, share), "control": best_control},
        "signals_share_of_combined": share,
        "points": [vars(point) | {"tasks": dict(point.tasks)} for point in points],
    }
    return {"key": key_of(content), **content}


def key_of(content: Mapping[str, Any]) -> str:
    """sha256 in hex of the table without its key."""
    facts = {name: value for name, value in content.items() if name != "key"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def matched(points: Sequence[Point], share: float) -> float:
    """The weight at which the logits alone have this share of the gradient, to two digits.

    A share is w l / (w l + t) of the norms l and t of the logits' and the task's gradients, which all groups have in
    common at first: from one share s at weight w, l / t = s / ((1 - s) w).
    """
    ratio = statistics.fmean(point.share / ((1 - point.share) * point.weight) for point in points if point.share)
    return float(f"{share / ((1 - share) * ratio):.2g}")


def _own(settings: Settings) -> Settings:
    """The settings with the tuning's seeds and items; the test split is as small as it can be, for nothing reads it."""
    tuning = settings.tuning
    tasks = {
        name: task.model_copy(update={"validation": tuning.validation, "test": 1})
        for name, task in settings.prepare.tasks.items()
    }
    prepare = settings.prepare.model_copy(update={"seed": tuning.items_seed, "tasks": tasks})
    return settings.model_copy(update={"seeds": tuning.seeds, "prepare": prepare})


def _group(component: str, weight: float, chosen: Mapping[str, float]) -> Group:
    logits = {"logits": chosen["logits"]} if component != "logits" else {}
    return Group.model_validate({"task": 1.0, **logits, component: weight})


def _name(component: str, weight: float) -> str:
    return f"{component}_{weight:g}".replace(".", "p").replace("-", "m")


def _run(study: SideStudy, settings: Settings, groups: Mapping[str, Group]) -> None:
    study.run(settings.model_copy(update={"groups": tuple(groups), "distill": dict(groups)}))


def _points(
    study: SideStudy,
    settings: Settings,
    groups: Mapping[str, Group],
    component: str,
    weights: Mapping[str, float],
    chance: Mapping[str, float],
) -> Iterator[Point]:
    named = {_identifier(name): group for name, group in groups.items()}
    _run(study, settings, named)
    for name in groups:
        for (_, seed), trial in study.trials([_identifier(name)], settings.seeds).items():
            tasks = scores_of(trial, settings)
            corrected = [(value - chance.get(t, 0.0)) / (1 - chance.get(t, 0.0)) for t, value in tasks.items()]
            share = None if component == "control" else _share(trial, component)
            yield Point(component, name, weights[name], seed, statistics.fmean(corrected), share, tasks)


def _identifier(name: str) -> str:
    """A name that a group may have."""
    return "".join(letter if letter.isalnum() else "_" for letter in f"c_{name}")


def scores_of(trial: TrialRecord, settings: Settings, split: str = "validation") -> dict[str, float]:
    """The last score of every task on a split, more of which is better.

    Raises GlassboxError for a trial that diverged.
    """
    if not trial.finished:
        raise GlassboxError(
            f"{trial.name} of a side study diverged: take its weight out of `tuning` in conf/scale, or train it slower."
        )
    found = {}
    for task in settings.prepare.tasks:
        names = [f"{split}/{metric}_{task}" for metric in METRICS]
        found[task] = next(score_of(name, trial.metrics[name]) for name in names if name in trial.metrics)
    return found


def _share(trial: TrialRecord, component: str) -> float | None:
    return (trial.liveness or {}).get(component, {}).get("share")


def _best(points: Sequence[Point]) -> Point:
    """The candidate with the highest mean score; of equals the first."""
    by_candidate: dict[str, list[Point]] = {}
    for point in points:
        by_candidate.setdefault(point.candidate, []).append(point)
    return max(by_candidate.values(), key=lambda each: statistics.fmean(point.score for point in each))[0]
