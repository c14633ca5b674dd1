"""The stated hypothesis as one conjunction: alike where labels suffice, better where they do not, and by more there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glassbox.comparison.inference import verdicts
from glassbox.comparison.inference.analysis import Analysis
from glassbox.comparison.inference.contrasts import ALIKE
from glassbox.comparison.inference.sentences import amount, p_text, unit
from glassbox.comparison.plan import Plan
from glassbox.comparison.statistics.equivalence import minimum_effect_p
from glassbox.comparison.statistics.estimates import t_interval, t_test
from glassbox.comparison.statistics.multiplicity import holm, intersection_union

GAIN, INTERACTION = "Q1", "Q4"
SUPPORTED, REFUTED, OPEN, UNTESTED = "supported", "refuted", "not established", "not tested"


@dataclass(frozen=True)
class Leg:
    """p: of the leg itself, TOST or one-sided t. against: of its opposite, before Holm over the legs. NaN: untested."""

    name: str
    analysis: Analysis | None
    p: float
    against: float
    contradicted: bool = False
    blocked: str | None = None
    left_out: str | None = None

    @property
    def ran(self) -> bool:
        return self.analysis is not None and self.analysis.estimate is not None

    def holds(self, alpha: float) -> bool:
        return self.blocked is None and self.left_out is None and self.p <= alpha


def judge(
    plan: Plan,
    analyses: Mapping[str, Analysis],
    overruled: Mapping[str, str] | None = None,
    ends: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Verdict, p and legs.

    All legs must hold, each at alpha: an intersection-union test, whose p is the largest leg's (Berger 1982), with no
    adjustment. A leg of likeness is TOST against the plan's margin, one of gain a one-sided t test. The hypothesis is
    refuted where the opposite of a leg is shown (a difference beyond the margin, a gain below 0), by p-values that
    Holm adjusts over all legs, so that a true hypothesis is called refuted in at most alpha of studies.

    It is not tested where no leg is refuted and one could not be run, or where the plan states none.

    ends: task -> where all groups are on it, of tasks at an end of their scale. Nothing can be seen there, so their
    legs are left out and not counted as failed; p is that of the others.

    overruled: key of a contrast -> why its test decides nothing (scale, an uninformative task). Such a leg neither
    holds nor is contradicted, and the whole has no p; nor has it where a leg could not be tested.
    """
    if plan.hypothesis is None:
        return {
            "verdict": UNTESTED,
            "p": math.nan,
            "legs": [],
            "text": "Not tested: the plan states no hypothesis for these tasks.",
        }
    stated = [
        replace(leg, blocked=_blocked(leg, overruled or {}), left_out=_left_out(leg, ends or {}))
        for leg in (*_alike(analyses), *_gains(plan, analyses))
    ]
    every = _contradicted(stated, plan.alpha)
    legs = [leg for leg in every if leg.left_out is None]
    verdict = OPEN
    if any(leg.contradicted for leg in legs):
        verdict = REFUTED
    elif not legs or any(not leg.ran for leg in legs):
        verdict = UNTESTED
    elif legs and all(leg.holds(plan.alpha) for leg in legs):
        verdict = SUPPORTED
    p = [leg.p if leg.blocked is None else math.nan for leg in legs]
    largest = float(intersection_union(np.asarray(p))) if p else math.nan
    rows = [_row(leg, plan) for leg in every]
    absent = dict.fromkeys(leg.left_out for leg in every if leg.left_out)
    left_out = f" Left out, not failed: {'; '.join(absent)}." if absent else ""
    return {"verdict": verdict, "p": largest, "legs": rows, "text": _text(plan, verdict, largest, legs) + left_out}


def _left_out(leg: Leg, ends: Mapping[str, str]) -> str | None:
    tasks = leg.analysis.contrast.tasks if leg.analysis else ()
    return next((f"{task}, where every group is {ends[task]}" for task in tasks if task in ends), None)


def _blocked(leg: Leg, overruled: Mapping[str, str]) -> str | None:
    return overruled.get(leg.analysis.contrast.key) if leg.analysis else None


def _alike(analyses: Mapping[str, Analysis]) -> list[Leg]:
    legs = []
    for found in analyses.values():
        if found.contrast.id == ALIKE:
            against, margin = math.nan, found.contrast.margin
            if found.estimate is not None and margin is not None:
                against = float(minimum_effect_p(found.estimate, margin))
            name = f"{' and '.join(found.contrast.groups)} equivalent on {found.contrast.place}"
            legs.append(Leg(name, found, found.equivalence_p, against))
    return legs


def _gains(plan: Plan, analyses: Mapping[str, Analysis]) -> list[Leg]:
    legs = []
    for contrast_id, says in ((GAIN, "white-box signals improve {}"), (INTERACTION, "they improve {} more than {}")):
        for task in plan.hypothesis.better if plan.hypothesis else ():
            found = next((each for each in analyses.values() if _is(each, contrast_id, task)), None)
            others = [] if found is None else [name for name, weight in found.contrast.tasks.items() if weight < 0]
            name = says.format(task, ", ".join(others) or "the others")
            p = against = math.nan
            if found is not None and found.estimate is not None:
                p, against = (float(t_test(found.estimate, side)[1]) for side in ("greater", "less"))
            legs.append(Leg(name, found, p, against))
    return legs


def _is(found: Analysis, contrast_id: str, task: str) -> bool:
    contrast = found.contrast
    return contrast.id == contrast_id and contrast.scale != "logit" and contrast.tasks.get(task, 0.0) > 0


def _contradicted(legs: Sequence[Leg], alpha: float) -> list[Leg]:
    if not legs:
        return []
    adjusted = holm(np.asarray([leg.against for leg in legs]))
    return [
        replace(leg, contradicted=bool(leg.blocked is None and leg.left_out is None and p <= alpha))
        for leg, p in zip(legs, adjusted, strict=True)
    ]


def _row(leg: Leg, plan: Plan) -> dict[str, Any]:
    return {
        "name": leg.name,
        "contrast": leg.analysis.contrast.key if leg.analysis else None,
        "p": leg.p,
        "holds": leg.holds(plan.alpha),
        "contradicted": leg.contradicted,
        "left_out": leg.left_out,
        "text": _leg_text(leg, plan),
    }


def _leg_text(leg: Leg, plan: Plan) -> str:
    found = leg.analysis
    if found is None:
        return f"{leg.name}: the plan has no contrast of this."
    if found.estimate is None:
        return f"{leg.name}: not run, {found.observation.absent}."
    if leg.left_out:
        return f"{leg.name}: left out, {leg.left_out}."
    scale = found.contrast.scale
    difference = f"{amount(float(found.estimate.value), scale, True)} {unit(scale)}"
    if found.identical and leg.holds(plan.alpha) and found.contrast.margin:
        margin = amount(found.contrast.margin, scale)
        return f"{leg.name}: holds, {verdicts.IDENTICAL}, within the margin of {margin} {unit(scale)}."
    if not found.estimate.testable:
        return f"{leg.name}: degenerate, every seed gave the same difference ({difference}), so nothing can be tested."
    if leg.contradicted:
        return f"{leg.name}: contradicted, {difference} ({_interval(found)})."
    outcome = "holds" if leg.holds(plan.alpha) else leg.blocked or "not shown"
    bound = amount(float(t_interval(found.estimate, 1 - 2 * plan.alpha)[0]), scale, True)
    test, margin = f"at least {bound} by the one-sided bound, one-sided t test,", found.contrast.margin
    if found.contrast.id == ALIKE:
        against = f"{100 * margin:g}" if margin and scale == "points" else amount(margin, scale)
        test = f"TOST against {against} {unit(scale)}," if margin else "no margin,"
    return f"{leg.name}: {outcome}, {difference} ({_interval(found)}; {test} p {p_text(leg.p)})."


def _interval(found: Analysis) -> str:
    scale = found.contrast.scale
    return f"interval {amount(found.lower, scale, True)} to {amount(found.upper, scale, True)}"


def _text(plan: Plan, verdict: str, p: float, legs: Sequence[Leg]) -> str:
    assert plan.hypothesis is not None
    claim = (
        f"Distilling groups are alike on {_and(plan.hypothesis.alike)}, and white-box signals improve "
        f"{_and(plan.hypothesis.better)}, by more than there"
    )
    if verdict == SUPPORTED:
        return f"Supported: {claim}. All {len(legs)} legs hold; the largest leg has p {p_text(p)}."
    if verdict == REFUTED:
        return f"Refuted: {claim}. Contradicted: {'; '.join(leg.name for leg in legs if leg.contradicted)}."
    if verdict == UNTESTED:
        absent = [leg.name for leg in legs if not leg.ran]
        why = f"{len(absent)} of {len(legs)} legs were not run" if legs else "no leg is left"
        return f"Not tested: {claim}. {why[:1].upper()}{why[1:]}."
    failing = [leg.name for leg in legs if not leg.holds(plan.alpha)]
    return f"Not established: {claim}. {len(failing)} of {len(legs)} legs do not hold: {'; '.join(failing)}."


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)
