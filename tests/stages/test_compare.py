"""The script of the stage `compare`: its options, and the keys that it looks trials up by."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import studies

from glassbox.config.settings import Group, Settings
from glassbox.errors import GlassboxError
from glassbox.tracking.key import study_key, trial_key

SCRIPT = Path(__file__).parents[2] / "src" / "compare.py"
DIGESTS = (studies.digest("snapshot"), studies.digest("tasks"))


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def call(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    params = str(SCRIPT.parents[1] / "params.yaml")
    monkeypatch.setattr(sys, "argv", ["compare.py", "--params", params, *options])
    script["main"]()


def test_help_tells_the_exit_codes(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(script, monkeypatch, "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "exit codes: 0 compared; 1 refused" in told and "2 the runs cannot be compared" in told
    assert "3 trials are missing" in told


@pytest.mark.parametrize("option", ["--difference", "--deviation"])
def test_an_option_of_the_planner_is_refused_without_it(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    with pytest.raises(GlassboxError, match=f"{option} has no effect on a comparison: write --plan-power with it"):
        call(script, monkeypatch, option, "2")


def with_seqkd() -> Settings:
    settings = studies.settings(("black_box",), (0,))
    distill = {**settings.distill, "seqkd": Group(task=1.0, labels="teacher")}
    all_labels = settings.train.model_copy(update={"labelled": 1.0})
    return settings.model_copy(update={"distill": distill, "train": all_labels})


def log_seqkd(settings: Settings, answers: str, seed: int) -> None:
    content = studies.manifest("seqkd", seed, study_key=study_key(settings, *DIGESTS))
    content["tags"] |= {
        "answers_digest": answers,
        "key": trial_key(settings, "seqkd", seed, *DIGESTS, answers),
    }
    studies.log_trial(content)


def test_runs_on_the_teachers_answers_are_found_by_the_answers_that_the_store_names(
    script: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    settings = with_seqkd()
    log_seqkd(settings, "answers", 0)
    expected = trial_key(settings, "seqkd", 0, *DIGESTS, "answers")
    assert script["keys"]()(settings, "seqkd", 0, *DIGESTS) == expected
    of_black_box = trial_key(settings, "black_box", 0, *DIGESTS)
    assert script["keys"]()(settings, "black_box", 0, *DIGESTS) == of_black_box


def test_of_two_sets_of_answers_in_the_store_none_is_chosen(
    script: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    settings = with_seqkd()
    for seed, answers in enumerate(("first", "second")):
        log_seqkd(settings, answers, seed)
    nobodys = trial_key(settings, "seqkd", 0, *DIGESTS, None)
    assert script["keys"]()(settings, "seqkd", 0, *DIGESTS) == nobodys
