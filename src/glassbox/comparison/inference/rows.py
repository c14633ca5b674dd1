"""One contrast as a row of results.json: every number that the analysis has of it, by name."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference import verdicts
from glassbox.comparison.inference.analysis import Analysis
from glassbox.comparison.inference.contrasts import TEACHER, plain_pair
from glassbox.comparison.inference.observation import has_clusters, observe_items
from glassbox.comparison.plan import Plan
from glassbox.comparison.statistics.effects import (
    head_room_share,
    probability_of_superiority,
    standardised_by_differences,
    standardised_by_groups,
    superiority_over_all_pairs,
)
from glassbox.comparison.statistics.estimates import Alternative, pair_correlation, t_interval, t_test
from glassbox.comparison.statistics.intervals import share_interval
from glassbox.comparison.statistics.power import minimum_detectable

minimum_shift = lru_cache(maxsize=None)(minimum_detectable)


def contrast_row(found: Analysis, evidence: Evidence, plan: Plan, verdict: str) -> dict[str, Any]:
    """The row of `contrasts`, without its sensitivity. NaN stands for a number that does not exist."""
    contrast, deciding = found.contrast, found.deciding
    row = {
        "id": contrast.id,
        "key": contrast.key,
        "family": contrast.family,
        "counted": contrast.counted,
        "question": contrast.question,
        "formula": contrast.formula,
        "tasks": dict(contrast.tasks),
        "weights": dict(contrast.weights),
        "test": contrast.test,
        "scale": contrast.scale,
        "status": "not run" if found.estimate is None else "run",
        "reason": found.observation.absent,
        "absent_groups": [group for group in contrast.groups if group not in evidence.groups],
        "n": int(found.observation.values.size),
        "n_dropped": found.observation.n_dropped,
        "pairing": "verified" if evidence.paired else "nominal",
        "family_size": found.family_size,
        "verdict": verdict,
    }
    return {**row, **_numbers(found, deciding, evidence, plan)}


def _numbers(found: Analysis, deciding: Analysis, evidence: Evidence, plan: Plan) -> dict[str, Any]:
    if found.estimate is None:
        return dict.fromkeys(NUMBERS)
    paired, contrast = evidence.paired, found.contrast
    error = float(found.estimate.standard_error)
    values = deciding.observation.values
    return {
        "estimate": float(found.estimate.value),
        "deviation": float(values.std(ddof=1)) if paired else error * math.sqrt(values.size),
        "standard_error": error,
        "lower": found.lower,
        "upper": found.upper,
        "t": found.t,
        "df": float(found.estimate.df),
        "p": found.p,
        "sides": sides(contrast.test),
        "bound": _bound(found, plan),
        "p_adjusted": found.p_adjusted,
        "correlation": _correlation(deciding),
        "welch": _welch(deciding, plan.confidence),
        "items": _items(deciding, evidence, plan.confidence),
        "equivalence": _equivalence(found, plan.alpha),
        "effect": _effect(deciding, evidence),
        "minimum_detectable": _minimum_detectable(found, plan),
        "components": [_component(leg, deciding is leg, plan) for leg in found.legs],
        "degenerate": not found.testable,
        "identical": found.identical,
        "at_resolution": deciding.observation.at_resolution(found.estimate),
    }


NUMBERS = (
    "estimate deviation standard_error lower upper t df p sides bound p_adjusted correlation welch items "
    "equivalence effect minimum_detectable components degenerate identical at_resolution"
).split()


def _correlation(found: Analysis) -> float | None:
    pair = plain_pair(found.contrast)
    if pair is None:
        return None
    samples = found.observation.samples(paired=True)
    return float(pair_correlation(samples[pair[0]], -samples[pair[1]]))


def _welch(found: Analysis, confidence: float) -> dict[str, Any]:
    estimate = found.observation.estimate(paired=False)
    alternative: Alternative = "greater" if found.contrast.test == "greater" else "two_sided"
    lower, upper = t_interval(estimate, confidence)
    p = math.nan if found.contrast.test == "descriptive" else float(t_test(estimate, alternative)[1])
    return {
        "estimate": float(estimate.value),
        "lower": float(lower),
        "upper": float(upper),
        "df": float(estimate.df),
        "p": p,
    }


def _items(found: Analysis, evidence: Evidence, confidence: float) -> dict[str, Any] | None:
    if found.contrast.scale == "logit":
        return None
    clustered = has_clusters(found.contrast, evidence)
    scope = observe_items(found.contrast, evidence, found.observation, paired=evidence.paired, clustered=clustered)
    if scope is None:
        return None
    lower, upper = scope.interval(confidence)
    return {
        "se": float(scope.both.standard_error),
        "df": float(scope.both.df),
        "lower": lower,
        "upper": upper,
        "variance_seeds": float(scope.seeds.standard_error) ** 2,
        "variance_items": scope.items,
        "variance_residual": scope.residual,
        "coincides": scope.coincide(confidence),
        "clustered": clustered,
    }


def _equivalence(found: Analysis, alpha: float) -> dict[str, Any] | None:
    """equivalent: TOST passes at alpha after the family's adjustment."""
    if found.contrast.margin is None or math.isnan(found.equivalence_p):
        return None
    return {
        "margin": found.contrast.margin,
        "confidence": 1 - 2 * alpha,
        "lower": found.within[0],
        "upper": found.within[1],
        "p": found.equivalence_p,
        "p_adjusted": found.equivalence_adjusted,
        "equivalent": found.equivalence_adjusted <= alpha,
        "smallest_margin": found.smallest_margin,
        "probability_within": found.probability_within,
    }


