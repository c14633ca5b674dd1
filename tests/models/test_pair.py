"""Which groups may go on where teacher and student cut text into other tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from miniatures import save_model_folder, tiny_tokenizer
from projects import shrunk_settings
from tokenizers import pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.models.meeting import in_brief, lines_of, meetings, warnings_of
from glassbox.models.tokenizers import captures_signals, load_tokenizer, tokens_are_shared

ZEBRAS = ["zebra quilt zebra quilt vexing jumps over hazy lakes"] * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model_folder(tmp_path / "models/teacher", tiny_tokenizer())
    save_model_folder(tmp_path / "models/student", tiny_tokenizer())
    return tmp_path


def settings(folder: Path, *groups: str) -> Settings:
    """The small project's settings with these groups, in this order."""
    every = {
        **shrunk_settings(folder).model_dump()["distill"],
        "seqkd": {"task": 1.0, "labels": "teacher"},
        "alm": {"task": 1.0, "alm": 1.0},
        "aligned_combined": {"task": 1.0, "aligned_logits": 1.0, "aligned_hidden": 1.0, "aligned_attention": 1.0},
    }
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
    assert "The way for such a pair is `-S distill=aligned`" in str(refusal.value)
    assert "`seqkd` among them" in str(refusal.value)


def test_groups_without_signals_go_on_with_another_tokenizer(folder: Path) -> None:
    tiny_tokenizer(ZEBRAS).save_pretrained(folder / "models/student")
    assert not tokens_are_shared(settings(folder, "sft", "seqkd"))


def test_groups_that_align_go_on_with_another_tokenizer_and_something_is_captured_for_them(folder: Path) -> None:
    tiny_tokenizer(ZEBRAS).save_pretrained(folder / "models/student")
    aligning = settings(folder, "sft", "alm", "aligned_combined")
    assert not tokens_are_shared(aligning) and captures_signals(aligning)
    assert not captures_signals(settings(folder, "sft", "seqkd"))
    with pytest.raises(GlassboxError, match="Group 'black_box' compares"):
        captures_signals(settings(folder, "alm", "black_box"))


def test_the_report_says_how_far_two_tokenizers_meet_and_warns_of_numerals(folder: Path) -> None:
    tiny_tokenizer(["It is 12 34 56 12 34 56"] * 9, 290).save_pretrained(folder / "models/student")
    together = tiny_tokenizer(["x"])
    together.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<pad>", "<s>", "</s>"])
    together.backend_tokenizer.train_from_iterator(["12 34 56"] * 9, trainer)
    together.save_pretrained(folder / "models/teacher")
    texts = [("sums", "What is it?", " 12 and 34")] * 3 + [("words", "Is it?", " not at all")]
    found = meetings(settings(folder, "sft", "alm"), texts)
    assert list(found) == ["all", "sums", "words"]
    assert found["words"]["numeral_bytes_one_to_one"] is None
    assert found["sums"]["numeral_bytes_one_to_one"] == 0.0
    assert "0% of sums" in warnings_of(found)[0] and "`alm`" in warnings_of(found)[0]
    assert in_brief(found).startswith("WARNING: two tokenizers, which meet at")
    assert len({len(line) for line in lines_of(found)}) == 1 and len(lines_of(found)) == 4


def with_end(end: str, *, extra: tuple[str, ...] = ("<|im_end|>",)) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(vocabulary=318)
    tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    tokenizer.eos_token = end
    return tokenizer


def test_a_pair_that_differs_in_its_end_alone_is_told_so_and_how_one_tokenizer_serves_both(folder: Path) -> None:
    with_end("<|im_end|>").save_pretrained(folder / "models/teacher")
    with_end("</s>").save_pretrained(folder / "models/student")
    with pytest.raises(GlassboxError) as refusal:
        tokens_are_shared(settings(folder, "sft", "black_box"))
    said = str(refusal.value)
    assert 'the eos differ: ["<|im_end|>", 318] and ["</s>", 2]' in said
    assert f"-S student.tokenizer={folder / 'models/teacher'}" in said
    assert "another text" not in said and "seqkd" not in said
    together = settings(folder, "sft", "black_box")
    student = together.student.model_copy(update={"tokenizer": str(folder / "models/teacher")})
    assert tokens_are_shared(together.model_copy(update={"student": student}))


def test_a_teacher_with_pieces_for_which_the_student_has_no_rows_reads_as_the_student_does(folder: Path) -> None:
    extra = tuple(f"<extra_{number}>" for number in range(4))
    with_end("</s>", extra=extra).save_pretrained(folder / "models/teacher")
    with_end("</s>", extra=()).save_pretrained(folder / "models/student")
    with pytest.raises(GlassboxError, match=r"name a piece in one of them only .*-S teacher\.tokenizer="):
        tokens_are_shared(settings(folder, "black_box"))


def test_a_tokenizer_that_names_a_models_ids_otherwise_is_refused(folder: Path) -> None:
    tiny_tokenizer(ZEBRAS).save_pretrained(folder / "other")
    own = settings(folder, "black_box")
    student = own.student.model_copy(update={"tokenizer": str(folder / "other")})
    with pytest.raises(GlassboxError, match=r"student\.tokenizer is .*other, which gives \d+ ids of .* another piece"):
        tokens_are_shared(own.model_copy(update={"student": student}))


@pytest.mark.real
def test_mistral_is_refused_for_black_box_beside_llama_2_and_goes_on_with_seqkd(tmp_path: Path) -> None:
    root = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent")) / "tokenizers"
    if not root.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    for role, source in (("teacher", "mistral-7b-v0.1"), ("student", "llama2")):
        save_model_folder(tmp_path / "models" / role, load_tokenizer(ModelSettings(model=str(root / source))))
    with pytest.raises(GlassboxError, match="31730 of 32000 ids name another piece") as refusal:
        tokens_are_shared(settings(tmp_path, "black_box"))
    assert "`seqkd`" in str(refusal.value) and "-S distill=aligned" in str(refusal.value)
    assert captures_signals(settings(tmp_path, "sft", "seqkd", "alm", "aligned_combined"))
    assert not tokens_are_shared(settings(tmp_path, "sft", "seqkd"))
