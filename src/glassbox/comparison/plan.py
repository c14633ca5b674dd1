"""The analysis plan in conf/analysis.yaml: what will be compared and what counts as equal, fixed before the trials."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from glassbox.config.analysis_plan import PLAN, plan_digest, plan_of_scale
from glassbox.config.problems import dotted, known_keys, nearest
from glassbox.config.settings import Group, Section, Settings
from glassbox.config.yaml_files import read_yaml
from glassbox.errors import GlassboxError
from glassbox.tasks.sample import PERPLEXITY

TEACHER = "teacher"
BASELINE = "black_box"
DEFAULT = "default"
DEFAULT_MARGIN = 0.02
SUGGESTED_SEEDS = 7  # of fewer little can be said
DEFAULT_REASON = "the plan names no margin for this task; two points are a convention and no more"
DEFAULT_NATS_REASON = "the plan names no margin for this task; 2 % of perplexity are a convention and no more"
Test = Literal["two_sided", "greater", "intersection_union", "equivalence", "descriptive"]
Holm = Literal["over tasks", "within task", "over signals", "none"]
Scale = Literal["points", "logit"]  # of a plan; points of a perplexity are nats per token


@dataclass(frozen=True)
class PlannedTask:
    """metric: `accuracy`, `exact_match` or `perplexity`. chance: the share of right answers that guessing gives; None
    of a perplexity."""

    metric: str
    chance: float | None

    @property
    def in_nats(self) -> bool:
        return self.metric == PERPLEXITY


@dataclass(frozen=True)
class PlannedContrast:
    """A weight per group and, for each of `tasks`, a weight per task: one result per entry of `tasks` and `scales`.

    legs: for an intersection-union test, the weights per group of each one-sided test; `weights` is then their mean.
    A weight of the group `teacher` means the teacher's own score. every: `each` task of the study or the `mean` of all,
    also where the plan does not name them. answered: whether it is one of the questions that the report answers first.
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
    every: Literal["each", "mean"] | None = None
    answered: bool = True

    def on(self, tasks: Sequence[str]) -> PlannedContrast:
        """The same question of other tasks, where it is of all of them."""
        per_task = {"each": tuple({task: 1.0} for task in tasks), "mean": (dict.fromkeys(tasks, 1 / len(tasks)),)}
        return replace(self, tasks=per_task[self.every]) if self.every else self


@dataclass(frozen=True)
class Hypothesis:
    """alike: tasks on which all distilling groups are equivalent. better: tasks on which Q1 is positive."""

    alike: tuple[str, ...]
    better: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """margins: the largest difference that counts as equal, per task, at the scale in use: as a share of 1, or of
    perplexity in nats per token.

    margin_scale: the scale whose margins these are, `default` for one that has none of its own. seen_seeds: seeds of
    this scale whose scores were known when the plan was made; seen_note says what that bears on. primary: the family
    whose answer the study is for; all others are secondary. tasks holds the study's own tasks too, where the plan has
    none of their name (`unplanned`); their margin is DEFAULT_MARGIN. replicas: a group that repeats another with other
    random numbers -> that group. hypothesis: None where none is stated. derived: made of what ran, without a file.
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
    hypothesis: Hypothesis | None
    contrasts: tuple[PlannedContrast, ...]
    primary: str = ""
    margin_scale: str = DEFAULT
    seen_seeds: tuple[int, ...] = ()
    seen_note: str = ""
    unplanned: tuple[str, ...] = field(default=())
    replicas: Mapping[str, str] = field(default_factory=dict)
    derived: bool = False

    def for_tasks(self, tasks: Mapping[str, PlannedTask]) -> Plan:
        """The plan with a study's own tasks, in its order: questions of `each` task are asked of these too.

        tasks: all of the study. Those of the plan that the study lacks stay, and in Holm's count, unless it has none;
        then the hypothesis, which is of the plan's tasks, is not of this study.
        """
        own = {task: each for task, each in tasks.items() if task not in self.tasks}
        kept = self.tasks if any(task in self.tasks for task in tasks) else {}
        every = {**kept, **own}
        margins = {task: self.margins.get(task, DEFAULT_MARGIN) for task in every}
        return replace(
            self,
            tasks=every,
            unplanned=tuple(own),
            margins=margins,
            margin_reasons={task: self.margin_reasons.get(task, _default_reason(each)) for task, each in every.items()},
            contrasts=tuple(each.on(tuple(every)) for each in self.contrasts),
            hypothesis=self.hypothesis if kept else None,
        )

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    @property
    def is_of_other_tasks(self) -> bool:
        """Whether a file holds the plan, and none of the study's tasks."""
        return not self.derived and bool(self.tasks) and set(self.tasks) == set(self.unplanned)


