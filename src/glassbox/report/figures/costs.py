"""What a group's signals cost, against what they gain over the control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glassbox.report.figures.style import MUTED, STYLE, add_legend, figure_width, group_marks, panel_grid
from glassbox.report.notation import difference, size, task_scale

NAME = "costs"
TITLE = "Cost of a signal against its gain"
LINE = "What each signal costs, beside what it gains"
COSTS = {
    "snapshot_bytes": ("snapshot read, MB", 1e-6),
    "step_seconds": ("time of a step, ms", 1e3),
    "peak_memory_bytes": ("peak memory, MB", 1e-6),
}


def draw(results: Mapping[str, Any], narrow: bool = False) -> Figure | None:
    """A row per task, a column per cost that was measured; None where none was."""
    costs = [name for name in COSTS if any(row[name] is not None for row in results["costs"])]
    costs = [name for name in costs if name != "step_seconds" or not results["unequal_load"]]
    tasks = [task["task"] for task in results["tasks"]]
    if not costs or not tasks:
        return None
    units = {task["task"]: task_scale(task) for task in results["tasks"]}
    panels_wanted = [(task, cost) for task in tasks for cost in costs]
    columns = 1 if narrow else len(costs) if len(costs) > 1 else min(3, len(tasks))
    rows = -(-len(panels_wanted) // columns)
    with plt.rc_context(STYLE):
        figure, panels = panel_grid(len(panels_wanted), columns, (figure_width(narrow), 0.6 + 1.85 * rows))
        for axes, (task, cost) in zip(panels, panels_wanted, strict=True):
            _draw_panel(axes, results, task, cost)
            first, last = cost == costs[0] or narrow, task == tasks[-1] or columns != len(costs)
            axes.set_ylabel(f"{task}: gain, {units[task]}" if first else "")
            axes.set_xlabel(COSTS[cost][0] if last else "")
        add_legend(figure, panels, "upper", 2 if narrow else 5)
        return figure


def caption(results: Mapping[str, Any]) -> str:
    missing = [
        title.split(",")[0] for name, (title, _) in COSTS.items() if all(row[name] is None for row in results["costs"])
    ]
    unknown = f" Not measured in these trials: {', '.join(missing)}." if missing else ""
    load = f" {results['unequal_load']}" if results["unequal_load"] else ""
    return (
        "Gain: mean difference to the control in points (of a perplexity in nats per token), with its "
        f"{100 * results['confidence']:g} % interval over "
        "seeds, not adjusted for the number of tasks and groups. "
        "Snapshot: bytes of the columns that the group reads. Step time: a trial's seconds, its evaluations on the "
        f"validation split included, over its steps; median over seeds, with the quickest and slowest.{unknown}{load}"
    )


def describe(results: Mapping[str, Any]) -> str:
    parts = []
    scales = {task["task"]: task_scale(task) for task in results["tasks"]}
    for row in results["costs"]:
        gains = ", ".join(f"{task} {difference(gain, scales[task])}" for task, gain in row["gain"].items())
        step = "unknown" if row["step_seconds"] is None else f"{1000 * row['step_seconds']:.1f} ms"
        parts.append(f"{row['group']}: reads {size(row['snapshot_bytes'])}, a step takes {step}, gain {gains}.")
    return " ".join(parts)


def _draw_panel(axes: Axes, results: Mapping[str, Any], task: str, cost: str) -> None:
    _, factor = COSTS[cost]
    height = 1 if any(each["task"] == task and each["unit"] == "nats" for each in results["tasks"]) else 100
    for group, mark in group_marks(results).items():
        row = next((row for row in results["costs"] if row["group"] == group), None)
        if row is not None and row[cost] is not None and row["gain"].get(task) is not None:
            where = factor * row[cost], height * row["gain"][task]
            interval, spread = row["gain_interval"].get(task), row["step_seconds_range"]
            if interval is not None:
                axes.plot([where[0]] * 2, [height * limit for limit in interval], color=mark.colour, linewidth=1.1)
            if cost == "step_seconds" and spread is not None:
                axes.plot([factor * each for each in spread], [where[1]] * 2, color=mark.colour, linewidth=1.1)
            axes.plot(*where, linestyle="none", marker=mark.marker, color=mark.colour, markersize=7, label=group)
    axes.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
    axes.margins(0.12, 0.2)
