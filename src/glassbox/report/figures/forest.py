"""Forest plot: every contrast in points, or in nats, that was formed, with its margin and both intervals."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from glassbox.report.figures.style import BAND, INK, MUTED, PAGE, SMALL, STYLE, figure_width
from glassbox.report.notation import (
    difference,
    difference_interval,
    p_value,
    scale_unit,
    significant,
    task_label,
)
from glassbox.report.tables import questions

NAME = "contrasts"
TITLE = "Planned contrasts"
LINE = "Every difference with both intervals, beside the margin that matters"
ROW_INCHES = 0.235
REACH = 3.0  # an interval this many times wider than the middle one does not set the scale
LETTER_INCHES = 0.073
COLUMN_INCHES = (1.85, 0.6, 1.75)


def draw(results: Mapping[str, Any], narrow: bool = False) -> Figure | None:
    """A row per contrast under the heading of its question; None where no contrast could be formed."""
    questions = _shown(results)
    if not questions:
        return None
    rows = [row for question in questions for row in question["rows"]]
    headings, places, height = _layout(questions)
    margins = {task["task"]: task["margin"] for task in results["tasks"]}
    width, inches = figure_width(narrow), 0.95 + ROW_INCHES * height
    labels = 0.3 + LETTER_INCHES * max(len(row["label"]) for row in rows)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, inches))
        left, right = labels / width, 1 - (0.12 if narrow else sum(COLUMN_INCHES)) / width
        figure.subplots_adjust(left=left, right=right, bottom=0.5 / inches, top=1 - 0.12 / inches)
        axes.set_xlim(*_limits(rows, margins))
        axes.set_ylim(height - 0.5, -1.2)
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
        for row, place in zip(rows, places, strict=True):
            _draw_row(axes, row, place, results["alpha"], _margin(row, margins))
            if not narrow:
                _write_columns(axes, _texts(row), place, INK)
        for text, place in headings:
            _write_heading(axes, text, place, labels)
        if not narrow:
            _write_columns(axes, (f"{_unit(rows)}, interval over seeds", "Holm p", "verdict"), -0.8, MUTED)
        axes.set_yticks(places, [row["label"] for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.set_xlabel(f"difference, {_unit(rows)}; more is better")
        return figure


def caption(results: Mapping[str, Any]) -> str:
    level = f"{100 * results['confidence']:.0f}"
    return (
        f"Marker and thick bar: difference and its {level} % interval over seeds; thin bar: over seeds and questions. "
        f"Filled marker: Holm-adjusted p under {results['alpha']:g}; open: not, or not tested. Grey band: the margin "
        "within which two groups count as equal. An arrow: the interval goes on beyond the panel."
    )


def describe(results: Mapping[str, Any]) -> str:
    parts = [
        f"{row['formula']} on {task_label(row['tasks'])}: {difference(row['estimate'], row['scale'])} "
        f"{scale_unit(row['scale'])} {difference_interval(row, row['scale'])}, {row['verdict']}."
        for question in _shown(results)
        for row in question["rows"]
    ]
    return " ".join(parts)


def _shown(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The questions with those of their rows that were formed, in points; in nats where none is in points."""
    formed = {row["scale"] for row in results["contrasts"] if row["estimate"] is not None}
    scale = "nats" if "points" not in formed else "points"
    shown = []
    for question in questions(results):
        rows = [row for row in question["rows"] if row["scale"] == scale and row["estimate"] is not None]
        if rows:
            shown.append({**question, "rows": rows})
    return shown


def _unit(rows: list[Mapping[str, Any]]) -> str:
    return "nats per token" if rows[0]["scale"] == "nats" else "percentage points"


def _factor(row: Mapping[str, Any]) -> float:
    return 100 if row["scale"] == "points" else 1


def _layout(questions: list[dict[str, Any]]) -> tuple[list[tuple[str, float]], list[float], float]:
    """Headings with their places, the rows' places, and the height, all in rows."""
    headings, places, height = [], [], 0.0
    for question in questions:
        headings.append((f"{question['id']}: {question['formula'] or question['question']}", height))
        for _ in question["rows"]:
            height += 1
            places.append(height)
        height += 1.4
    return headings, places, height