def _effect(found: Analysis, evidence: Evidence) -> dict[str, Any]:
    values, pair = found.observation.values, plain_pair(found.contrast)
    assert found.estimate is not None
    effect: dict[str, Any] = {
        "g_z": float(standardised_by_differences(values)) if evidence.paired else None,
        "g_av": None,
        "probability_superiority": float(probability_of_superiority(values)) if evidence.paired else None,
        "head_room_share": _head_room(found, evidence),
    }
    if pair and found.estimate.testable:
        samples = found.observation.samples(paired=evidence.paired)
        first, second = samples[pair[0]], -samples[pair[1]]
        effect["g_av"] = float(standardised_by_groups(first, second, paired=evidence.paired))
        if not evidence.paired:
            effect["probability_superiority"] = superiority_over_all_pairs(first, second)
    return effect


def _head_room(found: Analysis, evidence: Evidence) -> float | None:
    """Of a gain over one group on one task. The teacher's lower limit is Wilson's, over its answers."""
    below = [group for group, weight in found.contrast.weights.items() if weight < 0]
    task = next(iter(found.contrast.tasks))
    known = task in evidence.teacher and task in evidence.items
    if len(below) != 1 or len(found.contrast.tasks) > 1 or TEACHER in found.contrast.weights or not known:
        return None
    if found.contrast.weights[below[0]] != -1 or found.contrast.scale != "points" or found.estimate is None:
        return None
    teacher, n = evidence.teacher[task], len(evidence.items[task].ids)
    baseline = -float(found.observation.samples(paired=evidence.paired)[below[0]].mean())
    lower, _ = share_interval(round(teacher * n), n)
    return head_room_share(float(found.estimate.value), baseline, teacher, lower)


def _minimum_detectable(found: Analysis, plan: Plan) -> dict[str, float]:
    """In the contrast's unit, at alpha and at Holm's first step, alpha / (tests in the family)."""
    assert found.estimate is not None
    if not found.estimate.testable:
        return {"planned": math.nan, "holm_first": math.nan}
    two_sided = found.contrast.test != "greater"
    df, error = float(found.estimate.df), float(found.estimate.standard_error)
    steps = {"planned": plan.alpha, "holm_first": plan.alpha / found.family_size}
    return {name: minimum_shift(df, a, plan.power, two_sided=two_sided) * error for name, a in steps.items()}


def sides(test: str) -> str:
    """Of a test's p: an intersection-union test's is two-sided, its legs' are one-sided."""
    return "one-sided" if test == "greater" else "two-sided"


def _bound(found: Analysis, plan: Plan) -> float | None:
    """The lower one-sided limit of confidence 1 - alpha, of a one-sided test; None for a two-sided one."""
    assert found.estimate is not None
    return float(t_interval(found.estimate, 1 - 2 * plan.alpha)[0]) if found.contrast.test == "greater" else None


def _component(leg: Analysis, decides: bool, plan: Plan) -> dict[str, Any]:
    assert leg.estimate is not None
    return {
        "formula": leg.contrast.formula,
        "weights": dict(leg.contrast.weights),
        "estimate": float(leg.estimate.value),
        "lower": leg.lower,
        "upper": leg.upper,
        "t": leg.t,
        "df": float(leg.estimate.df),
        "p": leg.p,
        "sides": sides(leg.contrast.test),
        "bound": _bound(leg, plan),
        "equivalence_p": leg.equivalence_p,
        "decides": decides,
    }


def final_verdict(found: Analysis, on_logits: Analysis | None, uninformative: set[str]) -> str:
    """The verdict after what may overrule it: an uninformative task, the scale.

    on_logits: the planned contrast of the same id and
    tasks on log-odds. An uninformative task lets a difference stand, but no likeness and no search for one.
    """
    if found.verdict in (verdicts.NOT_RUN, verdicts.DEGENERATE, verdicts.DESCRIPTIVE):
        return found.verdict
    weak = found.verdict == verdicts.INCONCLUSIVE or verdicts.claims_similarity(found.verdict)
    if weak and uninformative & set(found.contrast.tasks):
        return verdicts.UNINFORMATIVE
    other = on_logits if on_logits is not None and on_logits.estimate is not None else None
    if other is not None and verdicts.direction(other.verdict) != verdicts.direction(found.verdict):
        return verdicts.SCALE
    return found.verdict
