"""What the plan can detect, before the trials: `python src/compare.py --plan-power`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glassbox.comparison.inference.contrasts import Contrast, planned_contrasts
from glassbox.comparison.plan import Plan
from glassbox.comparison.statistics.estimates import DEGENERATE_DEVIATION
from glassbox.comparison.statistics.power import (
    MOST_SEEDS,
    equivalence_power,
    minimum_detectable,
    seeds_for_equivalence,
    seeds_to_detect,
    t_power,
)
from glassbox.errors import GlassboxError

MOST = 100.0


def study_deviations(contrasts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Key -> deviation over seeds, of a finished study's `contrasts` on points, without those that did not vary."""
    found = {row["key"]: row.get("deviation") for row in contrasts if row.get("scale") != "logit"}
    return {key: value for key, value in found.items() if value is not None and value >= DEGENERATE_DEVIATION}


def power_rows(plan: Plan, deviations: Mapping[str, float] | float, difference: float) -> list[dict[str, Any]]:
    """One row per planned test on points: what the plan's seeds find, and how many seeds it would take.

    deviations: of each contrast over seeds by key (study_deviations), or one for all. difference: the true one that
    is to be found. Both, and all that is returned but powers and counts, are shares of 1. Powers are of exact t tests
    and TOST; "holm" is Holm's first step, alpha / tests in the family. An intersection-union test is told by one of
    its legs, of which all must pass. Counts above 10,000 are None. Raises GlassboxError for a number that cannot be
    meant. TOST too is at Holm's first step, where verdicts adjust it; the hypothesis' own pairs are not adjusted.
    """
    _refuse(difference, "difference to detect")
    tests = [each for each in planned_contrasts(plan) if each.scale != "logit" and each.test != "descriptive"]
    sizes = Counter(each.counted for each in tests)
    known = (
        dict.fromkeys((each.key for each in tests), deviations) if isinstance(deviations, float | int) else deviations
    )
    planned = [each for each in tests if each.key in known]
    if not planned:
        raise GlassboxError(
            "No planned contrast has a deviation over seeds to plan with. Name a finished study of this plan, or give "
            "one deviation for all, in points."
        )
    for each in planned:
        _refuse(known[each.key], f"deviation of {each.key}")
    if len(plan.seeds) < 2:
        raise GlassboxError(f"The plan has {len(plan.seeds)} seed: a test needs two. Add seeds in conf/analysis.yaml.")
    return [_row(plan, each, known[each.key], difference, sizes[each.counted]) for each in planned]


def power_table(rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """The rows as text, in percentage points, with a line that says how to read them."""
    if not rows:
        return "The plan has no test."
    difference, n = 100 * rows[0]["difference"], rows[0]["n"]
    in_nats = any(task.in_nats for task in plan.tasks.values())
    titles = ("contrast", "s_d", f"power for {difference:g}", "at Holm's 1st", "finds from", "at Holm's 1st")
    titles += (f"seeds for {difference:g}", "at Holm's 1st", "margin", "TOST power", "seeds for TOST")
    lines = [titles, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    text = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    head = (
        f"What {n} seeds can show, in percentage points. Power: the "
        f"chance that a true difference of {difference:g} is found at alpha {plan.alpha:g}; finds from: the smallest "
        f"difference found with {100 * plan.power:g} % power; TOST power: the chance of showing equivalence within the "
        "margin where the true difference is 0, at Holm's first step where verdicts are adjusted."
        + (" For a perplexity a point is a hundredth of a nat per token." if in_nats else "")
    )
    return "\n".join([_answer(rows, plan), "", head, "", text[0], "-" * len(text[0]), *text[1:]])


def _answer(rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """'With 7 seeds: differences from 2.6 points; for 1 point: 34 seeds.', of the primary family at its first step."""
    tested = [row for row in rows if row["test"] != "equivalence"]
    own = [row for row in tested if row["family"] == plan.primary] or tested
    if not own:
        return "The plan has no test of a difference."
    least = [100 * row["minimum_detectable_holm"] for row in own]
    seeds = [row["seeds_holm"] for row in own]
    low, high = min(least), max(least)
    spread = f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}, by task,"
    fewest, most = (_count(pick(seeds, key=lambda n: MOST_SEEDS + 1 if n is None else n)) for pick in (min, max))
    needed = fewest if fewest == most else f"{fewest} to {most}, by task,"
    difference = 100 * rows[0]["difference"]
    unit = "point" if difference == 1 else "points"
    return (
        f"With {rows[0]['n']} seeds: differences from {spread} points; for {difference:g} {unit}: {needed} seeds "
        f"(the tests of {plan.primary} at {100 * plan.power:g} % power, at Holm's first step)."
    )


def _row(plan: Plan, contrast: Contrast, deviation: float, difference: float, size: int) -> dict[str, Any]:
    n = len(plan.seeds)
    error = deviation / math.sqrt(n)
    two_sided, alpha_of = contrast.test != "greater", plan.alpha
    if contrast.legs:  # each leg is tested in the one direction, at half of alpha
        two_sided, alpha_of = False, plan.alpha / 2
    row: dict[str, Any] = {
        "key": contrast.key,
        "family": contrast.family,
        "formula": contrast.formula,
        "test": contrast.test,
        "family_size": size,
        "n": n,
        "deviation": deviation,
        "difference": difference,
    }
    steps = {"planned": alpha_of, "holm": alpha_of / size}
    for name, alpha in steps.items() if contrast.test != "equivalence" else ():
        row[f"power_{name}"] = t_power(difference / error, n - 1, alpha, two_sided=two_sided)
        row[f"minimum_detectable_{name}"] = minimum_detectable(n - 1, alpha, plan.power, two_sided=two_sided) * error
        row[f"seeds_{name}"] = seeds_to_detect(difference, deviation, alpha, plan.power, two_sided=two_sided)
    margin = contrast.margin
    row["margin"] = margin
    alpha = plan.alpha if contrast.test == "equivalence" else plan.alpha / size
    row["equivalence_power"] = equivalence_power(margin / error, n - 1, alpha) if margin else None
    row["seeds_equivalence"] = seeds_for_equivalence(margin, deviation, alpha, plan.power) if margin else None
    return row


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    steps, margin = ("planned", "holm"), row["margin"]
    found = [""] * 6
    if row["test"] != "equivalence":
        found = [f"{100 * row[f'power_{step}']:.0f} %" for step in steps]
        found += [f"{100 * row[f'minimum_detectable_{step}']:.2f}" for step in steps]
        found += [_count(row[f"seeds_{step}"]) for step in steps]
    return (
        row["key"],
        f"{100 * row['deviation']:.2f}",
        *found,
        "none" if margin is None else f"{100 * margin:g}",
        "" if margin is None else f"{100 * row['equivalence_power']:.0f} %",
        "" if margin is None else _count(row["seeds_equivalence"]),
    )


def _count(seeds: int | None) -> str:
    return f"> {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"


def _refuse(share: float, name: str) -> None:
    points = 100 * share
    if not (math.isfinite(points) and share > DEGENERATE_DEVIATION and points < MOST):
        raise GlassboxError(
            f"A {name} of {points:g} percentage points cannot be planned with: it must lie above 0 and below {MOST:g}. "
            "Give points, such as 1.5 for a step from 50 % to 51.5 %."
        )
