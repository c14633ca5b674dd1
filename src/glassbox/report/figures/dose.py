"""The dose-response curve of a tuning: score against weight, and against share of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glassbox.report.figures.style import LINES, MARKERS, PALETTE, STYLE, WIDE


def dose_response(table: Mapping[str, Any]) -> Figure:
    """A line a signal through the means over seeds, a dot a seed; the control's best as a level line.

    `table` is what `tuning.tune` returns.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(WIDE, 3.6), sharey=True, layout="constrained")
        control = [point for point in table["points"] if point["candidate"] == table["chosen"]["control"]]
        level = 100 * _mean([point["score"] for point in control])
        for axes, (value, title) in zip(
            panels, (("weight", "weight"), ("share", "share of the gradient")), strict=True
        ):
            for place, component in enumerate(("logits", "hidden", "attention"), 2):
                _draw(axes, [p for p in table["points"] if p["component"] == component], value, component, place)
            axes.axhline(level, color=PALETTE[0], linestyle=LINES[0], linewidth=1)
            axes.annotate("best control", (0.01, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
            axes.set_xlabel(title)
        panels[0].set_xscale("log")
        panels[0].xaxis.set_major_formatter("{x:g}")
        panels[0].set_ylabel("mean validation score over chance (%)")
        panels[0].legend(loc="best")
    return figure


def _draw(axes: Axes, points: list[dict[str, Any]], value: str, component: str, place: int) -> None:
    colour, marker = PALETTE[place], MARKERS[place]
    axes.scatter([p[value] for p in points], [100 * p["score"] for p in points], s=12, color=colour, marker=marker)
    means: dict[float, list[dict[str, Any]]] = {}
    for point in points:
        means.setdefault(point["weight"], []).append(point)
    line = sorted((_mean([p[value] for p in same]), 100 * _mean([p["score"] for p in same])) for same in means.values())
    axes.plot(*zip(*line, strict=True), color=colour, linestyle=LINES[place], label=component)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
