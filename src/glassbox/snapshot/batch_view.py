"""A sample of the snapshot as lines of text: what stands where, what is trained, and what the teacher would say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from glassbox.snapshot.reader import Batch, Snapshot

CHOICES = 3
PROMPT_TOKENS = 4


def teacher_choices(
    snapshot: Snapshot, sample_ids: Sequence[str], count: int = CHOICES
) -> tuple[Batch, Int[Tensor, "positions count"], Float[Tensor, "positions count"]]:
    """The batch of these samples, and at every answer position the teacher's likeliest ids with probabilities (T = 1).

    From stored top-k logits and their tail where T = 1 was captured, else from hidden states and the output layer.
    """
    if "topk" in snapshot.manifest["signals"] and 1.0 in snapshot.temperatures:
        batch = snapshot.read(sample_ids, frozenset({"topk"}))
        assert batch.topk_ids is not None and batch.topk_logits is not None and batch.log_tail is not None
        tail = batch.log_tail[:, snapshot.temperatures.index(1.0)]
        mass = torch.logaddexp(torch.logsumexp(batch.topk_logits, 1), tail)
        return batch, batch.topk_ids[:, :count], (batch.topk_logits[:, :count] - mass[:, None]).exp()
    batch = snapshot.read(sample_ids, frozenset({"hidden"}))
    assert batch.hidden is not None
    logits = torch.nn.functional.linear(batch.hidden, *snapshot.head())
    likeliest = torch.softmax(logits, 1).topk(min(count, logits.shape[1]), dim=1)
    return batch, likeliest.indices, likeliest.values


def lines_of(
    tokenizer: PreTrainedTokenizerFast,
    batch: Batch,
    row: int,
    ids: Int[Tensor, "positions count"],
    probabilities: Float[Tensor, "positions count"],
    *,
    width: int,
    whole: bool,
) -> list[str]:
    """One sample, a line for each token, none wider than `width`; of the prompt its last tokens, or with `whole` all.

    `trained` marks positions that carry loss, `learns` is the token that such a position is trained to predict: the
    next one.
    """
    tokens = batch.input_ids[row, : int(batch.attention_mask[row].sum())].tolist()
    first, count = int(batch.first[row]), int(batch.count[row])
    mine = (batch.sample_index == row).nonzero().flatten().tolist()
    packed = dict(zip(range(first, first + count), mine, strict=True))
    start = 0 if whole else max(0, first + 1 - PROMPT_TOKENS)
    shown = [_shown(tokenizer, token) for token in tokens]
    wide = max(len("token"), *(len(text) for text in shown[start:]))
    lines = [
        f"{batch.sample_ids[row]}: {len(tokens)} tokens, {first + 1} of them prompt, {count} positions trained, "
        f"{batch.input_ids.shape[1] - len(tokens)} of padding",
        f"{'at':>4}  {'token':<{wide}}  part    trained  {'learns':<{wide}}  the teacher's choices",
    ]
    lines += [f"{'':>4}  ({start} tokens of the prompt before)"] if start else []
    for at in range(start, len(tokens)):
        ends = at == len(tokens) - 1 and tokens[at] == tokenizer.eos_token_id
        part = "end" if ends else "prompt" if at <= first else "answer"
        learns = choices = ""
        if at in packed:
            learns = _shown(tokenizer, int(batch.labels[packed[at]]))
            pairs = zip(ids[packed[at]].tolist(), probabilities[packed[at]].tolist(), strict=True)
            choices = "  ".join(f"{_shown(tokenizer, token)} {probability:.2f}" for token, probability in pairs)
        mark = "x" if at in packed else "-"
        lines.append(f"{at:>4}  {shown[at]:<{wide}}  {part:<6}  {mark:<7}  {learns:<{wide}}  {choices}".rstrip())
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _shown(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    return repr(tokenizer.decode([token]))
