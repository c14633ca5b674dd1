"""What a person sees of a batch is what is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sections
import torch
from snapshots import Study, make_study

import show_batch
from glassbox.errors import GlassboxError
from glassbox.models.loading import head_logits, load_model
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.batch_view import lines_of, teacher_choices
from glassbox.snapshot.labels import Answer, write_teacher_labels
from glassbox.snapshot.reader import Snapshot
from glassbox.tasks.splits import read_split, tasks_digest
from glassbox.training.draws import draw

COMMAND = ("show_batch.py", "--params", "params.json")
FIRST_SEED = sections.FAITHFUL["seeds"][0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = make_study(tmp_path_factory.mktemp("study"))
    study.capture()
    return study


ANSWERS = {"task": "answer", "logits": "answer", "attention": "answer"}


def shown(
    study: Study,
    width: int = 400,
    whole: bool = False,
    positions: dict[str, str] = ANSWERS,
    labelled: bool | None = None,
) -> tuple[list[str], list[int], int]:
    snapshot = Snapshot(study.folder)
    sample = next(info for info in snapshot.samples("train") if info.task == "gsm8k")
    everywhere = "all" in positions.values()
    batch, ids, probabilities = teacher_choices(snapshot, [sample.sample_id], everywhere=everywhere)
    if labelled is not None:
        batch = replace(batch, labelled=torch.tensor([labelled]))
    tokenizer = load_tokenizer(study.settings.teacher)
    lines = lines_of(tokenizer, batch, 0, ids, probabilities, positions, width=width, whole=whole)
    return lines, batch.input_ids[0].tolist(), sample.n_tokens - 1 - sample.n_positions_answer


@pytest.mark.parametrize("labelled", [None, True, False])
@pytest.mark.parametrize("reach", ["answer", "all"])
def test_every_position_names_its_components_and_learns_the_next_token(
    study: Study, reach: str, labelled: bool | None
) -> None:
    positions = {"task": "answer", "logits": reach, "attention": "answer"}
    lines, ids, first = shown(study, whole=True, positions=positions, labelled=labelled)
    tokenizer = load_tokenizer(study.settings.teacher)
    rows = lines[2:]
    assert len(rows) == len(ids)
    task = "-" if labelled is False else "T"
    for at, row in enumerate(rows):
        in_answer = first <= at < len(ids) - 1
        everywhere = reach == "all" and at < len(ids) - 1
        mark = f" {task}L-A " if in_answer else " -L-- " if everywhere else " ----"
        token, after = repr(tokenizer.decode([ids[at]])), f"{row} "
        assert token in row and mark in after, row
        if in_answer or everywhere:
            assert repr(tokenizer.decode([ids[at + 1]])) in after.split(mark, 1)[1]
        assert row.count("0.") >= 1 if in_answer else "0." not in row, "the choices that were captured"


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
    monkeypatch.setattr("sys.argv", [*COMMAND, "--split", "validation"])
    show_batch.main()
    printed = capsys.readouterr().out
    assert all(f"{task}/validation/" in printed for task in ("sst2", "mmlu", "gsm8k"))
    assert max(map(len, printed.splitlines())) <= 90
    assert printed.count(f"black_box, seed {FIRST_SEED}: has its label") == 3


@pytest.fixture
def scarce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A folder with half of the labels, and the teacher's own answers captured beside the data's."""
    study = make_study(tmp_path, samples=12)
    train = study.settings.train.model_copy(update={"labelled": 0.5, "labelled_per_step": 2})
    study = replace(
        study, settings=study.settings.model_copy(update={"train": train}), folder=tmp_path / "data/snapshot"
    )
    answers = [Answer(s.sample_id, s.task, " 777", True, False) for s in read_split(study.tasks, "train")]
    write_teacher_labels(tmp_path / "data/answers", answers, {"provenance": {"tasks": tasks_digest(study.tasks)}})
    monkeypatch.chdir(tmp_path)
    study.capture()
    (tmp_path / "params.json").write_text(study.settings.model_dump_json(), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "160")
    return study


def test_samples_without_a_label_are_shown_with_the_teachers_own_text(
    scarce: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {sample.sample_id: sample.task for sample in read_split(scarce.tasks, "train")}
    for seed in (FIRST_SEED, 3):
        labelled = draw(tasks, None, 0.5, seed).labelled
        chosen = [part for each in tasks for part in ("--sample", each)]
        monkeypatch.setattr("sys.argv", [*COMMAND, "--seed", str(seed), *chosen])
        show_batch.main()
        blocks = capsys.readouterr().out.strip().split("\n\n")
        assert len(blocks) == 12
        for sample_id, block in zip(tasks, blocks, strict=True):
            without = sample_id not in labelled
            assert block.startswith(f"{sample_id}@teacher:" if without else f"{sample_id}:")
            assert (f"black_box, seed {seed}: no label; the text is the teacher's own answer" in block) == without
            assert (" -L-- " in block) == without and (" TL-- " in block) != without


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("black_bax", "--group black_bax: the settings select no such group; the nearest is `black_box`"),
        ("seqkd", "--group seqkd: its texts are the teacher's answers in data/answers"),
    ],
)
def test_groups_that_cannot_be_shown_are_refused(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, said: str
) -> None:
    settings = json.loads(study.settings.model_dump_json())
    settings["groups"].append("seqkd")
    settings["distill"]["seqkd"] = {"task": 1.0, "labels": "teacher"}
    (tmp_path / "params.json").write_text(json.dumps(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [*COMMAND, "--group", group])
    with pytest.raises(GlassboxError) as caught:
        show_batch.main()
    assert said in str(caught.value)


def test_the_control_shows_its_task_alone_and_leaves_out_what_has_no_label(
    scarce: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [*COMMAND, "--group", "sft", "--rows", "12"])
    show_batch.main()
    printed = capsys.readouterr().out
    assert printed.count(f"sft, seed {FIRST_SEED}: has its label") == 6
    assert printed.count(f"sft, seed {FIRST_SEED}: no label, so it is not trained on") == 6
    assert " T--- " in printed and " TL" not in printed
