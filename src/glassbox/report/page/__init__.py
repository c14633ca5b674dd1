"""The self-contained page: templates beside this file, filled from results.json and the figures made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from glassbox.report import notation
from glassbox.report.answer import answer, limits, question_answer
from glassbox.report.figures.style import PALETTE
from glassbox.report.methods import methods_sentences
from glassbox.report.reading import verdict_words
from glassbox.report.retention import retention_table
from glassbox.report.tables import banner_texts, coincidence, mean_table, mean_title, questions, short_mean, short_name

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
    notation.task_scale,
    notation.scale_unit,
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
        each.__name__: each
        for each in (*FORMATS, short_mean, short_name, first_clause, sentence_case, after_name, with_code)
    }
    environment.filters["in_words"] = WordsForKeys(results)
    environment.globals["is_significant"] = notation.significant
    asked = questions(results)
    answered = _answered(results, asked)
    return environment.get_template("report.html.jinja").render(
        results=results,
        answer=notation.prose(answer(results)),
        limits=limits(results),
        verdict_words=verdict_words(results),
        answered=answered,
        question_line=_question_line(answered),
        not_run=_not_run(results, asked),
        verdict_notes=_verdict_notes(results),
        by_key={row["key"]: row for row in results["contrasts"]},
        level=round(100 * results["confidence"]),
        banners=banner_texts(results),
        mean_title=mean_title(results),
        table=mean_table(results),
        questions=asked,
        coincidence={section: coincidence(results, section) for section in ("means", "contrasts")},
        figures=figures,
        retention=retention_table(results),
        methods=methods_sentences(results),
        palette=list(zip(PALETTE, DARK_PALETTE, strict=True)),
    )


class WordsForKeys:
    """Text whose contrasts' keys ('Q1b/mmlu') are replaced by their words: 'attention - black_box on mmlu (Q1b)'."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self._words = {
            row["key"]: f"{row['formula']} on {notation.task_label(row['tasks'])}"
            f"{' in logits' if row['scale'] == 'logit' else ''} ({row['id']})"
            for row in results["contrasts"]
        }
        keys = sorted(map(re.escape, self._words), key=len, reverse=True)
        self._keys = re.compile(rf"(?<![\w/])(?:{'|'.join(keys)})(?![\w/-])" if keys else r"(?!)")

    def __call__(self, text: str) -> str:
        return self._keys.sub(lambda found: self._words[found[0]], text)


def _answered(results: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The questions that the report answers, each with its rows that are not in logits and a plain sentence."""
    by_id = {question["id"]: question for question in asked}
    found = []
    for each in results["answers"]:
        rows = [row for row in by_id[each["id"]]["rows"] if row["scale"] != "logit"] if each["id"] in by_id else []
        found.append({**each, "rows": rows, "plain": notation.prose(question_answer(rows, results))})
    return found


def _question_line(answered: Sequence[Mapping[str, Any]]) -> str:
    """'6 questions: 2 with a difference on some task'."""
    different = sum(any(row["verdict"].startswith(("better", "worse")) for row in each["rows"]) for each in answered)
    count = f"{len(answered)} question{'s' * (len(answered) != 1)}"
    return f"{count}: {different} with a difference on some task, {len(answered) - different} without"


def _verdict_notes(results: Mapping[str, Any]) -> list[str]:
    """What verdicts and legs are qualified by, each once: a row bears its number."""
    told = [row["verdict_note"] for row in results["contrasts"]] + [
        leg["note"] for leg in results["hypothesis"]["legs"]
    ]
    return list(dict.fromkeys(note for note in told if note))


def _not_run(results: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The questions of which nothing was run, of groups that the plan wants."""
    optional = set(results["plan"]["optional_groups"])
    return [
        question
        for question in asked
        if results["not_run"]
        and all(row["status"] != "run" and not optional & {*row["weights"]} for row in question["rows"])
        and question["rows"][0]["test"] not in ("descriptive", "equivalence")
    ]


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
