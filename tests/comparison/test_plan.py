"""The analysis plan: what conf/analysis.yaml says, and what it may not say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import studies
import yaml

from glassbox.comparison.plan import plan_or_derived, planned_weights, read_plan
from glassbox.config.composition import composition
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError

SCALES = ("embedded", "files", "moe", "paper", "another")


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    shutil.copy(studies.CONF / "analysis.yaml", tmp_path)
    return tmp_path


def change(conf: Path, before: str, after: str) -> None:
    path = conf / "analysis.yaml"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


@pytest.mark.parametrize("scale", SCALES)
def test_the_committed_plan_has_a_margin_with_a_reason_for_every_task_at_every_scale(scale: str) -> None:
    plan = read_plan(studies.CONF, scale)
    assert plan.margins.keys() == plan.margin_reasons.keys() == plan.tasks.keys()
    assert all(0 < margin < 0.2 for margin in plan.margins.values())
    first = 31 if scale == "moe" else 41
    assert plan.seeds == tuple(range(first, first + 7)) and plan.confidence == 0.95
    assert plan.margin_scale == ("default" if scale == "another" else scale)


def test_the_committed_plan_had_seen_none_of_the_seeds_that_it_plans_and_says_which_it_had() -> None:
    plan = read_plan(studies.CONF, "faithful")
    assert plan.seeds == tuple(range(14, 21))
    assert plan.seen_seeds == tuple(range(14)) and "none of which had been run" in plan.seen_note
    designed = read_plan(studies.CONF, "embedded")
    assert designed.seen_seeds == (*range(21, 28), *range(31, 38), 1000, 1001)
    assert "was chosen on seeds 1000 and 1001" in designed.seen_note
    assert not any(set(each.seeds) & set(each.seen_seeds) for each in (plan, designed))
    assert read_plan(studies.CONF, "paper").seen_seeds == ()


def test_the_paper_scale_has_the_margins_that_were_specified() -> None:
    assert read_plan(studies.CONF, "paper").margins == {"sst2": 0.01, "mmlu": 0.01, "gsm8k": 0.015}


def test_a_scale_may_ask_questions_of_its_own_and_the_others_do_not_hear_of_them() -> None:
    plan, other = read_plan(studies.CONF, "moe"), read_plan(studies.CONF, "embedded")
    assert plan.control == "black_box" and plan.groups == ("black_box", "moe_all", "moe_ka", "moe_sar")
    pairs = {contrast.id: contrast.weights for contrast in plan.contrasts}
    assert pairs["M1"] == {"moe_all": 1, "black_box": -1} and pairs["M3"] == {"moe_sar": 1, "moe_all": -1}
    assert plan.primary == "M3" and not plan.replicas and plan.hypothesis is None
    assert other.control == "sft" and not any(contrast.id.startswith("M") for contrast in other.contrasts)


def test_a_contrast_is_asked_once_for_each_of_its_tasks() -> None:
    contrasts = {contrast.id: contrast for contrast in read_plan(studies.CONF, "embedded").contrasts}
    assert contrasts["Q1"].tasks == ({"sst2": 1.0}, {"mmlu": 1.0}, {"gsm8k": 1.0})
    assert contrasts["Q4"].tasks == ({"mmlu": 1.0, "sst2": -1.0}, {"gsm8k": 1.0, "sst2": -1.0})
    assert contrasts["Q4"].weights == contrasts["Q1"].weights and contrasts["Q4"].scales == ("points", "logit")
    assert contrasts["Q3"].weights == {"combined": 1.0, "hidden_state": -0.5, "attention": -0.5}


def test_every_group_of_the_plan_has_a_file_of_its_name() -> None:
    plan = read_plan(studies.CONF, "embedded")
    planned = planned_weights(studies.CONF, plan, studies.settings(("sft",), (0,)))
    assert tuple(planned)[: len(plan.groups)] == plan.groups
    assert planned["combined"].hidden == 0.1 and planned["black_box"].hidden == 0.0


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("alpha: 0.05", "alpa: 0.05", "`alpa`: there is no such key; the nearest known key is `alpha`"),
        ("alpha: 0.05", "alpha: 1.5", "`alpha`: input should be less than 1"),
        ("points: 1.0, reason", "point: 1.0, reason", "the nearest known key is `margins.embedded.sst2.points`"),
        ("{hidden_state: 1, black_box: -1}", "{hiden_state: 1, black_box: -1}", "the nearest is `hidden_state`"),
        ("{hidden_state: 1, black_box: -1}", "{hidden_state: 1, black_box: -0.5}", "sum to 0, these sum to 0.5"),
        ("better: [mmlu, gsm8k]", "better: [mmlu, gsm]", "`hypothesis` names `gsm`"),
        ("  - id: Q2\n", "  - id: Q1\n", "the id Q1 stands there twice"),
        ("test: intersection_union", "test: greater", "`legs`"),
        ("control: sft", "control: seqkd", "`control` names `seqkd`"),
        ("[sft_tuned, sft_all, seqkd", "[sft, sft_all, seqkd", "sft stands there twice"),
        ("power: 0.8", "alpha: 0.8", "is written twice"),
        ("    seeds: [0, 1,", "    seeds: [-1, 1,", "`seen_seeds.faithful.seeds.0`: input should be greater"),
    ],
)
def test_a_fault_is_a_sentence_that_names_its_place(conf: Path, before: str, after: str, complaint: str) -> None:
    change(conf, before, after)
    with pytest.raises(GlassboxError) as refusal:
        read_plan(conf, "embedded")
    assert complaint in str(refusal.value) and "git restore" in str(refusal.value)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlassboxError, match=r"There is no .*analysis\.yaml"):
        read_plan(tmp_path, "embedded")


def test_groups_that_the_plan_does_not_name_are_asked_about_beside_it_and_its_digest_stays() -> None:
    groups = ("sft", "black_box", "layers", "shuffled_layers", "shuffled_relations")
    composed = yaml.safe_load(composition(studies.CONF, [f"distill=[{','.join(groups)}]"]))
    settings = Settings.model_validate(composed)
    plan = plan_or_derived(studies.CONF, settings)
    beside = [each for each in plan.contrasts if each.family == "exploratory"]
    assert [dict(each.weights) for each in beside] == [
        {"layers": 1.0, "black_box": -1.0},
        {"layers": 1.0, "shuffled_layers": -1.0},
    ], "nobody is the original of shuffled_relations here"
    assert all(len(each.tasks) == 3 and each.test == "two_sided" for each in beside)
    alone = read_plan(studies.CONF, settings.scale)
    assert plan.digest == alone.digest and len(plan.contrasts) == len(alone.contrasts) + 2
    planned = Settings.model_validate(yaml.safe_load(composition(studies.CONF, [])))
    assert plan_or_derived(studies.CONF, planned).contrasts == alone.contrasts
