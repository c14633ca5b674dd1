"""Every planned contrast tested once, on one set of evidence: estimates, p-values by family, verdicts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference import verdicts
from glassbox.comparison.inference.alternatives import at_the_end, on_logits
from glassbox.comparison.inference.contrasts import ALIKE, Contrast
from glassbox.comparison.inference.observation import Observation, observe
from glassbox.comparison.statistics.equivalence import equivalence
from glassbox.comparison.statistics.estimates import Alternative, Estimate, t_interval, t_test
from glassbox.comparison.statistics.multiplicity import holm, intersection_union

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Analysis:
    """One contrast's numbers, in its scale's unit; NaN for one that does not exist.

    legs: the one-sided tests of an intersection-union test, of which number `leg` decides. Its own numbers are then
    those of that leg; p and equivalence_p are over all legs. Holm's counts are in p_adjusted and
    equivalence_adjusted. within: the interval of confidence 1 - 2 alpha, which TOST compares with the margin. estimate
    is None where nothing could be tested.
    """

    contrast: Contrast
    observation: Observation
    estimate: Estimate | None
    lower: float = NAN
    upper: float = NAN
    t: float = NAN
    p: float = NAN
    p_adjusted: float = NAN
    family_size: int = 1
    equivalence_p: float = NAN
    equivalence_adjusted: float = NAN
    smallest_margin: float = NAN
    probability_within: float = NAN
    within: tuple[float, float] = (NAN, NAN)
    verdict: str = verdicts.NOT_RUN
    legs: tuple[Analysis, ...] = ()
    leg: int = 0

    @property
    def testable(self) -> bool:
        """Whether it, or the leg that decides, has a standard error."""
        estimate = self.deciding.estimate
        return estimate is not None and bool(estimate.testable)

    @property
    def identical(self) -> bool:
        """Whether all that it compares has the same score on every seed."""
        parts = self.legs or (self,)
        return all(part.estimate is not None and part.observation.identical for part in parts)

    @property
    def deciding(self) -> Analysis:
        """The leg whose numbers these are; itself where it has none."""
        return self.legs[self.leg] if self.legs else self


def analyse(contrasts: Sequence[Contrast], evidence: Evidence, alpha: float) -> dict[str, Analysis]:
    """Key -> analysis, of every contrast. Those on log-odds read the same evidence on log-odds."""
    logits = on_logits(evidence)
    tested = []
    for contrast in contrasts:
        reason = at_the_end(contrast, evidence) if contrast.scale == "logit" else None
        if reason:
            tested.append(Analysis(contrast, Observation({}, absent=reason), None))
        else:
            tested.append(_test(contrast, logits if contrast.scale == "logit" else evidence, alpha))
    return {each.contrast.key: _judge(each, alpha) for each in _adjusted(tested)}


def _test(contrast: Contrast, evidence: Evidence, alpha: float, *, alone: bool = True) -> Analysis:
    """alone: whether it is a question of its own and not the leg of one."""
    if contrast.legs:
        return _test_legs(contrast, evidence, alpha)
    observation = observe(contrast, evidence)
    if observation.absent:
        return Analysis(contrast, observation, None)
    estimate = observation.estimate(paired=evidence.paired)
    lower, upper = t_interval(estimate, 1 - alpha)
    alternative: Alternative = "greater" if contrast.test == "greater" else "two_sided"
    t, p = t_test(estimate, alternative)
    found = Analysis(contrast, observation, estimate, float(lower), float(upper), float(t))
    if contrast.test != "descriptive":
        found = replace(found, p=float(p))
    if contrast.margin is None or contrast.test == "descriptive":
        return found
    if alone and contrast.test == "greater":
        below = float(t_test(estimate, "less", contrast.margin)[1])
        return replace(found, equivalence_p=0.0 if observation.identical else below)
    alike = equivalence(estimate, contrast.margin, alpha)
    if observation.identical and not estimate.testable:
        return replace(found, equivalence_p=0.0, smallest_margin=0.0, probability_within=1.0, within=(0.0, 0.0))
    return replace(
        found,
        equivalence_p=float(alike.p),
        smallest_margin=float(alike.smallest_margin),
        probability_within=float(alike.probability_within),
        within=tuple(float(limit) for limit in t_interval(estimate, 1 - 2 * alpha)),  # type: ignore[arg-type]
    )


def _test_legs(contrast: Contrast, evidence: Evidence, alpha: float) -> Analysis:
    """All legs positive, or one of them negative, or all within the margin.

    p is two-sided, like that of every other question: twice the largest one-sided p of a gain (Berger 1982), or
    twice the smallest of a loss times the number of legs (Bonferroni), whichever is less. So each direction is wrong
    in at most alpha / 2. TOST: the larger p.
    """
    legs = tuple(_test(leg, evidence, alpha, alone=False) for leg in contrast.legs)
    absent = next((leg for leg in legs if leg.estimate is None), None)
    if absent:
        return Analysis(contrast, absent.observation, None, legs=legs)
    losses = [float(t_test(leg.estimate, "less")[1]) for leg in legs if leg.estimate is not None]
    decides, p = directed_p([leg.p for leg in legs], losses, weakest_leg(legs))
    return replace(
        legs[decides],
        contrast=contrast,
        leg=decides,
        p=p,
        equivalence_p=float(intersection_union(np.asarray([leg.equivalence_p for leg in legs]))),
        smallest_margin=max(leg.smallest_margin for leg in legs),
        probability_within=NAN,
        within=(min(leg.within[0] for leg in legs), max(leg.within[1] for leg in legs)),
        legs=legs,
    )


def weakest_leg(legs: Sequence[Analysis]) -> int:
    """The leg that decides whether all are positive: the largest p, or one without a p whose value is smaller still.

    A leg has no p where every seed gave the same value and the resolution of the scores is not known. It cannot
    outweigh a leg that has one, unless its value is the smaller.
    """
    tested = [number for number, leg in enumerate(legs) if not math.isnan(leg.p)]
    lowest = min(range(len(legs)), key=lambda number: float(legs[number].estimate.value))  # type: ignore[union-attr]
    return max(tested, key=lambda number: legs[number].p) if lowest in tested else lowest


def directed_p(gains: Sequence[float], losses: Sequence[float], weakest: int) -> tuple[int, float]:
    """Which leg decides and the two-sided p, from the one-sided p of each leg's gain and of its loss."""
    better = min(1.0, 2 * gains[weakest])
    worst = min(range(len(losses)), key=lambda leg: math.inf if math.isnan(losses[leg]) else losses[leg])
    worse = min(1.0, 2 * len(losses) * losses[worst])
    return (worst, worse) if worse < better else (weakest, better)


