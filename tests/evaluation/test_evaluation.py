"""Accuracy of tiny random models: what is scored, how it is counted, and that batches change nothing."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import sections
import torch
from miniatures import tiny_llama
from tokenizers.normalizers import Replace
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from glassbox.config.settings import EvaluationSettings
from glassbox.errors import DivergedError, GlassboxError
from glassbox.evaluation import evaluation
from glassbox.evaluation.evaluation import Evaluation, _task_scores, evaluate
from glassbox.models.encoding import encode_prompt, encode_sample
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.sample import Sample, make_sample

WORDS = ["good", "dull", "film", "never", "ends", "apples", "bad", "question"]
MAX_LENGTH = 96
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Three tasks and a fourth whose choices are several tokens long; prompts of many lengths."""
    made = []
    for number in range(12):
        words = " ".join((WORDS * 2)[number % 5 : number % 5 + 1 + number % 7])
        made += [
            sst2.sample("test", f"{words} {number}", number % 2 == 0),
            mmlu.sample("test", f"{words} {number}?", ["1", "2", words, "4"], number % 4),
            gsm8k.sample("test", f"{words} {number} + {number}?", f"{number}\n#### {2 * number}"),
            make_sample("toy", "test", f"{words} {number}:", " dull film", (" good", " dull film"), " dull film"),
        ]
    return made


def settings(batch_size: int) -> EvaluationSettings:
    return sections.evaluation(batch_size=batch_size, max_new_tokens=NEW_TOKENS)


def log_likelihood(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sample: Sample, choice: str) -> float:
    """Written a second way: the whole sequence through the model's own logits, token by token."""
    encoded = encode_sample(tokenizer, sample.prompt, choice, max_length=MAX_LENGTH, overflow="truncate")
    ids = encoded.ids[:-1]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    prompt_size = len(encode_prompt(tokenizer, sample.prompt))
    return sum(
        float(logits[place - 1, ids[place]] - logits[place - 1].logsumexp(0)) for place in range(prompt_size, len(ids))
    )


def test_a_model_in_training_is_measured_without_dropout_and_goes_on_training(tokenizer, samples) -> None:
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.5)
    model = GPT2LMHeadModel(config).eval()
    expected = evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH)
    model.train()
    assert evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH).items == expected.items
    assert model.training


def test_a_batch_gives_every_item_the_result_it_has_alone(model, tokenizer, samples) -> None:
    together = evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH)
    for number, batch_size in enumerate((1, 5)):
        apart = evaluate(model, tokenizer, samples, settings(batch_size), MAX_LENGTH)
        assert apart.scores == together.scores, number
        for mine, other in zip(apart.items, together.items, strict=True):
            assert replace(mine, log_likelihoods=()) == replace(other, log_likelihoods=())
            assert mine.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)


def test_items_come_in_the_order_of_the_samples(model, tokenizer, samples) -> None:
    items = evaluate(model, tokenizer, samples, settings(5), MAX_LENGTH).items
    assert [(item.sample_id, item.task, item.gold) for item in items] == [
        (sample.sample_id, sample.task, sample.gold) for sample in samples
    ]


def test_choices_are_scored_by_the_sum_of_their_tokens_log_probabilities(model, tokenizer, samples) -> None:
    evaluation = evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH)
    several_tokens = 0
    for sample, item in zip(samples, evaluation.items, strict=True):
        expected = [log_likelihood(model, tokenizer, sample, choice) for choice in sample.choices]
        assert list(item.log_likelihoods) == pytest.approx(expected, abs=1e-4)
        if sample.choices:
            assert item.prediction == sample.choices[expected.index(max(expected))]
            assert item.correct == (item.prediction == sample.gold)
            several_tokens += any(len(tokenizer.encode(choice)) > 1 for choice in sample.choices)
    assert several_tokens >= 12


def test_choices_are_cut_once_for_tokenizers_that_cut_alike_and_anew_for_another(
    model, tokenizer, samples, monkeypatch
) -> None:
    cut = []

    def counted(*arguments, **limits):
        cut.append(arguments[0])
        return encode_sample(*arguments, **limits)

    monkeypatch.setattr(evaluation, "encode_sample", counted)
    evaluation._choice_ids.cache_clear()
    chosen = [sample for sample in samples if sample.choices]
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = Replace("o", "u")
    found = {}
    for name, each in (("first", tokenizer), ("alike", copy.deepcopy(tokenizer)), ("other", other)):
        before = len(cut)
        result = evaluate(model, each, chosen, settings(64), MAX_LENGTH)
        found[name] = [item.log_likelihoods for item in result.items], len(cut) - before
    assert found["first"][1] == found["other"][1] == sum(len(sample.choices) for sample in chosen)
    assert found["alike"] == (found["first"][0], 0)
    for sample, likelihoods in zip(chosen, found["other"][0], strict=True):
        expected = [log_likelihood(model, other, sample, choice) for choice in sample.choices]
        assert likelihoods == pytest.approx(expected, abs=1e-4)


def test_generated_answers_are_what_transformers_generates(model, tokenizer, samples) -> None:
    chosen = [sample for sample in samples if not sample.choices]
    items = evaluate(model, tokenizer, chosen, settings(64), MAX_LENGTH).items
    for sample, item in zip(chosen, items, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, sample.prompt)])
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
        )
        assert item.prediction == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.slow
