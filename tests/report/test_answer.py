"""The one sentence and its limits, on every kind of outcome that a study can have."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from glassbox.config.components import COMPONENTS
from glassbox.report.answer import MOST_LIMITS, SIGNALS, answer, limits, question_answer

Results = dict[str, Any]
TASKS = ("sst2", "mmlu", "gsm8k")
MARGINS = {"sst2": 0.01, "mmlu": 0.03, "gsm8k": 0.03}
WEIGHTS = {
    "sft": {"task": 1.0},
    "black_box": {"task": 1.0, "logits": 2.0},
    "hidden_state": {"task": 1.0, "logits": 2.0, "hidden": 2.0},
    "attention": {"task": 1.0, "logits": 2.0, "attention": 2.0},
    "combined": {"task": 1.0, "logits": 2.0, "hidden": 2.0, "attention": 2.0},
}
SAME, SEEN_NOTHING = (0.001, "equivalent"), (0.012, "inconclusive")
PRIMARY = {"hidden_state": 0.5, "attention": 0.5, "black_box": -1.0}
OVER_LABELS = {"black_box": 1.0, "sft": -1.0}


def row(identity: str, weights: dict[str, float], task: str, found: tuple[float, str]) -> dict[str, Any]:
    estimate, verdict = found
    return {
        "id": identity,
        "key": f"{identity}/{task}",
        "family": identity,
        "question": "does it help?",
        "weights": weights,
        "tasks": {task: 1.0},
        "test": "two_sided",
        "scale": "points",
        "status": "run",
        "reason": None,
        "components": [],
        "estimate": estimate,
        "verdict": verdict,
        "equivalence": {"margin": MARGINS.get(task, 0.02)},
        "minimum_detectable": {"holm_first": 0.011},
    }


def study(
    logits: dict[str, tuple[float, str]] | None = None,
    white: dict[str, tuple[float, str]] | None = None,
    own: dict[str, dict[str, tuple[float, str]]] | None = None,
    groups: tuple[str, ...] = tuple(WEIGHTS),
    seeds: int = 7,
) -> Results:
    """logits: black_box - sft by task. white: the pooled question. own: a group's difference to black_box by task."""
    rows = [row("F1", OVER_LABELS, task, found) for task, found in (logits or {}).items()]
    rows += [row("Q1", PRIMARY, task, found) for task, found in (white or {}).items()]
    for group, by_task in (own or {}).items():
        rows += [row(f"Q1{group}", {group: 1.0, "black_box": -1.0}, task, found) for task, found in by_task.items()]
    return {
        "plan": {"control": "sft", "baseline": "black_box", "state": "as planned", "optional_groups": []},
        "groups": [{"group": each, "weights": WEIGHTS[each], "shuffled": [], "optional": False} for each in groups],
        "contrasts": rows,
        "multiplicity": {"primary": "Q1"},
        "banners": [],
        "integrity": {"planned": len(groups) * seeds, "missing": [], "diverged": []},
        "seeds": list(range(seeds)),
        "tasks": [{"task": task, "embedded": True} for task in TASKS],
        "labelled": 0.1,
        "notes": [],
        "faint": [],
        "assay": {"text": ""},
        "sensitivity_changes": [],
        "pairing": {"verified": True},
    }


def every(found: tuple[float, str], tasks: tuple[str, ...] = TASKS) -> dict[str, tuple[float, str]]:
    return dict.fromkeys(tasks, found)


LOGITS = {"sst2": SEEN_NOTHING, "mmlu": (0.0926, "better, meaningful"), "gsm8k": (0.1477, "better, size uncertain")}
OPENING = "On these miniature tasks, where one label in ten is known, "


