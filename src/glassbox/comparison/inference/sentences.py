"""The questions answered in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from glassbox.comparison.inference import verdicts
from glassbox.comparison.inference.contrasts import NATS
from glassbox.comparison.plan import Plan


def answers(rows: Sequence[Mapping[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Per question that was run its sentences, one per task; log-odds speak only through `depends on scale`."""
    found = []
    for question in _questions(plan):
        own = [row for row in rows if row["id"] == question and row["scale"] != "logit"]
        if any(row["status"] == "run" for row in own):
            sentences = [_sentence(row, plan) for row in own]
            role = "primary" if own[0]["family"] == plan.primary else "secondary"
            found.append({"id": question, "question": own[0]["question"], "role": role, "sentences": sentences})
    return found


def not_run(rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """'Q1 to Q4: not run, they need attention.': the questions of which no part could be run, in one line.

    Those of optional groups are compared where these ran, and not missed elsewhere.
    """
    absent, groups, other = [], [], []
    for question in _questions(plan):
        own = [row for row in rows if row["id"] == question]
        if not own or any(row["status"] == "run" for row in own):
            continue
        if any(group in plan.optional_groups for group in own[0]["weights"]):
            continue
        absent.append(question)
        for row in own:
            groups += [group for group in row["absent_groups"] if group not in groups]
            other += [row["reason"]] if not row["absent_groups"] and row["reason"] not in other else []
    if not absent:
        return ""
    names = _range(absent, _questions(plan))
    why = f"{'it needs' if len(absent) == 1 else 'they need'} {', '.join(groups)}" if groups else "; ".join(other)
    return f"{names}: not run, {why}."


def _range(names: Sequence[str], order: Sequence[str]) -> str:
    """'Q1 to Q4' where the names follow each other in the plan's order, otherwise 'Q1, Q3'."""
    first = order.index(names[0])
    following = list(order[first : first + len(names)]) == list(names)
    return f"{names[0]} to {names[-1]}" if following and len(names) > 2 else ", ".join(names)


def _questions(plan: Plan) -> list[str]:
    return list(dict.fromkeys(each.id for each in plan.contrasts if each.answered and each.test != "descriptive"))


def _sentence(row: Mapping[str, Any], plan: Plan) -> str:
    tasks = list(row["tasks"])
    against = [task for task in tasks if row["tasks"][task] < 0]
    place = f"{', '.join(task for task in tasks if task not in against)}"
    start = f"{place} against {', '.join(against)}" if against else f"On {'the mean of ' * (len(tasks) > 1)}{place}"
    if row["status"] == "not run":
        return f"{start}: not run, {row['reason']}."
    note = f" Note: {row['verdict_note']}." if row["verdict_note"] else ""
    formula = row["formula"]
    if row["components"]:
        formula = next(part["formula"] for part in row["components"] if part["decides"])
        if verdicts.direction(row["verdict"]) != verdicts.WORSE:
            formula = f"{formula}, the weaker of {len(row['components'])} gains,"
    scale = row["scale"]
    difference = f"{formula} is {amount(row['estimate'], scale, signed=True)} {unit(scale)}{_ratio(row)}"
    if row["identical"] and row["verdict"] == verdicts.EQUIVALENT:
        same = f"{row['formula']} is {amount(0.0, scale)} {unit(scale)}: {verdicts.IDENTICAL} ({row['n']} seeds)"
        margin = f"{amount(row['equivalence']['margin'], scale)} {unit(scale)}"
        return f"{start}, {same}, within the margin of {margin}: equivalent.{note}"
    if row["degenerate"]:
        return f"{start}, {difference} on each of {row['n']} seeds: degenerate, no test and no interval."
    return f"{start}, {difference} ({_evidence(row, plan)}): {_says(row, plan)}{note}"


def _evidence(row: Mapping[str, Any], plan: Plan) -> str:
    family = f", Holm over {row['family_size']}" if row["family_size"] > 1 else ""
    limits = f"{100 * plan.confidence:g} % interval {_limits(row, row['scale'])} over seeds, on this benchmark"
    limits += _wider(row["items"], row["scale"]) if row["items"] else ""
    dropped = f", among runs that finish ({row['n_dropped']} diverged)" if row["n_dropped"] else ""
    seeds = f"n = {row['n']} {'pairs' if row['pairing'] == 'verified' else 'seeds, not verified as pairs'}{dropped}"
    return f"{limits}; {_p(row)}{family}; {seeds}"


def _p(row: Mapping[str, Any]) -> str:
    """'adjusted p = 0.012'; a one-sided p is called so and stands beside its one-sided bound."""
    if row["sides"] != "one-sided":
        return f"adjusted p {p_text(row['p_adjusted'])}"
    p = f"one-sided adjusted p {p_text(row['p_adjusted'])}"
    return f"at least {amount(row['bound'], row['scale'], True)} by the one-sided bound, {p}"


def _ratio(row: Mapping[str, Any]) -> str:
    """' (perplexity times 0.951)', of a difference in nats."""
    return f" (perplexity times {math.exp(-row['estimate']):.3f})" if row["scale"] == NATS else ""


def _wider(items: Mapping[str, Any], scale: str) -> str:
    these = "texts" if scale == NATS else "questions"
    if items["coincides"]:
        return f", the same over {these} like these too ({items['coincides']})"
    return f", {_limits(items, scale)} over {these} like these too"


def _says(row: Mapping[str, Any], plan: Plan) -> str:
    verdict, alike = row["verdict"], row["equivalence"]
    scale = row["scale"]
    margin = f"{amount(alike['margin'], scale)} {unit(scale)}" if alike else ""
    if verdict == verdicts.EQUIVALENT:
        inside = f"{100 * alike['confidence']:g} % interval {_limits(alike, scale)}"
        return f"equivalent within {margin} ({inside}; TOST, adjusted p {p_text(alike['p_adjusted'])})."
    if verdict == verdicts.NO_BENEFIT:
        return f"no benefit of {margin} or more (one-sided, adjusted p {p_text(alike['p_adjusted'])})."
    if verdict == verdicts.INCONCLUSIVE:
        least = f"{amount(row['minimum_detectable']['holm_first'], scale)} {unit(scale)}"
        return f"inconclusive; with {100 * plan.power:g} % power this test finds differences from {least}."
    if verdict == verdicts.SCALE:
        return "depends on scale: in points and on log-odds the verdicts disagree."
    if verdict == verdicts.UNINFORMATIVE:
        return "uninformative, every group is near chance; nothing is said of their being alike."
    size = verdict.partition(", ")[2]
    about = {verdicts.MEANINGFUL: "beyond", verdicts.BELOW: "less than"}
    if row["components"] and verdicts.direction(verdict) == verdicts.WORSE:
        weights = next(part["weights"] for part in row["components"] if part["decides"])
        than = ", ".join(group for group, weight in weights.items() if weight < 0)
        verdict = f"does not help: worse than {than} by {amount(-row['estimate'], scale)} {unit(scale)}, {size}"
    return f"{verdict}{f' ({about[size]} the margin of {margin})' if size in about else ''}."


def _limits(interval: Mapping[str, Any], scale: str) -> str:
    return f"{amount(interval['lower'], scale, True)} to {amount(interval['upper'], scale, True)}"


def unit(scale: str) -> str:
    """Of a difference; more is better, also in nats: a token is that much likelier."""
    return "nats per token" if scale == NATS else "points"


def amount(value: float | None, scale: str = "points", signed: bool = False) -> str:
    """A share of 1 in percentage points with two decimals, nats with four."""
    if value is None or math.isnan(value):
        return "unknown"
    factor, digits = (1, 4) if scale == NATS else (100, 2)
    return f"{round(factor * value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def p_text(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "unknown"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
