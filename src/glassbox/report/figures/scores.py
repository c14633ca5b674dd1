"""Every seed as a dot, joined across groups, beside each group's mean and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glassbox.report.figures.style import INK, MUTED, PAGE, SEED, SMALL, STYLE, TEACHER, figure_width, panel_grid
from glassbox.report.notation import metric_label, score
from glassbox.report.tables import reference_title

NAME = "scores"
TITLE = "Every seed"
LINE = "Test score of every trial, with chance, control and teacher"
REFERENCES: dict[str, dict[str, Any]] = {
    "teacher": {"linestyle": (0, (6, 3)), "color": TEACHER, "linewidth": 1.4},
    "student before": {"linestyle": (0, (1, 2)), "color": MUTED, "linewidth": 1.6},
    "chance": {"linestyle": (0, (1, 4)), "color": INK, "linewidth": 1.2},
    "control": {"linestyle": "solid", "color": MUTED, "linewidth": 1.0},
}


def draw(results: Mapping[str, Any], narrow: bool = False) -> Figure | None:
    """One panel per task: groups from top to bottom, test score in percent, or perplexity, from left to right."""
    tasks, groups = results["tasks"], [entry["group"] for entry in results["groups"]]
    columns = 1 if narrow else min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    size = (figure_width(narrow), rows * (1.35 + 0.46 * len(groups)))
    with plt.rc_context(STYLE):
        figure, panels = panel_grid(len(tasks), columns, size)
        n_names = 1
        for place, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
            _draw_task(axes, task, groups, results)
            n_names = max(n_names, _draw_references(axes, _references(results, task), size[0] / columns, task))
            axes.set_yticks(range(len(groups)), [_label(entry) for entry in results["groups"]])
            axes.tick_params(axis="y", length=0, labelleft=place % columns == 0)
        for axes, task in zip(panels, tasks, strict=True):
            axes.set_title(f"{task['task']}{' (embedded miniature)' if task['embedded'] else ''}", pad=5 + 10 * n_names)
        return figure


def caption(results: Mapping[str, Any]) -> str:
    level = f"{100 * results['confidence']:.0f}"
    return (
        "Each dot is one trial; a thin line joins the trials of one seed, which share the order of the data and the "
        f"student's initial weights. Diamond: mean; thick bar: {level} % t interval over seeds; thin bar: over seeds "
        "and questions. Vertical lines: the control's mean, chance, the student before distillation and the teacher; "
        "an arrow names those beyond the panel. The panels' scales differ."
    )


def describe(results: Mapping[str, Any]) -> str:
    parts = []
    for task in results["tasks"]:
        means = [row for row in results["means"] if row["task"] == task["task"] and row["mean"] is not None]
        listed = ", ".join(f"{row['group']} {score(row['mean'], task['unit'])}" for row in means)
        named = "; ".join(f"{name} {score(value, task['unit'])}" for name, value in _references(results, task))
        parts.append(f"{task['task']}, mean {task['metric'].replace('_', ' ')}: {listed}; {named}.")
    return f"Test scores of every seed by group and task. {' '.join(parts)}"


def _label(entry: Mapping[str, Any]) -> str:
    return entry["group"] + ("\n(from the store)" if entry["source"] == "store" else "")


def _references(results: Mapping[str, Any], task: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Name and score of each line that is known for the task, as shares."""
    name, control = task["task"], results["plan"]["control"]
    means = {row["group"]: row["mean"] for row in results["means"] if row["task"] == name}
    known = {
        reference_title(results, "teacher"): results["references"]["teacher"].get(name),
        "student before": results["references"]["initial_student"].get(name),
        "chance": task["chance"],
        "control": means.get(control),
    }
    return [(title, value) for title, value in known.items() if value is not None]