def test_the_default_study_reads_as_a_person_would_say_it() -> None:
    own = {group: every(SAME) for group in ("hidden_state", "attention", "combined")}
    assert answer(study(LOGITS, every(SAME), own)) == (
        f"{OPENING}logits are worth 9.3 points on mmlu and 14.8 on gsm8k over labels alone, and show nothing on sst2 "
        "that 7 seeds can see; hidden states and attention maps change no task by as much as 3 points."
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            every((0.05, "better, meaningful")),
            "worth 5.0 points on sst2, 5.0 on mmlu, and 5.0 on gsm8k over labels alone",
        ),
        (every((-0.02, "worse, size uncertain")), "logits cost 2.0 points on sst2, 2.0 on mmlu, and 2.0 on gsm8k over"),
        (every(SEEN_NOTHING), "logits show nothing that 7 seeds can see"),
        (every(SAME), "logits change no task by as much as 3 points"),
        (every(SAME, ("mmlu",)), "logits change mmlu by less than 3 points."),
        (every(SEEN_NOTHING, ("mmlu",)), "logits show nothing on mmlu that 7 seeds can see."),
        (every(SAME, ("mmlu", "gsm8k")), "logits change neither task by as much as 3 points"),
        (every((0.004, "better, below the margin")), "logits change no task by as much as 3 points"),
        (every((0.0, "uninformative")), "cannot be judged on sst2, mmlu, and gsm8k, where every group is near chance"),
        (every((0.01, "degenerate")), "logits cannot be tested on sst2, mmlu, and gsm8k"),
        (
            {"sst2": SAME, "mmlu": (-0.04, "worse, meaningful"), "gsm8k": (0.01, "better, size uncertain")},
            "logits are worth 1.0 point on gsm8k over labels alone, cost 4.0 points on mmlu, and change sst2 by less "
            "than 1 point",
        ),
    ],
)
def test_what_the_logits_do_is_said_by_their_verdicts(found: dict[str, tuple[float, str]], told: str) -> None:
    assert told in answer(study(found))


def test_signals_that_end_alike_share_a_clause_and_others_have_their_own() -> None:
    better = {**every(SAME), "mmlu": (0.027, "better, size uncertain")}
    own = {"hidden_state": better, "attention": every(SEEN_NOTHING), "combined": better}
    told = answer(study(LOGITS, {**every(SAME), "mmlu": (0.013, "better, below the margin")}, own))
    assert (
        "hidden states add 2.7 points on mmlu and change sst2 and gsm8k by less than 3 points" not in told.split(";")[0]
    )
    assert "hidden states, with or without attention maps, add 2.7 points on mmlu and change sst2" in told
    assert "attention maps show nothing that 7 seeds can see" in told
    worse = {**every(SAME), "mmlu": (-0.03, "worse, size uncertain")}
    told = answer(
        study(LOGITS, every(SAME), {**{g: every(SAME) for g in ("hidden_state", "attention")}, "combined": worse})
    )
    assert told.endswith(
        "; hidden states and attention maps change no task by as much as 3 points; hidden states and attention maps "
        "together cost 3.0 points on mmlu and change sst2 and gsm8k by less than 3 points."
    )


def test_three_groups_that_end_alike_are_both_signals_and_both_together() -> None:
    gain = {"mmlu": (0.04, "better, meaningful")}
    results = study(LOGITS, own=dict.fromkeys(("hidden_state", "attention", "combined"), gain))
    assert "; hidden states, attention maps, and both together add 4.0 points on mmlu." in answer(results)


def test_white_box_signals_that_help_are_said_together_where_both_do() -> None:
    gain = every((0.04, "better, meaningful"))
    told = answer(study(LOGITS, gain, {"hidden_state": gain, "attention": gain}))
    assert "hidden states and attention maps add 4.0 points on sst2, 4.0 on mmlu, and 4.0 on gsm8k." in told


def test_without_the_control_the_logits_are_not_tested() -> None:
    told = answer(study(own={"combined": every(SAME)}, groups=("black_box", "combined")))
    assert (
        "whether the logits help is not tested, since sft did not run; hidden states and attention maps together"
        in told
    )


def test_without_a_group_of_logits_alone_signals_are_compared_with_labels() -> None:
    results = study(groups=("sft", "combined"))
    results["plan"]["baseline"] = "sft"
    results["contrasts"] = [row("E1", {"combined": 1.0, "sft": -1.0}, "mmlu", (0.08, "better, meaningful"))]
    told = answer(results)
    assert told.endswith("logits, hidden states, and attention maps together are worth 8.0 points on mmlu.")


