"""The methods paragraph that the page generates: every name and number in it is read from results.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from glassbox.report.notation import percent, scale_unit, task_scale, width

TESTS = {
    "two_sided": "two-sided t tests",
    "greater": "one-sided t tests",
    "intersection_union": "intersection-union tests: twice the largest one-sided p of their gains, or that of a loss",
    "equivalence": "pairs of which only equivalence is claimed",
    "descriptive": "descriptive, without a test",
}
ANALYSES = {
    "welch": "Welch's test",
    "sign_flip": "the exact sign-flip test",
    "bca": "BCa bootstrap intervals (which undercover with few seeds)",
    "diverged_last": "sign tests with diverged trials ranked last",
    "logit": "log-odds in place of points",
    "clusters": "questions of one cluster taken as related or as unrelated",
    "leave_one_out": "each seed left out",
}


def methods_sentences(results: Mapping[str, Any]) -> list[str]:
    """Sentences for a paper's methods section; what the results do not hold is not mentioned."""
    return [
        *_design(results),
        *results.get("varies", ()),
        *_tasks(results),
        *_tests(results),
        *_holm(results),
        *_equivalence(results),
        *_scopes(results),
        *_sensitivity(results),
        *_versions(results),
    ]


def _design(results: Mapping[str, Any]) -> Iterable[str]:
    plan, integrity = results["plan"], results["integrity"]
    note = f"; {plan['seen_note']}" if plan["seen_note"] else ""
    groups = ", ".join(entry["group"] for entry in results["groups"])
    yield (
        f"{len(results['groups'])} groups ({groups}; control {plan['control']}) were trained with "
        f"{len(results['seeds'])} seeds at scale {results['scale']}; {integrity['finished']} of {integrity['planned']} "
        f"trials finished and {len(integrity['diverged'])} diverged."
    )
    for entry in results["groups"]:
        if entry["learning_rate"] is not None:
            yield f"Group {entry['group']} had a learning rate of its own, {entry['learning_rate']:g}."
    if not plan["digest"]:
        yield "No plan was fixed before the trials: contrasts are made from the groups that ran, all exploratory."
        yield f"The unit of replication is one training run; pairing of seeds is {_pairing(results)}."
        return
    if results["plan_lines"]:
        yield (
            f"No plan was fixed for these tasks: the questions of {plan['path']} (sha256 of its content "
            f"{plan['digest'][:12]}) were asked of them, all exploratory."
        )
    else:
        yield (
            f"Groups, seeds, contrasts, families and margins stand in {plan['path']} (sha256 of its "
            f"content {plan['digest'][:12]}): {plan['state']}{note}."
        )
    yield f"The unit of replication is one training run; pairing of seeds is {_pairing(results)}."


def _pairing(results: Mapping[str, Any]) -> str:
    return "verified" if results["pairing"]["verified"] else "nominal"


def _tasks(results: Mapping[str, Any]) -> Iterable[str]:
    parts = []
    for task in results["tasks"]:
        known = [task["metric"].replace("_", " ")]
        known += (
            [f"{task['n_items']} {'blocks' if task['unit'] == 'nats' else 'questions'}"]
            if task["n_items"] is not None
            else []
        )
        known += [f"in {task['n_clusters']} clusters"] if task["n_clusters"] is not None else []
        known += [f"chance {percent(task['chance'])} %"] if task["chance"] is not None else []
        miniature = "an embedded miniature, " if task["embedded"] else ""
        parts.append(f"{task['task']} ({miniature}{', '.join(known)})")
    yield f"Test scores: {'; '.join(parts)}."
    if any(task["unit"] == "nats" for task in results["tasks"]):
        yield (
            "Perplexity is exp of the mean negative log-likelihood of a token, all tokens of all blocks alike; "
            "statistics are on minus that mean: a difference is the log of a ratio of perplexities, and more is better."
        )


def _tests(results: Mapping[str, Any]) -> Iterable[str]:
    level = f"{100 * results['confidence']:g} %"
    yield f"Group means have Student t intervals over seeds ({level})."
    paired = "of the complete pairs" if results["pairing"]["verified"] else "of independent groups (Welch)"
    by_test: dict[str, list[str]] = {}
    for row in results["contrasts"]:
        if row["status"] == "run" and row["id"] not in by_test.setdefault(row["test"], []):
            by_test[row["test"]].append(row["id"])
    told = "; ".join(f"{', '.join(ids)}: {TESTS.get(test, test)}" for test, ids in by_test.items() if ids)
    if told:
        yield f"A contrast is a weighted sum of group scores on each seed; its estimate is the mean {paired}. {told}."


def _holm(results: Mapping[str, Any]) -> Iterable[str]:
    sizes: dict[tuple[str, int], None] = {}
    for row in results["contrasts"]:
        if row["test"] not in ("descriptive", "equivalence") and row["family_size"]:
            sizes[row["family"], row["family_size"]] = None
    if sizes:
        told = ", ".join(f"{family} over {size}" for family, size in sizes)
        yield (
            f"p-values are adjusted by Holm's method within families, alpha {results['alpha']:g}: {told}; a planned "
            "test that could not be run stays in the count."
        )


def _equivalence(results: Mapping[str, Any]) -> Iterable[str]:
    margins = [
        f"{task['task']} {width(task['margin'], task_scale(task))} {scale_unit(task_scale(task))}"
        + (f" ({task['margin_reason']})" if task["margin_reason"] else "")
        for task in results["tasks"]
        if task["margin"] is not None
    ]
    if margins and any(row["equivalence"] for row in results["contrasts"]):
        yield f"Equivalence: two one-sided tests (TOST) at alpha {results['alpha']:g}, margins {'; '.join(margins)}."
    legs = results["hypothesis"]["legs"]
    if legs:
        yield f"The hypothesis is the conjunction of {len(legs)} legs; its p is the largest of theirs."


def _scopes(results: Mapping[str, Any]) -> Iterable[str]:
    rows = [row["items"] for row in results["contrasts"] if row["items"]]
    if rows:
        clustered = ", cluster-robust where a task has clusters" if any(row["clustered"] for row in rows) else ""
        yield (
            "The second scope lets seeds and questions vary: the variance over seeds and that over questions of the "
            f"per-question differences are added{clustered}, with Satterthwaite's degrees of freedom."
        )
    dropped = [row for row in results["contrasts"] if row["n_dropped"]]
    if dropped:
        yield "Pairs with a diverged trial are left out of the primary analysis, and n says so."


def _sensitivity(results: Mapping[str, Any]) -> Iterable[str]:
    rows = [row["sensitivity"] for row in results["contrasts"] if row["sensitivity"]]
    done = [title for name, title in ANALYSES.items() if any(row.get(name) for row in rows)]
    if done:
        yield f"Sensitivity analyses: {', '.join(done)}."


def _versions(results: Mapping[str, Any]) -> Iterable[str]:
    versions = results.get("versions") or {}
    if versions:
        yield f"Software: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}."
