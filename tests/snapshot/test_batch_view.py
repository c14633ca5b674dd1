"""What a person sees of a batch is what is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from snapshots import Study, make_study

import show_batch
from glassbox.models.loading import head_logits, load_model
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.batch_view import lines_of, teacher_choices
from glassbox.snapshot.reader import Snapshot


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = make_study(tmp_path_factory.mktemp("study"))
    study.capture()
    return study


def shown(study: Study, width: int = 400, whole: bool = False) -> tuple[list[str], list[int], int]:
    snapshot = Snapshot(study.folder)
    sample = next(info for info in snapshot.samples("train") if info.task == "gsm8k")
    batch, ids, probabilities = teacher_choices(snapshot, [sample.sample_id])
    tokenizer = load_tokenizer(study.settings.teacher)
    lines = lines_of(tokenizer, batch, 0, ids, probabilities, width=width, whole=whole)
    return lines, batch.input_ids[0].tolist(), int(batch.first[0])


def test_every_trained_position_learns_the_next_token(study: Study):
    lines, ids, first = shown(study, whole=True)
    tokenizer = load_tokenizer(study.settings.teacher)
    rows = lines[2:]
    assert len(rows) == len(ids)
    for at, row in enumerate(rows):
        trained = first <= at < len(ids) - 1
        after = row.split("  ", 2)[2].strip()
        assert repr(tokenizer.decode([ids[at]])) in row
        assert (" x " in after) == trained
        if trained:
            assert repr(tokenizer.decode([ids[at + 1]])) in after.split(" x ", 1)[1]


def test_the_prompt_is_shortened_to_its_end(study: Study):
    lines, ids, first = shown(study)
    assert len(lines) == 3 + 4 + len(ids) - first - 1
    assert "tokens of the prompt before" in lines[2]
    assert lines[-1].split()[0] == str(len(ids) - 1)
    assert " end " in lines[-1]


def test_no_line_is_wider_than_the_terminal(study: Study):
    lines, _, _ = shown(study, width=40)
    assert max(map(len, lines)) == 40


@pytest.mark.parametrize("captured", [True, False])
def test_the_choices_are_the_teachers_own(captured: bool, study: Study):
    snapshot = Snapshot(study.folder)
    snapshot.temperatures = snapshot.temperatures if captured else ()
    sample_ids = [info.sample_id for info in snapshot.samples("train")[:3]]
    batch, ids, probabilities = teacher_choices(snapshot, sample_ids)
    model = load_model(study.settings.teacher)
    with torch.no_grad():
        states = model.base_model(input_ids=batch.input_ids).last_hidden_state
    column = torch.cat([torch.arange(f, f + c) for f, c in zip(batch.first, batch.count, strict=True)])
    true = torch.softmax(head_logits(model, states[batch.sample_index, column], snapshot.vocabulary), 1)
    torch.testing.assert_close(probabilities, true.gather(1, ids.long()).detach(), atol=2e-3, rtol=0)
    torch.testing.assert_close(probabilities, true.topk(3).values.detach(), atol=2e-3, rtol=0)


def test_the_script_shows_a_sample_of_each_task(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(study.folder, tmp_path / "data/snapshot")
    (tmp_path / "params.json").write_text(study.settings.model_dump_json(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setattr("sys.argv", ["show_batch.py", "--params", "params.json", "--split", "validation"])
    show_batch.main()
    printed = capsys.readouterr().out
    assert all(f"{task}/validation/" in printed for task in ("sst2", "mmlu", "gsm8k"))
    assert max(map(len, printed.splitlines())) <= 90
