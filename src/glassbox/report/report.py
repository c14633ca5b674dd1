"""reports/: results.json, and from it the page, the tables, the figures, and the numbers that DVC shows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glassbox.errors import GlassboxError
from glassbox.files import naming
from glassbox.report import latex, tables
from glassbox.report.figures import draw_figures
from glassbox.report.page import render_page

MAX_PAGE_BYTES = 1_000_000
FILES = (
    *("results.json", "metrics.json", "table_main.csv", "table_main.tex", "table_contrasts.csv"),
    *("table_contrasts.tex", "results_summary.csv"),
)


def write_reports(results: Mapping[str, Any], folder: Path) -> Path:
    """Write every report into the folder, each by one rename. Returns the page's path.

    Raises GlassboxError where the page would outgrow what a browser opens with ease; nothing is then published.
    """
    results = json.loads(json.dumps(results, sort_keys=True, allow_nan=False))
    for each in (folder / "figures", folder / "plots"):
        each.mkdir(parents=True, exist_ok=True)
    page = render_page(results, draw_figures(results, folder / "figures"))
    n_bytes = len(page.encode("utf-8"))
    if n_bytes > MAX_PAGE_BYTES:
        raise GlassboxError(
            f"{folder / 'report.html'} would have {n_bytes:,} bytes, more than the {MAX_PAGE_BYTES:,} that it may. "
            "The results hold too many curve points or trials for one page: select fewer groups or seeds."
        )
    for name, text in _files(results).items():
        _publish(folder / name, text)
    _publish(folder / "report.html", page)
    return folder / "report.html"


def set_aside(folder: Path, place: Path) -> bool:
    """Move an earlier call's reports out of the folder, so that none of them looks current; whether there were any.

    What other stages wrote into the folder stays. A report that lies at `place` already is replaced.
    """
    known = [folder / name for name in (*FILES, "report.html", "figures", "plots") if (folder / name).exists()]
    if known:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    for path in known:
        shutil.move(path, place / path.name)
    return bool(known)


def _files(results: Mapping[str, Any]) -> dict[str, str]:
    """File -> content of everything but the page and the figures."""
    return {
        "results.json": json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + "\n",
        "metrics.json": json.dumps(tables.dvc_metrics(results), indent=1, sort_keys=True) + "\n",
        "table_main.csv": tables.csv_text(tables.main_rows(results)),
        "table_main.tex": latex.main_table(results),
        "table_contrasts.csv": tables.csv_text(tables.contrast_rows(results)),
        "table_contrasts.tex": latex.contrast_table(results),
        "results_summary.csv": tables.csv_text(tables.summary_rows(results)),
        "plots/scores.csv": tables.csv_text(tables.score_rows(results)),
        "plots/curves.csv": tables.csv_text(tables.curve_rows(results)),
    }


def _publish(path: Path, text: str) -> None:
    staged = path.with_name(f"{path.name}.part")
    with naming(path):
        staged.write_text(text, encoding="utf-8", newline="\n")
    os.replace(staged, path)