def test_nothing_that_was_compared_has_its_reason() -> None:
    assert answer(study(groups=("sft",))) == "Not tested: only sft ran, and a comparison needs a second group."
    assert answer(study(seeds=1)) == "Not tested: one seed has no spread; a comparison needs two seeds or more."
    absent = study()
    absent["contrasts"] = [{**row("Q1", PRIMARY, "mmlu", SAME), "status": "not run", "reason": "attention did not run"}]
    assert answer(absent) == "Not tested: attention did not run."
    other = study()
    other["contrasts"] = [row("S", {"black_box": 1.0, "seqkd": -1.0}, "mmlu", SAME)]
    assert answer(other).startswith("No signal was compared with the group without it")


@pytest.mark.parametrize(
    ("state", "banners"),
    [
        ("no plan: exploratory", []),
        ("plan changed after the data: exploratory", []),
        ("as planned", ["Partial, exploratory: the plan also holds seed 27."]),
        ("as planned", ["Beyond the plan, exploratory: it does not hold the seeds 28."]),
    ],
)
def test_an_exploratory_study_says_so_first(state: str, banners: list[str]) -> None:
    results = study(LOGITS)
    results["plan"]["state"], results["banners"] = state, banners
    assert answer(results).startswith("Exploratory: on these miniature tasks")
    assert limits(results)[0].startswith("Exploratory: ") and limits(results)[0].endswith(".")


def test_a_perplexity_is_said_in_percent_of_it() -> None:
    results = study({"mmlu": (0.05, "better, meaningful"), "wikitext": (0.03, "better, meaningful")})
    results["contrasts"][1]["scale"] = "nats"
    assert "worth 5.0 points on mmlu and 3.0 % of perplexity on wikitext over labels alone." in answer(results)
    for each in results["contrasts"]:
        each["verdict"] = "equivalent"
    assert "change neither task by as much as 3 points or 1.98 % of perplexity." in answer(results)


def test_missing_and_diverged_trials_stand_in_the_sentence_and_first_among_the_limits() -> None:
    results = study(LOGITS)
    results["integrity"] |= {"missing": ["sft/0", "combined/1"], "diverged": ["combined/2", "combined/3"]}
    assert answer(results).endswith("(33 of 35 trials so far; combined diverged on 2 of 7 seeds).")
    assert limits(results)[0] == "Of 35 trials, 2 are missing and 2 diverged."


def test_one_miniature_task_is_told_of_in_the_singular() -> None:
    results = study({"mmlu": (0.05, "better, meaningful")})
    results["tasks"] = [each for each in results["tasks"] if each["task"] == "mmlu"]
    said = "Miniature tasks: nothing is said of the public benchmark that mmlu is named for."
    assert said in limits(results)


def test_many_tasks_of_ones_own_are_counted() -> None:
    tasks = tuple(f"own{number}" for number in range(6))
    found = {task: ((0.02 + 0.01 * place), "better, meaningful") for place, task in enumerate(tasks[:5])}
    results = study({**found, tasks[5]: SEEN_NOTHING})
    results["tasks"] = [{"task": task, "embedded": False} for task in tasks]
    results["labelled"] = 1.0
    assert answer(results) == (
        "On these tasks logits are worth 2.0 to 6.0 points on 5 of 6 tasks over labels alone and show nothing on own5 "
        "that 7 seeds can see."
    )


def test_a_further_component_has_words_of_its_own() -> None:
    results = study(own={"combined": every(SAME)}, groups=("black_box", "combined"))
    results["groups"][1]["weights"] = {"task": 1.0, "logits": 1.0, "relations": 0.5}
    assert "; self-attention relations change no task by as much as 3 points" in answer(results)


@pytest.mark.parametrize(
    ("share", "words"), [(0.1, "one label in ten is known"), (0.03, "3 % of the labels are known"), (1.0, "")]
)
def test_the_share_of_labels_is_said_where_it_is_not_all(share: float, words: str) -> None:
    results = study(LOGITS)
    results["labelled"] = share
    assert answer(results).startswith(
        f"On these miniature tasks, where {words}, logits" if words else "On these miniature"
    )


