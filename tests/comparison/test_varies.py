"""The sentence that says what a seed varies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from glassbox.comparison.varies import variation
from glassbox.tracking.manifest import TrialRecord

POOL = {"gsm8k": 400, "mmlu": 500}
PLAIN = {
    "projector": False,
    "dropout": 0.0,
    "random_student": False,
    "labelled": 1.0,
    "drawn": POOL,
    "pool": POOL,
}


def trial(group: str = "sft", machine: str = "a processor", **varies: Any) -> TrialRecord:
    known = dict.fromkeys(("run_id", "study_key", "key", "plan", "precision"), "")
    return TrialRecord(
        group=group,
        seed=0,
        status="finished",
        source="manifest",
        metrics={},
        objective={},
        digests={},
        seconds=1.0,
        varies=PLAIN | varies,
        machine=machine,
        **known,
    )


def test_what_does_not_vary_is_said_not_to() -> None:
    (told,) = variation([trial()])
    assert told == (
        "From seed to seed these vary: the order of the samples. These do not: the training samples (400 gsm8k, "
        "500 mmlu); dropout (the student has none); the student's initial weights."
    )


def test_everything_that_varies_is_named() -> None:
    few = {"labelled": 0.1, "dropout": 0.05, "random_student": True}
    (told,) = variation([trial(**few), trial("hidden_state", projector=True, **few)])
    assert "the projector of hidden_state" in told
    assert "which samples have labels (10 % of each task" in told
    assert "dropout (0.05); the student's initial weights. These do not: the training samples" in told


def test_a_draw_from_a_pool_names_the_expected_overlap_and_claims_nothing_beyond_it() -> None:
    (told,) = variation([trial(drawn={"gsm8k": 100, "mmlu": 100})])
    assert "are expected to share gsm8k 25 %, mmlu 20 % of theirs, and nothing is claimed" in told


def test_mixed_machines_are_named_and_trials_that_recorded_nothing_are_passed_over() -> None:
    assert "a processor; another one" in variation([trial(), trial(machine="another one")])[1]
    assert variation([replace(trial(), varies=None)]) == []
