"""Perplexity against a plain Transformers loop, over whole texts, and what is not finite."""

from __future__ import annotations

import importlib.util
import math

import pytest
import sections
import torch
from miniatures import CORPUS, tiny_llama
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from glassbox.errors import DivergedError
from glassbox.evaluation.evaluation import Evaluation, evaluate
from glassbox.evaluation.perplexity import pooled
from glassbox.tasks import sst2
from glassbox.tasks.sample import Sample, make_sample
from glassbox.tasks.text import cut

TEXT = "\n".join(CORPUS * 3) + " … ünïcödé 日本 ."
PLAIN = TEXT.partition(" …")[0]
SIZE = 24


def samples(tokenizer: PreTrainedTokenizerFast, stride: int | None) -> list[Sample]:
    found = []
    for _, block in cut(tokenizer, TEXT, SIZE, stride):
        prompt, answer = block.as_sample()
        found.append(make_sample("text", "test", prompt, answer, (), ""))
    return found


def measured(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, chosen: list[Sample], batch_size: int = 5
) -> Evaluation:
    return evaluate(model, tokenizer, chosen, sections.evaluation(batch_size=batch_size, max_new_tokens=4), 64)


def plain_loop(model: LlamaForCausalLM, ids: list[int], size: int, stride: int | None) -> tuple[float, int]:
    """Sum of cross-entropies and number of predicted tokens, as in Transformers' documentation of perplexity."""
    total, count, known, start = 0.0, 0, 0, 0
    while known < len(ids):
        end = min(start + size, len(ids))
        start = max(0, len(ids) - size) if stride is not None and end == len(ids) else start
        inputs = torch.tensor([ids[start:end]])
        labels = inputs.clone()
        labels[:, : known - start] = -100
        with torch.no_grad():
            loss = model(input_ids=inputs, labels=labels).loss
        predicted = int((labels[:, 1:] != -100).sum())
        total, count, known = total + float(loss) * predicted, count + predicted, end
        start = end if stride is None else start + stride
    return total, count


@pytest.mark.parametrize("stride", [None, SIZE - 1, 7])
def test_perplexity_is_that_of_a_plain_transformers_loop(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stride: int | None
) -> None:
    own = [make_sample("text", "test", *block.as_sample(), (), "") for _, block in cut(tokenizer, PLAIN, SIZE, stride)]
    score = measured(model, tokenizer, own).scores["text"]
    ids = [tokenizer.bos_token_id, *tokenizer(PLAIN, add_special_tokens=False)["input_ids"]]
    nats, count = plain_loop(model, ids, SIZE, stride)
    assert score.text is not None and score.text.tokens == count
    assert math.log(score.value) == pytest.approx(nats / count, abs=1e-6)
    if stride is not None:
        assert count == len(ids) - 1 and score.text.bytes == len(PLAIN.encode())