def _default_reason(task: PlannedTask) -> str:
    return DEFAULT_NATS_REASON if task.in_nats else DEFAULT_REASON


Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
PerTask = dict[str, float]
Seeds = tuple[Annotated[int, Field(ge=0)], ...]


class TaskSection(Section):
    metric: Literal["accuracy", "exact_match", "perplexity"]
    chance: Share | None = None


class MarginSection(Section):
    """In percentage points, or of perplexity in `nats` per token or as a `ratio` of perplexities such as 1.02."""

    points: Annotated[float, Field(gt=0.0, lt=100.0)] | None = None
    nats: Annotated[float, Field(gt=0.0)] | None = None
    ratio: Annotated[float, Field(gt=1.0)] | None = None
    reason: Annotated[str, Field(min_length=1)]

    @property
    def value(self) -> float:
        """As a share of 1, or in nats."""
        if self.points is not None:
            return self.points / 100
        return self.nats if self.nats is not None else math.log(self.ratio or 1.0)


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
    tasks: Literal["each", "mean"] | tuple[PerTask, ...]
    scales: tuple[Scale, ...] = ("points",)
    test: Test
    holm: Holm = "none"
    answered: bool = True


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
    own_tasks: dict[str, dict[str, TaskSection]] = Field(default_factory=dict)
    margins: dict[str, dict[str, MarginSection]] = Field(default_factory=dict)
    replicas: dict[str, str] = Field(default_factory=dict)
    hypothesis: HypothesisSection | None = None
    contrasts: tuple[ContrastSection, ...]

    def tasks_of(self, scale: str) -> dict[str, TaskSection]:
        """The tasks of a scale: those of its own, where it has any."""
        return self.own_tasks.get(scale) or self.tasks

    @property
    def all_tasks(self) -> dict[str, TaskSection]:
        return {name: task for tasks in (*self.own_tasks.values(), self.tasks) for name, task in tasks.items()}


def read_plan(conf: Path, scale: str) -> Plan:
    """The plan of conf/analysis.yaml for one scale. Raises GlassboxError with every fault, one sentence each."""
    path = conf / PLAN
    content, problems = read_yaml(path)
    faults = [problem.sentence() for problem in problems]
    try:
        found = PlanFile.model_validate_json(json.dumps(plan_of_scale(content, scale)), strict=True)
        faults += _contradictions(found)
    except ValidationError as error:
        raise _refusal(path, [*faults, *(_sentence(each) for each in error.errors(include_url=False))]) from None
    if faults:
        raise _refusal(path, faults)
    margin_scale = scale if scale in found.margins else DEFAULT
    margins = {**found.margins.get(DEFAULT, {}), **found.margins.get(scale, {})}
    named = {task: margin.value for task, margin in margins.items()}
    tasks = {name: PlannedTask(task.metric, task.chance) for name, task in found.tasks_of(scale).items()}
    stated = found.hypothesis
    seen = found.seen_seeds.get(scale)
    return Plan(
        digest=plan_digest(conf, scale),
        alpha=found.alpha,
        power=found.power,
        control=found.control,
        groups=found.groups,
        optional_groups=found.optional_groups,
        seeds=found.seeds.get(scale, found.seeds[DEFAULT]),
        tasks=tasks,
        margins={task: named.get(task, DEFAULT_MARGIN) for task in tasks},
        margin_reasons={
            task: margins[task].reason if task in margins else _default_reason(each) for task, each in tasks.items()
        },
        hypothesis=Hypothesis(stated.alike, stated.better) if stated else None,
        contrasts=tuple(_contrast(each, tuple(tasks)) for each in found.contrasts),
        primary=found.primary or next(each.family for each in found.contrasts),
        margin_scale=margin_scale,
        seen_seeds=seen.seeds if seen else (),
        seen_note=seen.note if seen else "",
        replicas=found.replicas,
    )


