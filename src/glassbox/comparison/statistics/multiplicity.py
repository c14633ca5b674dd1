"""p-values of several tests of one question."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from glassbox.comparison.statistics.estimates import Array


def holm(p: Float[np.ndarray, "... tests"]) -> Float[np.ndarray, "... tests"]:
    """Holm's step-down adjustment over the last axis: max over j <= i of min(1, (m - j + 1) p_(j)) (Holm 1979).

    m counts every test of the axis. NaN is a test that was planned and could not be run: it stays in m as if its p were
    the largest, and comes back NaN. Rejecting where the result is at most alpha keeps the chance of any false
    rejection in the family at alpha, however the tests depend on each other.
    """
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    ordered = np.take_along_axis(p, order, axis=-1)
    stepped = np.minimum(np.maximum.accumulate((m - np.arange(m)) * ordered, axis=-1), 1.0)
    adjusted = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted


def intersection_union(p: Float[np.ndarray, "... tests"]) -> Array:
    """The largest p: the test of "every one of these holds" (Berger 1982). NaN if one of them could not be run.

    Of level alpha without any adjustment, because all must be rejected.
    """
    return p.max(axis=-1)
