"""The tables beside the page as rows of plain values: scores, differences and losses as in results.json, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from glassbox.report.notation import COINCIDENCE, MISSING, formula_label, score, score_interval, task_label

Row = dict[str, Any]
REFERENCES = {"teacher": "teacher", "initial_student": "student before distillation"}


def banner_texts(results: Mapping[str, Any]) -> list[str]:
    """What every table must say of itself: the study's banners, a changed plan, and miniature tasks."""
    banners = list(results["banners"])
    state = results["plan"]["state"]
    if state != "as planned" and not any(state in banner.lower() for banner in banners):
        banners.insert(0, f"{state[:1].upper()}{state[1:]}.")
    embedded = [task["task"] for task in results["tasks"] if task["embedded"]]
    if embedded:
        named = "are small generated tasks named for what they imitate"
        if len(embedded) == 1:
            named = "is a small generated task named for what it imitates"
        banners.append(
            f"Embedded miniature tasks: {', '.join(embedded)} {named}. "
            "These scores say nothing about the public benchmarks of those names."
        )
    return banners


def reference_title(results: Mapping[str, Any], reference: str) -> str:
    """The name of a reference; the teacher's says how many training samples stood before its prompts, if any."""
    shots = results["teacher_shots"] if reference == "teacher" else 0
    return REFERENCES[reference] + (f" ({shots}-shot)" if shots else "")


def main_rows(results: Mapping[str, Any]) -> list[Row]:
    """table_main.csv: a row per group and task, references first."""
    metrics = {task["task"]: task["metric"] for task in results["tasks"]}
    sources = {entry["group"]: entry["source"] for entry in results["groups"]}
    rows: list[Row] = [
        {"group": reference, "task": task, "metric": metrics[task], "source": "verify", "mean": score}
        for reference in REFERENCES
        for task, score in results["references"][reference].items()
    ]
    numbers = "n mean deviation lower upper clipped degenerate statement near_chance n_diverged".split()
    for row in results["means"]:
        known = {"group": row["group"], "task": row["task"], "metric": metrics[row["task"]]}
        rows.append(
            {
                **known,
                "source": sources[row["group"]],
                **{name: row[name] for name in numbers},
                **_named("items", row["items"], ("lower", "upper", "df", "coincides")),
            }
        )
    return _noted(rows, results)


def contrast_rows(results: Mapping[str, Any]) -> list[Row]:
    """table_contrasts.csv: a row per contrast of the plan, those that could not be formed included."""
    return _noted([_contrast_row(row) for row in results["contrasts"]], results)


def _contrast_row(row: Mapping[str, Any]) -> Row:
    names = (
        "key id family question formula scale test status reason verdict verdict_note n n_dropped estimate deviation "
        "lower upper t df p sides bound p_adjusted family_size pairing correlation"
    )
    equivalence = ("margin", "lower", "upper", "p", "p_adjusted", "equivalent", "smallest_margin", "probability_within")
    changed = (row["sensitivity"] or {}).get("changed") or []
    return {
        **{name: row[name] for name in names.split()},
        "tasks": " ".join(f"{weight:+g}*{task}" for task, weight in row["tasks"].items()),
        **_named("items", row["items"], ("lower", "upper", "se", "df", "coincides")),
        **_named("welch", row["welch"], ("lower", "upper", "df", "p")),
        **_named("equivalence", row["equivalence"], equivalence),
        **_named("effect", row["effect"], ("g_z", "g_av", "probability_superiority", "head_room_share")),
        **_named("minimum_detectable", row["minimum_detectable"], ("planned", "holm_first")),
        "changed_by": "; ".join(changed),
    }


