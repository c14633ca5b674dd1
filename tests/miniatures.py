"""Tiny tokenizers, models and samples for tests: real objects, small enough to make anew each time."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from glassbox.models.signals import ATTENTION_NAME

CORPUS = [
    "Review: a good film, not bad at all\nSentiment: positive",
    "Review: a dull film that never ends\nSentiment: negative",
    "Question: What is 3 + 4?\nA. 5\nB. 6\nC. 7\nD. 8\nAnswer: C",
    "Question: Tom has 12 apples and eats 5. How many are left?\nAnswer: 12 - 5 = 7\n#### 7",
]


def tiny_tokenizer(
    corpus: list[str] | None = None, vocabulary: int = 320, bos: str | None = "<s>", pad: str | None = "<pad>"
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that splits digits, trained on the spot."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = [token for token in (pad, bos, "</s>") if token not in (None, "</s>")] + ["</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus or CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token="</s>", pad_token=pad)


def tiny_llama(
    vocabulary: int = 320, *, width: int = 32, heads: int = 4, key_heads: int = 2, layers: int = 2, seed: int = 0
) -> LlamaForCausalLM:
    """A random Llama with grouped key heads, in evaluation mode, with weights large enough to be far from uniform."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=512,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION_NAME, dtype=torch.float32)
    return model.eval()


def save_model_folder(
    folder: Path, tokenizer: PreTrainedTokenizerFast, max_shard_size: str = "1GB", **shape: int
) -> Path:
    """A model folder as `load_model` and `load_tokenizer` read it."""
    tiny_llama(**shape).save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder
