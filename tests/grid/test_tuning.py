"""The choice of weights: as many candidates of each, the best mean, and the weight of the matched baseline."""

from __future__ import annotations

from pathlib import Path

import pytest
import sections

from glassbox.config.settings import Settings
from glassbox.grid import tuning
from glassbox.grid.tuning import Point, key_of, matched
from glassbox.report.figures.dose import dose_response
from glassbox.report.figures.style import svg_text
from glassbox.tracking.manifest import TrialRecord

SHARES = {"task": 0.2, "logits": 0.5, "hidden": 0.2, "attention": 0.1}


def point(weight: float, share: float) -> Point:
    return Point("logits", f"logits_{weight:g}", weight, 0, 0.5, share, {})


def test_the_matched_weight_gives_the_logits_the_share_of_all_signals() -> None:
    norm = 1.5  # of the logits' gradient over the task's
    share = 2.0 * norm / (2.0 * norm + 1)
    weight = matched([point(2.0, share)], 0.9)
    assert weight * norm / (weight * norm + 1) == pytest.approx(0.9, abs=0.005)


class Trials:
    """Trials of made-up scores in the place of a side study: what is trained there is no matter of the choice."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []

    def run(self, settings: Settings) -> None:
        self.ran.append(settings.groups)
        assert all(task.validation == settings.tuning.validation for task in settings.prepare.tasks.values())
        assert settings.seeds == settings.tuning.seeds and settings.prepare.seed == settings.tuning.items_seed

    def trials(self, groups: list[str], seeds: list[int]) -> dict[tuple[str, int], TrialRecord]:
        return {(group, seed): self.trial(group, seed) for group in groups for seed in seeds}

    def trial(self, group: str, seed: int) -> TrialRecord:
        best = any(name in group for name in ("logits_2", "hidden_0p5", "attention_5", "2_epochs"))
        score = (0.8 if best else 0.6) + 0.01 * (seed % 2)
        names = ("validation/accuracy_sst2", "validation/accuracy_mmlu", "validation/exact_match_gsm8k")
        known = dict.fromkeys(("run_id", "study_key", "key", "plan", "precision"), "")
        return TrialRecord(
            group=group,
            seed=seed,
            status="finished",
            source="manifest",
            metrics=dict.fromkeys(names, score),
            objective={},
            digests={},
            seconds=1.0,
            liveness={name: {"share": share} for name, share in SHARES.items()},
            **known,
        )


def test_every_component_is_tried_as_often_and_the_best_of_each_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Trials()
    monkeypatch.setattr(tuning, "side_study", lambda *_: study)
    table = tuning.tune(sections.COMMITTED, {"sst2": 0.5, "mmlu": 0.25})
    counts = {name: len({p["candidate"] for p in table["points"] if p["component"] == name}) for name in SHARES}
    assert counts | {"task": 4} == dict.fromkeys(SHARES, 4)
    chosen = table["chosen"]
    assert (chosen["logits"], chosen["hidden"], chosen["attention"]) == (2.0, 0.5, 5.0)
    assert table["signals_share_of_combined"] == pytest.approx(0.8)
    assert study.ran[-1] == ("combined",)
    assert table["key"] == key_of(table)
    first = next(p for p in table["points"] if p["component"] == "logits" and p["seed"] % 2 == 0)
    assert first["score"] == pytest.approx(((0.6 - 0.5) / 0.5 + (0.6 - 0.25) / 0.75 + 0.6) / 3)
    assert "best control" in svg_text(dose_response(table))


def test_the_key_names_what_was_tried(tmp_path: Path) -> None:
    assert key_of({"points": [1]}) != key_of({"points": [2]})
    assert key_of({"points": [1], "key": "x"}) == key_of({"points": [1]})
