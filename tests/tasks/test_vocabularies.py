"""The tokenizers of the embedded models, and the student that ships with the second of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniatures import CORPUS

from glassbox.config.settings import ModelSettings
from glassbox.models.tokenizers import load_tokenizer, tokenizer_differences
from glassbox.tasks.miniature.vocabularies import byte_level, metaspace

EMBEDDED = Path(__file__).parents[2] / "data/embedded"
TEXTS = [
    "Question: Is 12 + 30 = 42?\n#### 42",
    "plain words",
    "naïve 中文 \U0001f642",
    " begins with a space",
    "a  b\t\nc",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_from_either(text: str) -> None:
    for tokenizer in (byte_level(CORPUS, 300), metaspace(CORPUS, 340)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() == text.strip()
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids


def test_neither_merges_digits() -> None:
    texts = ["1 + 2 = 3", "4 + 5 = 9", "2 + 2 = 4", "10 + 10 = 20"] * 20
    pieces = metaspace(texts, 300).tokenize("12 + 30 = 42")
    assert "".join(pieces) == "\u258112\u2581+\u258130\u2581=\u258142"
    for each in (pieces, byte_level(texts, 300).get_vocab()):
        assert all(len(piece) == 1 for piece in each if any(sign in "0123456789" for sign in piece))


def test_the_embedded_student_of_the_aligned_study_reads_as_its_code_does() -> None:
    teacher, student = (
        load_tokenizer(ModelSettings(model=str(EMBEDDED / each))) for each in ("teacher", "metaspace_student")
    )
    assert tokenizer_differences(teacher, student)
    assert "\u2581=" in student.get_vocab() and "<0xF0>" in student.get_vocab()
    assert [student.bos_token, student.eos_token] == [teacher.bos_token, teacher.eos_token] == ["<s>", "</s>"]
