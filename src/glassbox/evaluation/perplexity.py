"""Running text by the likelihood of its tokens: log-likelihoods of blocks, perplexity, bits per byte.

perplexity = exp(-sum of log-likelihoods / predicted tokens)
bits per byte = -sum of log-likelihoods / (bytes x log 2), which texts cut by other tokenizers have in common
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from glassbox.errors import DivergedError
from glassbox.models.encoding import Encoded
from glassbox.models.generation import require_finite
from glassbox.models.loading import head_logits
from glassbox.models.signals import packed_positions, position_signals

LOGITS_AT_ONCE = 1 << 26
LARGEST = math.log(1e300)  # nats per token past which a perplexity is no number that can be stored


@dataclass(frozen=True)
class TextScore:
    """nats: the mean negative log-likelihood per predicted token, weighted by token and not by block."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats)

    @property
    def bits_per_byte(self) -> float:
        return self.nats * self.tokens / (self.bytes * math.log(2))


def pooled(blocks: Sequence[tuple[float, int, int]]) -> TextScore:
    """The score of blocks of (log-likelihood, tokens, bytes). Raises DivergedError where it is not finite."""
    tokens = sum(count for _, count, _ in blocks)
    nats = -math.fsum(log_likelihood for log_likelihood, _, _ in blocks) / tokens
    if not math.isfinite(nats) or nats > LARGEST:
        raise DivergedError(
            f"The perplexity of {len(blocks)} blocks of text is not finite ({nats:g} nats per token). The model's "
            "weights have diverged: lower train.learning_rate, or look at the trial's loss curve."
        )
    return TextScore(nats, tokens, sum(count for _, _, count in blocks))


def score_texts(
    model: PreTrainedModel,
    vocabulary: int,
    encoded: Sequence[Encoded],
    sample_ids: Sequence[str],
    batches: Iterable[Sequence[int]],
) -> list[float]:
    """The log-likelihood of every block's predicted tokens, in nats; `batches` are indices of blocks.

    The output layer is applied to some positions at a time. Raises DivergedError at a logit that is not finite.
    """
    found = [math.nan] * len(encoded)
    device = next(model.parameters()).device
    for batch in batches:
        blocks = [encoded[index] for index in batch]
        width = max(len(block.ids) for block in blocks)
        ids = torch.tensor([(*block.ids, *[0] * (width - len(block.ids))) for block in blocks])
        mask = torch.arange(width) < torch.tensor([len(block.ids) for block in blocks])[:, None]
        first = torch.tensor([block.loss_start for block in blocks])
        count = torch.tensor([len(block.ids) - 1 - block.loss_start for block in blocks])
        signals = position_signals(
            model, ids.to(device), mask.to(device), first.to(device), count.to(device), want_attention=False
        )
        rows, columns = packed_positions(first, count)
        labels = ids[rows, columns + 1].to(device)
        sums = torch.zeros(len(batch), dtype=torch.float64)
        chunk = max(1, LOGITS_AT_ONCE // vocabulary)
        for start in range(0, len(rows), chunk):
            here = slice(start, start + chunk)
            logits = head_logits(model, signals.hidden[here], vocabulary)
            require_finite(logits, [sample_ids[batch[int(row)]] for row in rows[here]])
            likely = torch.log_softmax(logits, dim=-1).gather(1, labels[here, None])[:, 0]
            sums.index_add_(0, rows[here], likely.double().cpu())
        for index, total in zip(batch, sums.tolist(), strict=True):
            found[index] = total
    return found
