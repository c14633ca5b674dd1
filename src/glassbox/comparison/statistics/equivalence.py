"""Is a difference small enough not to matter? Not finding one is no answer; these are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from glassbox.comparison.statistics.estimates import Array, Estimate, t_quantile, t_test


@dataclass(frozen=True, eq=False)
class Equivalence:
    """p of TOST; the smallest margin that passes at alpha; the probability that the difference is within the margin."""

    p: Array
    smallest_margin: Array
    probability_within: Array


def equivalence(estimate: Estimate, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t tests of |true mean| >= margin (Schuirmann 1987): p is the larger of the two.

    Passing at alpha is the same as the 1 - 2 alpha t interval lying within the margin, so the smallest margin that
    passes is |value| + t(1 - alpha, df) SE. probability_within is the posterior probability of the region of
    practical equivalence, P(-margin < mu < margin | data), where under the flat prior p(mu, log sigma) = 1 the
    posterior of mu is value + SE x Student t(df) (Gelman et al., Bayesian Data Analysis, 3.2; Kruschke 2018 for the
    region). All NaN where the estimate is not testable. They answer: would other seeds, on these same items, differ
    by less than the margin?
    """
    if not margin > 0:
        raise ValueError(f"an equivalence margin must be positive, not {margin}")
    from_below, p_below = t_test(estimate, "greater", -margin)
    from_above, p_above = t_test(estimate, "less", margin)
    reach = np.abs(estimate.value) + t_quantile(1 - alpha, estimate.df) * estimate.standard_error
    return Equivalence(
        p=np.maximum(p_below, p_above),
        smallest_margin=np.where(estimate.testable, reach, np.nan),
        probability_within=special.stdtr(estimate.df, from_below) - special.stdtr(estimate.df, from_above),
    )


def minimum_effect_p(estimate: Estimate, margin: float) -> Array:
    """p of |true mean| <= margin: small where the difference is surely larger than the margin, in either direction.

    The largest p over that null, which a true mean of +-margin gives: P(|T| at least as far out) summed over both tails
    (Murphy and Myors 1999's minimum-effect test, for a t statistic).
    """
    _, beyond = t_test(Estimate(np.abs(estimate.value), estimate.standard_error, estimate.df), "greater", margin)
    _, opposite = t_test(Estimate(np.abs(estimate.value), estimate.standard_error, estimate.df), "greater", -margin)
    return np.minimum(beyond + opposite, 1.0)