def test_limits_are_short_and_the_gravest_come_first() -> None:
    results = study(LOGITS, every(SAME))
    results["assay"]["text"] = "This study has not shown ..."
    results["notes"] = [
        "The teacher is at chance on mmlu (25.0 %): its signals hold little to learn.",
        "Not part of it.",
    ]
    results["faint"] = [
        {"component": "hidden", "group": group, "share": 0.018} for group in ("hidden_state", "combined")
    ]
    results["sensitivity_changes"] = ["Other analyses ..."]
    results["pairing"]["verified"] = False
    assert limits(results) == [
        "No group beats sft: this study has not shown that it can see any benefit.",
        "The teacher is at chance on mmlu (25.0 %): its signals hold little to learn.",
        "Signals under 5 % of the gradient, of which little can be said: hidden states in hidden_state and combined "
        "(1.8 %).",
        "Another analysis of the same scores does not show every direction found here.",
        "Miniature tasks: nothing is said of the public benchmarks that sst2, mmlu, and gsm8k are named for.",
        "7 seeds: effects under 1.1 points on sst2, 1.1 on mmlu, and 1.1 on gsm8k may be missed.",
        "Pairing of seeds is not verified: groups are compared as independent.",
    ]
    assert MOST_LIMITS == 3
    assert limits(study(seeds=2))[-1] == "2 seeds: no difference can be told from chance with so few."


def test_what_a_study_of_perplexities_may_have_missed_is_told_as_a_share_of_one() -> None:
    results = study(LOGITS, every(SAME))
    primary = [each for each in results["contrasts"] if each["family"] == results["multiplicity"]["primary"]]
    primary[0]["scale"], primary[0]["minimum_detectable"] = "nats", {"holm_first": 0.02}
    assert limits(results)[-1] == (
        "7 seeds: effects under 2.0 % of perplexity on sst2 and under 1.1 points on mmlu and 1.1 on gsm8k may be "
        "missed."
    )


def test_a_question_is_answered_in_words_of_its_groups() -> None:
    results = study(LOGITS)
    assert question_answer(results["contrasts"], results) == (
        "black_box, over sft, gains 9.3 points on mmlu and 14.8 on gsm8k, and shows nothing on sst2 that 7 seeds can "
        "see."
    )
    together = row(
        "Q3", {"combined": 1.0, "hidden_state": -0.5, "attention": -0.5}, "mmlu", (-0.05, "worse, meaningful")
    )
    together["components"] = [{}]
    assert question_answer([together], results) == (
        "combined, over the better of hidden_state and attention, loses 5.0 points on mmlu."
    )
    absent = copy.deepcopy(together) | {"status": "not run", "tasks": {"sst2": 1.0}}
    assert question_answer([together, absent], results).endswith("on mmlu; not run on sst2.")
    assert question_answer([absent], results) == "Not run."


def test_every_signal_has_words() -> None:
    assert {*SIGNALS} == {*COMPONENTS} - {"task"}


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [
        (1.0, "Logits are worth 9.3 points on mine over labels alone."),
        (0.1, "Where one label in ten is known, logits are worth 9.3 points on mine over labels alone."),
    ],
)
def test_a_single_task_is_named_once(labelled: float, expected: str) -> None:
    found = study({"mine": (0.093, "better, meaningful")}, groups=("sft", "black_box"))
    assert answer({**found, "tasks": [{"task": "mine", "embedded": False}], "labelled": labelled}) == expected


def test_of_two_seeds_no_size_is_named_and_of_untested_questions_nothing() -> None:
    two = study({"mine": (0.1, "inconclusive")}, {"mine": (0.1, "inconclusive")}, groups=("sft", "black_box"), seeds=2)
    assert "2 seeds: no difference can be told from chance with so few." in limits(two)
    five = study({"mine": (0.1, "inconclusive")}, groups=("sft", "black_box"), seeds=5)
    assert not any("seeds" in line for line in limits(five))
