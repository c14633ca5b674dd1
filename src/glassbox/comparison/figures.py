"""Drawings of a results dictionary. Every seed is a dot; a mean is a bar's middle; references are named lines."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, SEED, TEACHER = "#1b1f24", "#5c6670", "#d9dee3", "#2f6db3", "#a8480f"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SEED: "--seed", TEACHER: "--teacher"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "glassbox",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": GRID,
}
REFERENCE_STYLES = {
    "teacher": {"linestyle": (0, (6, 3)), "color": TEACHER, "linewidth": 1.4},
    "initial_student": {"linestyle": (0, (1, 2)), "color": MUTED, "linewidth": 1.6},
}
REFERENCE_NAMES = {"teacher": "teacher", "initial_student": "student before"}


def draw_scores(results: Mapping[str, Any]) -> Figure:
    """One panel per task: groups from top to bottom, test score in percent from left to right."""
    tasks, groups = results["tasks"], [entry["group"] for entry in results["groups"]]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1,
            len(tasks),
            figsize=(1.4 + 3.1 * len(tasks), 1.5 + 0.52 * len(groups)),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, task in zip(panels[0], tasks, strict=True):
            _draw_task(axes, task, groups, results)
        panels[0][0].set_yticks(range(len(groups)), [_group_label(entry) for entry in results["groups"]])
        panels[0][0].set_ylim(len(groups) - 0.5, -0.9)
        return figure


def _group_label(entry: Mapping[str, Any]) -> str:
    return entry["group"] + ("\n(from the store)" if entry["source"] == "store" else "")


def _draw_task(axes: Axes, task: Mapping[str, Any], groups: Sequence[str], results: Mapping[str, Any]) -> None:
    name = task["task"]
    for reference, scores in results["references"].items():
        if name in scores:
            axes.axvline(
                100 * scores[name], **REFERENCE_STYLES[reference], label=_reference_name(results, reference), zorder=1
            )
    means = {row["group"]: row for row in results["means"] if row["task"] == name}
    for position, group in enumerate(groups):
        rows = [row for row in results["trials"] if row["group"] == group]
        _draw_seeds(axes, position, [row["scores"][name] for row in rows])
        _draw_mean(axes, position, means[group])
    title = f"{name}{' (embedded miniature)' if task['embedded'] else ''}"
    axes.set_title(title, fontsize=10.5, loc="left", pad=28)
    axes.set_xlabel(f"test {task['metric'].replace('_', ' ')}, %")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.09)
    _name_references(axes, name, results)


def _draw_seeds(axes: Axes, position: int, scores: Sequence[float | None]) -> None:
    """Dots above the interval, spread a little by their seed's place so that equal scores stay visible."""
    spread = [0.0] if len(scores) < 2 else [0.16 * (2 * place / (len(scores) - 1) - 1) for place in range(len(scores))]
    shown = [
        (100 * score, position - 0.2 + offset * 0.6)
        for score, offset in zip(scores, spread, strict=True)
        if score is not None
    ]
    axes.scatter([x for x, _ in shown], [y for _, y in shown], s=16, color=SEED, alpha=0.75, linewidths=0, zorder=2)


def _draw_mean(axes: Axes, position: int, row: Mapping[str, Any]) -> None:
    if row["mean"] is None:
        axes.text(
            0.5,
            position,
            "no finished trial",
            transform=axes.get_yaxis_transform(),
            ha="center",
            va="center",
            color=MUTED,
        )
        return
    mean = 100 * row["mean"]
    if row["lower"] is not None:
        reach = [[mean - 100 * row["lower"]], [100 * row["upper"] - mean]]
        axes.errorbar(mean, position + 0.14, xerr=reach, color=INK, capsize=3.5, linewidth=1.6, zorder=3)
    axes.scatter([mean], [position + 0.14], s=26, marker="D", color=INK, linewidths=0, zorder=4)


def _reference_name(results: Mapping[str, Any], reference: str) -> str:
    shots = results.get("teacher_shots", 0) if reference == "teacher" else 0
    return REFERENCE_NAMES[reference] + (f" ({shots}-shot)" if shots else "")


def _name_references(axes: Axes, task: str, results: Mapping[str, Any]) -> None:
    """Names at the top of their lines, on the inner side near the panel's edge, one above another where lines meet."""
    axes.autoscale_view()
    low, high = axes.get_xlim()
    named: list[float] = []
    for reference, scores in results["references"].items():
        if task in scores:
            place = (100 * scores[task] - low) / (high - low)
            rank = sum(abs(place - other) < 0.4 for other in named)
            named.append(place)
            side = "right" if place > 0.6 else "left" if place < 0.4 else "center"
            axes.annotate(
                _reference_name(results, reference),
                (100 * scores[task], 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3 + 11 * rank),
                textcoords="offset points",
                ha=side,
                fontsize=8.5,
                color=REFERENCE_STYLES[reference]["color"],
            )


def figure_text(results: Mapping[str, Any]) -> str:
    """What the figure shows, in words, for those who cannot see it."""
    parts = []
    for task in results["tasks"]:
        means = [row for row in results["means"] if row["task"] == task["task"] and row["mean"] is not None]
        listed = ", ".join(f"{row['group']} {100 * row['mean']:.1f}" for row in means)
        teacher = results["references"]["teacher"].get(task["task"])
        ending = f"; teacher {100 * teacher:.1f}" if teacher is not None else ""
        parts.append(f"{task['task']}, mean percent: {listed}{ending}.")
    return f"Test scores of every seed by group and task, with means and t intervals. {' '.join(parts)}"


def write_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write stem.svg and stem.png; the same figure gives the same bytes."""
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    with plt.rc_context(STYLE):
        figure.savefig(paths[0], metadata={"Date": None}, facecolor="white")
        figure.savefig(paths[1], dpi=200, facecolor="white", metadata={"Software": None})
    return paths


def inline_svg(figure: Figure, description: str) -> str:
    """The figure as an <svg> element whose colours are the page's CSS variables, so that it follows light and dark."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        svg = re.sub(colour, f"var({variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening = svg[: svg.index(">") + 1]
    width = re.sub(r' (width|height)="[^"]*"', "", opening)
    named = width.replace("<svg", '<svg role="img" aria-labelledby="figure-scores-text"', 1)
    return f'{named}<title id="figure-scores-text">{html.escape(description)}</title>{svg[len(opening) :]}'
