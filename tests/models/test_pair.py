"""Which groups may go on where teacher and student cut text into other tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from miniatures import save_model_folder, tiny_tokenizer
from projects import shrunk_settings

from glassbox.config.settings import ModelSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.models.tokenizers import load_tokenizer, tokens_are_shared

ZEBRAS = ["zebra quilt zebra quilt vexing jumps over hazy lakes"] * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model_folder(tmp_path / "models/teacher", tiny_tokenizer())
    save_model_folder(tmp_path / "models/student", tiny_tokenizer())
    return tmp_path


def settings(folder: Path, *groups: str) -> Settings:
    """The small project's settings with these groups, in this order."""
    every = {**shrunk_settings(folder).model_dump()["distill"], "seqkd": {"task": 1.0, "labels": "teacher"}}
    values = shrunk_settings(folder).model_dump(mode="json")
    return Settings.model_validate({**values, "groups": groups, "distill": {group: every[group] for group in groups}})


def test_a_pair_with_one_tokenizer_shares_its_tokens_whatever_the_groups(folder: Path) -> None:
    assert tokens_are_shared(settings(folder, "sft", "combined", "seqkd"))


@pytest.mark.parametrize("group", ["black_box", "hidden_state", "attention", "combined"])
def test_a_group_of_signals_is_refused_for_another_tokenizer_and_told_the_way(folder: Path, group: str) -> None:
    tiny_tokenizer(ZEBRAS).save_pretrained(folder / "models/student")
    with pytest.raises(GlassboxError, match=f"Group '{group}' compares teacher and student token by token") as refusal:
        tokens_are_shared(settings(folder, "sft", "seqkd", group))
    assert "ids name another piece" in str(refusal.value)
    assert "The way for such a pair is `seqkd`" in str(refusal.value)


def test_groups_without_signals_go_on_with_another_tokenizer(folder: Path) -> None:
    tiny_tokenizer(ZEBRAS).save_pretrained(folder / "models/student")
    assert not tokens_are_shared(settings(folder, "sft", "seqkd"))


@pytest.mark.real
def test_mistral_is_refused_for_black_box_beside_llama_2_and_goes_on_with_seqkd(tmp_path: Path) -> None:
    root = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent")) / "tokenizers"
    if not root.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    for role, source in (("teacher", "mistral-7b-v0.1"), ("student", "llama2")):
        save_model_folder(tmp_path / "models" / role, load_tokenizer(ModelSettings(model=str(root / source))))
    with pytest.raises(GlassboxError, match="31730 of 32000 ids name another piece") as refusal:
        tokens_are_shared(settings(tmp_path, "black_box"))
    assert "`seqkd`" in str(refusal.value)
    assert not tokens_are_shared(settings(tmp_path, "sft", "seqkd"))
