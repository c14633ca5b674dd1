"""The words that a contrast may end in, and the only rules that choose them."""

from __future__ import annotations

import math

BETTER, WORSE, NEITHER = "better", "worse", "neither"
MEANINGFUL, UNCERTAIN, BELOW = "meaningful", "size uncertain", "below the margin"
EQUIVALENT, INCONCLUSIVE = "equivalent", "inconclusive"
DESCRIPTIVE, NOT_RUN, DEGENERATE = "descriptive", "not run", "degenerate"
SCALE = "depends on scale"
UNINFORMATIVE = "uninformative"
NO_BENEFIT = "no benefit"
IDENTICAL = "identical on every seed"
OVERRULING = (SCALE, UNINFORMATIVE)


def contrast_verdict(
    value: float,
    limits: tuple[float, float],
    p: float,
    equivalence_p: float,
    margin: float | None,
    alpha: float,
    *,
    one_sided: bool = False,
) -> str:
    """What a test at alpha allows to be said of a contrast. p and equivalence_p are adjusted; NaN never passes.

    limits: of the interval of confidence 1 - alpha. A difference that is there is *meaningful* if the whole interval
    lies beyond the margin, *below the margin* if equivalence passes as well, else of uncertain size. One that is not
    shown to be there is *equivalent* only if equivalence passes, else inconclusive: never similar. one_sided: only a
    gain is looked for, and equivalence_p is that of a gain of the margin; what passes has *no benefit*.
    """
    small = margin is not None and equivalence_p <= alpha
    if not p <= alpha:
        return (NO_BENEFIT if one_sided else EQUIVALENT) if small else INCONCLUSIVE
    nearest = limits[0] if value > 0 else -limits[1]
    size = BELOW if small else MEANINGFUL if margin is not None and nearest > margin else UNCERTAIN
    return f"{BETTER if value > 0 else WORSE}, {size}"


def direction(verdict: str) -> str:
    """'better', 'worse', or 'neither': what two analyses without a common margin can be compared on."""
    return verdict.split(",")[0] if verdict.startswith((BETTER, WORSE)) else NEITHER


def excludes_zero(lower: float, upper: float) -> bool | None:
    """Whether an interval lies on one side of 0; None for one that does not exist."""
    return None if math.isnan(lower) or math.isnan(upper) else lower > 0 or upper < 0


def claims_similarity(verdict: str) -> bool:
    return verdict == EQUIVALENT or verdict.endswith(BELOW)
