r"""The tables of a paper: floats that \input reads, set with booktabs and nothing else. Text is escaped."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glassbox.report.notation import (
    MINUS,
    coincidence_mark,
    difference,
    difference_interval,
    metric_label,
    p_value,
    score,
    score_interval,
    significant,
    width,
)
from glassbox.report.tables import banner_texts, coincidence, mean_table, questions

ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "`": r"\textasciigrave{}",
    "|": r"\textbar{}",
    '"': "''",
    "\u2013": "--",
    "\u2026": r"\dots{}",
    "\u00b1": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2264": r"$\leq$",
    "\u2265": r"$\geq$",
    MINUS: "$-$",
}

EASY_MARK = r"$^{\dagger}$"


def escape(text: str) -> str:
    """The text as LaTeX prints it. A character that pdflatex has no glyph for loses its accent, or becomes `?`."""
    return "".join(ESCAPES.get(character) or _plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isspace():
        return "~" if character == "\u00a0" else " "
    base = unicodedata.normalize("NFKD", character)[0]
    return base if " " <= base <= "~" else "?"


def main_table(results: Mapping[str, Any]) -> str:
    """table_main.tex: per group and task the mean, and under it the interval of either scope."""
    tasks = results["tasks"]
    level = f"{100 * results['confidence']:.0f}"
    header = [f"{escape(task['task'])} ({escape(metric_label(task))})" for task in tasks]
    lines = [_row(["group", *header]), r"\midrule"]
    for row in mean_table(results):
        is_reference = row["kind"] == "reference"
        lines.append(_row([escape(row["name"]), *(_mean(cell, len(results["seeds"])) for cell in row["cells"])]))
        if not is_reference:
            lines.append(_row(["", *(_limits(cell, cell["unit"]) for cell in row["cells"])]))
            lines.append(_row(["", *(_limits(cell.get("items"), cell["unit"]) for cell in row["cells"])]))
    caption = (
        f"Mean test score over {len(results['seeds'])} seeds. In brackets, {level}\u00a0% intervals: first "
        "over other seeds on these questions (Student t), below it over other seeds and other questions like these."
        f"{coincidence(results, 'means')}"
    )
    return _float(caption, "main", "l" + "r" * len(tasks), lines, banner_texts(results))


def contrast_table(results: Mapping[str, Any]) -> str:
    """table_contrasts.tex: the contrasts that were formed, by question. Bold: Holm-significant at the plan's alpha."""
    header = "task; estimate; seeds; seeds and questions; $p$; Holm $p$; MDE; verdict".split("; ")
    lines = [_row(header)]
    asked = questions(results)
    for question in (each for each in asked if _ran(each)):
        formula = f" {{\\scriptsize {escape(question['formula'])}}}" if question["formula"] else ""
        title = f"{escape(question['id'])}: {escape(question['question'])}{formula}"
        lines += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{l}}{{\emph{{{title}}}}} \\"]
        lines += [_contrast(row, results["alpha"]) for row in question["rows"]]
    level = f"{100 * results['confidence']:.0f}"
    caption = (
        "Planned contrasts in percentage points (logits where marked, of a perplexity nats per token), with "
        f"{level}~\\% intervals over seeds and "
        "over seeds and questions, none adjusted for the number of tests, Holm-adjusted $p$ and the minimum detectable "
        "effect (MDE) at Holm's first step and the plan's power. "
        f"Bold: adjusted $p$ under {results['alpha']:g}.{escape(coincidence(results, 'contrasts'))}{_easy(results)}"
    )
    notes = [*banner_texts(results), *_not_run([each for each in asked if not _ran(each)])]
    return _float(caption, "contrasts", "lrrrrrrl", lines, notes, escaped=True)


def _easy(results: Mapping[str, Any]) -> str:
    """What EASY_MARK stands for, once per end of the scale that occurs."""
    notes = dict.fromkeys(row["verdict_note"] for row in results["contrasts"] if row["verdict_note"])
    return "".join(f" {EASY_MARK}: {escape(note)}." for note in notes)


def _ran(question: Mapping[str, Any]) -> bool:
    return any(row["status"] == "run" for row in question["rows"])


def _not_run(questions: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence that names the questions without a row in the table, and why."""
    reasons = [
        f"{question['id']} ({'; '.join(dict.fromkeys(row['reason'] or 'unknown' for row in question['rows']))})"
        for question in questions
    ]
    return [f"Not run: {', '.join(reasons)}."] if reasons else []


def _mean(cell: Mapping[str, Any], n_seeds: int) -> str:
    fewer = f"{{\\scriptsize ($n = {cell['n']}$)}} " if cell.get("n", n_seeds) != n_seeds else ""
    return fewer + escape(score(cell["mean"], cell["unit"]))


def _limits(cell: Mapping[str, Any] | None, unit: str) -> str:
    return rf"{{\scriptsize {escape(score_interval(cell, unit))}{_mark(cell)}}}"


def _mark(items: Mapping[str, Any] | None) -> str:
    mark = coincidence_mark(items) if items and "coincides" in items else ""
    return f"$^{{{mark}}}$" if mark else ""


def _contrast(row: Mapping[str, Any], alpha: float) -> str:
    scale = row["scale"]
    label = escape(row["label"])
    if row["status"] != "run":
        return _row([label, rf"\multicolumn{{7}}{{l}}{{not run: {escape(row['reason'] or '')}}}"])
    minimum = (row["minimum_detectable"] or {}).get("holm_first")
    cells = [
        difference(row["estimate"], scale),
        difference_interval(row, scale),
        difference_interval(row["items"], scale),
        p_value(row["p"]),
        p_value(row["p_adjusted"]),
        width(minimum, scale),
        row["verdict"],
    ]
    values = [escape(cell) for cell in cells]
    values[2] += _mark(row["items"])
    values[-1] += EASY_MARK if row["verdict_note"] else ""
    if significant(row, alpha):
        values[0], values[-1] = rf"\textbf{{{values[0]}}}", rf"\textbf{{{values[-1]}}}"
    return _row([label, *values])


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _float(
    caption: str, name: str, columns: str, lines: Sequence[str], banners: Sequence[str], *, escaped: bool = False
) -> str:
    notes = [rf"\par\smallskip\emph{{{escape(banner)}}}" for banner in banners]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\footnotesize",
            r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{caption if escaped else escape(caption)}}}",
            rf"\label{{tab:glassbox-{name}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )
