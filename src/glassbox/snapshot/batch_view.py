"""A sample of the snapshot as lines of text: what stands where, what counts there, and what the teacher would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from glassbox.config.components import COMPONENTS
from glassbox.snapshot.reader import Batch, Snapshot

CHOICES = 3
PROMPT_TOKENS = 4
OUTLINE = ("task", "logits", "hidden", "attention")
LETTERS = {name: component.letter for name, component in COMPONENTS.items()}


def teacher_choices(
    snapshot: Snapshot, sample_ids: Sequence[str], count: int = CHOICES, *, everywhere: bool = False
) -> tuple[Batch, Int[Tensor, "rows count"], Float[Tensor, "rows count"]]:
    """The batch of these samples, and at its positions the teacher's likeliest ids with probabilities (T = 1).

    `everywhere`: the batch holds all positions and not the answers' alone; the choices do where they were captured.
    From stored top-k logits and their tail where T = 1 was captured, else from hidden states and the output layer.
    """
    has_topk = "topk" in snapshot.manifest["signals"] and 1.0 in snapshot.temperatures
    signal = "topk" if has_topk else "hidden"
    wanted = ("tokens", signal) if snapshot.format.positions == "all" else ("tokens",)
    batch = snapshot.read(sample_ids, frozenset({signal}), whole=frozenset(wanted if everywhere else ()))
    if has_topk:
        assert batch.topk_ids is not None and batch.topk_logits is not None and batch.log_tail is not None
        tail = batch.log_tail[:, snapshot.temperatures.index(1.0)]
        mass = torch.logaddexp(torch.logsumexp(batch.topk_logits, 1), tail)
        return batch, batch.topk_ids[:, :count], (batch.topk_logits[:, :count] - mass[:, None]).exp()
    assert batch.hidden is not None
    logits = torch.nn.functional.linear(batch.hidden, *snapshot.head())
    likeliest = torch.softmax(logits, 1).topk(min(count, logits.shape[1]), dim=1)
    return batch, likeliest.indices, likeliest.values


def lines_of(
    tokenizer: PreTrainedTokenizerFast,
    batch: Batch,
    row: int,
    ids: Int[Tensor, "rows count"],
    probabilities: Float[Tensor, "rows count"],
    positions: Mapping[str, str],
    *,
    width: int,
    whole: bool,
) -> list[str]:
    """One sample, a line for each token, none wider than `width`; of the prompt its last tokens, or with `whole` all.

    `positions` says of every component of a group where it counts, "answer" or "all"; without its label a sample has no
    task loss. `counts` names the components of a position by LETTERS, of the outline's and the group's own. `learns` is
    the token that it is trained to predict: the next one.
    """
    tokens = batch.input_ids[row, : int(batch.attention_mask[row].sum())].tolist()
    last, answer = len(tokens) - 1, int(batch.answer_count[row])
    first = last - answer
    choices = _choices(tokenizer, batch, row, ids, probabilities)
    start = 0 if whole else max(0, first + 1 - PROMPT_TOKENS)
    shown = [_shown(tokenizer, token) for token in tokens]
    wide = max(len("token"), *(len(text) for text in shown[start:]))
    lines = [
        f"{batch.sample_ids[row]}: {len(tokens)} tokens, {first + 1} of them prompt, {answer} positions predict the "
        f"answer, {batch.input_ids.shape[1] - len(tokens)} of padding",
        f"{'at':>4}  {'token':<{wide}}  part    counts  {'learns':<{wide}}  the teacher's choices",
    ]
    lines += [f"{'':>4}  ({start} tokens of the prompt before)"] if start else []
    has_label = batch.labelled is None or bool(batch.labelled[row])
    for at in range(start, len(tokens)):
        ends = at == last and tokens[at] == tokenizer.eos_token_id
        part = "end" if ends else "prompt" if at <= first else "answer"
        here = {
            name
            for name, reach in positions.items()
            if at < last and (at >= first or reach == "all") and (has_label or name != "task")
        }
        letters = {name: letter for name, letter in LETTERS.items() if name in OUTLINE or name in positions}
        mark = "".join(letter if name in here else "-" for name, letter in letters.items())
        learns = shown[at + 1] if here else ""
        said = choices.get(at, "")
        lines.append(f"{at:>4}  {shown[at]:<{wide}}  {part:<6}  {mark:<6}  {learns:<{wide}}  {said}".rstrip())
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _choices(
    tokenizer: PreTrainedTokenizerFast, batch: Batch, row: int, ids: Tensor, probabilities: Tensor
) -> dict[int, str]:
    """The teacher's choices by column, where the batch carries them."""
    first, count = batch.span(batch.reach_of(ids))
    start = int(count[:row].sum())
    found = {}
    for offset in range(int(count[row])):
        pairs = zip(ids[start + offset].tolist(), probabilities[start + offset].tolist(), strict=True)
        said = "  ".join(f"{_shown(tokenizer, token)} {probability:.2f}" for token, probability in pairs)
        found[int(first[row]) + offset] = said
    return found


def _shown(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    return repr(tokenizer.decode([token]))
