"""reports/: results.json, and from it the page, the tables, the figures, and the numbers that DVC shows."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from glassbox.comparison.figures import draw_scores, figure_text, inline_svg, write_figure
from glassbox.comparison.results import REFERENCES, rounded

REFERENCE_TITLES = {"teacher": "teacher", "initial_student": "student before distillation"}


def write_reports(results: Mapping[str, Any], folder: Path) -> Path:
    """Write every report into the folder, each by one rename. Returns the page's path."""
    results = rounded(dict(results))
    for each in (folder / "figures", folder / "plots"):
        each.mkdir(parents=True, exist_ok=True)
    figure = draw_scores(results)
    try:
        page = render_page(results, inline_svg(figure, figure_text(results)))
        _publish(folder / "results.json", json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + "\n")
        _publish(folder / "table_main.csv", _csv(main_rows(results)))
        _publish(folder / "results_summary.csv", _csv(summary_rows(results)))
        _publish(folder / "plots" / "scores.csv", _csv(score_rows(results)))
        _publish(folder / "metrics.json", json.dumps(dvc_metrics(results), indent=1, sort_keys=True) + "\n")
        _publish(folder / "report.html", page)
        write_figure(figure, folder / "figures" / "scores")
    finally:
        plt.close(figure)
    return folder / "report.html"


def render_page(results: Mapping[str, Any], scores_figure: str) -> str:
    """The self-contained page. scores_figure: an <svg> element."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["with_code"] = _with_code
    return environment.get_template("report.html.jinja").render(
        results=results,
        table=table_cells(results),
        reference_titles=REFERENCE_TITLES,
        scores_figure=scores_figure,
    )


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f}"


def _with_code(sentence: str) -> Markup:
    """A sentence, escaped, whose `commands` are set as code."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def reference_title(results: Mapping[str, Any], reference: str) -> str:
    """The name of a reference; the teacher's says how many training samples stood before its prompts, if any."""
    shots = results.get("teacher_shots", 0) if reference == "teacher" else 0
    return REFERENCE_TITLES[reference] + (f" ({shots}-shot)" if shots else "")


def table_cells(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per reference and group: its name, what it is, and per task the mean, half-width and n in percent."""
    means = {(row["group"], row["task"]): row for row in results["means"]}
    rows = []
    for reference in REFERENCES:
        scores = results["references"][reference]
        if scores:
            cells = [{"mean": scores.get(task["task"]), "lower": None, "upper": None} for task in results["tasks"]]
            rows.append({"name": reference_title(results, reference), "kind": "reference", "cells": cells})
    for entry in results["groups"]:
        cells = [means[entry["group"], task["task"]] for task in results["tasks"]]
        rows.append({"name": entry["group"], "kind": entry["source"], "cells": cells})
    return rows


def console_table(results: Mapping[str, Any]) -> str:
    """Group means +- half-width of the t interval per task, in percent, as plain aligned text."""
    header = ["group", *(f"{task['task']} {task['metric']}" for task in results["tasks"])]
    lines = [header]
    for row in table_cells(results):
        name = row["name"] + (" (from the store)" if row["kind"] == "store" else "")
        lines.append([name, *(_console_cell(cell, row["kind"] == "reference") for cell in row["cells"])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * (sum(widths) + 2 * len(widths) - 2), *text[1:]])


def _console_cell(cell: Mapping[str, Any], is_reference: bool) -> str:
    if cell["mean"] is None:
        return "-"
    mean = _percent(cell["mean"])
    if is_reference:
        return mean
    diverged = f", {cell['n_diverged']} diverged" if cell["n_diverged"] else ""
    return f"{mean} {_half_width(cell)} (n={cell['n']}{diverged})"


def _half_width(cell: Mapping[str, Any]) -> str:
    if cell["lower"] is None:
        return "± ?"
    if cell["clipped"]:
        return f"[{_percent(cell['lower'])}, {_percent(cell['upper'])}]"
    return f"± {50 * (cell['upper'] - cell['lower']):.1f}"


def main_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """table_main.csv: a row per group and task, references first; scores are shares of 1."""
    metrics = {task["task"]: task["metric"] for task in results["tasks"]}
    numbers = ("n", "mean", "deviation", "lower", "upper", "n_diverged")
    rows = [
        {"group": reference, "task": task, "metric": metrics[task], "source": "verify", "mean": score}
        for reference, scores in results["references"].items()
        for task, score in scores.items()
    ]
    sources = {entry["group"]: entry["source"] for entry in results["groups"]}
    for row in results["means"]:
        known = {"group": row["group"], "task": row["task"], "metric": metrics[row["task"]]}
        rows.append({**known, "source": sources[row["group"]], **{name: row[name] for name in numbers}})
    return [{**dict.fromkeys(("group", "task", "metric", "source", *numbers)), **row} for row in rows]


def summary_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """results_summary.csv: a row per planned trial, missing and diverged ones included."""
    names = ("group", "seed", "status", "source", "run_id", "precision", "seconds")
    keys = {task["task"]: task["key"] for task in results["tasks"]}
    return [
        {**{name: row[name] for name in names}, **{keys[task]: row["scores"][task] for task in keys}}
        for row in results["trials"]
    ]


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """plots/scores.csv, for `dvc plots`: a row per task, group and seed that has a score."""
    return [
        {"task": task["task"], "group": row["group"], "seed": row["seed"], "score": row["scores"][task["task"]]}
        for task in results["tasks"]
        for row in results["trials"]
        if row["scores"][task["task"]] is not None
    ]


def dvc_metrics(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """metrics.json, for `dvc metrics show`: group -> task's metric -> mean."""
    keys = {task["task"]: f"{task['metric']}_{task['task']}" for task in results["tasks"]}
    metrics: dict[str, dict[str, float]] = {}
    for row in results["means"]:
        if row["mean"] is not None:
            metrics.setdefault(row["group"], {})[keys[row["task"]]] = row["mean"]
    return metrics


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _publish(path: Path, text: str) -> None:
    staged = path.with_name(f"{path.name}.part")
    staged.write_text(text, encoding="utf-8", newline="\n")
    os.replace(staged, path)
