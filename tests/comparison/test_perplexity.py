"""Perplexity in the statistics: less is better, on the log scale, in both scopes, without guards made for shares."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidences import CONF, GROUPS, evidence, plan

from glassbox.comparison.evidence import Evidence, Items, linearised, score_of
from glassbox.comparison.inference import infer
from glassbox.comparison.items import Answers, item_table
from glassbox.comparison.notes import teacher_notes
from glassbox.comparison.plan import PlannedTask, read_plan
from glassbox.config.analysis_plan import plan_digest
from glassbox.errors import GlassboxError
from glassbox.report.notation import difference, metric_label, score

TEXT = PlannedTask("perplexity", None)
BLOCKS = 60


def test_a_study_without_any_of_the_plans_tasks_has_not_its_hypothesis() -> None:
    assert plan().hypothesis is not None
    assert plan().for_tasks({**plan().tasks, "text": TEXT}).hypothesis == plan().hypothesis
    found = infer(plan().for_tasks({"text": TEXT}), texts({}))["hypothesis"]
    assert found["legs"] == [] and found["text"] == "Not tested: the plan states no hypothesis for these tasks."


def texts(gains: dict[str, float], noise: float = 0.004, seeds: int = 7, number: int = 0) -> Evidence:
    """gains: by how many nats per token a group is better. Blocks differ in length, and come in ten articles."""
    generator = np.random.default_rng(number)
    tokens = np.full(BLOCKS, 128.0)
    tokens[::7] = 40
    hard = generator.normal(0, 0.3, BLOCKS)
    scores, correct = np.empty((len(GROUPS), 1, seeds)), np.empty((len(GROUPS), seeds, BLOCKS))
    shared = generator.normal(0, noise, seeds)
    for row, group in enumerate(GROUPS):
        for seed in range(seeds):
            level = 3.0 - gains.get(group, 0.0) + shared[seed] + generator.normal(0, noise / 4)
            nats = level + hard + generator.normal(0, 0.01, BLOCKS)
            correct[row, seed] = linearised(-nats * tokens, tokens)
            scores[row, 0, seed] = -(nats * tokens).sum() / tokens.sum()
    items = Items(tuple(f"text/{place:03d}" for place in range(BLOCKS)), correct, np.arange(BLOCKS) % 10)
    shape = (len(GROUPS), seeds)
    return Evidence(
        GROUPS, ("text",), tuple(range(seeds)), scores, np.zeros(shape, dtype=bool), True, {"text": items},
        teacher={"text": -2.5}, start={"text": -6.0}, nats=frozenset({"text"}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def inferred() -> dict[str, Any]:
    gains = {"black_box": 0.1, "hidden_state": 0.15, "attention": 0.05, "combined": 0.15}
    return infer(plan().for_tasks({"text": TEXT}), texts(gains))


def row(inferred: dict[str, Any], key: str) -> dict[str, Any]:
    return next(each for each in inferred["contrasts"] if each["key"] == key)


def test_a_difference_is_the_log_of_a_ratio_of_perplexities_and_better_where_that_is_lower(
    inferred: dict[str, Any],
) -> None:
    means = {each["group"]: each["mean"] for each in inferred["means"]}
    assert 17 < means["combined"] < means["black_box"] < means["attention"] < means["sft"] < 22
    for key, better, worse in (("Q1a/text", "hidden_state", "black_box"), ("F1/text", "black_box", "sft")):
        found = row(inferred, key)
        assert found["estimate"] == pytest.approx(math.log(means[worse] / means[better]), abs=1e-9)
        assert found["scale"] == "nats" and found["verdict"] == "better, meaningful"
    assert row(inferred, "Q1b/text")["verdict"] == "worse, meaningful"
    assert "does not help" not in str(row(inferred, "Q3/text")["verdict"])


def test_limits_of_a_mean_are_perplexities_in_order_and_are_not_cut_like_shares(inferred: dict[str, Any]) -> None:
    for each in inferred["means"]:
        for limits in (each, each["items"]):
            assert limits["lower"] < each["mean"] < limits["upper"] and not limits["clipped"]
        assert each["items"]["upper"] - each["items"]["lower"] > each["upper"] - each["lower"]
        assert not each["near_chance"]


def test_guards_made_for_shares_say_nothing(inferred: dict[str, Any]) -> None:
    guards = inferred["guards"]
    assert not guards["uninformative_tasks"] and not guards["extremes"] and not guards["degenerate"]
    assert inferred["flips"] == [] and inferred["guard_notes"] == []
    assert inferred["assay"]["shown"] is True


def test_the_wider_scope_is_that_of_articles(inferred: dict[str, Any]) -> None:
    items = row(inferred, "F1/text")["items"]
    assert items["clustered"] and items["se"] >= row(inferred, "F1/text")["standard_error"]
    assert row(inferred, "F1/text")["sensitivity"]["clusters"] is not None
    assert row(inferred, "F1/text")["sensitivity"]["logit"] is None


def test_sentences_name_nats_and_the_ratio(inferred: dict[str, Any]) -> None:
    (sentence,) = next(each for each in inferred["answers"] if each["id"] == "F1")["sentences"]
    assert "nats per token (perplexity times 0.90" in sentence and "over texts like these too" in sentence
    assert "points" not in sentence and "beyond the margin of 0.0200 nats per token" in sentence


def test_a_question_over_a_text_and_a_share_is_refused_and_each_alone_is_asked() -> None:
    shares, words = evidence(), texts({"black_box": 0.1})
    both = replace(
        shares,
        tasks=(*shares.tasks, "text"),
        scores=np.concatenate([shares.scores, words.scores], axis=1),
        items={**shares.items, **words.items},
        nats=frozenset({"text"}),
    )
    found = infer(plan().for_tasks({**plan().tasks, "text": TEXT}), both)
    assert row(found, "Q1o/mean")["reason"].startswith("the perplexity of text and shares")
    assert row(found, "Q1/text")["scale"] == "nats" and row(found, "Q1/mmlu")["scale"] == "points"


def test_equal_perplexities_are_within_a_margin_in_nats() -> None:
    found = infer(plan().for_tasks({"text": TEXT}), texts({}))
    assert row(found, "Q1a/text")["verdict"] == "equivalent"
    assert row(found, "Q1a/text")["equivalence"]["margin"] == 0.02


def test_the_part_of_a_block_averages_to_the_ratio_whatever_the_lengths() -> None:
    likelihoods, tokens = np.array([-30.0, -10.0, -55.0]), np.array([10.0, 2.0, 40.0])
    parts = linearised(likelihoods, tokens)
    assert parts.mean() == pytest.approx(likelihoods.sum() / tokens.sum(), abs=1e-12)
    residuals = likelihoods - likelihoods.sum() / tokens.sum() * tokens
    assert parts.var() == pytest.approx((residuals / tokens.mean()).var())
    assert score_of("test/perplexity_text", math.e) == -1.0 and score_of("test/accuracy_sst2", 0.5) == 0.5


def test_blocks_of_a_trial_give_its_perplexity_and_their_parts_in_it() -> None:
    blocks = {"text/a": (-30.0, 10), "text/b": (-4.0, 4), "text/c": (-55.0, 40)}
    of_text = {"text": dict.fromkeys(blocks, False)}
    clusters = {"text": dict.fromkeys(blocks, "") | {"text/a": "Lobsters"}}
    answers = Answers(of_text, clusters, "digest", {"text": 0}, {"text": blocks})
    assert answers.shown("text", "test/perplexity_text") == pytest.approx(math.exp(89 / 54))
    assert math.isnan(answers.shown("other", "test/perplexity_other"))
    table = item_table({"sft/0": answers}, ("sft",), (0, 1), ("text",))["text"]
    assert table.ids == ("text/a", "text/b", "text/c") and np.isnan(table.correct[0, 1]).all()
    assert table.correct[0, 0].mean() == pytest.approx(-89 / 54)
    assert len(set(table.clusters.tolist())) == 3  # type: ignore[union-attr]


OWN = {"own_tasks:\n": "own_tasks:\n  prose: {novels: {metric: perplexity}}\n"}


def write_plan(folder: Path, **changes: str) -> Path:
    text = (CONF / "analysis.yaml").read_text(encoding="utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "analysis.yaml").write_text(text, encoding="utf-8")
    return folder


def test_a_scale_may_have_tasks_of_its_own_which_change_no_other_scales_plan(tmp_path: Path) -> None:
    margins = "margins:\n  prose: {novels: {ratio: 1.05, reason: seen}}\n"
    conf = write_plan(tmp_path / "conf", **{**OWN, "margins:\n": margins})
    found = read_plan(conf, "prose")
    assert list(found.tasks) == ["novels"] and found.margins["novels"] == pytest.approx(math.log(1.05))
    assert list(read_plan(conf, "embedded").tasks) == ["sst2", "mmlu", "gsm8k"]
    assert plan_digest(conf, "embedded") == plan_digest(CONF, "embedded")
    assert plan_digest(conf, "prose") != plan_digest(CONF, "prose")


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ("{novels: {metric: perplexity, chance: 0.1}}", "has no chance level"),
        ("{novels: {metric: accuracy}}", "`chance` is missing"),
    ],
)
def test_a_plan_that_mixes_up_texts_and_shares_is_refused(tmp_path: Path, own: str, why: str) -> None:
    conf = write_plan(tmp_path / "conf", **{"own_tasks:\n": f"own_tasks:\n  prose: {own}\n"})
    with pytest.raises(GlassboxError, match=why):
        read_plan(conf, "prose")


def test_a_margin_in_the_wrong_unit_is_refused(tmp_path: Path) -> None:
    margins = "margins:\n  prose: {novels: {points: 2, reason: seen}}\n"
    conf = write_plan(tmp_path / "conf", **{**OWN, "margins:\n": margins})
    with pytest.raises(GlassboxError, match="`nats` per token or a `ratio`"):
        read_plan(conf, "prose")


def test_a_teacher_whose_perplexity_is_higher_is_named() -> None:
    scores = {"teacher": {"text": 30.0}, "initial_student": {"text": 20.0}}
    (note,) = teacher_notes(scores, {"text": None}, {"text": 10}, {})
    assert "perplexity on text is above" in note


def test_numbers_are_written_in_their_units() -> None:
    assert (score(0.5714), score(12.34567, "nats"), score(None, "nats")) == ("57.1", "12.35", "\u2013")
    assert (difference(0.01234, "nats"), difference(0.01234)) == ("+0.0123", "+1.23")
    assert metric_label({"metric": "perplexity", "unit": "nats"}) == "perplexity, less is better"
