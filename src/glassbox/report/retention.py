"""The table of what students kept of the teacher, as text: agreement and accuracy side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassbox.report.notation import MISSING, number, percent, score

Row = dict[str, str]
COLUMNS = {
    "score": "test score",
    "kept": "of the teacher's accuracy kept, %",
    "lost": "teacher right, student wrong",
    "gained": "student right, teacher wrong",
    "top1": "top-1 agreement, %",
    "top5": "top-5 overlap, %",
    "kl": "KL(teacher || student), nats per token",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
}
CAPTION = (
    "Means over seeds, with t intervals, cut where a measure ends. Test: score, the share of the teacher's "
    "accuracy above chance that is kept, and flips. Validation, at the answers' tokens: how often the likeliest "
    "tokens agree, the divergence at T = 1, and the perplexity of the data's answers; their bits per byte too, "
    "which of running text are those of test. A student can agree more with its teacher and answer worse, or the "
    "reverse: read both."
)


def retention_rows(results: Mapping[str, Any]) -> list[Row]:
    """A row per task and group, and of each task one with the teacher's own test scores."""
    units = {task["task"]: task["unit"] for task in results["tasks"]}
    means = {(row["group"], row["task"]): row["mean"] for row in results["means"]}
    found = results["retention"]
    rows = []
    for task, unit in units.items():
        teacher = found["teacher"][task]
        own = {"score": score(teacher["score"], unit), "bits_per_byte": number(teacher["bits_per_byte"], 4)}
        own["perplexity"] = score(teacher["perplexity"], "nats")
        rows.append({"task": task, "group": "teacher", **dict.fromkeys(COLUMNS, MISSING), **own})
        for row in (each for each in found["groups"] if each["task"] == task):
            shown = {"score": score(means.get((row["group"], task)), unit), **_cells(row)}
            rows.append({"task": task, "group": row["group"], **shown})
    return rows


def retention_table(results: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows of it."""
    rows = retention_rows(results)
    return {"headline": headline(results), "caption": CAPTION, "columns": shown_columns(rows), "rows": rows}


def shown_columns(rows: list[Row]) -> dict[str, str]:
    """The columns that hold a number."""
    return {name: title for name, title in COLUMNS.items() if any(row[name] != MISSING for row in rows)}


def headline(results: Mapping[str, Any]) -> str:
    """One line of what the folded table holds."""
    known = [row for row in results["retention"]["groups"] if row["top1"]["mean"] is not None]
    if not known:
        return "What students kept of the teacher: flips and scores; no agreement was measured."
    low, high = (pick(row["top1"]["mean"] for row in known) for pick in (min, max))
    return (
        f"What students kept of the teacher: {percent(low)} to {percent(high)} % top-1 agreement on validation texts."
    )


def _cells(row: Mapping[str, Any]) -> Row:
    shares = {name: _with_interval(row[name], 100, 1) for name in ("kept", "top1", "top5")}
    flips = {name: _flips(row, name) for name in ("lost", "gained")}
    return {
        **shares,
        **flips,
        "kl": _with_interval(row["kl"], 1, 4),
        "perplexity": score(row["perplexity"]["mean"], "nats"),
        "bits_per_byte": _with_interval(row["bits_per_byte"], 1, 4),
    }


def _flips(row: Mapping[str, Any], name: str) -> str:
    found = row[name]["mean"]
    return MISSING if found is None else f"{number(found, 1)} of {row['questions']}"


def _with_interval(found: Mapping[str, Any], factor: float, digits: int) -> str:
    if found["mean"] is None:
        return MISSING
    shown = number(factor * found["mean"], digits)
    if found["lower"] is None:
        return shown
    return f"{shown} [{number(factor * found['lower'], digits)}, {number(factor * found['upper'], digits)}]"
