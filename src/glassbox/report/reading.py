"""How to read a verdict: every word with one example, the study's own where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassbox.report.notation import difference, difference_interval, formula_label, task_label, width

VERDICTS = (
    ("better, meaningful", "+4.40 [+3.30, +5.50]", "It is better, and by more than the margin."),
    ("better, size uncertain", "+4.40 [+1.00, +7.80]", "It is better; whether by enough to matter is open."),
    ("better, below the margin", "+0.80 [+0.30, +1.30]", "It is better, and by too little to matter."),
    ("worse, meaningful", "\u22124.40 [\u22125.50, \u22123.30]", "It is worse, and by more than the margin."),
    (
        "worse, size uncertain",
        "\u22124.40 [\u22127.80, \u22121.00]",
        "It is worse; whether by enough to matter is open.",
    ),
    ("worse, below the margin", "\u22120.80 [\u22121.30, \u22120.30]", "It is worse, and by too little to matter."),
    ("equivalent", "+0.20 [\u22121.10, +1.50]", "Any difference is smaller than the margin."),
    (
        "inconclusive",
        "+1.50 [\u22121.00, +4.00]",
        "Nothing is shown, neither a difference nor equivalence. It is never \u201csimilar\u201d.",
    ),
    (
        "no benefit",
        "\u22120.40 [\u22121.70, +0.90]",
        "Of a control, tested in one direction: no gain as large as the margin.",
    ),
    ("depends on scale", "+6.00 [+2.00, +10.00]", "An interaction that the log-odds of the same scores do not show."),
    (
        "uninformative",
        "+0.30 [\u22122.00, +2.60]",
        "Every group is near chance: being alike on such a task says nothing.",
    ),
)
EXAMPLE_MARGIN = 0.03


def verdict_words(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per verdict: its words, an example with its margin, what it says, and whether the example is from here."""
    own: dict[str, Mapping[str, Any]] = {}
    for row in results["contrasts"]:
        if row["status"] == "run" and row["scale"] != "logit" and row["equivalence"]:
            own.setdefault(row["verdict"], row)
    found = []
    for verdict, example, says in VERDICTS:
        row = own.get(verdict)
        told = {"verdict": verdict, "says": says, "own": row is not None}
        if row is None:
            found.append({**told, "of": "", "example": example, "margin": width(EXAMPLE_MARGIN)})
        else:
            of = f"{formula_label(row['formula'])} on {task_label(row['tasks'])}"
            numbers = f"{difference(row['estimate'], row['scale'])} {difference_interval(row, row['scale'])}"
            found.append(
                {**told, "of": of, "example": numbers, "margin": width(row["equivalence"]["margin"], row["scale"])}
            )
    return found
