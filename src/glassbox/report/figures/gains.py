"""The first figure: every group's difference to the baseline, seed by seed, beside the margin that matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glassbox.report.figures.style import BAND, INK, MUTED, PAGE, SEED, SMALL, STYLE, TEACHER, figure_width
from glassbox.report.notation import difference
from glassbox.report.tables import reference_title

NAME = "gains"
TITLE = "What each group gains"
LINE = "Difference to the baseline by task, group and seed"
COLUMNS = 3
ROW_INCHES = 0.2
REACH = 0.35  # of the panel's width, that a group beyond the planned ones may add to it


@dataclass(frozen=True)
class Gain:
    """One row of a panel, in what `unit_of` says. kind: control, group, optional or teacher."""

    name: str
    kind: str
    seeds: tuple[float, ...]
    value: float | None
    limits: tuple[float, float] | None

    @property
    def ends(self) -> tuple[float, ...]:
        return (*self.seeds, *(self.limits or ()), *([] if self.value is None else [self.value]))


def draw(results: Mapping[str, Any], narrow: bool = False) -> Figure | None:
    """A panel per task, a row per group: dots are seeds, bars intervals. None where nothing can be compared."""
    reference = reference_group(results)
    tasks = results["tasks"]
    rows = {} if reference is None else {task["task"]: gains(results, task["task"], reference) for task in tasks}
    if not any(each.value is not None for found in rows.values() for each in found):
        return None
    names = [each.name for each in rows[tasks[0]["task"]]]
    columns = min(COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    width, inches = figure_width(narrow), lines * (0.66 + ROW_INCHES * len(names))
    labels = 0.075 * max(map(len, names)) * (0.86 if narrow else 1.0) + 0.1
    with plt.rc_context({**STYLE, "font.size": 7.5 if narrow else 9, "axes.titlesize": 8 if narrow else 9.5}):
        figure, grid = plt.subplots(lines, columns, figsize=(width, inches), squeeze=False)
        figure.subplots_adjust(
            left=labels / width,
            right=1 - 0.06 / width,
            top=1 - 0.22 / inches,
            bottom=0.4 / inches,
            wspace=0.08 if narrow else 0.05,
            hspace=0.66 / (ROW_INCHES * len(names)),
        )
        panels = list(grid.flat)
        for axes in panels[len(tasks) :]:
            axes.remove()
        for place, (axes, task) in enumerate(zip(panels, tasks, strict=False)):
            _draw_panel(axes, task, rows[task["task"]], narrow)
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(axis="y", length=0, labelleft=place % columns == 0, pad=2)
            axes.locator_params(axis="x", nbins=4 if narrow else 7)
        figure.supxlabel(
            f"{unit_of(results)} {'over' if narrow else 'more or less than'} {reference}",
            fontsize=7.5 if narrow else 9,
            y=0.02 / inches,
            va="bottom",
        )
        return figure


def caption(results: Mapping[str, Any]) -> str:
    level = f"{100 * results['confidence']:.0f}"
    of_text = any(task["unit"] == "nats" for task in results["tasks"])
    texts = " Nats are those by which a perplexity is lower; more is better." if of_text else ""
    counted = f"Difference to {reference_group(results)}, in {unit_of(results, short=False)}."
    return (
        f"{counted} Dot: a seed; diamond and bar: mean and {level} % interval over seeds; square: the control; star: "
        "the teacher; grey: the margin within which a difference does not matter; an arrow: beyond the panel."
        f"{texts}"
    )


def describe(results: Mapping[str, Any]) -> str:
    reference = reference_group(results)
    if reference is None:
        return ""
    parts = []
    for task in results["tasks"]:
        told = [
            f"{each.name} {difference(each.value / 100)}"
            for each in gains(results, task["task"], reference)
            if each.value is not None
        ]
        parts.append(f"{task['task']}: {', '.join(told)}.")
    return f"Difference to {reference} in {unit_of(results, short=False)}. {' '.join(parts)}"


def unit_of(results: Mapping[str, Any], *, short: bool = True) -> str:
    """What the figure counts: points of a score, hundredths of a nat per token of a perplexity, or both."""
    points, nats = ("points", "0.01 nats") if short else ("percentage points", "hundredths of a nat per token")
    units = {task["unit"] for task in results["tasks"]}
    if units == {"nats"}:
        return nats
    return f"{points} (of a perplexity {nats})" if "nats" in units else points


def reference_group(results: Mapping[str, Any]) -> str | None:
    """The baseline, else the control; None where neither ran or nothing else did."""
    ran = [entry["group"] for entry in results["groups"]]
    candidates = (results["plan"]["baseline"], results["plan"]["control"])
    return next((group for group in candidates if group in ran), None) if len(ran) > 1 else None


def gains(results: Mapping[str, Any], task: str, reference: str) -> list[Gain]:
    """The control, the groups in the study's order, and the teacher, each less the reference on the same seed."""
    unit = next(each["unit"] for each in results["tasks"] if each["task"] == task)
    scores = {
        (row["group"], row["seed"]): _higher_is_better(row["scores"][task], unit)
        for row in results["trials"]
        if row["scores"][task] is not None
    }
    contrasts = _pairs(results["contrasts"], task)
    control = results["plan"]["control"]
    found = []
    for entry in sorted(results["groups"], key=lambda entry: entry["group"] != control):
        group = entry["group"]
        if group == reference:
            continue
        seeds = [seed for seed in results["seeds"] if (group, seed) in scores and (reference, seed) in scores]
        values = tuple(scores[group, seed] - scores[reference, seed] for seed in seeds)
        value, limits = contrasts.get((group, reference), (sum(values) / len(values) if values else None, None))
        kind = "control" if group == control else "optional" if entry["optional"] else "group"
        name = f"{group} (control)" if kind == "control" else group
        found.append(Gain(name, kind, values, value, limits))
    teacher = results["references"]["teacher"].get(task)
    mean = next((row["mean"] for row in results["means"] if (row["group"], row["task"]) == (reference, task)), None)
    if results["references"]["teacher"]:
        value = None
        if teacher is not None and mean is not None:
            value = _higher_is_better(teacher, unit) - _higher_is_better(mean, unit)
        found.append(Gain(reference_title(results, "teacher"), "teacher", (), value, None))
    return found