def _contrast(section: ContrastSection, tasks: Sequence[str]) -> PlannedContrast:
    names = ("id", "family", "question", "test", "holm", "legs", "scales", "answered")
    values = {name: getattr(section, name) for name in names}
    weights = section.weights or _mean_leg(section.legs)
    if isinstance(section.tasks, tuple):
        return PlannedContrast(**values, tasks=section.tasks, weights=weights)
    return PlannedContrast(**values, tasks=(), weights=weights, every=section.tasks).on(tasks)


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
    if DEFAULT not in plan.seeds:
        yield f"`seeds.{DEFAULT}` is missing: it serves every scale that is not named."
    tasks = tuple(plan.all_tasks)
    for name, task in plan.all_tasks.items():
        if (task.chance is None) != (task.metric == PERPLEXITY):
            why = "`chance` is missing" if task.chance is None else "a perplexity has no chance level"
            yield f"`tasks.{name}`: {why}."
    for scale, margins in plan.margins.items():
        yield from _unknown(f"margins.{scale}", margins, tasks)
        for name, margin in margins.items():
            yield from _faults_of_margin(f"margins.{scale}.{name}", margin, plan.all_tasks.get(name))
    if plan.hypothesis:
        yield from _unknown("hypothesis", (*plan.hypothesis.alike, *plan.hypothesis.better), tasks)
    yield from _unknown("replicas", (*plan.replicas, *plan.replicas.values()), groups)
    yield from _unknown("primary", [plan.primary] if plan.primary else [], tuple(c.family for c in plan.contrasts))
    for name, count in Counter(contrast.id for contrast in plan.contrasts).items():
        if count > 1:
            yield f"`contrasts`: the id {name} stands there twice."
    for contrast in plan.contrasts:
        yield from _faults_of(contrast, (*groups, TEACHER), tasks)


def _faults_of_margin(path: str, margin: MarginSection, task: TaskSection | None) -> Iterator[str]:
    given = [name for name in ("points", "nats", "ratio") if getattr(margin, name) is not None]
    of_text = task is not None and task.metric == PERPLEXITY
    if len(given) != 1 or (task is not None and (given == ["points"]) == of_text):
        wanted = "`nats` per token or a `ratio` of perplexities" if of_text else "`points`"
        yield f"`{path}`: a margin of this task is in {wanted}, and here stands {', '.join(given) or 'nothing'}."


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
    return GlassboxError(f"{path} is refused; nothing was compared.\n\n{lines}\n\nCorrect it, or `git restore {path}`.")


def check_plan(conf: Path, settings: Settings) -> None:
    """Raise GlassboxError where conf/analysis.yaml could not be used after the trials; nothing where there is none.

    The stages `settings` and `plan` call it, so that a fault of the plan is told before anything trains.
    """
    if (conf / PLAN).is_file():
        planned_weights(conf, read_plan(conf, settings.scale), settings)


def plan_or_derived(conf: Path, settings: Settings) -> Plan:
    """The plan of conf/analysis.yaml; without one, a plan made from the groups and seeds that ran.

    Selected groups that the file does not name are asked about beside it, as exploratory: the plan's digest is of what
    was fixed before the data.
    """
    if not (conf / PLAN).is_file():
        return derived_plan(settings)
    plan = read_plan(conf, settings.scale)
    beyond = [name for name in settings.groups if name not in (*plan.groups, *plan.optional_groups)]
    asked = [each.on(tuple(plan.tasks)) for each in _exploratory(pairs_beyond(beyond, settings))]
    return replace(plan, contrasts=(*plan.contrasts, *asked))


def pairs_beyond(groups: Sequence[str], settings: Settings) -> list[tuple[str, str]]:
    """Which two groups are compared for each of these: a shuffled one's original with it, others with black_box."""
    originals = {
        name: next((other for other in settings.groups if _is_original(settings, other, name)), None)
        for name in groups
        if settings.distill[name].shuffled
    }
    shuffled = [(original, name) for name, original in originals.items() if original is not None]
    others = [name for name in groups if name not in originals]
    baseline = next((name for name in ("black_box", "sft") if name in settings.groups), None)
    return ([(name, baseline) for name in others if name != baseline] if baseline else []) + shuffled


def _is_original(settings: Settings, group: str, shuffled: str) -> bool:
    """Whether a group is another one with nothing shuffled."""
    own, other = settings.distill[group], settings.distill[shuffled]
    return own == other.model_copy(update={"shuffled": (), "shuffled_share": 1.0})


