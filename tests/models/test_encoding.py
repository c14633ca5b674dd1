"""Tokenization of prompt and answer: prefixes, limits, masks and byte spans."""

import hashlib
import os
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from miniatures import CORPUS, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.models.encoding import byte_spans, decode_answer, encode_prompt, encode_sample, input_digest
from glassbox.models.marks import RENDERED
from glassbox.models.tokenizers import load_tokenizer

PROMPT, ANSWER = "Review: a good film\nSentiment:", " positive"


def encode(tokenizer, prompt=PROMPT, answer=ANSWER, max_length=512, overflow="truncate"):
    return encode_sample(tokenizer, prompt, answer, max_length=max_length, overflow=overflow)


def test_a_sample_is_bos_then_the_prompt_as_at_evaluation_then_answer_and_eos():
    tokenizer = tiny_tokenizer()
    encoded = encode(tokenizer)
    prompt_ids = encode_prompt(tokenizer, PROMPT)
    assert prompt_ids[0] == tokenizer.bos_token_id
    assert list(encoded.ids[: len(prompt_ids)]) == prompt_ids
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert encoded.loss_start == len(prompt_ids) - 1
    assert tokenizer.decode(encoded.ids[encoded.loss_start + 1 : -1]) == ANSWER
    assert not encoded.retokenised and not encoded.truncated


def test_a_tokenizer_without_bos_begins_with_the_prompt():
    encoded = encode(tiny_tokenizer(bos=None))
    assert tiny_tokenizer(bos=None).decode(encoded.ids[:-1]) == PROMPT + ANSWER


