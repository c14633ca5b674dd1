"""Learning curves: mean over seeds with a pointwise t band, for validation scores and for losses by component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glassbox.report.figures.style import (
    MUTED,
    SMALL,
    STYLE,
    Mark,
    add_legend,
    figure_width,
    group_marks,
    panel_grid,
)

NAME = "curves"
TITLE = "Learning curves"
LINE = "Validation scores and losses while training"
FIRST = ("task", "logits", "hidden", "attention")


def draw(results: Mapping[str, Any], narrow: bool = False) -> Figure | None:
    """One panel per metric; None where no trial wrote a history."""
    metrics = _metrics(results)
    if not metrics:
        return None
    columns = 1 if narrow else 3
    marks = group_marks(results)
    with plt.rc_context(STYLE):
        size = (figure_width(narrow), 0.6 + 2.15 * -(-len(metrics) // columns))
        figure, panels = panel_grid(len(metrics), columns, size)
        for place, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
            _draw_metric(axes, results, metric, marks)
            axes.set_xlabel("optimizer step" if narrow or place + columns >= len(metrics) else "")
        add_legend(figure, panels, "upper", 2 if narrow else 5)
        return figure


def caption(results: Mapping[str, Any]) -> str:
    level = f"{100 * results['confidence']:.0f}"
    return (
        f"Mean over seeds and its {level} % t band at each step by itself, not for the curve as a whole; n is the "
        "number of seeds behind a point. Losses are unweighted. A group appears only where its objective "
        "has the component."
    )


def describe(results: Mapping[str, Any]) -> str:
    parts = []
    for metric in _metrics(results):
        ends = []
        for group, rows in _by_group(results, metric).items():
            last = rows[-1]
            if last["mean"] is not None:
                ends.append(f"{group} {last['mean']:.3g} at step {last['step']} (n = {last['n']})")
        parts.append(f"{metric}: {', '.join(ends)}.")
    return " ".join(parts)


def _metrics(results: Mapping[str, Any]) -> list[str]:
    """Validation scores in the tasks' order, then validation and training losses by component."""
    found = {row["metric"] for row in results["curves"]}
    wanted = [f"validation/{task['metric']}_{task['task']}" for task in results["tasks"]]
    losses = [row["metric"].split("/", 1)[1] for row in results["curves"] if "/loss_" in row["metric"]]
    further = sorted({loss.removeprefix("loss_") for loss in losses} - {"total", *FIRST})
    components = (*FIRST, *further)
    wanted += [f"{part}/loss_{component}" for part in ("validation", "train") for component in components]
    return [metric for metric in wanted if metric in found]


def _by_group(results: Mapping[str, Any], metric: str) -> dict[str, list[Mapping[str, Any]]]:
    rows = [row for row in results["curves"] if row["metric"] == metric]
    groups = [entry["group"] for entry in results["groups"]]
    found = {group: sorted((r for r in rows if r["group"] == group), key=lambda row: row["step"]) for group in groups}
    return {group: rows for group, rows in found.items() if rows}


def _draw_metric(axes: Axes, results: Mapping[str, Any], metric: str, marks: Mapping[str, Mark]) -> None:
    factor = 1 if "/loss_" in metric or metric.startswith("validation/perplexity_") else 100
    counts = set()
    for group, rows in _by_group(results, metric).items():
        mark = marks[group]
        known = [row for row in rows if row["mean"] is not None]
        banded = [row for row in known if row["lower"] is not None]
        counts |= {row["n"] for row in known}
        style: dict[str, Any] = {"color": mark.colour, "linestyle": mark.line, "marker": mark.marker}
        axes.plot(
            [row["step"] for row in known],
            [factor * row["mean"] for row in known],
            label=group,
            linewidth=1.3,
            markersize=4,
            markevery=max(1, len(known) // 6),
            **style,
        )
        lower, upper = ([factor * row[end] for row in banded] for end in ("lower", "upper"))
        axes.fill_between([row["step"] for row in banded], lower, upper, color=mark.colour, alpha=0.13, linewidth=0)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), high if factor == 1 else min(high, 101.0))
    axes.set_title(_title(metric))
    if counts:
        text = f"n = {min(counts)}" + (f" to {max(counts)}" if len(counts) > 1 else "")
        axes.text(1, 1.02, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=SMALL, color=MUTED)


def _title(metric: str) -> str:
    part, name = metric.split("/", 1)
    if name.startswith("loss_"):
        return f"{part} loss, {name.removeprefix('loss_')}"
    measure, task = name.rsplit("_", 1)
    return f"{part} {task}, {measure.replace('_', ' ')}, %"
