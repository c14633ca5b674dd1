"""How the embedded teacher of running text was made: the dense one, trained on with articles of the closed world."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, PretrainedTextSettings, TextSettings
from glassbox.models.encoding import encode_sample
from glassbox.tasks.miniature import chronicle
from glassbox.tasks.miniature.pretraining import learning_rate_factor, loss_sum
from glassbox.tasks.text import Cutter

WARMUP = 20


def pretrain(settings: PretrainedTextSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Next-token training on every position of blocks that no study uses."""
    torch.manual_seed(settings.samples_seed)
    model = LlamaForCausalLM.from_pretrained(settings.made_from, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, foreach=True
    )
    blocks = _blocks(settings)
    for step in tqdm(range(settings.steps), desc="text_teacher", disable=None):
        for group in optimizer.param_groups:
            factor = learning_rate_factor(step, settings.steps, settings.decay, WARMUP)
            group["lr"] = settings.learning_rate * factor
        batch = list(itertools.islice(blocks, settings.batch_size))
        length = max(map(len, batch))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in batch])
        targets = torch.arange(length) < torch.tensor([len(row) for row in batch])[:, None]
        loss = loss_sum(model, ids, targets) / targets[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step == 0 or (step + 1) % 50 == 0:
            print(f"text_teacher: step {step + 1} of {settings.steps}, loss {loss.item():.4f}", flush=True)
    return model


def _blocks(settings: PretrainedTextSettings) -> Iterator[list[int]]:
    """Token ids of blocks of the pretraining bucket, without end."""
    cutter = Cutter(TextSettings(block_size=settings.block_size), ModelSettings(model=settings.made_from))
    named = (
        (str(number), text) for number, text in enumerate(chronicle.articles("pretraining", settings.samples_seed))
    )
    for sample in cutter.samples(named, "train"):
        encoded = encode_sample(
            cutter.tokenizer, sample.prompt, sample.answer, max_length=settings.block_size, overflow="refuse"
        )
        yield list(encoded.ids)
