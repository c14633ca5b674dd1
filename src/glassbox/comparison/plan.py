"""The analysis plan in conf/analysis.yaml: what will be compared and what counts as equal, fixed before the trials."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from glassbox.config.analysis_plan import PLAN, plan_digest
from glassbox.config.problems import dotted, known_keys, nearest
from glassbox.config.settings import Group, Section, Settings
from glassbox.config.yaml_files import read_yaml
from glassbox.errors import GlassboxError

TEACHER = "teacher"
DEFAULT = "default"
Test = Literal["two_sided", "greater", "intersection_union", "descriptive"]
Holm = Literal["over tasks", "within task", "over signals", "none"]
Scale = Literal["points", "logit"]


@dataclass(frozen=True)
class PlannedTask:
    """metric: `accuracy` or `exact_match`. chance: the share of right answers that guessing gives."""

    metric: str
    chance: float


@dataclass(frozen=True)
class PlannedContrast:
    """A weight per group and, for each of `tasks`, a weight per task: one result per entry of `tasks` and `scales`.

    legs: for an intersection-union test, the weights per group of each one-sided test; `weights` is then their mean.
    A weight of the group `teacher` means the teacher's own score.
    """

    id: str
    family: str
    question: str
    weights: Mapping[str, float]
    tasks: tuple[Mapping[str, float], ...]
    test: Test
    holm: Holm = "none"
    legs: tuple[Mapping[str, float], ...] = ()
    scales: tuple[Scale, ...] = ("points",)


@dataclass(frozen=True)
class Hypothesis:
    """alike: tasks on which all distilling groups are equivalent. better: tasks on which Q1 is positive."""

    alike: tuple[str, ...]
    better: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """margins: the largest difference that counts as equal, per task, as a share of 1, at the scale in use.

    margin_scale: the scale whose margins these are, `default` for one that has none of its own. seen_seeds: seeds of
    this scale whose scores were known when the plan was made; seen_note says what that bears on. primary: the family
    whose answer the study is for; all others are secondary. tasks holds the
    study's own tasks too, where the plan has none of their name (`unplanned`); they have no margin.
    """

    digest: str
    alpha: float
    power: float
    control: str
    groups: tuple[str, ...]
    optional_groups: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks: Mapping[str, PlannedTask]
    margins: Mapping[str, float]
    margin_reasons: Mapping[str, str]
    hypothesis: Hypothesis
    contrasts: tuple[PlannedContrast, ...]
    primary: str = ""
    margin_scale: str = DEFAULT
    seen_seeds: tuple[int, ...] = ()
    seen_note: str = ""
    unplanned: tuple[str, ...] = field(default=())

    @property
    def confidence(self) -> float:
        return 1 - self.alpha


Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
PerTask = dict[str, float]
Seeds = tuple[Annotated[int, Field(ge=0)], ...]


class TaskSection(Section):
    metric: Literal["accuracy", "exact_match"]
    chance: Share


class MarginSection(Section):
    points: Annotated[float, Field(gt=0.0, lt=100.0)]
    reason: Annotated[str, Field(min_length=1)]


class SeenSection(Section):
    seeds: Seeds
    note: Annotated[str, Field(min_length=1)]


class HypothesisSection(Section):
    alike: tuple[str, ...]
    better: tuple[str, ...]


class ContrastSection(Section):
    id: str
    family: str
    question: str
    weights: dict[str, float] = Field(default_factory=dict)
    legs: tuple[dict[str, float], ...] = ()
    tasks: Literal["each"] | tuple[PerTask, ...]
    scales: tuple[Scale, ...] = ("points",)
    test: Test
    holm: Holm = "none"


class PlanFile(Section):
    alpha: Probability
    power: Probability
    control: str
    primary: str | None = None
    groups: tuple[str, ...] = Field(min_length=2)
    optional_groups: tuple[str, ...] = ()
    seeds: dict[str, Seeds]
    seen_seeds: dict[str, SeenSection] = Field(default_factory=dict)
    tasks: dict[str, TaskSection] = Field(min_length=1)
    margins: dict[str, dict[str, MarginSection]]
    hypothesis: HypothesisSection
    contrasts: tuple[ContrastSection, ...]


def read_plan(conf: Path, scale: str) -> Plan:
    """The plan of conf/analysis.yaml for one scale. Raises GlassboxError with every fault, one sentence each."""
    path = conf / PLAN
    content, problems = read_yaml(path)
    faults = [problem.sentence() for problem in problems]
    try:
        found = PlanFile.model_validate_json(json.dumps(content), strict=True)
        faults += _contradictions(found)
    except ValidationError as error:
        raise _refusal(path, [*faults, *(_sentence(each) for each in error.errors(include_url=False))]) from None
    if faults:
        raise _refusal(path, faults)
    margin_scale = scale if scale in found.margins else DEFAULT
    margins = found.margins[margin_scale]
    seen = found.seen_seeds.get(scale)
    return Plan(
        digest=plan_digest(conf),
        alpha=found.alpha,
        power=found.power,
        control=found.control,
        groups=found.groups,
        optional_groups=found.optional_groups,
        seeds=found.seeds.get(scale, found.seeds[DEFAULT]),
        tasks={name: PlannedTask(task.metric, task.chance) for name, task in found.tasks.items()},
        margins={task: margin.points / 100 for task, margin in margins.items()},
        margin_reasons={task: margin.reason for task, margin in margins.items()},
        hypothesis=Hypothesis(found.hypothesis.alike, found.hypothesis.better),
        contrasts=tuple(_contrast(each, found.tasks) for each in found.contrasts),
        primary=found.primary or next(each.family for each in found.contrasts),
        margin_scale=margin_scale,
        seen_seeds=seen.seeds if seen else (),
        seen_note=seen.note if seen else "",
    )


def _contrast(section: ContrastSection, tasks: Mapping[str, TaskSection]) -> PlannedContrast:
    per_task = tuple({task: 1.0} for task in tasks) if section.tasks == "each" else section.tasks
    values = {name: getattr(section, name) for name in ("id", "family", "question", "test", "holm", "legs", "scales")}
    return PlannedContrast(**values, tasks=per_task, weights=section.weights or _mean_leg(section.legs))


def _mean_leg(legs: tuple[dict[str, float], ...]) -> dict[str, float]:
    groups = dict.fromkeys(group for leg in legs for group in leg)
    return {group: sum(leg.get(group, 0.0) for leg in legs) / len(legs) for group in groups}


def _contradictions(plan: PlanFile) -> Iterator[str]:
    """A sentence for every name that stands for nothing and every contrast that compares nothing."""
    groups = (*plan.groups, *plan.optional_groups)
    yield from _unknown("control", [plan.control], plan.groups)
    for group, count in Counter(groups).items():
        if count > 1:
            yield f"`groups`: {group} stands there twice."
    for section, scales in (("seeds", plan.seeds), ("margins", plan.margins)):
        if DEFAULT not in scales:
            yield f"`{section}.{DEFAULT}` is missing: it serves every scale that is not named."
    for scale, margins in plan.margins.items():
        yield from _unknown(f"margins.{scale}", margins, tuple(plan.tasks))
        for task in set(plan.tasks) - set(margins):
            yield f"`margins.{scale}.{task}` is missing: every task of the plan has a margin at every scale."
    yield from _unknown("hypothesis", (*plan.hypothesis.alike, *plan.hypothesis.better), tuple(plan.tasks))
    yield from _unknown("primary", [plan.primary] if plan.primary else [], tuple(c.family for c in plan.contrasts))
    for name, count in Counter(contrast.id for contrast in plan.contrasts).items():
        if count > 1:
            yield f"`contrasts`: the id {name} stands there twice."
    for contrast in plan.contrasts:
        yield from _faults_of(contrast, (*groups, TEACHER), tuple(plan.tasks))


def _faults_of(contrast: ContrastSection, groups: tuple[str, ...], tasks: tuple[str, ...]) -> Iterator[str]:
    path = f"contrasts.{contrast.id}"
    if (contrast.test == "intersection_union") != bool(contrast.legs) or bool(contrast.legs) == bool(contrast.weights):
        yield f"`{path}`: an intersection_union test has `legs`, every other test has `weights`, and none has both."
    for weights in (*contrast.legs, *([contrast.weights] if contrast.weights else [])):
        yield from _unknown(path, weights, groups)
        if abs(sum(weights.values())) > 1e-12:
            yield f"`{path}`: the weights of a contrast sum to 0, these sum to {sum(weights.values()):g}."
    for per_task in contrast.tasks if isinstance(contrast.tasks, tuple) else ():
        yield from _unknown(f"{path}.tasks", per_task, tasks)


def _unknown(path: str, names: Any, known: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name not in known:
            near = nearest(name, known)
            hint = f"the nearest is `{near}`" if near else f"there are {', '.join(known)}"
            yield f"`{path}` names `{name}`, which the plan does not hold; {hint}."


def _sentence(error: ErrorDetails) -> str:
    location = error["loc"]
    if error["type"] != "extra_forbidden":
        return f"`{dotted(location)}`: {error['msg'][:1].lower()}{error['msg'][1:]}."
    *section, name = location
    known = known_keys(PlanFile, section)
    near = nearest(str(name), known)
    hint = f"the nearest known key is `{dotted([*section, near])}`" if near else f"only {', '.join(known)}"
    return f"`{dotted(location)}`: there is no such key; {hint}."


def _refusal(path: Path, faults: list[str]) -> GlassboxError:
    lines = "\n".join(f"- {fault}" for fault in faults)
    return GlassboxError(f"{path} is refused; nothing was compared.\n\n{lines}\n\nMend it, or `git restore {path}`.")


def planned_weights(conf: Path, plan: Plan, settings: Settings) -> dict[str, Group]:
    """The weights of every planned group, and of the optional groups that conf/distill has a file for."""
    optional = [group for group in plan.optional_groups if (conf / "distill" / f"{group}.yaml").is_file()]
    return {group: weights_of(conf, group, settings) for group in (*plan.groups, *optional)}


def weights_of(conf: Path, group: str, settings: Settings) -> Group:
    """A group's weights as composition would resolve them, `${weights.<component>}` included."""
    if group in settings.distill:
        return settings.distill[group]
    path = conf / "distill" / f"{group}.yaml"
    try:
        whole = OmegaConf.create({"weights": settings.weights.model_dump(), "distill": read_yaml(path)[0]})
        resolved = OmegaConf.to_container(whole, resolve=True)
        return Group(**resolved["distill"][group])  # type: ignore[index, call-overload]
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise GlassboxError(f"{path} does not give the weights of the planned group '{group}': {error}") from error
