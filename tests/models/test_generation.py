"""Greedy generation in batches gives what Transformers gives one prompt at a time."""

from __future__ import annotations

import json

import pytest
import torch
from miniatures import tiny_llama, tiny_tokenizer
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from glassbox.errors import DivergedError
from glassbox.models.generation import ends_of, generate_tokens, left_padded, name_end
from glassbox.models.signals import ATTENTION_NAME

VOCABULARY = 320
NEW_TOKENS = 36


def random_prompts(number: int, longest: int = 20, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (number,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def small_gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    return GPT2LMHeadModel._from_config(config, attn_implementation=ATTENTION_NAME).eval()


def small_mistral() -> PreTrainedModel:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.3,
    )
    return MistralForCausalLM._from_config(config, attn_implementation=ATTENTION_NAME).eval()


def generate(model: PreTrainedModel, prompts: list[list[int]], end: int, new: int = NEW_TOKENS) -> list[list[int]]:
    names = [f"toy/test/{row}" for row in range(len(prompts))]
    return generate_tokens(model, prompts, names, vocabulary=VOCABULARY, end=end, max_new_tokens=new)


def transformers_generate(model: PreTrainedModel, prompt: list[int], end: int) -> list[int]:
    ids = torch.tensor([prompt])
    whole = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=end,
        pad_token_id=0,
    )
    new = whole[0, len(prompt) :].tolist()
    return new[: new.index(end)] if end in new else new


def common_token(model: PreTrainedModel, prompts: list[list[int]]) -> int:
    """A token that ends some texts early and others never."""
    texts = generate(model, prompts, end=-1)
    found = {token: sum(token in text for text in texts) for text in texts for token in text}
    return min(found, key=lambda token: abs(found[token] - len(prompts) / 2))


@pytest.mark.parametrize("make", [tiny_llama, small_gpt2, small_mistral])
def test_a_batch_generates_what_transformers_generates_alone(make) -> None:
    model, prompts = make(), random_prompts(10)
    end = common_token(model, prompts)
    texts = generate(model, prompts, end)
    assert texts == [transformers_generate(model, prompt, end) for prompt in prompts]
    lengths = {len(text) for text in texts}
    assert min(lengths) < NEW_TOKENS == max(lengths)


def test_texts_do_not_depend_on_their_batch() -> None:
    model, prompts = tiny_llama(), random_prompts(8)
    end = common_token(model, prompts)
    together = generate(model, prompts, end)
    assert together == [generate(model, [prompt], end)[0] for prompt in prompts]
    assert together == generate(model, prompts[::-1], end)[::-1]


def test_no_more_tokens_than_asked_for_and_none_after_the_end() -> None:
    model, prompts = tiny_llama(), random_prompts(4)
    first = generate(model, prompts, end=-1, new=1)
    assert [len(text) for text in first] == [1, 1, 1, 1]
    assert generate(model, prompts[:1], end=first[0][0]) == [[]]


def test_ids_past_the_vocabulary_are_never_generated() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[300:] *= 100
    texts = generate_tokens(model, random_prompts(4), list("abcd"), vocabulary=300, end=-1, max_new_tokens=8)
    assert max(token for text in texts for token in text) < 300


def test_padding_is_on_the_left_and_masked_by_length_even_where_tokens_are_zero() -> None:
    ids, mask = left_padded([[0, 5, 0], [7]])
    assert ids.tolist() == [[0, 5, 0], [0, 0, 7]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_a_logit_that_is_not_finite_stops_the_generation_and_names_a_sample() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[7, 0] = float("inf")
    with pytest.raises(DivergedError, match="non-finite logits in 3 rows of a batch, among them toy/test/0"):
        generate(model, random_prompts(3), end=2)


def test_every_end_that_the_models_own_configuration_lists_ends_an_answer():
    tokenizer = tiny_tokenizer(vocabulary=319)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = tiny_llama()
    assert ends_of(model, tokenizer) == {tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, turn, 17])
    assert ends_of(model, tokenizer) == {tokenizer.eos_token_id, turn}
    prompts = random_prompts(3)
    free = generate_tokens(model, prompts, list("abc"), vocabulary=300, end=[], max_new_tokens=8)
    ends = {free[0][2], free[1][4]}
    stopped = generate_tokens(model, prompts, list("abc"), vocabulary=300, end=ends, max_new_tokens=8)
    places = [next((at for at, token in enumerate(text) if token in ends), 8) for text in free]
    assert stopped == [text[:place] for text, place in zip(free, places, strict=True)]


def test_a_kept_model_names_the_end_that_it_was_trained_with(tmp_path):
    tokenizer = tiny_tokenizer(vocabulary=319)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    model = tiny_llama()
    name_end(model, tokenizer)
    model.save_pretrained(tmp_path)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / name).read_text(encoding="utf-8"))["eos_token_id"] == tokenizer.eos_token_id
