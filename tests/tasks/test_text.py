"""Running text in blocks: which tokens they hold, what is scored in them, and what is refused."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from miniatures import CORPUS, save_model_folder, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, PrepareSettings, Settings, TextSettings
from glassbox.errors import GlassboxError
from glassbox.models.encoding import byte_spans, encode_sample, scored_bytes, text_pieces
from glassbox.tasks.sample import Sample
from glassbox.tasks.sources import load_samples
from glassbox.tasks.text import Cutter, cut

TEXT = " = First = \n\n Café films are never dull , 日本 said Tom .\n\n = = Part = = \n\n 12 apples  and\ttabs .\n"
TEXT += " = Second = \n"
TEXT += " Good films end , and questions like What is 3 + 4 do not end with an answer of 7 but begin with one .\n" * 4


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer([*CORPUS, TEXT], vocabulary=400)


def encoded(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, limit: int = 999) -> tuple[list[int], int]:
    found = encode_sample(tokenizer, prompt, answer, max_length=limit, overflow="truncate")
    return list(found.ids), found.loss_start


def blocks(
    tokenizer: PreTrainedTokenizerFast, text: str, size: int, stride: int | None = None
) -> list[tuple[list[int], int]]:
    return [encoded(tokenizer, *block.as_sample()) for _, block in cut(tokenizer, text, size, stride)]


@pytest.mark.parametrize("size", [5, 8, 13])
def test_blocks_without_a_stride_are_the_stream_cut_at_every_size(
    tokenizer: PreTrainedTokenizerFast, size: int
) -> None:
    found = blocks(tokenizer, TEXT, size)
    stream = [tokenizer.bos_token_id, *text_pieces(tokenizer, TEXT)[0]]
    assert [token for ids, _ in found for token in ids] == stream
    assert all(start == 0 for _, start in found)
    within_a_character = sum(len(ids) < size for ids, _ in found[:-1])
    assert all(len(ids) <= size for ids, _ in found) and within_a_character <= 3


@pytest.mark.parametrize(("size", "stride"), [(8, 7), (13, 6), (16, 4), (16, 15), (8, 1)])
def test_with_a_stride_every_token_is_scored_once_after_its_context(
    tokenizer: PreTrainedTokenizerFast, size: int, stride: int
) -> None:
    found = blocks(tokenizer, TEXT, size, stride)
    stream = [tokenizer.bos_token_id, *text_pieces(tokenizer, TEXT)[0]]
    assert [token for ids, start in found for token in ids[start + 1 :]] == stream[1:]
    assert all(len(ids) <= size for ids, _ in found) and len(found[-1][0]) == size
    where = 0
    for ids, start in found:
        where += len(ids) - 1 - start
        assert ids == stream[where + 1 - len(ids) : where + 1]


def test_bytes_of_all_blocks_are_those_of_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    other = tiny_tokenizer(["another tokenizer altogether"], vocabulary=290)
    for reader in (tokenizer, other):
        total = 0
        for _, block in cut(tokenizer, TEXT, 16, 15):
            prompt, answer = block.as_sample()
            found = encode_sample(reader, prompt, answer, max_length=999, overflow="truncate")
            total += scored_bytes(prompt + answer, found)
            spans = byte_spans(prompt + answer, found)
            assert all(start <= end for start, end in spans.tolist())
        size = len(TEXT.encode())
        assert total == size if reader is tokenizer else abs(total - size) < 0.03 * size


def test_a_block_that_another_tokenizer_cuts_finer_loses_context_and_no_scored_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    _, block = list(cut(tokenizer, TEXT, 16, 8))[2]
    whole, start = encoded(tokenizer, *block.as_sample())
    ids, fewer = encoded(tokenizer, *block.as_sample(), limit=12)
    surplus = len(whole) - 12
    assert surplus > 0 and (ids, fewer) == (whole[surplus:], start - surplus)
    with pytest.raises(GlassboxError, match="Raise snapshot.max_length"):
        encoded(tokenizer, *block.as_sample(), limit=5)


def settings(folder: Path, **text: int) -> PrepareSettings:
    files = {split: str(folder / f"wiki.{split}.tokens") for split in ("train", "validation", "test")}
    task = {"source": "text", "files": files, "text": {"block_size": 16, **text}, "validation": 4, "test": 3}
    return PrepareSettings.model_validate({"seed": 0, "folder": str(folder), "hub": None, "tasks": {"wiki": task}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("wiki")
    save_model_folder(folder / "model", tokenizer, vocabulary=len(tokenizer))
    for split in ("train", "validation"):
        (folder / f"wiki.{split}.tokens").write_text(TEXT, encoding="utf-8")
    (folder / "wiki.test.tokens").symlink_to(folder / "wiki.validation.tokens")
    return folder


def test_files_in_wikitext_layout_become_samples_of_disjoint_splits_with_articles_as_clusters(folder: Path) -> None:
    splits = load_samples(settings(folder), teacher=ModelSettings(model=str(folder / "model")))
    assert [len(splits[split]) for split in ("test", "validation")] == [3, 4]
    every = [sample for samples in splits.values() for sample in samples]
    assert len({sample.identity for sample in every}) == len(every)
    assert {sample.cluster for sample in every} == {"First", "Second"}
    assert all(sample.is_text and not sample.gold and not sample.choices for sample in every)


def test_training_blocks_never_overlap_whatever_the_stride(folder: Path) -> None:
    model = ModelSettings(model=str(folder / "model"))
    cutter = Cutter(TextSettings(block_size=16, stride=4), model)
    train, test = (list(cutter.samples([("", TEXT)], split)) for split in ("train", "test"))
    assert len(test) > 3 * len(train)
    assert all(_scored(first) + _scored(second) in TEXT for first, second in pairwise(train))


def test_with_a_stride_a_text_serves_no_training_and_test_split_at_once(folder: Path) -> None:
    own = settings(folder, stride=8)
    task = own.tasks["wiki"]
    files = task.files.model_copy(update={"test": task.files.train})  # type: ignore[union-attr]
    shared = own.model_copy(update={"tasks": {"wiki": task.model_copy(update={"files": files})}})
    with pytest.raises(GlassboxError, match="train and test both read .* would hold the same text"):
        load_samples(shared, teacher=ModelSettings(model=str(folder / "model")))


def _scored(sample: Sample) -> str:
    return sample.answer.split("\ufdd3")[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prepare": {"tasks": {"sst2": {"text": {"block_size": 8}}}}}, "is no running text"),
        ({"prepare": {"tasks": {"chronicle": {"source": "embedded"}}}}, "into blocks of how many tokens"),
        (
            {"prepare": {"tasks": {"chronicle": {"source": "embedded", "text": {"block_size": 9999}}}}},
            "at most snapshot",
        ),
        (
            {"prepare": {"tasks": {"chronicle": {"source": "embedded", "text": {"block_size": 8, "stride": 8}}}}},
            "would leave tokens out",
        ),
        (
            {
                "prepare": {"tasks": {"chronicle": {"source": "embedded", "text": {"block_size": 8}}}},
                "train": {"labelled": 0.5, "labelled_per_step": 2},
            },
            "every token of which is its own label",
        ),
    ],
)
def test_contradicting_settings_of_text_are_refused(changes: dict[str, object], why: str) -> None:
    import sections
    from projects import merged
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match=why):
        Settings.model_validate(merged(sections.FAITHFUL, changes))


@pytest.mark.real
def test_real_wikitext_is_cut_by_gpt2s_own_tokenizer_as_transformers_examples_cut_it() -> None:
    root = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent"))
    if not root.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real data")
    from transformers import GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast(str(root / "tokenizers/gpt2/vocab.json"), str(root / "tokenizers/gpt2/merges.txt"))
    text = (root / "wikitext2/wiki.valid.tokens").read_text(encoding="utf-8")[:120_000]
    stream = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
    found = blocks(tokenizer, text, 512)
    assert [token for ids, _ in found for token in ids] == stream
    assert found[0][0] == stream[:512] and sum(len(ids) != 512 for ids, _ in found) <= 2
