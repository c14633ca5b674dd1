"""From the plan and the evidence to everything that the report may claim. No files, no MLflow, no drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference import hypothesis, verdicts
from glassbox.comparison.inference.analysis import Analysis, analyse
from glassbox.comparison.inference.contrasts import planned_contrasts
from glassbox.comparison.inference.divergence import divergence_notes, divergence_rates
from glassbox.comparison.inference.flips import item_flips
from glassbox.comparison.inference.guards import (
    assay,
    extreme_note,
    extremes,
    guard_notes,
    guards,
    tasks_at_ends,
)
from glassbox.comparison.inference.means import group_means, in_own_unit, uninformative_tasks
from glassbox.comparison.inference.multiplicity import multiplicity
from glassbox.comparison.inference.observation import unmatched_items
from glassbox.comparison.inference.rows import contrast_row, final_verdict
from glassbox.comparison.inference.sensitivity import Alternatives, analyse_otherwise, sensitivity
from glassbox.comparison.inference.sentences import answers, not_run
from glassbox.comparison.plan import Plan

RESOLUTION = "the seeds spread less than whole questions can show, so the standard error is that of rounding"


def infer(plan: Plan, evidence: Evidence) -> dict[str, Any]:
    """means, contrasts, hypothesis, answers, and what a reader must know of them, as plain JSON values.

    Scores and differences are shares of 1, or perplexities with differences in nats per token, more of which is better;
    a number that does not exist is None. The same plan and evidence give the same values: all is closed form but for
    the bootstrap, whose generator has a fixed seed.
    """
    unmatched = list(unmatched_items(evidence))
    items = {task: each for task, each in evidence.items.items() if task not in unmatched}
    evidence = replace(evidence, items=items)
    contrasts = planned_contrasts(plan)
    means = group_means(evidence, plan)
    nobody_learnt = uninformative_tasks(means, evidence)
    primary = analyse(contrasts, evidence, plan.alpha)
    others = analyse_otherwise(contrasts, evidence, plan)
    at_extremes = extremes(means, primary)
    rows = _rows(primary, others, evidence, plan, set(nobody_learnt), at_extremes)
    verdict, changes = _hypothesis(plan, primary, others, rows, tasks_at_ends(means, nobody_learnt, plan.control))
    notes = {row["key"]: row["verdict_note"] for row in rows}
    verdict["legs"] = [{**leg, "note": notes.get(leg["contrast"])} for leg in verdict["legs"]]
    rates = divergence_rates(evidence, plan.confidence)
    found = guards(means, primary, evidence, nobody_learnt, at_extremes)
    return _plain(
        {
            "means": [in_own_unit(row) for row in means],
            "contrasts": rows,
            "hypothesis": verdict,
            "answers": answers(rows, plan),
            "not_run": not_run(rows, plan),
            "sensitivity_changes": _disagreement(changes, rows),
            "assay": assay(evidence, plan),
            "divergence": rates,
            "multiplicity": multiplicity(rows, plan),
            "flips": item_flips(primary, evidence),
            "guards": found,
            "guard_notes": [*divergence_notes(rates, plan.confidence), *guard_notes(found, unmatched, evidence)],
        }
    )


def _rows(
    primary: Mapping[str, Analysis],
    others: Alternatives,
    evidence: Evidence,
    plan: Plan,
    uninformative: set[str],
    at_extremes: Mapping[str, str],
) -> list[dict[str, Any]]:
    alternatives = sensitivity(primary, others, evidence, plan)
    rows = []
    for key, found in primary.items():
        on_logits = primary.get(f"{key}/logit")
        verdict = final_verdict(found, on_logits, uninformative)
        told = [extreme_note(at_extremes[key])] if key in at_extremes else []
        own = contrast_row(found, evidence, plan, verdict)
        told += [RESOLUTION] if own["at_resolution"] and verdict != verdicts.DESCRIPTIVE else []
        rows.append({**own, "verdict_note": "; ".join(told) or None, "sensitivity": alternatives.get(key)})
    return rows


def _hypothesis(
    plan: Plan,
    primary: Mapping[str, Analysis],
    others: Alternatives,
    rows: list[dict[str, Any]],
    ends: Mapping[str, str],
) -> tuple[dict[str, Any], list[str]]:
    """The hypothesis' verdict and, of one that is supported or refuted, the seeds without which it is not."""
    overruled = {row["key"]: row["verdict"] for row in rows if row["verdict"] in verdicts.OVERRULING}
    found = hypothesis.judge(plan, primary, overruled, ends)
    if found["verdict"] not in (hypothesis.SUPPORTED, hypothesis.REFUTED):
        return found, []
    other = {seed: hypothesis.judge(plan, each, overruled, ends)["verdict"] for seed, each in others.without.items()}
    by_verdict: dict[str, list[str]] = {}
    for seed, verdict in other.items():
        if verdict != found["verdict"]:
            by_verdict.setdefault(verdict, []).append(str(seed))
    lost = [f"{verdict} without seed {' or '.join(seeds)}" for verdict, seeds in by_verdict.items()]
    return found, [f"the hypothesis ({found['verdict']}; {', '.join(lost)})"] if lost else []


def _disagreement(hypothesis_lost: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """At most one sentence: the directions, and the hypothesis, that another analysis does not show.

    Only a verdict of better or worse can lose its direction. Welch's test is no objection to pairs that are verified,
    and BCa intervals undercover; both are in the table only.
    """
    told = list(hypothesis_lost)
    for row in rows:
        own, found = verdicts.direction(row["verdict"]), row["sensitivity"]
        if own == verdicts.NEITHER or not found:
            continue
        lost = [_said(name, found, own) for name in found["changed"] if name in OBJECTIONS]
        lost = [each for each in lost if each]
        if lost:
            told.append(f"{row['key']} ({own}; {', '.join(lost)})")
    return [f"Other analyses do not show the same direction for {'; '.join(told)}."] if told else []


OBJECTIONS = {"sign_flip": "by sign flips", "diverged_last": "with diverged runs last", "logit": "on log-odds"}
OBJECTIONS |= {"leave_one_out": "without seed"}


def _said(name: str, found: Mapping[str, Any], own: str) -> str:
    """What another analysis says of a direction; empty where it says the same."""
    if name == "leave_one_out":
        by_direction: dict[str, list[str]] = {}
        for seed, verdict in found[name]["verdicts"].items():
            if verdicts.direction(verdict) != own:
                by_direction.setdefault(verdicts.direction(verdict), []).append(seed)
        return " and ".join(f"{each} {OBJECTIONS[name]} {' or '.join(seeds)}" for each, seeds in by_direction.items())
    other = verdicts.direction(found[name]["verdict"])
    return f"{other} {OBJECTIONS[name]}" if other != own else ""


def _plain(value: Any) -> Any:
    """JSON values only: NumPy's scalars as Python's, NaN as None."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