def test_eos_is_predicted_where_pad_and_eos_are_one_id():
    tokenizer = tiny_tokenizer(pad="</s>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    encoded = encode(tokenizer)
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert len(encoded.ids) - 1 - encoded.loss_start >= 2


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Merges 'a' and 'b' into one piece, so that a prompt that ends in 'a' changes before an answer 'b'."""
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "</s>": 3}, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def test_where_the_prefix_changes_the_answer_is_tokenized_by_itself():
    encoded = encode(merging_tokenizer(), "ba", "b")
    assert encoded.ids == (1, 0, 1, 3)
    assert encoded.retokenised


def test_over_the_limit_the_prompt_loses_its_start_after_bos_and_the_answer_nothing():
    tokenizer = tiny_tokenizer()
    whole = encode(tokenizer)
    cut = encode(tokenizer, max_length=len(whole.ids) - 3)
    assert cut.truncated
    assert cut.ids == (whole.ids[0], *whole.ids[4:])
    assert cut.ids[cut.loss_start + 1 :] == whole.ids[whole.loss_start + 1 :]
    assert encode_prompt(tokenizer, PROMPT, max_tokens=5) == [whole.ids[0], *encode_prompt(tokenizer, PROMPT)[-4:]]


def test_a_setting_refuses_long_samples_and_says_the_length_that_would_do():
    with pytest.raises(GlassboxError, match=r"snapshot\.overflow is 'refuse'"):
        encode(tiny_tokenizer(), max_length=8, overflow="refuse")


def test_an_answer_longer_than_the_limit_is_refused_not_cut():
    with pytest.raises(GlassboxError, match="an answer is never cut"):
        encode(tiny_tokenizer(), answer=" 1 2 3 4 5 6 7", max_length=6)


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(GlassboxError, match="answer without tokens"):
        encode(merging_tokenizer(), "b", " ")


def test_a_prompt_without_an_answer_is_text_of_which_every_position_counts():
    tokenizer = tiny_tokenizer()
    encoded = encode(tokenizer, answer="")
    assert list(encoded.ids) == encode_prompt(tokenizer, PROMPT)
    assert encoded.loss_start == 0
    assert byte_spans(PROMPT, encoded)[-1].tolist()[1] == len(PROMPT.encode())
    with pytest.raises(GlassboxError, match="one token and no answer"):
        encode(merging_tokenizer(), "b", "")


def test_a_text_that_spells_a_special_piece_stays_text():
    tokenizer = tiny_tokenizer()
    encoded = encode(tokenizer, "Close the tag of <s>text", " </s>")
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert not special & set(encoded.ids[1:-1])
    assert decode_answer(tokenizer, encoded.ids[encoded.loss_start + 1 : -1]) == " </s>"
    spans = byte_spans("Close the tag of <s>text </s>", encoded).tolist()
    assert all(before[1] == after[0] for before, after in pairwise(spans))


def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(vocabulary=316)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    return tokenizer


@pytest.mark.parametrize("beginning", ["", "<s>"])
def test_special_pieces_that_a_chat_template_wrote_are_meant(beginning):
    tokenizer, text = chat_tokenizer(), f"{beginning}<|start|>user\nIs 4 even?<|end|><|start|>assistant\n"
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encode_prompt(tokenizer, RENDERED + text) == expected
    encoded = encode(tokenizer, RENDERED + text, "no </s> is")
    assert list(encoded.ids[: len(expected)]) == expected
    assert tokenizer.eos_token_id not in encoded.ids[encoded.loss_start + 1 : -1]
    data = (RENDERED + text + "no </s> is").encode()
    start, end = byte_spans(data.decode(), encoded).tolist()[encoded.loss_start + 1]
    assert data[start:end].decode().startswith("n")
    cut = encode(tokenizer, RENDERED + text, "no", max_length=12)
    assert len(cut.ids) == 12 and (cut.ids[0] == tokenizer.bos_token_id) == bool(beginning)


@pytest.mark.parametrize("text", [*CORPUS, "café 中文 🙂 done"])
def test_byte_spans_cover_the_text_in_order(text):
    tokenizer = tiny_tokenizer()
    encoded = encode(tokenizer, text, ANSWER)
    spans = [tuple(span) for span in byte_spans(text + ANSWER, encoded).tolist()]
    data = (text + ANSWER).encode()
    assert len(spans) == len(encoded.ids)
    assert spans[0] == (0, 0) and spans[-1] == (len(data), len(data))
    covered = set().union(*(range(start, end) for start, end in spans))
    assert covered == set(range(len(data)))
    assert data[slice(*spans[encoded.loss_start + 1])].decode().startswith(" ")


def test_byte_spans_of_a_cut_prompt_are_those_of_the_kept_tokens():
    tokenizer = tiny_tokenizer()
    whole = encode(tokenizer)
    cut = encode(tokenizer, max_length=len(whole.ids) - 3)
    assert byte_spans(PROMPT + ANSWER, cut)[1:].tolist() == byte_spans(PROMPT + ANSWER, whole)[4:].tolist()


def test_the_input_digest_is_the_documented_one():
    by_hand = struct.pack("<I4i4B", 4, 1, 7, 8, 2, 0, 0, 1, 1)
    assert input_digest([1, 7, 8, 2], 1) == hashlib.sha256(by_hand).digest()
    assert input_digest([1, 7, 8, 2], 1) != input_digest([1, 7, 8, 2], 2)


def real_tokenizer(name: str) -> PreTrainedTokenizerFast:
    root = os.environ.get("GLASSBOX_REAL_DATA")
    if not root:
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    folder = Path(root) / "tokenizers" / name
    if name == "gpt2":
        return GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return load_tokenizer(ModelSettings(model=str(folder)))


@pytest.mark.real
@pytest.mark.parametrize("name", ["llama2", "mistral-7b-v0.1", "gpt2"])
@pytest.mark.parametrize(
    "answer",
    [
        " </s>",
        " </s> ends it",
        " a<unk>b",
        " <s>",
        " <|endoftext|> end",
        " x ,b . n't",
        " café 🙂 e\u0301 中",
        " \xa0x",
    ],
)
def test_real_tokenizers_give_an_answer_back_that_spells_their_special_pieces(name, answer):
    tokenizer = real_tokenizer(name)
    encoded = encode(tokenizer, "Close the tag of <s>text", answer)
    inner = encoded.ids[encoded.loss_start + 1 : -1]
    assert decode_answer(tokenizer, inner).strip() == answer.strip()
    assert not set(tokenizer.all_special_ids) & set(inner)


@pytest.mark.real
def test_llama_2_encodes_the_quick_brown_fox_as_published():
    tokenizer = real_tokenizer("llama2")
    assert encode_prompt(tokenizer, "The quick brown fox") == [1, 450, 4996, 17354, 1701, 29916]
    encoded = encode(tokenizer)
    assert tokenizer.decode(encoded.ids[encoded.loss_start + 1 : -1]).strip() == "positive"
