"""Diverged trials: how often each group has them, and what the answers would be were a diverged trial the worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy import stats

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.analysis import Analysis, directed_p
from glassbox.comparison.inference.contrasts import Contrast
from glassbox.comparison.statistics.estimates import DEGENERATE_DEVIATION, Alternative
from glassbox.comparison.statistics.intervals import exact_share_interval

Signs = Int[np.ndarray, " seeds"]


def divergence_rates(evidence: Evidence, confidence: float) -> list[dict[str, Any]]:
    """A row per group: trials that came to an outcome, those that diverged, and their exact share (Clopper-Pearson)."""
    rows = []
    for position, group in enumerate(evidence.groups):
        diverged = int(evidence.diverged[position].sum())
        n = diverged + int(np.isfinite(evidence.scores[position]).all(axis=0).sum())
        lower, upper = exact_share_interval(diverged, n, confidence) if n else (math.nan, math.nan)
        share = diverged / n if n else math.nan
        rows.append({"group": group, "n": n, "diverged": diverged, "share": share, "lower": lower, "upper": upper})
    return rows


def involves_diverged(contrast: Contrast, evidence: Evidence) -> bool:
    return any(evidence.diverged[evidence.groups.index(group)].any() for group in contrast.groups)


def diverged_last_p(found: Analysis, evidence: Evidence) -> float:
    """p of the sign test with every diverged trial ranked below every finished one; NaN where that has no meaning.

    It has none for an interaction: the group that diverged did so on all tasks, and would cancel.
    """
    if found.estimate is None or len(found.contrast.tasks) > 1:
        return math.nan
    if found.legs:
        each = [signs(leg, evidence) for leg in found.legs]
        gains, losses = ([_sign_test(one, side) for one in each] for side in ("greater", "less"))
        return directed_p(gains, losses, int(np.argmax(gains)))[1]
    return _sign_test(signs(found, evidence), "greater" if found.contrast.test == "greater" else "two_sided")


def signs(found: Analysis, evidence: Evidence) -> Signs:
    """1 where the contrast is positive on a seed, -1 where negative; 0 for a tie and where seeds are incomplete.

    A diverged trial of a group with a positive weight makes its seed negative, one with a negative weight positive.
    """
    by_group = found.observation.by_group
    if not by_group:
        return np.zeros(0, dtype=int)
    values = np.sum(list(by_group.values()), axis=0) + found.observation.constant
    told = np.where(np.isfinite(values) & (np.abs(values) >= DEGENERATE_DEVIATION), np.sign(values), 0).astype(int)
    fallen = np.zeros_like(told)
    for group in found.contrast.groups:
        diverged = evidence.diverged[evidence.groups.index(group)]
        fallen += np.where(diverged, -int(np.sign(found.contrast.weights[group])), 0)
    return np.where(np.isfinite(values), told, np.sign(fallen))


def direction_of(found: Analysis, evidence: Evidence) -> int:
    return int(np.sign(signs(found.deciding, evidence).sum()))


def divergence_notes(rates: Sequence[dict[str, Any]], confidence: float) -> list[str]:
    """One sentence with the rate of every group that has diverged trials; nothing where none has."""
    told = [
        f"{row['group']} {row['diverged']} of {row['n']} ({100 * row['lower']:.1f} to {100 * row['upper']:.1f} %)"
        for row in rates
        if row["diverged"]
    ]
    if not told:
        return []
    return [
        f"Diverged: {', '.join(told)}; {100 * confidence:g} % intervals by Clopper and Pearson. Scores and differences "
        "are among runs that finish; with diverged runs ranked last, the sign tests are under Sensitivity."
    ]


def _sign_test(told: Signs, alternative: Alternative) -> float:
    """Exact binomial p of as many positive signs, ties left out (Conover 1999, 3.4); 1 without a sign."""
    positive, n = int((told > 0).sum()), int((told != 0).sum())
    if n == 0:
        return 1.0
    side = {"two_sided": "two-sided"}.get(alternative, alternative)
    return float(stats.binomtest(positive, n, alternative=side).pvalue)
