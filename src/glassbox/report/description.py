"""The answer as Markdown, for the description of a run or an experiment: sentence, figure, table and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassbox.report.answer import MOST_LIMITS, answer, limits
from glassbox.report.tables import mean_table, short_mean, short_name, table_title


def description(results: Mapping[str, Any], figure: str | None) -> str:
    """figure: the address of the first figure; None where there is none."""
    header = ["group", *(f"{task['task']} {task['metric'].replace('_', ' ')}" for task in results["tasks"])]
    rows = [
        [short_name(row, len(results["seeds"])), *(" ".join(short_mean(cell)).strip() for cell in row["cells"])]
        for row in mean_table(results)
    ]
    table = [_line(header), _line(["---"] * len(header)), *map(_line, rows)]
    picture = [f"![What each group gains]({figure})", ""] if figure else []
    return "\n".join(
        [
            f"**{answer(results)}**",
            "",
            *picture,
            f"{table_title(results)}:",
            "",
            *table,
            "",
            *(f"- {line}" for line in limits(results)[:MOST_LIMITS]),
            "",
            f"Scale `{results['scale']}`, study `{(results['study_key'] or '')[:12]}`; the page is `report.html`.",
        ]
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