def _draw_task(axes: Axes, task: Mapping[str, Any], groups: list[str], results: Mapping[str, Any]) -> None:
    name = task["task"]
    means = {row["group"]: row for row in results["means"] if row["task"] == name}
    scores = {(row["group"], row["seed"]): row["scores"][name] for row in results["trials"]}
    factor = _factor(task)
    for seed in results["seeds"]:
        trail = [scores.get((group, seed)) for group in groups]
        line = [np.nan if value is None else factor * value for value in trail]
        places = np.arange(len(groups)) - 0.16
        axes.plot(line, places, color=SEED, alpha=0.35, linewidth=0.8, zorder=2)
        axes.scatter(line, places, s=15, color=SEED, alpha=0.8, linewidths=0, zorder=2.5)
    for place, group in enumerate(groups):
        _draw_mean(axes, place + 0.2, means[group], factor)
    axes.set_xlabel(f"test {metric_label(task)}")
    axes.grid(False, axis="y")
    axes.set_ylim(len(groups) - 0.45, -0.6)


def _factor(task: Mapping[str, Any]) -> float:
    """Shares are drawn in percent, perplexities as they are."""
    return 100 if task["unit"] == "share" else 1


def _draw_mean(axes: Axes, place: float, row: Mapping[str, Any], factor: float) -> None:
    if row["mean"] is None:
        centre = axes.get_yaxis_transform()
        axes.text(0.5, place - 0.2, "no finished trial", transform=centre, ha="center", va="center", color=MUTED)
        return
    for limits, thickness in ((row["items"], 1.0), (row, 3.0)):
        if limits is not None and limits["lower"] is not None:
            ends = [factor * limits["lower"], factor * limits["upper"]]
            axes.plot(ends, [place, place], color=INK, linewidth=thickness, solid_capstyle="butt", zorder=3)
    axes.scatter(
        [factor * row["mean"]], [place], s=30, marker="D", facecolor=PAGE, edgecolor=INK, linewidths=1.2, zorder=4
    )


def _draw_references(axes: Axes, references: list[tuple[str, float]], inches: float, task: Mapping[str, Any]) -> int:
    """Lines where they lie within reach of the seeds; an arrow at the edge, with the score, where they do not.

    inches: the panel's width. Returns how many rows of names stand above it.
    """
    axes.margins(x=0.08)
    axes.autoscale_view()
    low, high = axes.get_xlim()
    factor, is_share = _factor(task), task["unit"] == "share"
    least = 1.0 if is_share else 0.005 * high
    if high - low < 2 * least:
        low, high = (low + high) / 2 - least, (low + high) / 2 + least
    reach = 0.5 * (high - low)
    near = [factor * value for _, value in references if low - reach <= factor * value <= high + reach]
    room = min(0.06 * reach, 1.0) if is_share else 0.06 * reach
    low, high = min([low, *(score - room for score in near)]), max([high, *(score + room for score in near)])
    low, high = max(low, -room), min(high, 100 + room) if is_share else high
    axes.set_xlim(low, high)
    taken: list[list[tuple[float, float]]] = [[], [], []]
    for name, share in references:
        there, style = factor * share, REFERENCES[name.partition(" (")[0]]
        if low <= there <= high:
            axes.axvline(there, zorder=1, **style)
        place = min(1.0, max(0.0, (there - low) / (high - low)))
        value = score(share, task["unit"])
        text = name if low <= there <= high else f"{name} {value} →" if there > high else f"← {name} {value}"
        _name(axes, text, place, 0.058 * len(text) / (0.9 * inches), taken, style["color"])
    return sum(bool(row) for row in taken)


def _name(
    axes: Axes, text: str, place: float, length: float, taken: list[list[tuple[float, float]]], colour: str
) -> None:
    """Write the name over its line, in the lowest of the rows above the panel where it meets no other name.

    place and length: shares of the panel's width.
    """
    side = "left" if place < 0.3 else "right" if place > 0.7 else "center"
    start = {"left": place, "center": place - length / 2, "right": place - length}[side]
    for row, spans in enumerate(taken):
        if all(start > end + 0.02 or start + length < begin - 0.02 for begin, end in spans) or row == len(taken) - 1:
            spans.append((start, start + length))
            axes.annotate(
                text,
                (place, 1.0),
                xycoords="axes fraction",
                xytext=(0, 3 + 10 * row),
                textcoords="offset points",
                ha=side,
                fontsize=SMALL,
                color=colour,
            )
            return
