"""A study of one's own data, written by one command and read by the stages that follow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from miniatures import save_model_folder, tiny_tokenizer
from projects import ROOT

from glassbox.preflight.rehearsal import PARAMS, rehearsal

SOURCE = str(ROOT / "src")
if SOURCE not in sys.path:
    sys.path.append(SOURCE)

import new_study  # noqa: E402


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for role, seed in (("teacher", 1), ("student", 2)):
        save_model_folder(tmp_path / "models" / role, tiny_tokenizer(), seed=seed)
    (tmp_path / "my data").mkdir()
    rows = [{"prompt": f"Is {n} even?", "answer": ["yes", "no"][n % 2], "choices": ["yes", "no"]} for n in range(60)]
    write(tmp_path / "my data/even.jsonl", rows)
    return tmp_path


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"{SOURCE}/{script}.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


MODELS = ("--teacher", "models/teacher", "--student", "models/student")


@pytest.mark.slow
def test_one_file_becomes_a_study_whose_relative_paths_hold_in_every_step(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(clone, "new_study", "even", "--data", "my data/even.jsonl", *MODELS)
    assert done.returncode == 0, done.stderr
    assert "python src/params.py scale=even" in done.stdout and "make preflight" in done.stdout
    assert run(clone, "params", "scale=even", "seeds=[7]", "distill=[sft]").returncode == 0
    values = yaml.safe_load((clone / "params.yaml").read_text(encoding="utf-8"))
    assert {split: values["prepare"]["tasks"]["even"][split] for split in ("train", "validation", "test")} == {
        "train": 42,
        "validation": 6,
        "test": 12,
    }
    assert values["teacher"]["model"] == "models/teacher"
    prepared = run(clone, "prepare")
    assert "train: 42 even" in prepared.stdout, prepared.stderr
    monkeypatch.chdir(clone)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    from glassbox.config.settings import load_settings

    with rehearsal(load_settings(), {"train": [], "validation": [], "test": []}):
        moved = load_settings(PARAMS)
        files = moved.prepare.tasks["even"].files
        assert files is not None and Path(files.train) == (clone / "my data/even.jsonl").resolve()
        assert Path(moved.student.model) == (clone / "models/student").resolve()


@pytest.mark.long
@pytest.mark.slow
def test_a_folder_keeps_its_own_splits_and_says_what_it_lacks(clone: Path) -> None:
    folder = clone / "three"
    folder.mkdir()
    for number, split in enumerate(("train", "validation")):
        write(folder / f"{split}.jsonl", [{"prompt": f"{number} {n}?", "answer": "y"} for n in range(4)])
    lacking = run(clone, "new_study", "three", "--data", "three", *MODELS)
    assert (
        lacking.returncode == 1 and "three lacks test.jsonl (it holds train.jsonl, validation.jsonl)" in lacking.stderr
    )
    write(folder / "test.jsonl", [{"prompt": f"test {n}?", "answer": "y"} for n in range(4)])
    assert run(clone, "new_study", "three", "--data", "three", *MODELS).returncode == 0
    text = (clone / "conf/scale/three.yaml").read_text(encoding="utf-8")
    assert "validation: 'three/validation.jsonl'" in text and "test: null" in text


@pytest.mark.long
@pytest.mark.slow
def test_a_study_is_never_overwritten_and_the_template_is(clone: Path) -> None:
    arguments = ("--data", "my data/even.jsonl", *MODELS)
    assert run(clone, "new_study", "mine", *arguments).returncode == 0
    again = run(clone, "new_study", "mine", *arguments)
    assert again.returncode == 1 and "mine.yaml exists and is not overwritten" in again.stderr


def test_a_fault_in_the_data_is_told_before_anything_is_written(clone: Path) -> None:
    write(clone / "my data/even.jsonl", [{"prompt": "Is 2 even?", "answer": 3}])
    done = run(clone, "new_study", "even", "--data", "my data/even.jsonl", *MODELS)
    assert done.returncode == 1 and "even.jsonl, line 1: `answer` is the number 3" in done.stderr
    assert not (clone / "conf/scale/even.yaml").exists()


def test_lines_of_one_prompt_and_other_choices_are_counted_as_questions(clone: Path) -> None:
    rows = [{"prompt": "Which is right?", "answer": f"a{n}", "choices": [f"a{n}", f"b{n}"]} for n in range(12)]
    write(clone / "my data/which.jsonl", rows)
    done = run(clone, "new_study", "which", "--data", "my data/which.jsonl", *MODELS)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout
    text = (clone / "conf/scale/which.yaml").read_text(encoding="utf-8")
    assert "train: 9\n      validation: 1\n      test: 2\n" in text


def test_the_template_that_ships_is_what_the_command_writes() -> None:
    text = (ROOT / "conf/scale/mine.yaml").read_text(encoding="utf-8")
    assert text == new_study.TEMPLATE.format(**new_study.EXAMPLE)
