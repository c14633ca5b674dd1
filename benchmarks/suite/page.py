"""What the measurements look like: tables for the terminal and for docs/benchmarks.md, and a run in MLflow."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables of benchmarks/bench.py -->", "<!-- end of the tables -->"
COLUMNS = ("#", "ratio of", "figure", "range", "CPU time", "goal", "met", "limit", "shapes")
PACKAGES = ("torch", "transformers", "accelerate", "textbrewer", "trl", "liger-kernel", "nvidia-modelopt")
EXPERIMENT = "benchmarks"


def machine(threads: int, repository: Path) -> str:
    """What was measured on, and which code."""
    cores = f"{os.cpu_count()} cores, {threads} threads where a row names no other"
    return f"{_processor()}, {cores}, {platform.system()}, {_versions()}; code of commit {_commit(repository)}"


def _commit(repository: Path) -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


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


def tables(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """All of it in Markdown: which goals are missed and why, one table of the ratios, then those without goals."""
    found = [row for part in measured.values() for row in part["rows"]]
    ratios = sorted((row for row in found if "cells" not in row), key=lambda row: _natural(row["number"]))
    lines = [part["rows"] for part in measured.values() if part["rows"] and "cells" in part["rows"][0]]
    machines = sorted({part["machine"] for part in measured.values()})
    sections = [f"Measured on: {'; and '.join(machines)}."] if machines else []
    if ratios:
        shapes = {shown: _letter(index) for index, shown in enumerate(dict.fromkeys(row["shapes"] for row in ratios))}
        sections += [_verdict(ratios), _markdown(COLUMNS, [_cells(row, shapes[row["shapes"]]) for row in ratios])]
        sections.append("Shapes:\n\n" + "\n".join(f"- **{letter}**: {shown}" for shown, letter in shapes.items()))
        notes = [f"- {_title(row)}: {row['note']}" for row in ratios if row["note"] and row["met"] is not False]
        sections += ["Notes:\n\n" + "\n".join(notes)] if notes else []
    sections += [_lines(rows) for rows in lines]
    return "\n\n".join(sections)


def _natural(number: str) -> tuple[int, str]:
    """Rows 2, 2b, 2c, 10 in this order."""
    digits = number[: len(number) - len(number.lstrip("0123456789"))]
    return int(digits or 0), number[len(digits) :]


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"{_letter(index // 26 - 1)}{_letter(index % 26)}"


def _title(row: Mapping[str, Any]) -> str:
    return f"row {row['number']}, {row['name']}"


def _verdict(ratios: Sequence[Mapping[str, Any]]) -> str:
    judged, missed = ([row for row in ratios if row["met"] in kinds] for kinds in ((True, False), (False,)))
    unmeasured = [row for row in ratios if row["value"] is None]
    text = f"**{len(judged) - len(missed)} of {len(judged)} goals are met.**"
    if missed:
        text += " Missed:\n\n" + "\n".join(
            f"- {_title(row)}: {_number(row['value'])}, goal {_goal(row)}. {row['note'] or 'The reason is not known.'}"
            for row in missed
        )
    if unmeasured:
        text += "\n\nNot measured:\n\n" + "\n".join(f"- {_title(row)}: {row['note']}" for row in unmeasured)
    return text


def _goal(row: Mapping[str, Any]) -> str:
    return "" if row["goal"] is None else f"{'at least' if row['at_least'] else 'at most'} {_number(row['goal'])}"


def _cells(row: Mapping[str, Any], shapes: str) -> list[str]:
    value = "not measured" if row["value"] is None else _number(row["value"])
    spread = "" if row["low"] is None else f"{_number(row['low'])} to {_number(row['high'])}"
    cpu = "" if row["cpu"] is None else _number(row["cpu"])
    met = {None: "", True: "yes", False: "**no**"}[row["met"]]
    return [row["number"], row["name"], value, spread, cpu, _goal(row), met, row["limit"], shapes]


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0]["cells"])
    return _markdown(columns, [[_shown(row["cells"].get(column, "")) for column in columns] for row in rows])


def _shown(cell: str | float) -> str:
    return cell if isinstance(cell, str) else _number(cell)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Padded, so that it reads as a table in a terminal too."""
    whole = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *lines)]
    widths = [max(3, *map(len, column)) for column in zip(*whole, strict=True)]
    head, *body = (
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in whole
    )
    return "\n".join((head, f"| {' | '.join('-' * width for width in widths)} |", *body))


def write(path: Path, measured: Mapping[str, Any]) -> None:
    """Put the tables between their marks in the page; the words around them stay."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    path.write_text("\n\n".join([before + BEGIN, tables(measured), END + after]), encoding="utf-8")


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