def _higher_is_better(score: float, unit: str) -> float:
    """A share in points; a perplexity as hundredths of a nat per token, about the percent by which it is lower."""
    return 100 * score if unit == "share" else -100 * math.log(score)


def _pairs(
    contrasts: Sequence[Mapping[str, Any]], task: str
) -> dict[tuple[str, str], tuple[float, tuple[float, float] | None]]:
    """(A, B) -> A - B in points with its interval, of every plain difference that was tested on the task, both ways."""
    found = {}
    for row in contrasts:
        signs = {weight: group for group, weight in row["weights"].items()}
        if row["estimate"] is None or row["scale"] == "logit" or row["tasks"] != {task: 1.0}:
            continue
        if len(row["weights"]) != 2 or set(signs) != {1.0, -1.0}:
            continue
        value, lower, upper = 100 * row["estimate"], row["lower"], row["upper"]
        limits = None if lower is None or upper is None else (100 * lower, 100 * upper)
        found[signs[1.0], signs[-1.0]] = value, limits
        found[signs[-1.0], signs[1.0]] = -value, None if limits is None else (-limits[1], -limits[0])
    return found


def _draw_panel(axes: Axes, task: Mapping[str, Any], rows: Sequence[Gain], narrow: bool) -> None:
    margin = 100 * (task["margin"] or 0.0)
    low, high = _limits(rows, margin)
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvspan(-margin, margin, color=BAND, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=1.0, zorder=1)
    for place, row in enumerate(rows):
        _draw_row(axes, row, place, low, high)
    axes.grid(False, axis="y")
    axes.set_title(task["task"] if narrow else f"{task['task']}{' (miniature)' if task['embedded'] else ''}", pad=4)


def _limits(rows: Sequence[Gain], margin: float) -> tuple[float, float]:
    """Points. The control and the plan's groups set the scale; others within reach widen it."""
    inner = [end for row in rows if row.kind in ("control", "group") for end in row.ends]
    low, high = min([-1.3 * margin, *inner, -0.5]), max([1.3 * margin, *inner, 0.5])
    reach = REACH * (high - low)
    near = [end for row in rows for end in row.ends if low - reach <= end <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    room = 0.05 * (high - low)
    return low - room, high + room


def _draw_row(axes: Axes, row: Gain, place: int, low: float, high: float) -> None:
    if row.value is None:
        axes.text(0.5, place, "no score", transform=axes.get_yaxis_transform(), ha="center", va="center", color=MUTED)
        return
    if not low <= row.value <= high:
        text, at, side = (
            (f"{row.value:+.0f} →", 0.985, "right") if row.value > high else (f"← {row.value:+.0f}", 0.015, "left")
        )
        axes.text(
            at,
            place,
            text.replace("-", "\u2212"),
            transform=axes.get_yaxis_transform(),
            ha=side,
            va="center",
            fontsize=SMALL,
            color=TEACHER if row.kind == "teacher" else INK,
        )
        return
    if row.kind == "teacher":
        axes.scatter([row.value], [place], s=60, marker="*", color=TEACHER, linewidths=0, zorder=4)
        return
    axes.scatter(row.seeds, [place] * len(row.seeds), s=11, color=SEED, alpha=0.65, linewidths=0, zorder=2)
    if row.limits is not None:
        ends = [min(high, max(low, limit)) for limit in row.limits]
        axes.plot(ends, [place, place], color=INK, linewidth=2.4, solid_capstyle="butt", zorder=3)
    marker = "s" if row.kind == "control" else "D"
    axes.scatter([row.value], [place], s=24, marker=marker, facecolor=PAGE, edgecolor=INK, linewidths=1.1, zorder=4)
