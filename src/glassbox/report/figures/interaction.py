"""Does the gain depend on the task? Each white-box group against black-box on every task, in points and in logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glassbox.report.figures.style import (
    INK,
    MUTED,
    PALETTE,
    STYLE,
    Mark,
    add_legend,
    figure_width,
    group_marks,
    panel_grid,
)
from glassbox.report.notation import difference, formula_label, task_label

NAME = "interaction"
TITLE = "Does the gain depend on the task?"
LINE = "Whether the gain depends on the task, in points and in logits"
POOLED = Mark(INK, "s", "solid")


def draw(results: Mapping[str, Any], narrow: bool = False) -> Figure | None:
    """Left in points, right in logits; None where no such contrast was formed on two tasks."""
    scales = [scale for scale in ("points", "logit") if _lines(results, scale)]
    if not scales:
        return None
    columns = 1 if narrow else len(scales)
    with plt.rc_context(STYLE):
        height = 2.9 * -(-len(scales) // columns) + 0.7
        figure, panels = panel_grid(len(scales), columns, (figure_width(narrow), height))
        for axes, scale in zip(panels, scales, strict=True):
            _draw_scale(axes, results, scale)
        add_legend(figure, panels, "lower", 1 if narrow else 2)
        return figure


def caption(results: Mapping[str, Any]) -> str:
    level = f"{100 * results['confidence']:.0f}"
    changes = [
        f"{task_label(row['tasks'])}: {difference(row['estimate'], row['scale'])} "
        f"{'points' if row['scale'] == 'points' else 'logits'} ({row['verdict']})"
        for row in results["contrasts"]
        if row["id"] == "Q4" and row["status"] == "run"
    ]
    tested = f" The tests of the change (Q4): {'; '.join(changes)}." if changes else ""
    return (
        f"Gain over black-box with its {level} % t interval over seeds; parallel to the zero line means that the "
        "gain is the same on every task. Lines join tasks for the eye only. Near a ceiling points shrink and logits do "
        f"not.{tested}"
    )


def describe(results: Mapping[str, Any]) -> str:
    parts = []
    for scale in ("points", "logit"):
        for name, rows in _lines(results, scale).items():
            listed = ", ".join(f"{task} {difference(row['estimate'], scale)}" for task, row in rows.items())
            parts.append(f"{name}, {'points' if scale == 'points' else 'logits'}: {listed}.")
    return " ".join(parts)


def _lines(results: Mapping[str, Any], scale: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Formula -> task -> interval, for Q1 and its parts, as far as they have an estimate on at least two tasks."""
    lines: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in results["contrasts"]:
        if row["id"].startswith("Q1") and row["status"] == "run" and len(row["tasks"]) == 1:
            interval = row if scale == "points" else (row["sensitivity"] or {}).get("logit")
            if interval and interval.get("estimate") is not None:
                lines.setdefault(row["formula"], {})[next(iter(row["tasks"]))] = interval
    return {formula: tasks for formula, tasks in lines.items() if len(tasks) > 1}


def _draw_scale(axes: Axes, results: Mapping[str, Any], scale: str) -> None:
    tasks = [task["task"] for task in results["tasks"]]
    lines = _lines(results, scale)
    factor = 100 if scale == "points" else 1
    for place, (formula, rows) in enumerate(lines.items()):
        mark = _mark(results, formula)
        x = [tasks.index(task) + 0.09 * (place - (len(lines) - 1) / 2) for task in rows]
        y = [factor * row["estimate"] for row in rows.values()]
        label = formula_label(formula)
        style: dict[str, Any] = {"color": mark.colour, "linestyle": mark.line, "marker": mark.marker}
        axes.plot(x, y, label=label, markersize=5.5, linewidth=2.2 if mark is POOLED else 1.4, **style)
        for position, row in zip(x, rows.values(), strict=True):
            if row.get("lower") is not None:
                axes.vlines(position, factor * row["lower"], factor * row["upper"], color=mark.colour, linewidth=1.1)
    axes.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_xlim(-0.4, len(tasks) - 0.6)
    axes.grid(False, axis="x")
    axes.set_title("percentage points" if scale == "points" else "logits")
    axes.set_ylabel("gain over black-box")


def _mark(results: Mapping[str, Any], formula: str) -> Mark:
    """The mark of the group that the formula sets against another; the mean of several is drawn in ink."""
    marks = group_marks(results)
    row = next(row for row in results["contrasts"] if row["formula"] == formula)
    gained = [group for group, weight in row["weights"].items() if weight > 0]
    return marks.get(gained[0], Mark(PALETTE[0], "o", "solid")) if len(gained) == 1 else POOLED
