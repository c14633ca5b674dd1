"""The label curve: score against the share of samples that have labels, a panel a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from glassbox.report.figures.style import LINES, MARKERS, PALETTE, STYLE, WIDE, add_legend, panel_grid


def label_curve(table: Mapping[str, Any]) -> Figure:
    """A line a group through the means over seeds, a dot a seed. `table` is that of docs/label_curve."""
    with plt.rc_context(STYLE):
        tasks = list(table["samples"])
        figure, panels = panel_grid(len(tasks), len(tasks), (WIDE, 3.4))
        for axes, task in zip(panels, tasks, strict=True):
            for place, (group, by_share) in enumerate(table["scores"].items()):
                colour, marker = PALETTE[place], MARKERS[place]
                shares = [100 * float(share) for share in by_share]
                seeds = [list(by_share[share][task].values()) for share in by_share]
                dots = [(share, 100 * score) for share, scores in zip(shares, seeds, strict=True) for score in scores]
                axes.scatter(*zip(*dots, strict=True), s=10, color=colour, marker=marker, alpha=0.6)
                means = [100 * sum(scores) / len(scores) for scores in seeds]
                axes.plot(shares, means, color=colour, linestyle=LINES[place], marker=marker, markersize=4, label=group)
            axes.set_xscale("log")
            axes.set_xticks([3, 10, 30, 100], ["3", "10", "30", "100"])
            axes.set_title(task)
            axes.set_xlabel("samples with labels (%)")
        panels[0].set_ylabel("test score (%)")
        add_legend(figure, panels, "lower", 4)
    return figure
