"""An estimate, its standard error and its degrees of freedom: what every interval and test here is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import special

DEGENERATE_DEVIATION = 1e-9

Alternative = Literal["two_sided", "greater", "less"]
Array = Float[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class Estimate:
    """value and standard_error in the scores' unit; all three arrays have one shape, a scalar's for one estimate.

    A standard error of exactly 0 marks a degenerate estimate: the deviation behind it was under 1e-9 and the resolution
    of the scores is not known, so that neither a test nor an interval says anything. NaN marks one of too few values.
    """

    value: Array
    standard_error: Array
    df: Array

    @property
    def testable(self) -> np.ndarray:
        return np.isfinite(self.standard_error) & (self.standard_error > 0)


def mean_estimate(values: Float[np.ndarray, "... n"], resolution: float = 0.0) -> Estimate:
    """Mean over the last axis, its standard error s / sqrt(n) (s with n - 1 in its denominator), and n - 1.

    resolution: the variance that rounding alone gives one value, sum w^2 / (12 items^2) for weights w of scores that
    are shares of `items` questions (Sheppard 1898). s^2 is never taken as less: scores cannot show a smaller spread.

    Of a paired contrast c_s = sum w Y_s, one value per seed, this is the paired t procedure (Student 1908; Snedecor and
    Cochran, Statistical Methods, ch. 6). Its interval answers: what would the mean be over other seeds, on these same
    items?
    """
    n = values.shape[-1]
    if n == 0:
        raise ValueError("a mean of no values was asked for: leave the contrast out instead")
    mean = values.mean(axis=-1)
    if n == 1:
        return Estimate(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    deviation = np.maximum(_snapped(values.std(axis=-1, ddof=1)), np.sqrt(resolution))
    return Estimate(mean, deviation / np.sqrt(n), np.full_like(mean, n - 1.0))


def welch_estimate(
    samples: Sequence[Float[np.ndarray, "... n"]], resolutions: Sequence[float] | None = None
) -> Estimate:
    """Sum of the means of independent samples, each already multiplied by its weight; n may differ between them.

    resolutions: of each sample, as in mean_estimate.

    SE^2 = sum s_g^2 / n_g, df = SE^4 / sum ((s_g^2 / n_g)^2 / (n_g - 1)) (Welch 1938, 1947; Satterthwaite 1946). Its
    interval answers what mean_estimate's does where the runs of one seed share nothing but the number.
    """
    floors = resolutions or [0.0] * len(samples)
    means = [mean_estimate(sample, floor) for sample, floor in zip(samples, floors, strict=True)]
    variances = np.stack([np.square(mean.standard_error) for mean in means])
    total = variances.sum(axis=0)
    denominator = (np.square(variances) / np.stack([mean.df for mean in means])).sum(axis=0)
    df = np.divide(np.square(total), denominator, out=np.full_like(total, np.nan), where=denominator > 0)
    return Estimate(np.sum([mean.value for mean in means], axis=0), np.sqrt(total), df)


def pair_correlation(first: Float[np.ndarray, "... n"], second: Float[np.ndarray, "... n"]) -> Array:
    """Pearson's r of two groups' scores over shared seeds; NaN where either does not vary, or fewer than 3 pairs are.

    It says what pairing bought: var(A - B) = var A + var B - 2 r sd A sd B.
    """
    deviations = [sample - sample.mean(axis=-1, keepdims=True) for sample in (first, second)]
    n = first.shape[-1]
    spreads = [np.sqrt(np.square(each).sum(axis=-1) / max(n - 1, 1)) for each in deviations]
    product = (deviations[0] * deviations[1]).sum(axis=-1) / max(n - 1, 1)
    varies = (spreads[0] >= DEGENERATE_DEVIATION) & (spreads[1] >= DEGENERATE_DEVIATION) & (n > 2)
    scale = np.where(varies, spreads[0] * spreads[1], 1.0)
    return np.where(varies, np.clip(product / scale, -1.0, 1.0), np.nan)


def t_interval(estimate: Estimate, confidence: float = 0.95) -> tuple[Array, Array]:
    """value -+ t((1 + confidence) / 2, df) SE; NaN where the estimate is not testable."""
    half = np.where(estimate.testable, t_quantile((1 + confidence) / 2, estimate.df) * estimate.standard_error, np.nan)
    return estimate.value - half, estimate.value + half


def t_test(estimate: Estimate, alternative: Alternative = "two_sided", null: float = 0.0) -> tuple[Array, Array]:
    """t = (value - null) / SE and its p from Student's t; NaN, both, where the estimate is not testable.

    p answers: how often would other seeds give a t at least this far out, were the true mean `null`?
    """
    t = _ratio(estimate.value - null, estimate)
    df = np.where(estimate.testable, estimate.df, np.nan)
    if alternative == "two_sided":
        return t, 2 * special.stdtr(df, -np.abs(t))
    return t, special.stdtr(df, -t if alternative == "greater" else t)


def t_quantile(probability: float, df: Array | float) -> Array:
    return np.asarray(special.stdtrit(df, probability))


def _ratio(numerator: Array, estimate: Estimate) -> Array:
    safe = np.where(estimate.testable, estimate.standard_error, 1.0)
    return np.where(estimate.testable, numerator / safe, np.nan)


def _snapped(deviation: Array) -> Array:
    return np.where(deviation < DEGENERATE_DEVIATION, 0.0, deviation)