def test_a_model_that_knows_the_answers_is_right_on_every_kind_of_task(tokenizer) -> None:
    known = [
        sst2.sample("test", "a good film", True),
        sst2.sample("test", "a dull film", False),
        mmlu.sample("test", "What is 3 + 4?", ["5", "6", "7", "8"], 2),
        gsm8k.sample("test", "3 + 4?", "7\n#### 7"),
    ]
    model = tiny_llama(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    encoded = [encode_sample(tokenizer, s.prompt, s.answer, max_length=MAX_LENGTH, overflow="refuse") for s in known]
    for _ in range(40):
        loss = torch.zeros(())
        for sample in encoded:
            ids = torch.tensor([sample.ids])
            labels = ids.clone()
            labels[0, : sample.loss_start + 1] = -100
            loss = loss + model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    evaluation = evaluate(model, tokenizer, known, settings(8), MAX_LENGTH)
    assert evaluation.metrics("test") == {
        "test/accuracy_sst2": 1.0,
        "test/accuracy_mmlu": 1.0,
        "test/exact_match_gsm8k": 1.0,
    }
    assert evaluation.items[3].prediction == " 7\n#### 7"


def test_exact_ties_count_as_wrong_and_are_counted(tokenizer, samples) -> None:
    model = tiny_llama(len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    chosen = [sample for sample in samples if sample.task in ("sst2", "mmlu")]
    evaluation = evaluate(model, tokenizer, chosen, settings(8), MAX_LENGTH)
    assert all(item.tie and not item.correct for item in evaluation.items if item.task == "mmlu")
    assert (evaluation.scores["mmlu"].value, evaluation.scores["mmlu"].n_ties) == (0.0, 12)


def test_every_expected_item_is_evaluated_or_there_is_no_score(model, tokenizer, samples) -> None:
    evaluation = evaluate(model, tokenizer, samples, settings(7), MAX_LENGTH)
    assert {task: (score.n_evaluated, score.n_expected) for task, score in evaluation.scores.items()} == dict.fromkeys(
        ("sst2", "mmlu", "gsm8k", "toy"), (12, 12)
    )
    with pytest.raises(GlassboxError, match="'sst2': 11 of 12 items were evaluated"):
        _task_scores(samples, evaluation.items[1:])


def test_a_score_is_the_share_of_right_items(model, tokenizer, samples) -> None:
    evaluation: Evaluation = evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH)
    for task, score in evaluation.scores.items():
        assert score.value == sum(item.correct for item in evaluation.items if item.task == task) / 12
    assert list(evaluation.metrics("validation")) == [
        "validation/accuracy_sst2",
        "validation/accuracy_mmlu",
        "validation/exact_match_gsm8k",
        "validation/accuracy_toy",
    ]


@pytest.mark.parametrize("task", ["sst2", "gsm8k", "toy"])
def test_weights_that_are_not_finite_are_a_divergence(tokenizer, samples, task: str) -> None:
    model = tiny_llama(len(tokenizer))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    chosen = [sample for sample in samples if sample.task == task]
    with pytest.raises(DivergedError, match=rf"non-finite logits in .* {task}/test/"):
        evaluate(model, tokenizer, chosen, settings(8), MAX_LENGTH)


def test_bf16_autocast_is_in_force_and_only_as_precise_as_bf16(model, tokenizer, samples) -> None:
    autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    full = evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH)
    mixed = evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH, autocast=autocast)
    ours = [value for item in mixed.items for value in item.log_likelihoods]
    exact = [value for item in full.items for value in item.log_likelihoods]
    assert ours != exact
    assert ours == pytest.approx(exact, rel=0.1, abs=0.3)


def test_a_model_in_bfloat16_is_evaluated(tokenizer, samples) -> None:
    model = tiny_llama(len(tokenizer)).to(torch.bfloat16)
    assert len(evaluate(model, tokenizer, samples, settings(64), MAX_LENGTH).items) == len(samples)


def test_a_long_prompt_loses_its_start_or_is_refused(model, tokenizer) -> None:
    ending = "Is it good?"
    long = [
        make_sample("toy", "test", "dull film " * 40 + ending, " good", (" good", " dull"), " good"),
        make_sample("echo", "test", "dull film " * 40 + ending, " good", (), "good"),
    ]
    evaluation = evaluate(model, tokenizer, long, settings(4), 40)
    assert evaluation.scores["toy"].n_evaluated == evaluation.scores["echo"].n_evaluated == 1
    for sample in long:
        with pytest.raises(GlassboxError, match="refuse"):
            evaluate(model, tokenizer, [sample], settings(4), 40, overflow="refuse")


def test_a_generation_longer_than_the_models_context_is_refused(model, tokenizer, samples) -> None:
    with pytest.raises(GlassboxError, match="leaves no room for a prompt"):
        evaluate(model, tokenizer, samples, sections.evaluation(max_new_tokens=512), MAX_LENGTH)


def test_evaluation_leaves_the_model_in_the_mode_it_was_in(tokenizer, samples) -> None:
    model = tiny_llama(len(tokenizer)).train()
    evaluate(model, tokenizer, samples[:4], settings(8), MAX_LENGTH)
    assert model.training
