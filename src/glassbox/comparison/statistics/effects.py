"""Sizes of a difference without a unit."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln

from glassbox.comparison.statistics.estimates import DEGENERATE_DEVIATION, Array


def small_sample_factor(df: Array | float) -> Array:
    """J(df) = Gamma(df / 2) / (sqrt(df / 2) Gamma((df - 1) / 2)), which makes d unbiased (Hedges 1981, eq. 6e).

    Exact, not the usual 1 - 3 / (4 df - 1). NaN under df = 2, where the mean of d does not exist.
    """
    df = np.asarray(df, dtype=np.float64)
    known = np.where(df < 2, 2.0, df)
    factor = np.exp(gammaln(known / 2) - gammaln((known - 1) / 2)) / np.sqrt(known / 2)
    return np.where(df < 2, np.nan, factor)


def standardised_by_differences(values: Float[np.ndarray, "... n"]) -> Array:
    """g_z = J(n - 1) mean / s of a contrast's values per seed (Cohen 1988, d_z; Lakens 2013): how reliably it shows.

    NaN where s is under 1e-9.
    """
    return _scaled(values.mean(axis=-1), values.std(axis=-1, ddof=1), values.shape[-1] - 1.0)


def standardised_by_groups(
    first: Float[np.ndarray, "... n"], second: Float[np.ndarray, "... m"], *, paired: bool = True
) -> Array:
    """g_av = J(df) (mean A - mean B) / sqrt((s_A^2 + s_B^2) / 2) (Cumming 2012, ch. 11): how large it is.

    In units of one group's own spread over seeds, unlike g_z, so that it may be set beside studies that do not pair.
    df is n - 1 of pairs; of independent groups it is that of the averaged variance by Satterthwaite,
    (s_A^2 + s_B^2)^2 / (s_A^4 / (n - 1) + s_B^4 / (m - 1)) (Bonett 2008). NaN where neither group varies.
    """
    variances = first.var(axis=-1, ddof=1), second.var(axis=-1, ddof=1)
    average = np.sqrt((variances[0] + variances[1]) / 2)
    df = np.full_like(average, first.shape[-1] - 1.0)
    if not paired:
        squares = variances[0] ** 2 / (first.shape[-1] - 1) + variances[1] ** 2 / (second.shape[-1] - 1)
        df = np.divide((variances[0] + variances[1]) ** 2, squares, out=df, where=squares > 0)
    return _scaled(first.mean(axis=-1) - second.mean(axis=-1), average, df)


def probability_of_superiority(values: Float[np.ndarray, "... n"]) -> Array:
    """P(c > 0) with ties counting one half: the share of seeds on which the contrast is positive.

    Of a difference of two paired groups this is P(A > B) (Grissom and Kim 2012, ch. 5). Values nearer than 1e-9 to 0
    are ties.
    """
    ties = np.abs(values) < DEGENERATE_DEVIATION
    return ((values > 0) & ~ties).mean(axis=-1) + ties.mean(axis=-1) / 2


def superiority_over_all_pairs(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"]) -> float:
    """P(A > B) over all n m pairs, ties one half (Vargha and Delaney 2000): for groups whose seeds are not paired."""
    return float(probability_of_superiority((first[:, None] - second[None, :]).ravel()))


def head_room_share(gain: float, baseline: float, teacher: float, teacher_lower: float) -> float | None:
    """gain / (teacher - baseline): how much of what was left to gain was gained.

    None unless the teacher's lower limit exceeds the baseline; a share of a room that may not exist means nothing.
    """
    return gain / (teacher - baseline) if teacher_lower > baseline else None


def _scaled(difference: Array, deviation: Array, df: Array | float) -> Array:
    varies = deviation >= DEGENERATE_DEVIATION
    return np.where(varies, small_sample_factor(df) * difference / np.where(varies, deviation, 1.0), np.nan)
