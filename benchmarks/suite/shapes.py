"""The paper's pair and mixture, scaled so that two cores take about a second a step and the proportions stay.

Llama-2-7B (32 layers, width 4096, 32 heads, feed-forward 11008) teaches TinyLlama-1.1B (22 layers, width 2048, 32
heads, 4 of them key heads, feed-forward 5632); both have 32,000 pieces. One layer of the student holds 10.5 width^2
weights, one of the teacher 12.1. A quarter of each width, and layers and vocabulary such that these stay:

| proportion | paper | here |
|---|---|---|
| output layer / other weights of the student, V / (10.5 layers x width) | 6.8 % | 6.8 % |
| teacher / student, without their output layers | 6.7 | 6.7 |
| teacher's width / student's | 2 | 2 |
| width of a head, query heads to a key head | student 64, 8; teacher 128, 1 | the same |

Lengths are the mixture's own: 5,000 SST-2 of 30 to 60 tokens and 1,000 MMLU of 100 to 150, both with 2 answer
positions (the answer and the end of sequence), and 1,000 GSM8K with 129 answer positions on average; so are the share
of answer rows, batches of 8 and micro-batches of 4. What grows with width alone then weighs more than it does at paper
scale, beside products that grow with its square: the softmax over the vocabulary 4 times, attention maps 8 times.
Weights and signals are random, in float32: no time here depends on their values.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import LlamaConfig, PreTrainedModel

from glassbox.config.settings import ModelSettings, Settings, load_settings
from glassbox.models.loading import load_model
from glassbox.objective import Ingredients, Objective
from glassbox.snapshot.batch import Batch, StoredSample, assemble
from glassbox.snapshot.codec import byte_rows
from glassbox.snapshot.schema import Format, attention_entries
from glassbox.training.schedule import make_schedule
from glassbox.training.student import Student, build_student

VOCABULARY = 4_000
STUDENT = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=512,
    intermediate_size=1_408,
    num_hidden_layers=11,
    num_attention_heads=8,
    num_key_value_heads=1,
    max_position_embeddings=512,
    tie_word_embeddings=False,
)
TEACHER = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=1_024,
    intermediate_size=2_752,
    num_hidden_layers=16,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=512,
    tie_word_embeddings=False,
)
FORMAT = Format(
    vocabulary=VOCABULARY,
    width=TEACHER.hidden_size,
    heads=TEACHER.num_attention_heads,
    top_k=64,
    temperatures=(1.0, 2.0, 4.0),
    hidden_dtype="float16",
    attention_codec="sqrt_uint8",
    positions="answer",
    attention_positions="answer",
)
SIGNALS = frozenset({"hidden", "attention", "topk"})
SHARES = {"sst2": 5_000, "mmlu": 1_000, "gsm8k": 1_000}
PROMPTS = {"sst2": (28, 58), "mmlu": (98, 148), "gsm8k": (90, 150)}  # tokens, the beginning of sequence among them
ANSWERS = {"sst2": (2, 2), "mmlu": (2, 2), "gsm8k": (58, 200)}  # the end of sequence among them
BATCH, MICRO_BATCH = 8, 4

DESCRIPTION = (
    f"student {STUDENT.num_hidden_layers} layers x {STUDENT.hidden_size}, teacher {TEACHER.num_hidden_layers} x "
    f"{TEACHER.hidden_size}, V {VOCABULARY:,}, float32"
)


def settings() -> Settings:
    """The project's own, with batches as at paper scale."""
    found = load_settings(Path(__file__).resolve().parents[2] / "params.yaml")
    train = {"batch_size": BATCH, "micro_batch_size": MICRO_BATCH, "epochs": 1, "max_steps": None}
    return found.model_copy(update={"train": found.train.model_copy(update=train)})


