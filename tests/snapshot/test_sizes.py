"""A sample whose attention rows no cell can hold is named before anything is captured, with what helps."""

from pathlib import Path

import pytest
from miniatures import tiny_tokenizer
from snapshots import make_study
from transformers import BloomConfig, BloomForCausalLM

import glassbox.snapshot.sizes as sizes
from glassbox.config.settings import CapturedPositions, load_settings
from glassbox.errors import GlassboxError
from glassbox.snapshot.reader import Snapshot
from glassbox.snapshot.sizes import refused_cells
from glassbox.snapshot.verify import verify

EVERYWHERE = CapturedPositions(hidden="all", attention="all")


def test_a_sample_past_two_gigabytes_is_named_with_the_settings_that_help():
    snapshot = load_settings(Path(__file__).parents[2] / "params.yaml").snapshot
    wide = snapshot.model_copy(update={"attention_codec": "float16", "positions": EVERYWHERE, "max_length": 8192})
    samples = [("t/train/short", 100, 50), ("t/train/long", 8300, 8299)]
    (sentence,) = refused_cells(samples, 32, wide)
    assert "t/train/long (8300 tokens, 8299 captured positions, 32 heads) take 2.20 GB" in sentence
    for setting in ("attention_codec=sqrt_uint8", "positions.attention=answer", "max_length under 8192"):
        assert setting in sentence
    assert refused_cells(samples, 32, wide.model_copy(update={"attention_codec": "sqrt_uint8"})) == []


def test_capture_refuses_it_before_the_first_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "CELL_BYTES", 100)
    study = make_study(tmp_path)
    with pytest.raises(GlassboxError, match=r"The attention rows of \S+ .* samples are too large"):
        study.capture()
    assert not list(study.scratch.rglob("*.parquet"))


def test_a_teacher_without_maps_is_captured_without_them_for_groups_that_need_none(tmp_path):
    study = make_study(tmp_path)
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.15)
    BloomForCausalLM(config).save_pretrained(study.settings.teacher.model)
    tiny_tokenizer().save_pretrained(study.settings.teacher.model)
    with pytest.raises(GlassboxError, match="BloomForCausalLM .* gives no attention map, and .*attention"):
        study.capture()
    black_box = {"distill": {"black_box": study.settings.distill["black_box"]}}
    plain = study.settings.model_copy(update=black_box | {"groups": ("black_box",)})
    study = type(study)(plain, study.tasks, study.scratch, study.folder)
    study.capture()
    snapshot = Snapshot(study.folder)
    assert snapshot.manifest["signals"] == ["hidden", "label_logp", "topk"]
    ids = [info.sample_id for info in snapshot.samples("train")][:4]
    assert snapshot.read(ids, frozenset({"hidden", "topk"})).hidden is not None
    with pytest.raises(GlassboxError, match="no attention"):
        snapshot.read(ids, frozenset({"attention"}))
    assert verify(study.settings, study.folder, study.tasks)["recapture"]["same_bits"] == 24
