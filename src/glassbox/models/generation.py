"""Generation for many prompts at once, greedy or sampled: left-padded, cached, finished rows leave the batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from glassbox.errors import DivergedError
from glassbox.models.loading import head_logits
from glassbox.randomness import generator_for

SHRINK_BELOW = 0.8
GROWTH = 32

# The next token of every row, from its logits, the rows' sample ids and the number of the token
Pick = Callable[[Tensor, Sequence[str], int], Tensor]


def most_likely(logits: Float[Tensor, "rows vocabulary"], sample_ids: Sequence[str], step: int) -> Int[Tensor, " rows"]:
    return logits.argmax(dim=-1)


class Sampler:
    """Draws tokens from softmax(logits / temperature), one uniform number per sample and token.

    The numbers come from `seed` and the sample's id, so that a draw does not depend on what shares the batch.
    """

    def __init__(self, temperature: float, seed: int, max_new_tokens: int) -> None:
        self.temperature, self.seed, self.max_new_tokens = temperature, seed, max_new_tokens
        self._uniform: dict[str, Tensor] = {}

    def __call__(
        self, logits: Float[Tensor, "rows vocabulary"], sample_ids: Sequence[str], step: int
    ) -> Int[Tensor, " rows"]:
        for sample_id in sample_ids:
            if sample_id not in self._uniform:
                generator = generator_for(self.seed, f"answers/{sample_id}")
                self._uniform[sample_id] = torch.rand(self.max_new_tokens, generator=generator, dtype=torch.float64)
        uniform = torch.stack([self._uniform[sample_id][step] for sample_id in sample_ids]).to(logits.device)
        cumulated = torch.softmax(logits.double() / self.temperature, dim=-1).cumsum(dim=-1)
        drawn = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)[:, 0]
        return drawn.clamp(max=logits.shape[-1] - 1)


class GrowingLayer(DynamicLayer):
    """A cache layer with room to spare, so that a new token is written in place and not by copying all before it."""

    room_keys: Tensor
    room_values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if before == 0:
            self.lazy_initialization(key_states, value_states)
        if before == 0 or after > self.room_keys.shape[-2]:
            self.room_keys = self._enlarge(self.keys, key_states, after)
            self.room_values = self._enlarge(self.values, value_states, after)
        self.room_keys[:, :, before:after] = key_states
        self.room_values[:, :, before:after] = value_states
        self.keys, self.values = self.room_keys[:, :, :after], self.room_values[:, :, :after]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self.room_keys, self.room_values = self.room_keys[indices], self.room_values[indices]
        self.keys, self.values = self.room_keys[:, :, :length], self.room_values[:, :, :length]

    @staticmethod
    def _enlarge(held: Tensor | None, new: Tensor, length: int) -> Tensor:
        batch, heads, _, depth = new.shape
        room = new.new_zeros(batch, heads, length + GROWTH, depth)
        if held is not None and held.numel():
            room[:, :, : held.shape[-2]] = held
        return room


# Layers whose cache can be cut to some rows of the batch; others (states of recurrent layers) cannot
ROWS_APART = (GrowingLayer, DynamicLayer, DynamicSlidingWindowLayer)


def growing_cache(model: PreTrainedModel) -> DynamicCache:
    """Transformers' cache for this model, its plain layers (not sliding windows) replaced by growing ones."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_of(model: PreTrainedModel) -> DynamicCache | None:
    """A growing cache, or None for a model that takes none by that name: it reads its whole text for every token."""
    takes_one = "past_key_values" in inspect.signature(model.base_model.forward).parameters
    return growing_cache(model) if takes_one else None


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Ids, zeros on the left, and the mask of real tokens, made from lengths and never from ids."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return ids, torch.arange(length) >= (length - lengths)[:, None]


def require_finite(logits: Float[Tensor, "rows vocabulary"], sample_ids: Sequence[str]) -> None:
    """Raises DivergedError, naming the samples, where a row of logits holds a NaN or an infinity."""
    finite = torch.isfinite(logits).all(dim=-1)
    if not bool(finite.all()):
        affected = [sample_ids[row] for row in torch.nonzero(~finite).flatten().tolist()]
        raise DivergedError(
            f"Evaluation met non-finite logits in {len(affected)} rows of a batch, among them {affected[0]}. "
            "The model's weights have diverged: lower train.learning_rate, or look at the trial's loss curve."
        )


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's, and the special pieces that the model's generation_config lists.

    A configuration that only repeats config.json's default is not the model's own.
    """
    own = model.generation_config
    end: Any = tokenizer.eos_token_id
    listed = getattr(own, "eos_token_id", None)
    if listed is None or getattr(own, "_from_model_config", False):
        listed = []
    added = tokenizer.added_tokens_decoder
    special = [each for each in ([listed] if isinstance(listed, int) else listed) if each in added]
    return frozenset([end, *special])


def name_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make the model's configurations name the end that answers are trained with."""
    model.config.get_text_config().eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    if model.generation_config is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id


@torch.no_grad()
def generate_tokens(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sample_ids: Sequence[str],
    *,
    vocabulary: int,
    end: int | Collection[int],
    max_new_tokens: int,
    pick: Pick = most_likely,
) -> list[list[int]]:
    """A continuation of every prompt, token by token as `pick` says, up to an `end` (left out) or `max_new_tokens`.

    Finished rows leave the batch, except where the cache holds states that cannot be cut to some rows.
    Raises DivergedError at the first non-finite logit.
    """
    device = next(model.parameters()).device
    ends = torch.tensor([end] if isinstance(end, int) else sorted(end), device=device)
    ids, mask = (tensor.to(device) for tensor in left_padded(prompts))
    room = mask.new_ones(len(prompts), max_new_tokens)
    seen, width = torch.cat([mask, room], dim=1), ids.shape[1]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, rows = cache_of(model), list(range(len(prompts)))
    may_shrink = cache is None or all(type(layer) in ROWS_APART for layer in cache.layers)
    alive = mask.new_ones(len(prompts))
    texts: list[list[int]] = [[] for _ in prompts]
    for step in range(max_new_tokens):
        caching: dict[str, Any] = (
            {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
        )
        output = model.base_model(
            input_ids=ids, attention_mask=seen[:, : width + step], position_ids=positions, **caching
        )
        logits = head_logits(model, output.last_hidden_state[:, -1], vocabulary)
        held = [sample_ids[row] for row in rows]
        require_finite(logits, held)
        chosen = pick(logits, held, step)
        alive &= ~torch.isin(chosen, ends)
        for row, token, continues in zip(rows, chosen.tolist(), alive.tolist(), strict=True):
            if continues:
                texts[row].append(token)
        living = int(alive.sum())
        if living == 0:
            break
        following = positions[:, -1:] + 1
        if cache is not None:
            ids, positions = chosen[:, None], following
        else:
            ids, positions = torch.cat([ids, chosen[:, None]], dim=1), torch.cat([positions, following], dim=1)
        if may_shrink and living < SHRINK_BELOW * len(rows):
            kept = torch.nonzero(alive).flatten()
            if cache is not None:
                cache.batch_select_indices(kept)
            ids, positions, seen, alive = ids[kept], positions[kept], seen[kept], alive[kept]
            rows = [rows[index] for index in kept.tolist()]
    return texts
