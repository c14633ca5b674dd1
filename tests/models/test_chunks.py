"""Where two tokenizations of one text meet."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from miniatures import CORPUS, tiny_tokenizer
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings
from glassbox.models.chunks import END, align, boundaries, chunk_of_token
from glassbox.models.encoding import byte_spans, encode_sample
from glassbox.models.meeting import Meeting
from glassbox.models.pieces import END_OF_TEXT, SPECIAL, piece_texts
from glassbox.models.tokenizers import load_tokenizer
from glassbox.tasks.miniature.vocabularies import metaspace

TEXTS = [
    ("Question: What is 3 + 4?\nAnswer:", " B"),
    ("Tom has 12 apples, 中文 and \U0001f469\u200d\U0001f680. ", "Answer: 12 - 5 = 7\n#### 7"),
    ("a", "b"),
    ("Two  spaces,\ttab\n\n", " naïve e\u0301 Å ½ …  "),
    ("<s>spelled</s> <0x0A>", " </s> \u2581 <unk>"),
    (" ", "from nothing"),
    (" begins with a space", "goes on without"),
    ("no answer at all", ""),
    ("\U0001f642", "\U0001f642\U0001f642"),
]


@pytest.fixture(scope="module")
def pair() -> dict[str, PreTrainedTokenizerFast]:
    return {
        "bytes": tiny_tokenizer(),
        "few bytes": tiny_tokenizer(["zebra quilt apples"], 270, bos=None),
        "metaspace": metaspace(CORPUS, 340),
    }


def spans_of(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, **options) -> tuple[np.ndarray, tuple]:
    encoded = encode_sample(
        tokenizer, prompt, answer, max_length=4096, overflow="truncate", may_be_empty=True, **options
    )
    return byte_spans(prompt + answer, encoded), encoded.ids


def naive_boundaries(spans: np.ndarray) -> dict[int, int]:
    """Every byte that tokens on its left end before, and tokens on its right begin behind."""
    found: dict[int, int] = {}
    for token in range(1, len(spans)):
        left, right = spans[:token, 1].max(), spans[token:, 0].min()
        if left <= right:
            found.setdefault(int(right if left == 0 else left), token)
    return found | {END: len(spans)}


@pytest.mark.parametrize(("prompt", "answer"), TEXTS)
def test_a_chunk_says_the_same_bytes_in_both_tokenizations(pair, prompt: str, answer: str) -> None:
    text = (prompt + answer).encode()
    for mine in pair.values():
        for other in pair.values():
            (student, student_ids), (teacher, teacher_ids) = (spans_of(each, prompt, answer) for each in (mine, other))
            chunks = align(student, teacher)
            assert boundaries(student)[0].tolist() == sorted(naive_boundaries(student))
            said = []
            for tokenizer, ids, first in ((mine, student_ids, chunks.student), (other, teacher_ids, chunks.teacher)):
                pieces = piece_texts(tokenizer, len(tokenizer))
                spoken = ["".join(pieces[token] for token in ids[a:b]) for a, b in zip(first, first[1:], strict=False)]
                assert first[-1] == len(ids)
                assert spoken[-1] == END_OF_TEXT
                said.append([each.encode("latin-1") for each in spoken[:-1] if not each.startswith(SPECIAL)])
            # a prefix that the text does not have, and what an answer that was cut by itself begins with
            plain = [[each.lstrip() for each in found] for found in said]
            assert plain[0][-3:] == plain[1][-3:]
            if len(chunks) > 4:
                assert text.rstrip().endswith(b"".join(said[0][-2:]).rstrip())


def test_equal_tokenizations_give_the_identity(pair) -> None:
    for tokenizer in pair.values():
        for prompt, answer in TEXTS:
            spans, ids = spans_of(tokenizer, prompt, answer)
            chunks = align(spans, spans)
            assert np.array_equal(chunks.student, chunks.teacher)
            if (prompt + answer).isascii():
                begins = 1 if spans[0].tolist() == [0, 0] else None
                assert chunks.student.tolist() == list(range(begins or int(chunks.student[0]), len(ids) + 1))


def test_random_spans_meet_where_the_definition_says() -> None:
    draw = random.Random(0)
    for _ in range(300):
        size = draw.randrange(2, 14)
        spans = []
        for _ in range(2):
            cuts = sorted(draw.sample(range(1, size), draw.randrange(0, size)))
            tokens = list(zip([0, *cuts], [*cuts, size], strict=True))
            if draw.random() < 0.3:  # a character of several tokens, all of which cover it
                at = draw.randrange(len(tokens))
                tokens[at : at + 1] = [tokens[at]] * draw.randrange(2, 4)
            if draw.random() < 0.3:  # a space that no token covers
                start, end = tokens[-1]
                tokens[-1] = (min(start + 1, end), end)
            spans.append(np.array([(0, 0), *tokens, (size, size)]))
        chunks = align(*spans)
        naive = [naive_boundaries(each) for each in spans]
        common = sorted(set(naive[0]) & set(naive[1]))
        assert chunks.student.tolist() == [naive[0][byte] for byte in common]
        assert chunks.teacher.tolist() == [naive[1][byte] for byte in common]


def test_a_chunk_is_as_small_as_both_allow_and_special_tokens_stand_alone() -> None:
    #             bos     a       bc      d (a character of two tokens)   eos
    student = [[0, 0], [0, 1], [1, 3], [3, 5], [3, 5], [5, 5]]
    teacher = [[0, 0], [0, 2], [2, 3], [3, 5], [5, 5]]
    chunks = align(np.array(student), np.array(teacher))
    assert chunks.student.tolist() == [1, 3, 5, 6]  # "abc", "d", eos
    assert chunks.teacher.tolist() == [1, 3, 4, 5]
    assert chunk_of_token(chunks.student, 6).tolist() == [0, 1, 1, 2, 2, 3]


def test_a_prompt_that_lost_its_start_meets_again_behind_the_cut() -> None:
    cut = np.array([[0, 0], [50, 53], [53, 60], [60, 60]])
    other = np.array([[0, 0], [48, 53], [53, 60], [60, 60]])
    assert align(cut, other).student.tolist() == [2, 3, 4]


def test_the_report_counts_numerals_that_are_cut_alike() -> None:
    text = b"x: 12 7"
    student = np.array([[0, 0], [0, 2], [2, 5], [5, 7], [7, 7]])  # "x:", " 12", " 7"
    teacher = np.array([[0, 0], [0, 2], [2, 3], [3, 4], [4, 5], [5, 7], [7, 7]])  # "x:", " ", "1", "2", " 7"
    meeting = Meeting()
    meeting.add(text, student, teacher, 2)
    facts = meeting.facts()
    assert facts["numeral_bytes_one_to_one"] == 1 / 3
    assert facts["bytes_one_to_one"] == 2 / 5
    assert facts["common_boundaries"] == 1 / 3  # byte 5 of 3, 4 and 5
    assert (facts["chunks"], facts["longest_chunk_bytes"], facts["bytes_per_chunk"]) == (2, 3, 2.5)
    assert (facts["student_tokens_per_chunk"], facts["teacher_tokens_per_chunk"]) == (1.0, 2.0)
    assert Meeting().facts()["bytes_one_to_one"] is None


def real(name: str) -> PreTrainedTokenizerFast:
    root = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent")) / "tokenizers" / name
    if not root.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    if name == "gpt2":
        return GPT2TokenizerFast(str(root / "vocab.json"), str(root / "merges.txt"))
    return load_tokenizer(ModelSettings(model=str(root)))


@pytest.mark.real
@pytest.mark.slow
def test_real_tokenizers_meet_on_real_questions() -> None:
    tokenizers = {name: real(name) for name in ("mistral-7b-v0.1", "llama2", "gpt2")}
    pieces = {name: piece_texts(tokenizer, len(tokenizer)) for name, tokenizer in tokenizers.items()}
    lines = (Path(os.environ["GLASSBOX_REAL_DATA"]) / "gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:150]]
    found = {}
    for mine, other in (("llama2", "mistral-7b-v0.1"), ("gpt2", "llama2"), ("llama2", "llama2")):
        meeting = Meeting()
        for row in rows:
            prompt, answer = f"Question: {row['question']}\nAnswer:", f" {row['answer']}"
            text = (prompt + answer).encode()
            (student, own_ids), (teacher, other_ids) = (spans_of(tokenizers[n], prompt, answer) for n in (mine, other))
            chunks = align(student, teacher)
            said = [
                ["".join(pieces[name][token] for token in ids[a:b]) for a, b in zip(first, first[1:], strict=False)]
                for name, ids, first in ((mine, own_ids, chunks.student), (other, other_ids, chunks.teacher))
            ]
            assert [each.lstrip() for each in said[0]] == [each.lstrip() for each in said[1]]
            assert said[0][1:] == said[1][1:]
            meeting.add(text, student, teacher, len(prompt.encode()))
        found[mine, other] = meeting.facts()
    assert found["llama2", "llama2"]["common_boundaries"] == 1.0
    assert found["llama2", "mistral-7b-v0.1"]["numeral_bytes_one_to_one"] == 1.0
    assert found["gpt2", "llama2"]["numeral_bytes_one_to_one"] < 0.6
    assert all(facts["common_boundaries"] > 0.6 for facts in found.values())