def summary_rows(results: Mapping[str, Any]) -> list[Row]:
    """results_summary.csv: a row per planned trial, missing and diverged ones included."""
    names = ("group", "seed", "status", "source", "run_id", "precision", "seconds", "peak_memory_bytes")
    losses = dict.fromkeys(name for row in results["trials"] for name in row["losses"] or {})
    rows = []
    for row in results["trials"]:
        scores: Row = {task["key"]: row["scores"][task["task"]] for task in results["tasks"]}
        for task in results["tasks"]:
            validation = (row["validation_scores"] or {}).get(task["task"])
            scores[f"validation/{task['metric']}_{task['task']}"] = validation
        values = {name: (row["losses"] or {}).get(name) for name in losses}
        digests = {f"{name}_digest": digest for name, digest in row["digests"].items()}
        rows.append({**{name: row[name] for name in names}, **scores, **values, "key": row["key"], **digests})
    return _noted(rows, results)


def score_rows(results: Mapping[str, Any]) -> list[Row]:
    """plots/scores.csv, for `dvc plots`: a row per task, group and seed that has a score."""
    return [
        {"task": task["task"], "group": row["group"], "seed": row["seed"], "score": row["scores"][task["task"]]}
        for task in results["tasks"]
        for row in results["trials"]
        if row["scores"][task["task"]] is not None
    ]


def curve_rows(results: Mapping[str, Any]) -> list[Row]:
    """plots/curves.csv, for `dvc plots`: mean and pointwise t limits per group, metric and step."""
    names = ("group", "metric", "step", "n", "lower", "upper", "mean")
    return [{name: row[name] for name in names} for row in results["curves"]]


