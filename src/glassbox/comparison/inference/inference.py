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
from glassbox.comparison.inference.guards import extreme_note, extremes, guard_notes, guards
from glassbox.comparison.inference.means import group_means, uninformative_tasks
from glassbox.comparison.inference.observation import unmatched_items
from glassbox.comparison.inference.rows import contrast_row, final_verdict
from glassbox.comparison.inference.sensitivity import Alternatives, analyse_otherwise, sensitivity
from glassbox.comparison.inference.sentences import answers
from glassbox.comparison.plan import Plan

RESOLUTION = "the seeds spread less than whole questions can show, so the standard error is that of rounding"
IMPUTED = "chance in place of diverged trials"


def infer(plan: Plan, evidence: Evidence) -> dict[str, Any]:
    """means, contrasts, hypothesis, answers, sensitivity_changes, guards and guard_notes, as plain JSON values.

    Scores and differences are shares of 1; a number that does not exist is None. The same plan and evidence give the
    same values: all is closed form but for the bootstrap, whose generator has a fixed seed.
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
    verdict, changes = _hypothesis(plan, primary, others, rows)
    notes = {row["key"]: row["verdict_note"] for row in rows}
    verdict["legs"] = [{**leg, "note": notes.get(leg["contrast"])} for leg in verdict["legs"]]
    found = guards(means, primary, evidence, nobody_learnt, at_extremes)
    return _plain(
        {
            "means": means,
            "contrasts": rows,
            "hypothesis": verdict,
            "answers": answers(rows, plan),
            "sensitivity_changes": [*changes, *_changes(rows)],
            "guards": found,
            "guard_notes": guard_notes(found, unmatched, evidence),
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
        imputed = others.floor_imputed[key] if others.floor_imputed else None
        on_logits = primary.get(f"{key}/logit")
        verdict = final_verdict(found, imputed, on_logits, uninformative)
        told = [extreme_note(at_extremes[key])] if key in at_extremes else []
        own = contrast_row(found, evidence, plan, verdict)
        told += [RESOLUTION] if own["at_resolution"] and verdict != verdicts.DESCRIPTIVE else []
        rows.append({**own, "verdict_note": "; ".join(told) or None, "sensitivity": alternatives.get(key)})
    return rows


def _hypothesis(
    plan: Plan, primary: Mapping[str, Analysis], others: Alternatives, rows: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """The hypothesis' verdict, and a sentence if other analyses end in another. Diverged runs overrule it."""
    overruled = {row["key"]: row["verdict"] for row in rows if row["verdict"] in verdicts.OVERRULING}
    lasting = {key: verdict for key, verdict in overruled.items() if verdict != verdicts.DIVERGED}
    found = hypothesis.judge(plan, primary, overruled)
    alternatives = {"Welch's test": others.welch}
    alternatives |= {f"leaving out seed {seed}": each for seed, each in others.without.items()}
    if others.floor_imputed:
        alternatives[IMPUTED] = others.floor_imputed
    other = {name: hypothesis.judge(plan, each, lasting)["verdict"] for name, each in alternatives.items()}
    differing = [f"{verdict} by {name}" for name, verdict in other.items() if verdict != found["verdict"]]
    changes = [f"Hypothesis: {found['verdict']}; {', '.join(differing)}."] if differing else []
    if other.get(IMPUTED, found["verdict"]) != found["verdict"]:
        found["text"] = f"Not established: it {verdicts.DIVERGED}. {found['text']}"
        found["verdict"] = hypothesis.OPEN
    return found, changes


def _changes(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence per contrast of which another analysis says something else."""
    changed = [(row, row["sensitivity"]) for row in rows if row["sensitivity"] and row["sensitivity"]["changed"]]
    return [
        f"{row['key']}: {row['verdict']}; {'; '.join(_said(name, found, row['verdict']) for name in found['changed'])}."
        for row, found in changed
    ]


def _said(name: str, found: Mapping[str, Any], own: str) -> str:
    if name == "bca":
        return "BCa (undercovers) puts the interval on another side of zero"
    if name == "clusters":
        return "related questions taken as related or not put the wider interval on another side of zero"
    if name == "leave_one_out":
        by_verdict: dict[str, list[str]] = {}
        for seed, verdict in found[name]["verdicts"].items():
            if verdict != own:
                by_verdict.setdefault(verdict, []).append(seed)
        return " and ".join(f"{verdict} without seed {', '.join(seeds)}" for verdict, seeds in by_verdict.items())
    titles = {"welch": "Welch", "sign_flip": "sign flips", "floor_imputed": "chance for diverged", "logit": "log-odds"}
    return f"{found[name]['verdict']} by {titles[name]}"


def _plain(value: Any) -> Any:
    """JSON values only: NumPy's scalars as Python's, NaN as None."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
