"""What a t test or an equivalence test would find: exact power, minimum detectable effect, seeds needed."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import integrate, optimize, special, stats

MOST_SEEDS = 10_000


def t_power(shift: float, df: float, alpha: float = 0.05, *, two_sided: bool = True) -> float:
    """Power of a t test whose true mean lies `shift` standard errors from the null: P(|T'| > t), T' noncentral t.

    Exact (Cohen 1988, ch. 2 and 12; Johnson, Kotz and Balakrishnan, ch. 31). With n pairs shift = delta sqrt(n) / s_d.
    """
    critical = float(stats.t.ppf(1 - (alpha / 2 if two_sided else alpha), df))
    upper = float(stats.nct.sf(critical, df, shift))
    return upper + float(stats.nct.sf(critical, df, -shift)) if two_sided else upper


def minimum_detectable(df: float, alpha: float = 0.05, power: float = 0.8, *, two_sided: bool = True) -> float:
    """The true mean, in standard errors, that a t test at alpha finds with this power.

    Times the standard error it is the minimum detectable effect: with seven pairs 3.36 standard errors, 1.27 s_d.
    """

    def missing(shift: float) -> float:
        return t_power(shift, df, alpha, two_sided=two_sided) - power

    upper = 4.0
    while missing(upper) < 0:
        upper *= 2
    return float(optimize.brentq(missing, 0.0, upper, xtol=1e-10))  # type: ignore[arg-type]


def equivalence_power(margin: float, df: float, alpha: float = 0.05, difference: float = 0.0) -> float:
    """Power of TOST; margin and the true difference in units of the true standard error of the mean.

    Exact: given x = s / sigma, x^2 ~ chi^2(df) / df, TOST passes where |mean| <= margin - t(1 - alpha, df) x, so the
    power is the integral over x of P(that) (Owen 1965; Phillips 1990). 0 where the margin is too small to pass at any
    mean.
    """
    critical = float(stats.t.ppf(1 - alpha, df))
    density = 0.5 * df * math.log(df) - (0.5 * df - 1) * math.log(2) - math.lgamma(0.5 * df)

    def passing(x: float) -> float:
        reach = margin - critical * x
        inside = special.ndtr(reach - difference) - special.ndtr(-reach - difference)
        return float(inside) * math.exp(density + (df - 1) * math.log(x) - 0.5 * df * x * x) if x > 0 else 0.0

    limit = margin / critical
    likely = [x for x in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0) if x < limit]
    return float(integrate.quad(passing, 0.0, min(limit, 12.0), points=likely or None, limit=200)[0])


def seeds_to_detect(
    difference: float, deviation: float, alpha: float = 0.05, power: float = 0.8, *, two_sided: bool = True
) -> int | None:
    """The fewest pairs with which a t test at alpha finds a true difference with this power. None above 10,000.

    deviation: of the contrast over seeds, in the difference's unit.
    """
    shift = abs(difference) / deviation
    return _fewest(lambda n: t_power(shift * math.sqrt(n), n - 1, alpha, two_sided=two_sided) >= power)


def seeds_for_equivalence(margin: float, deviation: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The fewest pairs with which TOST at alpha passes with this power at a true difference of 0. None above 10,000."""
    return _fewest(lambda n: equivalence_power(margin * math.sqrt(n) / deviation, n - 1, alpha) >= power)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest n from 2 for which enough(n), which stays true from there on."""
    high = 2
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
