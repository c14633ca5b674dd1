"""What the measurements look like: tables for the terminal and for docs/benchmarks.md, and a run in MLflow."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables of benchmarks/bench.py -->", "<!-- end of the tables -->"
COLUMNS = ("#", "what", "shapes", "ratio", "range", "CPU time", "goal", "met", "limit", "note")
PACKAGES = ("torch", "transformers", "accelerate", "textbrewer", "trl", "liger-kernel", "nvidia-modelopt")
EXPERIMENT = "benchmarks"


def machine(threads: int) -> str:
    return f"{_processor()}, {os.cpu_count()} cores, {threads} threads, {platform.system()}, {_versions()}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows or of lines."""
    if not rows:
        return ""
    if "cells" in rows[0]:
        columns = list(rows[0]["cells"])
        lines = [[_shown(row["cells"].get(column, "")) for column in columns] for row in rows]
        return _markdown(columns, lines)
    return _markdown(COLUMNS, [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    sign = "at least" if row["at_least"] else "at most"
    goal = "" if row["goal"] is None else f"{sign} {_shown(row['goal'])}"
    spread = "" if row["low"] is None else f"{_shown(row['low'])} to {_shown(row['high'])}"
    met = {None: "", True: "yes", False: "**no**"}[row["met"]]
    cells = (row["value"], spread, row["cpu"], goal, met, row["limit"], row["note"])
    return [row["number"], row["name"], row["shapes"], *("" if cell is None else _shown(cell) for cell in cells)]


def _shown(cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:.3g}" if abs(cell) < 0.1 else f"{cell:.2f}"


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *lines))


def write(path: Path, measured: Mapping[str, Any]) -> None:
    """Put the tables between their marks in the page; the words around them stay."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    machines = {found["machine"] for found in measured.values()}
    parts = [f"Measured on: {'; and '.join(sorted(machines))}."]
    goals = [row for found in measured.values() for row in found["rows"] if "cells" not in row]
    parts.append(table(sorted(goals, key=lambda row: row["number"])))
    parts += [table(found["rows"]) for found in measured.values() if found["rows"] and "cells" in found["rows"][0]]
    path.write_text("\n\n".join([before + BEGIN, *parts, END + after]), encoding="utf-8")


def log(repository: Path, measured: Mapping[str, Any]) -> None:
    """A run whose metrics are the rows' values, with the results as an artifact."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{repository / 'mlflow.db'}")
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        mlflow.create_experiment(EXPERIMENT, artifact_location=(repository / "mlartifacts").as_uri())
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run():
        for part, found in measured.items():
            mlflow.set_tag(f"{part}.machine", found["machine"])
            for row in found["rows"]:
                if row.get("value") is not None:
                    name = "".join(c if c.isalnum() else "_" for c in f"{row['number']}_{row['name']}")
                    mlflow.log_metric(name[:240], row["value"])
        mlflow.log_artifact(str(repository / "benchmarks" / "results.json"))