def mixture(count: int, seed: int = 0) -> list[tuple[str, int, int]]:
    """Task, prompt tokens and answer positions of `count` samples, as like to the whole mixture as so few can be.

    Tasks have their shares, the rarer ones rounded up; lengths are spread evenly over each task's range.
    """
    rng, total = random.Random(seed), sum(SHARES.values())
    counts = {task: -(-count * SHARES[task] // total) for task in ("mmlu", "gsm8k")}
    counts["sst2"] = count - sum(counts.values())
    found = []
    for task, rows in counts.items():
        prompts = rng.sample(_spread(PROMPTS[task], rows, rng), rows)
        found += [(task, *each) for each in zip(prompts, _spread(ANSWERS[task], rows, rng), strict=True)]
    return found


def _spread(limits: tuple[int, int], count: int, rng: random.Random) -> list[int]:
    low, high = limits
    return [round(low + (high - low) * (place + rng.random()) / count) for place in range(count)]


def stored_samples(
    lengths: Sequence[tuple[str, int, int]], layout: Format = FORMAT, seed: int = 0
) -> list[StoredSample]:
    """Samples as the snapshot's reader holds them, with every signal, of made-up values in the stored formats."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    found = []
    for index, (task, prompt, answer) in enumerate(lengths):
        entries = layout.heads * attention_entries(prompt + answer, answer)
        logits = torch.randn(answer, layout.top_k, generator=generator).sort(descending=True).values
        cells = {
            "hidden": byte_rows(torch.randn(answer, layout.width, generator=generator).half()).tobytes(),
            "attention": rng.integers(0, 256, entries, dtype=np.uint8).tobytes(),
            "topk_ids": _distinct(rng, answer, layout).tobytes(),
            "topk_logits": byte_rows((logits - logits[:, :1]).half()).tobytes(),
            "log_tail": byte_rows(torch.zeros(answer, len(layout.temperatures))).tobytes(),
        }
        ids = rng.integers(3, layout.vocabulary, prompt + answer).astype(np.int32)
        found.append(StoredSample(f"{task}/{index:04d}", task, ids, prompt - 1, answer, cells))
    return found


def _distinct(rng: np.random.Generator, rows: int, layout: Format) -> np.ndarray:
    """[rows, k] ids, no two of a row the same."""
    offsets = rng.integers(0, layout.vocabulary, (rows, 1))
    steps = np.arange(layout.top_k) * (layout.vocabulary // layout.top_k)
    return ((offsets + steps) % layout.vocabulary).astype(layout.topk_id_dtype)


def steps(count: int, seed: int = 0) -> list[list[list[StoredSample]]]:
    """`count` optimizer steps of the mixture as a trial plans them: each is micro-batches, sorted by length."""
    by_id = {sample.sample_id: sample for sample in stored_samples(mixture(count * BATCH, seed), seed=seed)}
    plan = make_schedule({name: sample.n_tokens for name, sample in by_id.items()}, settings().train, seed)
    return [[[by_id[name] for name in batch] for batch in step] for step in plan.steps]


def most_answer_rows(seed: int = 0) -> int:
    """Answer rows of the fullest micro-batch in an epoch of the whole mixture."""
    lengths = mixture(sum(SHARES.values()), seed)
    plan = make_schedule(
        {str(i): prompt + answer for i, (_, prompt, answer) in enumerate(lengths)}, settings().train, seed
    )
    return max(sum(lengths[int(name)][2] for name in batch) for step in plan.steps for batch in step)


def assembled(step: Sequence[list[StoredSample]]) -> list[Batch]:
    """A step's micro-batches with every signal, decoded."""
    return [assemble(samples, FORMAT, torch.device("cpu")) for samples in step]


def student(group: str, seed: int = 0) -> Student:
    """A trial's student with random weights; with a projector where the group distils hidden states."""
    found = settings()
    with TemporaryDirectory() as folder:
        STUDENT.save_pretrained(folder)
        return build_student(_random(folder), seed, VOCABULARY, FORMAT, found.distill[group].active, found.objective)


def teacher(seed: int = 1) -> PreTrainedModel:
    with TemporaryDirectory() as folder:
        TEACHER.save_pretrained(folder)
        return load_model(_random(folder), seed=seed)


def _random(folder: str) -> ModelSettings:
    return ModelSettings(model=folder, initialisation="random", dtype="float32")


def objective(group: str, target: str, student: Student) -> Objective:
    """The group's objective against random teacher signals; `target` is "dense" or "topk"."""
    generator, width = torch.Generator().manual_seed(2), TEACHER.hidden_size
    found = settings()
    weight = torch.randn(VOCABULARY, width, generator=generator) * width**-0.5
    return Objective(
        found.distill[group],
        found.objective.model_copy(update={"logits_target": target}),
        Ingredients(
            head=(weight, None),
            channels=(torch.zeros(width), torch.ones(width)),
            temperatures=FORMAT.temperatures,
            projectors=dict(student.projectors.items()),
        ),
    )
