"""The page: self-contained, escaped, readable by everybody, and what it must say first."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from glassbox.report.answer import answer, limits
from glassbox.report.methods import methods_sentences
from glassbox.report.notation import difference, prose, width
from glassbox.report.page import render_page
from glassbox.report.reading import verdict_words

Results = dict[str, Any]


class Page(HTMLParser):
    """Collects what the tests ask of a page: its addresses, ids, words and headings, and elements left open."""

    VOID = frozenset({"meta", "link", "br", "img", "use", "path", "rect", "stop"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())


def page(results: Results) -> Page:
    return Page(render_page(results, []))


def test_the_sentence_comes_first_then_the_figure_the_table_and_three_limits(results: Results) -> None:
    figure = {"name": "gains", "title": "t", "line": "l", "caption": "the figure", "wide": "", "narrow": ""}
    markup = render_page(results, [figure])
    first = Page(markup[: markup.index("<details>")])
    assert "<details>" in markup and first.headings[0] == "Which of the teacher's signals is worth distilling?"
    places = [first.text.index(words) for words in (prose(answer(results)), "the figure", "Mean test score in percent")]
    places += [first.text.index(prose(line)) for line in limits(results)[:3]]
    assert places == sorted(places) and len(places) == 6
    assert prose(limits(results)[3]) not in first.text
    for entry in results["groups"]:
        assert entry["group"] in first.text


def test_everything_else_is_folded_under_one_line_and_print_opens_it(results: Results) -> None:
    markup = render_page(results, [])
    found = Page(markup)
    assert found.headings[1:6] == [
        "How to read this",
        "The questions, one by one",
        f"The hypothesis: {results['hypothesis']['verdict']}",
        "What limits these answers",
        "Integrity",
    ]
    folds = re.findall(
        r"<details>\s*<summary><h2[^>]*>[^<]+</h2> <span class=\"line\">([^<]+)</span></summary>", markup
    )
    assert len(folds) == markup.count("<details>") == len(found.headings) - 1
    assert all(10 < len(line) < 110 for line in folds)
    assert "details::details-content { content-visibility: visible;" in markup


def test_a_question_is_a_plain_sentence_over_a_small_table(results: Results) -> None:
    found = page(results)
    for asked in results["answers"]:
        assert re.search(rf"{re.escape(asked['question'][1:])}\s+{asked['id']}, {asked['role']}", found.text)
    assert "black_box, over sft, " in found.text
    assert results["multiplicity"]["text"].partition("`")[0] in found.text
    for leg in results["hypothesis"]["legs"]:
        assert leg["name"] in found.text


def test_no_key_of_a_contrast_stands_without_its_words(results: Results) -> None:
    results["sensitivity_changes"] = ["Other analyses do not show the same direction for Q1b/mmlu (better; ...)."]
    results["guard_notes"] = ["Degenerate: Q3/sst2, alike/sst2/attention-black_box."]
    text = page(results).text
    assert "attention \u2212 black_box on mmlu (Q1b) (better" in text
    assert "combined \u2212 attention) on sst2 (Q3), attention \u2212 black_box on sst2 (alike)." in text
    assert not [row["key"] for row in results["contrasts"] if re.search(rf"(?<![\w/]){row['key']}(?![\w/])", text)]


def test_every_verdict_word_has_an_example_here_and_in_the_docs(results: Results) -> None:
    text = page(results).text
    docs = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
    for row in verdict_words(results):
        assert row["verdict"] in text and row["says"] in text and row["example"] in text
        assert f"| {row['verdict']} |" in docs, row["verdict"]
    known = {row["verdict"] for row in verdict_words(results)} | {"descriptive", "not run", "degenerate"}
    assert {row["verdict"] for row in results["contrasts"]} <= known
    assert any(row["own"] for row in verdict_words(results)) and not all(row["own"] for row in verdict_words(results))


def test_a_study_without_a_plan_shows_the_lines_that_would_make_one(results: Results) -> None:
    assert "conf/analysis.yaml, before seeds" not in page(results).text
    results["plan_lines"] = ["alpha: 0.05", "contrasts:"]
    assert "2 lines for conf/analysis.yaml, before seeds that have not been run" in page(results).text


def test_every_element_is_closed_every_link_leads_somewhere_and_ids_are_unique(results: Results) -> None:
    found = page(results)
    assert found.open == [] and len(found.ids) == len(set(found.ids))
    assert {address.removeprefix("#") for address in found.addresses} <= set(found.ids)
    assert "script" not in found.tags


def test_intervals_that_coincide_and_verdicts_that_are_easy_are_marked(results: Results) -> None:
    for row in (*results["means"], *results["contrasts"]):
        if row["items"]:
            row["items"]["coincides"] = None
    assert "]=" not in page(results).text and "both are one" not in page(results).text
    for section in ("means", "contrasts"):
        next(row for row in results[section] if row["items"])["items"]["coincides"] = "V_I < V_E"
    next(row for row in results["contrasts"] if row["status"] == "run")["verdict_note"] = "easy for this row"
    results["hypothesis"]["legs"][0]["note"] = "easy for this leg"
    text = page(results).text
    assert text.count("]=") == 3 and text.count("both are one") == 2  # the contrast is in its question's table too
    assert re.search(r"\d Easy for this row\. ", text) and re.search(r"\d Easy for this leg\. ", text)


def test_the_data_is_a_table_with_its_source_where_prepare_told_it(results: Results) -> None:
    row = {"task": "mmlu", "split": "test", "place": "cais/mmlu test", "revision": "main", "commit": "c0ffee"}
    results["data"] = [{**row, "offered": 510, "repeated": 7, "in_another_split": 3, "taken": 500}]
    text = page(results).text
    assert "mmlu, test 500 510 7 3 cais/mmlu test c0ffee" in text and "data" in page(results).ids
    results["data"] = []
    assert "Data" not in page(results).headings and "data" not in page(results).ids


def test_the_page_tells_where_the_margins_come_from(results: Results) -> None:
    assert "margins of the scale default, since this one has none of its own" in page(results).text
    results["plan"] |= {"margin_scale": results["scale"], "seen_note": "margins set after seeds 0-6 had been seen"}
    text = page(results).text
    assert "margins of this scale; margins set after seeds 0-6 had been seen" in text
    assert "margins set after seeds 0-6 had been seen." in " ".join(methods_sentences(results))


def test_legs_are_told_apart_in_words(results: Results) -> None:
    legs = results["hypothesis"]["legs"][:3]
    legs[0] |= {"holds": True, "contradicted": False}
    legs[1] |= {"holds": False, "contradicted": False}
    legs[2] |= {"holds": False, "contradicted": True}
    text = page(results).text
    assert "✓ holds" in text and "– not shown" in text and "✗ contradicted" in text


def test_changed_verdicts_are_among_the_limits_and_only_where_there_are_any(results: Results) -> None:
    results["sensitivity_changes"] = []
    assert "Not every analysis agrees" not in page(results).text
    results["sensitivity_changes"] = ["Q1/mmlu: better, size uncertain; inconclusive by Welch."]
    text = page(results).text
    assert text.index("on mmlu (Q1): better") > text.index("What limits these answers")


def test_every_table_repeats_the_banners(results: Results) -> None:
    results["banners"] = ["Incomplete: 2 trials are missing (sft/0, sft/1). Means are over what there is."]
    markup = render_page(results, [])
    _, *captions = re.findall(r"<caption>.*?</caption>", markup, re.DOTALL)  # the first table has the limits under it
    assert len(captions) >= 7
    for caption in captions:
        assert "<strong>Incomplete.</strong>" in caption and "<strong>Embedded miniature tasks.</strong>" in caption


def test_a_study_of_perplexities_has_its_questions_answered_in_nats(results: Results) -> None:
    results["contrasts"] = [row for row in results["contrasts"] if row["scale"] == "points"]
    for row in results["contrasts"]:
        row["scale"] = "nats"
    for task in results["tasks"]:
        task["unit"], task["margin"] = "nats", 0.0123
    markup = render_page(results, [])
    asked = {each["id"] for each in results["answers"]}
    sections = "".join(re.findall(r'<section class="question">.*?</section>', markup, re.DOTALL))
    found = [row for row in results["contrasts"] if row["id"] in asked and row["status"] == "run"]
    assert found and all(difference(row["estimate"], "nats") in sections for row in found)
    assert "Mean test score in percent, or perplexity, \u00b1 half" in markup
    assert "0.0123 nats per token" in markup and "1.23 points" not in markup
    assert all(width(row["equivalence"]["smallest_margin"], "nats") in markup for row in found if row["equivalence"])
    assert any(each["own"] for each in verdict_words(results))


def test_every_component_that_a_group_weighs_has_a_column(results: Results) -> None:
    assert '<th scope="col">contrastive</th>' not in render_page(results, [])
    results["groups"][-1]["weights"]["contrastive"] = 0.25
    results["components"].append("contrastive")
    assert '<th scope="col">contrastive</th>' in render_page(results, [])


def test_tasks_from_files_are_not_called_miniature(results: Results) -> None:
    for task in results["tasks"]:
        task["embedded"] = False
    assert "miniature" not in render_page(results, [])


def test_text_from_settings_and_data_is_escaped(results: Results) -> None:
    evil = "<script>alert('x')</script>"
    results["scale"], results["banners"], results["guard_notes"] = evil, [evil], [f"`{evil}`"]
    results["hypothesis"] |= {"text": evil, "legs": [{**results["hypothesis"]["legs"][0], "name": evil, "text": evil}]}
    results["answers"] = [{"id": evil, "role": evil, "question": evil, "sentences": [evil]}]
    results["sensitivity_changes"] = [evil]
    results["tasks"][0]["margin_reason"] = evil
    results["groups"][0]["group"] = results["costs"][0]["group"] = evil
    results["integrity"]["diverged"] = [evil]
    results["plan"]["trial_digests"] = {evil: [evil]}
    for row in results["means"]:
        row["group"] = evil if row["group"] == "sft" else row["group"]
    for row in results["trials"]:
        row |= {"run_id": evil, "status": evil}
    for row in results["contrasts"]:
        row |= {"question": evil, "formula": evil}
        if row["status"] == "not run":
            row["reason"] = evil
    markup = render_page(results, [])
    assert "<script" not in markup and markup.count("&lt;script&gt;") > 20


def test_nothing_is_bold_that_is_not_significant_after_holm(results: Results) -> None:
    for row in results["contrasts"]:
        row["p_adjusted"] = None if row["p_adjusted"] is None else 0.051
    assert '<tr class="shown">' not in render_page(results, [])
    results["contrasts"][0]["p_adjusted"] = 0.049
    assert render_page(results, []).count('<tr class="shown">') == 2  # in its question's table, and in that of all


def test_trials_that_diverged_or_are_missing_are_named(results: Results) -> None:
    results["integrity"] |= {"diverged": ["combined/1"], "missing": ["sft/2"], "finished": 13, "planned": 15}
    results["trials"][0] |= {"status": "missing", "run_id": None, "seconds": None, "precision": None}
    text = page(results).text
    assert "13 of 15 finished, 1 diverged, 1 missing" in text and "combined/1" in text and "sft/2" in text


def test_liveness_is_a_table_or_a_sentence(results: Results) -> None:
    assert "Does every signal reach the student?" in page(results).text
    results["integrity"]["liveness"] = []
    text = page(results).text
    assert "not recorded by these trials" in text and "Does every signal reach the student?" not in text


def test_results_of_a_study_without_items_or_sensitivity_render(results: Results) -> None:
    for row in results["means"]:
        row["items"] = None
    for row in results["contrasts"]:
        row |= {"items": None, "sensitivity": None, "equivalence": None, "correlation": None}
    for row in results["costs"]:
        row |= {"snapshot_bytes": None, "step_seconds": None, "peak_memory_bytes": None, "gain": {}}
    assert page(results).open == []
    assert "The second scope" not in " ".join(methods_sentences(results))


def test_methods_hold_no_number_that_the_results_do_not_hold(results: Results) -> None:
    text = " ".join(methods_sentences(results))
    results["alpha"], results["confidence"], results["versions"] = 0.01, 0.99, {"scipy": "9.9"}
    results["tasks"][0] |= {"margin": 0.077, "n_items": 4321}
    changed = " ".join(methods_sentences(results))
    assert "alpha 0.01" in changed and "99 %" in changed and "7.70 points" in changed and "4321 questions" in changed
    assert "Software: scipy 9.9." in changed and "alpha 0.01" not in text
    del results["versions"]
    assert "Software" not in " ".join(methods_sentences(results))
    known = json.dumps(results)
    for sentence in methods_sentences(results):
        for number in re.findall(r"(?<![\w.])\d{3,}(?![\w.])", sentence):
            assert number in known


@pytest.mark.parametrize("width", ["390px wide", "A4", "dark"])
def test_the_page_has_a_style_for(width: str, results: Results) -> None:
    rules = {"390px wide": "(max-width: 46rem)", "A4": "size: A4", "dark": "prefers-color-scheme: dark"}
    assert rules[width] in render_page(results, [])