def derived_plan(settings: Settings) -> Plan:
    """Each group with further signals against black_box, and black_box against the control: fit for any study.

    The control is the group without a signal, black_box the one with logits alone; without one of them, every other
    group is compared with the first. All of it is exploratory: nothing was fixed before the data.
    """
    groups = settings.groups
    signals = {group: {name for name in settings.distill[group].active if name != "task"} for group in groups}
    control = "sft" if "sft" in groups else next((group for group in groups if not signals[group]), groups[0])
    baseline = baseline_of(signals, control)
    pairs = [(baseline, control)] if baseline != control else []
    pairs += [(group, baseline) for group in groups if group not in (baseline, control)]
    return Plan(
        digest="",
        alpha=0.05,
        power=0.8,
        control=control,
        groups=tuple(groups),
        optional_groups=(),
        seeds=tuple(settings.seeds),
        tasks={},
        margins={},
        margin_reasons={},
        hypothesis=None,
        contrasts=_exploratory(pairs),
        primary="exploratory",
        derived=True,
    )


def _exploratory(pairs: Sequence[tuple[str, str]]) -> tuple[PlannedContrast, ...]:
    """A question of each pair, asked of every task."""
    return tuple(
        PlannedContrast(
            id=f"E{number}",
            family="exploratory",
            question=f"does {group} improve on {other}?",
            weights={group: 1.0, other: -1.0},
            tasks=(),
            test="two_sided",
            holm="over tasks",
            every="each",
        )
        for number, (group, other) in enumerate(pairs, 1)
    )


def baseline_of(signals: Mapping[str, Collection[str]], control: str) -> str:
    """The group that further signals are compared with: black_box, else the first with logits alone, else the control.

    signals: group -> its components; `task` is none of them.
    """
    only_logits = [group for group, active in signals.items() if {*active} - {"task"} == {"logits"}]
    return BASELINE if BASELINE in signals else (only_logits or [control])[0]


def plan_lines(plan: Plan) -> list[str]:
    """The lines of a conf/analysis.yaml that asks a derived plan's questions of seeds that have not run."""
    tasks = ", ".join(
        f"{name}: {{metric: {task.metric}{'' if task.chance is None else f', chance: {task.chance:g}'}}}"
        for name, task in plan.tasks.items()
    )
    margins = ", ".join(
        f"{name}: {{{'ratio: 1.02' if task.in_nats else 'points: 2'}, reason: why this is small}}"
        for name, task in plan.tasks.items()
    )
    first = max(plan.seeds, default=-1) + 1
    fresh = range(first, first + max(len(plan.seeds), SUGGESTED_SEEDS))
    lines = [
        f"alpha: {plan.alpha:g}",
        f"power: {plan.power:g}",
        f"control: {plan.control}",
        f"groups: [{', '.join(plan.groups)}]",
        f"seeds: {{default: [{', '.join(map(str, fresh))}]}} # other ones than those that ran",
        f"tasks: {{{tasks}}}",
        f"margins: {{default: {{{margins}}}}}",
        "contrasts:",
    ]
    for each in plan.contrasts:
        weights = ", ".join(f"{group}: {weight:g}" for group, weight in each.weights.items())
        family = f"family: {each.family}, question: '{each.question}', weights: {{{weights}}}"
        lines.append(f"  - {{id: {each.id}, {family}, tasks: each, test: {each.test}, holm: {each.holm}}}")
    return lines


def planned_weights(conf: Path, plan: Plan, settings: Settings) -> dict[str, Group]:
    """The weights of every planned group, and of the optional groups that conf/distill has a file for."""
    optional = [group for group in plan.optional_groups if (conf / "distill" / f"{group}.yaml").is_file()]
    return {group: weights_of(conf, group, settings) for group in (*plan.groups, *optional)}


def weights_of(conf: Path, group: str, settings: Settings) -> Group:
    """A group's weights as composition would resolve them, `${weights.<component>}` included."""
    if group in settings.distill:
        return settings.distill[group]
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = conf / "distill" / f"{group}.yaml"
    try:
        tuned = settings.tuning.model_dump(include={"matched_logits", "control_learning_rate"})
        whole = OmegaConf.create(
            {"weights": settings.weights.model_dump(), "tuning": tuned, "distill": read_yaml(path)[0]}
        )
        resolved = OmegaConf.to_container(whole, resolve=True)
        return Group(**resolved["distill"][group])  # type: ignore[index, call-overload]
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise GlassboxError(f"{path} does not give the weights of the planned group '{group}': {error}") from error
