"""The figures: what they show, for whom they stay readable, and that they follow the page's colours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest

from glassbox.comparison.study import Comparison
from glassbox.report import notation
from glassbox.report.figures import DRAWINGS, Drawing, costs, curves, draw_figures, forest, gains, interaction, scores
from glassbox.report.figures.style import LINES, MARKERS, PALETTE, VARIABLES, group_marks, inline_svg, svg_text

Results = dict[str, Any]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def svg_of(drawing: Drawing, results: Results, *, narrow: bool = False) -> str:
    figure = drawing.draw(results, narrow)
    assert figure is not None
    return inline_svg(svg_text(figure), drawing.NAME, drawing.TITLE, drawing.describe(results))


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_every_figure_is_written_and_shown_wide_and_narrow(compared: Comparison) -> None:
    folder, page = compared.page.parent / "figures", compared.page.read_text(encoding="utf-8")
    names = [drawing.NAME for drawing in DRAWINGS]
    assert re.findall(r'<(?:figure|div) id="figure-(\w+)"', page) == names
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    widths = [float(width) for width in re.findall(r'<svg [^>]*viewBox="0 0 ([\d.]+)', page)]
    assert len(widths) == 2 * len(names) and max(widths[1::2]) < 320 < min(widths[::2])


def test_inline_figures_take_colours_from_the_page_and_share_no_id(compared: Comparison) -> None:
    page = compared.page.read_text(encoding="utf-8")
    figures = "".join(re.findall(r"<svg .*?</svg>", page, re.DOTALL))
    assert not re.findall("|".join(VARIABLES), figures, re.IGNORECASE)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', figures)) <= set(ids)


def test_a_figure_says_in_words_what_it_shows_and_escapes_them(results: Results) -> None:
    svg = svg_of(scores, results)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-labelledby") == "scores-title"
    title, description = (root.find(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc"))
    assert title is not None and title.text == "Every seed"
    assert description is not None and description.text and "combined" in description.text
    figure = scores.draw(results)
    assert figure is not None
    words = inline_svg(svg_text(figure), "x", "a < b", "c & d")
    assert "a &lt; b" in words and "c &amp; d" in words


def test_rounding_coordinates_leaves_the_printed_numbers_alone(results: Results) -> None:
    rows = [row for row in results["contrasts"] if row["estimate"] is not None and row["scale"] == "points"]
    rows[0]["p_adjusted"] = 0.123
    svg = svg_of(forest, results)
    assert "0.123" in texts(svg) and not re.search(r' (?:x|y|d)="[^"]*\d\.\d\d', svg)


def test_a_figure_on_the_page_says_each_style_once(results: Results) -> None:
    svg = svg_of(scores, results)
    assert ' style="' not in svg and "<g>" not in svg
    used = {*re.findall(r' class="(\w+)"', svg)}
    assert used and used == {*re.findall(r"\.(k\w{6})\{", svg)}


def test_groups_differ_by_marker_and_line_as_well_as_by_colour(results: Results) -> None:
    assert len(set(PALETTE)) == len(set(MARKERS)) == len({str(line) for line in LINES}) == 9
    marks = group_marks(results)
    assert list(marks) == [entry["group"] for entry in results["groups"]]


def test_the_first_figure_shows_every_group_less_the_baseline_with_its_interval_and_seeds(results: Results) -> None:
    rows = {row.name: row for row in gains.gains(results, "mmlu", "black_box")}
    assert list(rows) == ["sft (control)", "hidden_state", "attention", "combined", "teacher"]
    contrasts = {row["key"]: row for row in results["contrasts"]}
    direct, turned = contrasts["Q1a/mmlu"], contrasts["F1/mmlu"]
    assert rows["hidden_state"].value == pytest.approx(100 * direct["estimate"])
    assert rows["hidden_state"].limits == pytest.approx((100 * direct["lower"], 100 * direct["upper"]))
    assert rows["sft (control)"].value == pytest.approx(-100 * turned["estimate"])
    assert rows["sft (control)"].limits == pytest.approx((-100 * turned["upper"], -100 * turned["lower"]))
    assert len(rows["combined"].seeds) == len(results["seeds"])
    described = gains.describe(results)
    assert f"mmlu: sft (control) {notation.difference(-turned['estimate'])}" in described and "teacher +" in described
    assert "mmlu (miniature)" in texts(svg_of(gains, results)) and "mmlu" in texts(svg_of(gains, results, narrow=True))


def test_the_axis_of_the_first_figure_says_what_it_counts(results: Results) -> None:
    assert "points more or less than black_box" in texts(svg_of(gains, results))
    results["tasks"][0]["unit"] = "nats"
    for row in (*results["trials"], *results["means"]):  # scores of 0 have no logarithm
        if "scores" in row:
            row["scores"] = {task: (score or 0.0) + 2.0 for task, score in row["scores"].items()}
    assert "points (of a perplexity 0.01 nats) more or less than black_box" in texts(svg_of(gains, results))
    results["tasks"] = results["tasks"][:1]
    for narrow, words in ((False, "more or less than"), (True, "over")):
        assert f"0.01 nats {words} black_box" in texts(svg_of(gains, results, narrow=narrow))
    for said in (gains.caption(results), gains.describe(results)):
        assert "hundredths of a nat per token" in said and "percentage points" not in said


def test_the_first_figure_keeps_its_scale_where_a_control_of_another_kind_is_far_away(results: Results) -> None:
    for entry in results["groups"]:
        entry["optional"] = entry["group"] == "combined"
    for row in results["trials"]:
        if row["group"] == "combined":
            row["scores"] = dict.fromkeys(row["scores"], 0.0)
    results["contrasts"] = []
    written = texts(svg_of(gains, results))
    assert sum(text.startswith("\u2190 \u2212") for text in written) == len(results["tasks"])
    figure = gains.draw(results)
    assert figure is not None and all(axes.get_xlim()[0] > -20 for axes in figure.axes)


def test_without_the_baseline_the_first_figure_is_of_the_control_and_of_one_group_there_is_none(
    results: Results,
) -> None:
    results["groups"] = [entry for entry in results["groups"] if entry["group"] != "black_box"]
    assert gains.reference_group(results) == "sft"
    results["groups"] = results["groups"][:1]
    assert gains.draw(results) is None


def test_the_forest_plot_has_a_row_per_formed_contrast_in_points(results: Results) -> None:
    written = texts(svg_of(forest, results))
    formed = [row for row in results["contrasts"] if row["status"] == "run" and row["scale"] == "points"]
    verdicts = {row["verdict"] for row in formed}
    assert sum(text in verdicts for text in written) == len(formed)
    assert not any("not run" in text for text in written)


def test_a_difference_beyond_the_panel_is_an_arrow_and_keeps_its_numbers(results: Results) -> None:
    row = next(row for row in results["contrasts"] if "teacher" in row["weights"] and row["status"] == "run")
    row |= {"estimate": 0.9, "lower": 0.85, "upper": 0.95, "items": None}
    assert "+90.00 [+85.00, +95.00]" in texts(svg_of(forest, results))
    figure = forest.draw(results)
    assert figure is not None and figure.axes[0].get_xlim()[1] < 90


def test_an_interval_that_says_nothing_does_not_set_the_scale(results: Results) -> None:
    row = next(row for row in results["contrasts"] if row["items"])
    row["items"] |= {"lower": -7e13, "upper": 7e13}
    figure = forest.draw(results)
    assert figure is not None and figure.axes[0].get_xlim()[1] < 100


def test_chance_and_teacher_far_from_the_seeds_are_named_at_the_edge(results: Results) -> None:
    results["references"]["teacher"]["mmlu"] = 1.0
    for row in results["means"]:
        row |= {"lower": None, "upper": None, "items": None}
    written = texts(svg_of(scores, results))
    assert "teacher 100.0 →" in written and "← chance 25.0" in written
    results["teacher_shots"] = 8
    assert "teacher (8-shot) 100.0 →" in texts(svg_of(scores, results))
    results["teacher_shots"] = 0
    near = {**results["references"]["teacher"], "mmlu": results["means"][1]["mean"]}
    results["references"]["teacher"] = near
    assert "teacher" in texts(svg_of(scores, results))


def test_a_score_of_one_leaves_no_room_above_the_scales_end(results: Results) -> None:
    for row in results["trials"]:
        row["scores"]["sst2"] = 1.0
    figure = scores.draw(results)
    assert figure is not None and 100 <= figure.axes[0].get_xlim()[1] <= 101


def test_a_group_without_a_finished_trial_keeps_its_place(results: Results) -> None:
    last = results["groups"][-1]["group"]
    for row in results["trials"]:
        if row["group"] == last:
            row["scores"] = dict.fromkeys(row["scores"])
    for row in results["means"]:
        if row["group"] == last:
            row |= {"n": 0, "mean": None, "lower": None, "upper": None, "items": None}
    assert texts(svg_of(scores, results)).count("no finished trial") == len(results["tasks"])


def test_the_interaction_is_drawn_in_points_and_in_logits(results: Results) -> None:
    written = texts(svg_of(interaction, results))
    assert "percentage points" in written and "logits" in written
    assert sum(text == "attention − black_box" for text in written) == 1
    assert "Q4" in interaction.caption(results)


def test_curves_say_how_many_seeds_stand_behind_them(results: Results) -> None:
    metric = "validation/accuracy_mmlu"
    row = next(row for row in results["curves"] if row["metric"] == metric)
    row["n"] = 1
    row |= {"lower": None, "upper": None}
    written = texts(svg_of(curves, results))
    assert f"n = 1 to {len(results['seeds'])}" in written and f"n = {len(results['seeds'])}" in written
    assert "validation mmlu, accuracy, %" in written


def test_costs_that_nobody_measured_are_left_out_and_named(results: Results) -> None:
    for row in results["costs"]:
        row["peak_memory_bytes"] = None
    written = texts(svg_of(costs, results))
    assert "peak memory, MB" not in written and "snapshot read, MB" in written
    assert "Not measured in these trials: peak memory" in costs.caption(results)


def test_figures_without_anything_to_show_are_left_out(results: Results, tmp_path: Path) -> None:
    results["contrasts"], results["curves"], results["costs"] = [], [], []
    assert [figure["name"] for figure in draw_figures(results, tmp_path)] == ["gains", "scores"]
    assert not plt.get_fignums()