def test_batches_and_other_tasks_beside_it_change_nothing(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    own = samples(tokenizer, None)
    reviews = [sst2.sample("test", f"a film {number}", True) for number in range(4)]
    alone = measured(model, tokenizer, own, batch_size=1)
    mixed = measured(model, tokenizer, [*reviews[:2], *own, *reviews[2:]], batch_size=7)
    assert mixed.scores["text"].value == pytest.approx(alone.scores["text"].value, rel=1e-6)
    assert set(mixed.metrics("test")) == {"test/perplexity_text", "test/bits_per_byte_text", "test/accuracy_sst2"}
    assert mixed.counts("test")["test/tokens_text"] == alone.scores["text"].text.tokens  # type: ignore[union-attr]
    blocks = [item for item in mixed.items if item.task == "text"]
    assert all(item.tokens > 0 and item.bytes > 0 and len(item.log_likelihoods) == 1 for item in blocks)


def test_a_bad_student_is_as_bad_as_it_is_and_no_clamp_hides_it(tokenizer: PreTrainedTokenizerFast) -> None:
    """Logits and losses that were cut at a bound stood at 9.7453 nats whatever the student learned."""
    bad, worse = tiny_llama(len(tokenizer), seed=3), tiny_llama(len(tokenizer), seed=3)
    with torch.no_grad():
        bad.lm_head.weight *= 40
        worse.lm_head.weight *= 80
    own = [make_sample("text", "test", *block.as_sample(), (), "") for _, block in cut(tokenizer, PLAIN, SIZE)]
    ids = [tokenizer.bos_token_id, *tokenizer(PLAIN, add_special_tokens=False)["input_ids"]]
    found = []
    for model in (bad, worse):
        nats, count = plain_loop(model, ids, SIZE, None)
        found.append(math.log(measured(model, tokenizer, own).scores["text"].value))
        assert found[-1] == pytest.approx(nats / count, rel=1e-6)
    assert 9.7453 < found[0] < found[1] - 5


def test_a_token_later_in_a_block_changes_no_earlier_tokens_likelihood(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Labels that are shifted twice predict the token after the next one."""
    texts = ["a good film , not bad", "a good film , not dull"]
    shared = len(tokenizer("a good film , not", add_special_tokens=False)["input_ids"])
    sums = []
    for text in texts:
        ((_, block),) = cut(tokenizer, text, SIZE)
        own = make_sample("text", "test", *block.as_sample(), (), "")
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            likely = model(input_ids=ids).logits[0].log_softmax(-1)
        each = [float(likely[place, ids[0, place + 1]]) for place in range(ids.shape[1] - 1)]
        (item,) = measured(model, tokenizer, [own]).items
        assert item.log_likelihoods[0] == pytest.approx(sum(each), abs=1e-4) and item.tokens == len(each)
        sums.append(sum(each[:shared]))
    assert sums[0] == pytest.approx(sums[1], abs=1e-5)


def test_tokens_are_weighted_alike_and_bits_per_byte_count_bytes() -> None:
    score = pooled([(-30.0, 10, 40), (-10.0, 30, 60)])
    assert (score.nats, score.tokens, score.bytes) == (1.0, 40, 100)
    assert score.perplexity == pytest.approx(math.e)
    assert score.bits_per_byte == pytest.approx(40 / (100 * math.log(2)))


@pytest.mark.parametrize("log_likelihood", [math.nan, -math.inf, -1e6])
def test_a_perplexity_that_is_not_finite_is_an_error_and_no_infinite_score(log_likelihood: float) -> None:
    with pytest.raises(DivergedError, match="not finite"):
        pooled([(-3.0, 2, 4), (log_likelihood, 2, 4)])


def test_a_block_with_a_logit_that_is_not_finite_fails_the_evaluation(tokenizer: PreTrainedTokenizerFast) -> None:
    broken = tiny_llama(len(tokenizer), seed=2)
    with torch.no_grad():
        broken.lm_head.weight[5] = math.nan
    with pytest.raises(DivergedError, match="non-finite logits"):
        measured(broken, tokenizer, samples(tokenizer, None))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_a_stride_of_all_but_one_token_is_lm_evals_rolling_perplexity(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    tokens = tokenizer(PLAIN, add_special_tokens=False)["input_ids"]
    rolling = 0.0
    windows = get_rolling_token_windows(tokens, tokenizer.bos_token_id, max_seq_len=SIZE - 1, context_len=1)
    for context, continuation in map(make_disjoint_window, windows):
        ids = torch.tensor([[*context, *continuation]])
        with torch.no_grad():
            likely = model(input_ids=ids[:, :-1]).logits[0].log_softmax(-1)[-len(continuation) :]
        rolling += float(likely.gather(1, ids[0, -len(continuation) :, None]).sum())
    own = [
        make_sample("text", "test", *block.as_sample(), (), "") for _, block in cut(tokenizer, PLAIN, SIZE, SIZE - 1)
    ]
    score = measured(model, tokenizer, own).scores["text"].text
    assert score is not None and score.nats * score.tokens == pytest.approx(-rolling, rel=1e-5)
