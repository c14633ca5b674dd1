"""The plan's contrasts, one by one: which scores each weighs, on which task, in which family it counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from glassbox.comparison.plan import Plan, PlannedContrast

TEACHER = "teacher"
ALIKE = "alike"
NATS = "nats"


@dataclass(frozen=True)
class Contrast:
    """sum over groups and tasks of weights[group] x tasks[task] x score, of one planned question.

    scale: `points`, `logit`, or `nats` per token where all tasks are perplexities. counted: the tests that Holm counts
    together with this one carry the same value. margin: in the scale's unit, None on log-odds or where the plan has
    none; a contrast of several tasks takes the smallest of theirs. legs: of an intersection-union test, the one-sided
    contrasts that must all be positive.
    """

    key: str
    id: str
    family: str
    question: str
    weights: Mapping[str, float]
    tasks: Mapping[str, float]
    test: str
    scale: str
    counted: str
    margin: float | None
    legs: tuple[Contrast, ...] = ()

    @property
    def formula(self) -> str:
        if self.legs:
            return f"min({', '.join(leg.formula for leg in self.legs)})"
        groups = _sum(self.weights)
        return groups if len(self.tasks) == 1 else f"[{groups}] on {_sum(self.tasks)}"

    @property
    def groups(self) -> tuple[str, ...]:
        """The trained groups that it weighs; the teacher has no trials."""
        return tuple(group for group in self.weights if group != TEACHER)

    @property
    def place(self) -> str:
        """'mmlu', 'mmlu against sst2', or 'the mean of sst2, mmlu'."""
        against = [task for task, weight in self.tasks.items() if weight < 0]
        plus = ", ".join(task for task, weight in self.tasks.items() if weight > 0)
        if against:
            return f"{plus} against {', '.join(against)}"
        return f"the mean of {plus}" if len(self.tasks) > 1 else plus


def plain_pair(contrast: Contrast) -> tuple[str, str] | None:
    """(A, B) of a plain difference A - B of two trained groups on one task; None of any other contrast."""
    signs = {weight: group for group, weight in contrast.weights.items()}
    plain = len(contrast.tasks) == 1 and set(contrast.weights.values()) == {1.0, -1.0} and len(contrast.weights) == 2
    return (signs[1.0], signs[-1.0]) if plain and TEACHER not in contrast.weights else None


def planned_contrasts(plan: Plan) -> list[Contrast]:
    """One contrast per planned question, task and scale, in the plan's order, then the pairs said to be alike."""
    planned = [
        _contrast(plan, each, tasks, scale) for each in plan.contrasts for scale in each.scales for tasks in each.tasks
    ]
    return [*planned, *_alike(plan)]


def _contrast(plan: Plan, planned: PlannedContrast, tasks: Mapping[str, float], scale: str) -> Contrast:
    in_nats = [plan.tasks[task].in_nats for task in tasks if task in plan.tasks]
    scale = NATS if scale == "points" and in_nats and all(in_nats) else scale
    place = "mean" if planned.every == "mean" else "-".join(sorted(tasks, key=lambda task: -tasks[task]))
    suffix = f"/{scale}" if scale == "logit" else ""
    per_task = planned.holm in ("within task", "over signals")
    alone = planned.holm == "none"
    counted = f"{planned.id if alone else planned.family}{f'/{place}' if per_task or alone else ''}{suffix}"
    key = f"{planned.id}/{place}{suffix}"
    margin = _margin(plan, tasks, scale)
    common = {"family": planned.family, "question": planned.question, "tasks": tasks, "scale": scale}
    legs = tuple(
        Contrast(
            key=f"{key}/{_sum(weights)}",
            id=planned.id,
            weights=weights,
            test="greater",
            counted=counted,
            margin=margin,
            **common,
        )
        for weights in planned.legs
    )
    return Contrast(
        key=key,
        id=planned.id,
        weights=planned.weights,
        test=planned.test,
        counted=counted,
        margin=margin,
        legs=legs,
        **common,
    )


def _alike(plan: Plan) -> Iterator[Contrast]:
    """Every pair of distilling groups on the tasks that the hypothesis says they are alike on."""
    distilling = [group for group in plan.groups if group != plan.control]
    for task in plan.hypothesis.alike if plan.hypothesis else ():
        for first, second in combinations(distilling, 2):
            yield Contrast(
                key=f"{ALIKE}/{task}/{second}-{first}",
                id=ALIKE,
                family=ALIKE,
                question=f"are {second} and {first} equally good on {task}?",
                weights={second: 1.0, first: -1.0},
                tasks={task: 1.0},
                test="equivalence",
                scale=NATS if task in plan.tasks and plan.tasks[task].in_nats else "points",
                counted=f"{ALIKE}/{task}",
                margin=plan.margins.get(task),
            )


def _margin(plan: Plan, tasks: Mapping[str, float], scale: str) -> float | None:
    margins = [plan.margins.get(task) for task in tasks]
    known = [margin for margin in margins if margin is not None]
    return min(known) if scale != "logit" and len(known) == len(margins) else None


def _sum(weights: Mapping[str, float]) -> str:
    """'(hidden_state + attention)/2 - black_box': weights of one size share a bracket."""
    parts = []
    for size in dict.fromkeys(weights.values()):
        names = [name for name, weight in weights.items() if weight == size]
        text = " + ".join(names)
        factor = _factor(abs(size), text if len(names) == 1 else f"({text})") if abs(size) != 1 else text
        if abs(size) == 1 and size < 0:
            factor = " - ".join(names)
        parts.append(("- " if size < 0 else "+ ") + factor)
    return " ".join(parts).removeprefix("+ ")


def _factor(size: float, text: str) -> str:
    inverse = 1 / size
    return f"{text}/{inverse:.0f}" if abs(inverse - round(inverse)) < 1e-9 else f"{size:g} {text}"