def _adjusted(tested: Iterable[Analysis]) -> list[Analysis]:
    """Holm over each family's planned tests, run or not; the same for equivalence. Order is kept."""
    tested = list(tested)
    families: dict[str, list[int]] = defaultdict(list)
    for position, each in enumerate(tested):
        if each.contrast.test != "descriptive":
            families[each.contrast.counted].append(position)
    for members in families.values():
        alike = tested[members[0]].contrast.id == ALIKE
        p = holm(np.asarray([tested[i].p for i in members]))
        tost = np.asarray([tested[i].equivalence_p for i in members])
        similar = tost if alike else holm(tost)
        for i, adjusted, equivalent in zip(members, p, similar, strict=True):
            tested[i] = replace(
                tested[i],
                p_adjusted=float(adjusted),
                equivalence_adjusted=float(equivalent),
                family_size=len(members),
            )
    return tested


def _judge(found: Analysis, alpha: float) -> Analysis:
    if found.estimate is None:
        return found
    if found.contrast.test == "descriptive":
        return replace(found, verdict=verdicts.DESCRIPTIVE)
    if not found.testable and not (found.identical and found.equivalence_adjusted <= alpha):
        return replace(found, verdict=verdicts.DEGENERATE)
    return replace(found, verdict=verdict_of(found, alpha, found.p_adjusted))


def verdict_of(found: Analysis, alpha: float, p_adjusted: float) -> str:
    """The verdict were p_adjusted the contrast's adjusted p: the t test's own, or another test's of the same values.

    Of several legs, the lowest limit of all bounds the smallest gain, whichever leg decides p.
    """
    assert found.estimate is not None
    limits, margin = (min([found.lower, *(leg.lower for leg in found.legs)]), found.upper), found.contrast.margin
    return verdicts.contrast_verdict(
        float(found.estimate.value),
        limits,
        p_adjusted,
        found.equivalence_adjusted,
        margin,
        alpha,
        one_sided=found.contrast.test == "greater",
    )