def dvc_metrics(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """metrics.json, for `dvc metrics show`: group -> task's metric -> mean."""
    keys = {task["task"]: f"{task['metric']}_{task['task']}" for task in results["tasks"]}
    metrics: dict[str, dict[str, float]] = {}
    for row in results["means"]:
        if row["mean"] is not None:
            metrics.setdefault(row["group"], {})[keys[row["task"]]] = row["mean"]
    return metrics


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """The rows under one header line, the last column a note. columns: the header of a table without rows."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=_columns(rows) or list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def questions(results: Mapping[str, Any]) -> list[Row]:
    """The contrasts under their questions in the plan's order: id, question, formula, and labelled rows.

    The formula is what all rows share of theirs: all of it, or that of the groups where they weigh different tasks. A
    row is labelled by its task, or by its formula where tasks do not tell the rows apart.
    """
    found = []
    for identity, members in groupby(results["contrasts"], lambda row: row["id"]):
        rows = list(members)
        asked = {row["question"] for row in rows}
        formulas = {row["formula"].partition("] on ")[0].removeprefix("[") for row in rows}
        places = {(task_label(row["tasks"]), row["scale"]) for row in rows}
        labels = [
            task_label(row["tasks"]) if len(places) == len(rows) else formula_label(row["formula"]) for row in rows
        ]
        heading = {
            "id": identity,
            "question": rows[0]["question"]
            if len(asked) == 1
            else f"are these pairs equally good on {task_label(rows[0]['tasks'])}?",
            "formula": formula_label(formulas.pop()) if len(formulas) == 1 else "",
        }
        labelled = [
            {**row, "label": label + (" (logits)" if row["scale"] == "logit" else "")}
            for row, label in zip(rows, labels, strict=True)
        ]
        found.append({**heading, "rows": labelled})
    return found


def coincidence(results: Mapping[str, Any], section: str) -> str:
    """The sentence that explains COINCIDES, where a row of `means` or `contrasts` bears it; else empty."""
    marked = any((row["items"] or {}).get("coincides") for row in results[section])
    return f" {COINCIDENCE}" if marked else ""


def mean_table(results: Mapping[str, Any]) -> list[Row]:
    """A row per reference and group with its name, its kind (`reference`, `store`, `manifest`) and a cell per task."""
    units = {task["task"]: task["unit"] for task in results["tasks"]}
    means = {(row["group"], row["task"]): {**row, "unit": units[row["task"]]} for row in results["means"]}
    rows: list[Row] = []
    for reference in REFERENCES:
        scores = results["references"][reference]
        if scores:
            cells = [{"mean": scores.get(task["task"]), "unit": task["unit"]} for task in results["tasks"]]
            rows.append({"name": reference_title(results, reference), "kind": "reference", "cells": cells})
    for entry in results["groups"]:
        cells = [means[entry["group"], task["task"]] for task in results["tasks"]]
        rows.append({"name": entry["group"], "kind": entry["source"], "cells": cells})
    return rows


def short_mean(cell: Mapping[str, Any]) -> tuple[str, str]:
    """A mean in percent, and ± half of its interval, or the limits where the scale's end cuts them; a perplexity with
    its limits."""
    if cell["mean"] is None:
        return MISSING, ""
    return score(cell["mean"], cell["unit"]), _half_width(cell) if "n" in cell else ""


def short_name(row: Mapping[str, Any], n_seeds: int) -> str:
    """A row's name with where it comes from, and n where it is not all seeds: 'combined (n = 4, 2 diverged)'."""
    told = ["from the store"] if row["kind"] == "store" else []
    cell = next((cell for cell in row["cells"] if "n" in cell), None)
    if cell is not None and cell["n"] != n_seeds:
        told.append(f"n = {cell['n']}")
        told += [f"{cell['n_diverged']} diverged"] if cell["n_diverged"] else []
    return f"{row['name']} ({', '.join(told)})" if told else row["name"]


def _half_width(cell: Mapping[str, Any]) -> str:
    if cell["degenerate"]:
        return "on every seed"
    if cell["lower"] is None:
        return "± ?"
    if cell["clipped"] or cell["unit"] == "nats":
        return score_interval(cell, cell["unit"])
    return f"± {50 * (cell['upper'] - cell['lower']):.1f}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns, set left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def table_title(results: Mapping[str, Any]) -> str:
    """What the means are, once for the whole table, and of which tasks."""
    embedded = " on embedded miniature tasks" if any(task["embedded"] for task in results["tasks"]) else ""
    return mean_title(results) + embedded


def mean_title(results: Mapping[str, Any]) -> str:
    """What the means are."""
    level, n = f"{100 * results['confidence']:g}", len(results["seeds"])
    texts = ", or perplexity," if any(task["unit"] == "nats" for task in results["tasks"]) else ""
    seeds = f"{n} seed{'s' * (n != 1)}"
    return f"Mean test score in percent{texts} \u00b1 half of its {level} % interval over {seeds}"


def console_table(results: Mapping[str, Any], most: int | None = None) -> str:
    """Group means +- half-width of the t interval per task, in percent, as plain aligned text.

    most: how many rows there may be; optional groups are left out from the end, and counted in the last line.
    """
    rows, optional = mean_table(results), {entry["group"] for entry in results["groups"] if entry["optional"]}
    left_out = 0
    for row in reversed(list(rows)):
        if most is not None and len(rows) + bool(left_out) > most and row["name"] in optional:
            rows.remove(row)
            left_out += 1
    lines = [["group", *(f"{task['task']} {task['metric']}" for task in results["tasks"])]]
    for row in rows:
        name = short_name(row, len(results["seeds"]))
        lines.append([name, *(" ".join(short_mean(cell)).strip() for cell in row["cells"])])
    text = aligned(lines)
    return "\n".join([*text, *([f"and {left_out} more of the plan's optional groups: --details"] if left_out else [])])


def _named(prefix: str, values: Mapping[str, Any] | None, names: Iterable[str]) -> Row:
    return {f"{prefix}_{name}": (values or {}).get(name) for name in names}


def _noted(rows: Sequence[Row], results: Mapping[str, Any]) -> list[Row]:
    """The rows with the same columns, the last of them a note with the banners."""
    columns = _columns(rows)
    note = " | ".join(banner_texts(results))
    return [{**dict.fromkeys(columns), **row, "note": note} for row in rows]


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
