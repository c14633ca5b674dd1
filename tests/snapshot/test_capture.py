"""Capture: resumed, repeated, and equal to the teacher itself."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from snapshots import make_study

import glassbox.snapshot.capture as capture_module
from glassbox.config.settings import CapturedPositions
from glassbox.errors import GlassboxError
from glassbox.files import publish_folder, require_free_space
from glassbox.models.encoding import encode_sample
from glassbox.models.loading import load_model
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.reader import Snapshot, read_manifest
from glassbox.snapshot.storage import part_rows
from glassbox.tasks.splits import read_split

SIGNALS = frozenset({"hidden", "attention", "topk"})
EVERYWHERE = CapturedPositions(hidden="all", attention="all")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = make_study(tmp_path_factory.mktemp("capture"))
    made.capture()
    return made


def test_what_is_read_is_what_the_teacher_says_of_each_sample_alone(study):
    snapshot = Snapshot(study.folder)
    tokenizer, model = load_tokenizer(study.settings.teacher), load_model(study.settings.teacher)
    model.set_attn_implementation("eager")
    for sample in read_split(study.tasks, "train"):
        encoded = encode_sample(tokenizer, sample.prompt, sample.answer, max_length=256, overflow="refuse")
        batch = snapshot.read([sample.sample_id], SIGNALS)
        assert batch.input_ids[0].tolist() == list(encoded.ids)
        wanted = slice(encoded.loss_start, len(encoded.ids) - 1)
        with torch.no_grad():
            output = model(batch.input_ids, output_attentions=True, output_hidden_states=True)
        assert batch.labels.tolist() == list(encoded.ids[encoded.loss_start + 1 :])
        torch.testing.assert_close(batch.hidden, output.hidden_states[-1][0, wanted], atol=2e-3, rtol=2e-3)
        maps = output.attentions[-1][0, :, wanted].transpose(0, 1)
        torch.testing.assert_close(batch.attention, maps, atol=6e-3, rtol=0)
        logits = output.logits[0, wanted]
        expected = logits.gather(1, batch.topk_ids) - logits.max(1, keepdim=True).values
        torch.testing.assert_close(batch.topk_logits, expected, atol=0.02, rtol=0)


def test_every_training_and_validation_sample_is_there_once_and_no_test_sample(study):
    snapshot = Snapshot(study.folder)
    for split in ("train", "validation"):
        expected = sorted(sample.sample_id for sample in read_split(study.tasks, split))
        assert [info.sample_id for info in snapshot.samples(split)] == expected
    assert snapshot.manifest["rows"] == 24
    assert not study.scratch.exists() or not list(study.scratch.iterdir())


def test_byte_spans_let_any_tokenizer_find_the_answer(study):
    samples = {sample.sample_id: sample for sample in read_split(study.tasks, "train")}
    for _, row in part_rows(study.folder / "part-00000.parquet"):
        if row.split == "train":
            spans = np.frombuffer(row.byte_spans, "<u4").reshape(-1, 2)
            sample = samples[row.sample_id]
            start = spans[row.loss_start + 1][0]
            assert (sample.prompt + sample.answer).encode()[start:].decode() == sample.answer


def test_channels_are_the_moments_of_training_answers(study):
    snapshot = Snapshot(study.folder)
    hidden = snapshot.read([info.sample_id for info in snapshot.samples("train")], frozenset({"hidden"})).hidden
    mean, deviation = snapshot.channels()
    torch.testing.assert_close(mean, hidden.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deviation, hidden.std(0, correction=0), atol=1e-4, rtol=1e-4)


def test_the_same_capture_twice_gives_the_same_digest_and_files(study, tmp_path):
    again = replace(study, folder=tmp_path / "again", scratch=tmp_path / "scratch")
    again.capture()
    assert read_manifest(again.folder) == read_manifest(study.folder)


def test_an_interrupted_capture_goes_on_with_its_finished_parts_to_the_same_digest(tmp_path, monkeypatch):
    study = make_study(tmp_path, samples=60, positions=EVERYWHERE, part_megabytes=1)
    digest = read_manifest(study.capture())["logical_digest"]
    assert len(read_manifest(study.folder)["parts"]) >= 2
    shutil.rmtree(study.folder)
    real, calls = capture_module.read_teacher, []

    def interrupted(teacher, items, audit):
        calls.append(len(items))
        if sum(calls) > 50:
            raise KeyboardInterrupt
        return real(teacher, items, audit)

    monkeypatch.setattr(capture_module, "read_teacher", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.capture()
    assert not study.folder.exists()
    calls.clear()
    monkeypatch.setattr(capture_module, "read_teacher", lambda *given: calls.append(len(given[1])) or real(*given))
    assert read_manifest(study.capture())["logical_digest"] == digest
    assert 0 < sum(calls) < 66


def test_rows_that_cannot_be_made_end_the_capture_and_leave_no_finished_part(tmp_path, monkeypatch):
    study = make_study(tmp_path)
    real, made = capture_module.rows_of, []

    def failing(reading, layout):
        made.append(reading)
        if len(made) == 2:
            raise GlassboxError("the second batch is broken")
        return real(reading, layout)

    monkeypatch.setattr(capture_module, "rows_of", failing)
    with pytest.raises(GlassboxError, match="second batch"):
        study.capture()
    assert len(made) >= 2 and not study.folder.exists()
    assert not list(study.scratch.glob("snapshot-*/*.json"))


def test_a_damaged_finished_part_is_captured_again(tmp_path, monkeypatch):
    study = make_study(tmp_path)
    monkeypatch.setattr(capture_module, "publish_folder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study.capture()
    monkeypatch.undo()
    (part,) = study.scratch.glob("snapshot-*/part-00000.parquet")
    part.write_bytes(part.read_bytes()[:-10])
    study.capture()
    assert Snapshot(study.folder).manifest["rows"] == 24


def test_all_positions_hold_the_answer_positions_in_their_end(study, tmp_path):
    whole = replace(study, folder=tmp_path / "all", scratch=tmp_path / "scratch").with_snapshot(positions=EVERYWHERE)
    whole.capture()
    ids = [info.sample_id for info in Snapshot(study.folder).samples("train")][:5]
    ours, theirs = (Snapshot(folder).read(ids, SIGNALS) for folder in (study.folder, whole.folder))
    assert torch.equal(ours.labels, theirs.labels)
    torch.testing.assert_close(ours.hidden, theirs.hidden, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(ours.attention, theirs.attention, atol=6e-3, rtol=0)


def test_eos_is_captured_where_pad_and_eos_are_one_id(study, tmp_path):
    from miniatures import save_model_folder, tiny_tokenizer

    folder = save_model_folder(tmp_path / "teacher", tiny_tokenizer(pad="</s>"))
    teacher = study.settings.teacher.model_copy(update={"model": str(folder)})
    settings = study.settings.model_copy(update={"teacher": teacher})
    other = replace(study, settings=settings, folder=tmp_path / "snapshot", scratch=tmp_path / "scratch")
    snapshot = Snapshot(other.capture())
    eos = load_tokenizer(teacher).eos_token_id
    for info in snapshot.samples("train"):
        assert snapshot.read([info.sample_id], frozenset()).labels[-1] == eos


def test_shortened_prompts_are_counted_and_answers_stay_whole(study, tmp_path):
    short = replace(study, folder=tmp_path / "short", scratch=tmp_path / "scratch").with_snapshot(max_length=30)
    snapshot = Snapshot(short.capture())
    counts = snapshot.manifest["counts"]["train"]
    assert sum(entry["truncated"] for entry in counts.values()) > 0
    tokenizer = load_tokenizer(study.settings.teacher)
    for sample in read_split(study.tasks, "train"):
        labels = snapshot.read([sample.sample_id], frozenset()).labels
        assert tokenizer.decode(labels[:-1]) == sample.answer


def test_a_limit_beyond_the_teachers_context_is_refused(study, tmp_path):
    with pytest.raises(GlassboxError, match="the teacher reads at most 512 tokens"):
        replace(study, folder=tmp_path / "long").with_snapshot(max_length=600).capture()


def test_hidden_states_that_overflow_half_precision_are_refused_with_the_way_out(study, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "teacher"
    shutil.copytree(study.settings.teacher.model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] * 1e6}, folder / "model.safetensors")
    teacher = study.settings.teacher.model_copy(update={"model": str(folder)})
    loud = replace(study, settings=study.settings.model_copy(update={"teacher": teacher}), folder=tmp_path / "loud")
    with pytest.raises(GlassboxError, match=r"-S snapshot\.hidden_dtype=bfloat16"):
        loud.capture()
    assert Snapshot(loud.with_snapshot(hidden_dtype="bfloat16").capture()).manifest["rows"] == 24


def test_a_full_drive_is_noticed_before_anything_is_written(tmp_path):
    with pytest.raises(GlassboxError, match="GB free"):
        require_free_space(tmp_path, 10**18, "The snapshot")


def test_a_folder_from_another_drive_is_copied_beside_its_target_first(tmp_path, monkeypatch):
    staging, target = tmp_path / "staging", tmp_path / "data" / "snapshot"
    staging.mkdir()
    (staging / "file").write_text("new", encoding="utf-8")
    target.mkdir(parents=True)
    (target / "old").write_text("old", encoding="utf-8")
    real = os.replace

    def refuse_other_drives(source, destination):
        if Path(source) == staging:
            raise OSError(18, "Invalid cross-device link")
        real(source, destination)

    monkeypatch.setattr(os, "replace", refuse_other_drives)
    publish_folder(staging, target)
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in target.parent.iterdir()] == ["snapshot"]