def _margin(row: Mapping[str, Any], margins: Mapping[str, float | None]) -> float:
    """The margin of a tested difference, as a share; 0 where the plan has none, or where nothing is tested."""
    known = [margins.get(task) for task in row["tasks"]]
    return 0.0 if row["test"] == "descriptive" else min(margin or 0.0 for margin in known)


def _limits(rows: list[Mapping[str, Any]], margins: Mapping[str, float | None]) -> tuple[float, float]:
    """Points. What is compared sets the scale; the distance to the teacher and intervals that say little run out."""
    inner = [row for row in rows if "teacher" not in row["weights"]] or rows
    halves = [(limits["upper"] - limits["lower"]) / 2 for row in inner for limits in _intervals(row)]
    widest = REACH * median(halves) if halves else 0.0
    ends = [-0.005 * _factor(rows[0]), 0.005 * _factor(rows[0])]
    for row in inner:
        half = max([0.0, *((limits["upper"] - limits["lower"]) / 2 for limits in _intervals(row))])
        ends += [_factor(row) * (row["estimate"] + sign * min(half, widest)) for sign in (-1, 1)]
        ends += [_factor(row) * sign * _margin(row, margins) for sign in (-1, 1)]
    room = 0.04 * (max(ends) - min(ends))
    return min(ends) - room, max(ends) + room


def _intervals(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of its two intervals that exist, the wider scope first."""
    return [limits for limits in (row["items"], row) if limits is not None and limits["lower"] is not None]


def _draw_row(axes: Axes, row: Mapping[str, Any], place: float, alpha: float, margin: float) -> None:
    factor = _factor(row)
    if margin:
        band = Rectangle(
            (-factor * margin, place - 0.5), 2 * factor * margin, 1, facecolor=BAND, edgecolor="none", zorder=0
        )
        axes.add_patch(band)
    low, high = axes.get_xlim()
    for limits in _intervals(row):
        ends = [factor * limits["lower"], factor * limits["upper"]]
        inside = [min(high, max(low, end)) for end in ends]
        thickness = 3.0 if limits is row else 1.0
        axes.plot(inside, [place, place], color=INK, linewidth=thickness, solid_capstyle="butt", zorder=3)
        for beyond, edge, marker in ((ends[0] < low, low, "<"), (ends[1] > high, high, ">")):
            if beyond:
                axes.scatter([edge], [place], s=26, marker=marker, color=INK, linewidths=0, clip_on=False, zorder=5)
    estimate = factor * row["estimate"]
    if low <= estimate <= high:
        fill = INK if significant(row, alpha) else PAGE
        axes.scatter([estimate], [place], s=30, marker="D", facecolor=fill, edgecolor=INK, linewidths=1.2, zorder=4)


def _texts(row: Mapping[str, Any]) -> tuple[str, str, str]:
    shown = f"{difference(row['estimate'], row['scale'])} {difference_interval(row, row['scale'])}"
    return shown, p_value(row["p_adjusted"]), row["verdict"]


def _write_columns(axes: Axes, texts: tuple[str, str, str], place: float, colour: str) -> None:
    """Beside the axes, in inches from their right edge: two columns set right, the verdict set left."""
    ends = (COLUMN_INCHES[0], sum(COLUMN_INCHES[:2]), sum(COLUMN_INCHES[:2]) + 0.12)
    for inches, text, side in zip(ends, texts, ("right", "right", "left"), strict=True):
        axes.annotate(
            text,
            (1.0, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(72 * inches, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=SMALL,
            color=colour,
            annotation_clip=False,
        )


def _write_heading(axes: Axes, text: str, place: float, inches: float) -> None:
    """From the figure's left edge, that many inches left of the axes, over the grid."""
    axes.annotate(
        text,
        (0.0, place),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4 - 72 * inches, 0),
        textcoords="offset points",
        va="center",
        fontweight="bold",
        bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 1.0},
        annotation_clip=False,
        zorder=6,
    )
