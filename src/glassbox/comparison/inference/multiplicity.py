"""How many families of tests there are, and how often a study makes a false claim in at least one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glassbox.comparison.plan import Plan


def multiplicity(rows: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """The families that were tested, the primary one, and the chance of any false word in the report.

    Holm holds the chance of a false direction at alpha within a family, not over families. Were they independent, and
    nothing different at all, a share 1 - (1 - alpha)^k of studies would hold at least one false `better` or `worse`; it
    is at most that where families depend positively, as those of one study do.
    """
    tested = [row for row in rows if row["status"] == "run" and row["test"] not in ("descriptive", "equivalence")]
    families = list(dict.fromkeys(row["counted"] for row in tested))
    k, alpha = len(families), plan.alpha
    asked = next((row["question"] for row in rows if row["family"] == plan.primary), "")
    words = f" ({asked})" if asked else ""
    rate = 1 - (1 - alpha) ** k
    text = (
        f"{k} families of tests are at {100 * alpha:g} % each. Where no group differs from any other, up to "
        f"{100 * rate:.0f} % of such studies hold at least one false `better` or `worse`. The primary family is "
        f"{plan.primary}{words}; read the others as secondary. `Meaningful` comes from the interval, which is not "
        "adjusted for the number of tests; `equivalent` is adjusted within its family."
    )
    return {"families": families, "primary": plan.primary, "any_false_word": rate, "text": text if k > 1 else ""}
