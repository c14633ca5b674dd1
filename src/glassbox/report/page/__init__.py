"""The self-contained page: templates beside this file, filled from results.json and the figures made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from glassbox.report import notation
from glassbox.report.figures.style import PALETTE
from glassbox.report.methods import methods_sentences
from glassbox.report.retention import retention_table
from glassbox.report.tables import banner_texts, coincidence, mean_table, questions

FORMATS = (
    notation.percent,
    notation.score,
    notation.score_interval,
    notation.metric_label,
    notation.coincidence_mark,
    notation.difference,
    notation.difference_interval,
    notation.width,
    notation.number,
    notation.p_value,
    notation.size,
    notation.duration,
    notation.formula_label,
    notation.prose,
    notation.significant_digits,
    notation.precision,
    notation.task_label,
)
DARK_PALETTE = (
    *("#a7b0b9", "#eef1f4", "#7fb3ec", "#f29b5c", "#d390d9"),
    *("#6fcf9b", "#cfd160", "#6fcfe0", "#f08fa5"),
)


def render_page(results: Mapping[str, Any], figures: Sequence[Mapping[str, str]]) -> str:
    """The page as text. figures: name, title, caption and the wide and the narrow <svg> element of each."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        each.__name__: each for each in (*FORMATS, first_clause, sentence_case, after_name, with_code)
    }
    environment.globals["is_significant"] = notation.significant
    return environment.get_template("report.html.jinja").render(
        results=results,
        by_key={row["key"]: row for row in results["contrasts"]},
        level=round(100 * results["confidence"]),
        banners=banner_texts(results),
        table=mean_table(results),
        questions=questions(results),
        coincidence={section: coincidence(results, section) for section in ("means", "contrasts")},
        figures=figures,
        retention=retention_table(results),
        methods=methods_sentences(results),
        palette=list(zip(PALETTE, DARK_PALETTE, strict=True)),
    )


def first_clause(banner: str) -> str:
    """What a banner begins with, as the note of a table: 'Embedded miniature tasks'."""
    return re.split(r"[:.]", banner, maxsplit=1)[0]


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def after_name(text: str, name: str) -> str:
    """The text of a leg without the name that it begins with."""
    return sentence_case(text.removeprefix(f"{name}:").strip())


def with_code(sentence: str) -> Markup:
    """A sentence, escaped, whose `commands` are set as code."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )
