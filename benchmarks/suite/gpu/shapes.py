"""What is measured: the paper's pair with random weights on a GPU, a small pair elsewhere, and their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from transformers import LlamaConfig, PreTrainedModel

from glassbox.config.settings import (
    CapturedPositions,
    Group,
    ModelSettings,
    ObjectiveSettings,
    Positions,
    SnapshotSettings,
    TrainSettings,
)
from glassbox.models.encoding import Encoded
from glassbox.models.loading import load_model
from glassbox.objective import Ingredients, Objective
from glassbox.objective.hidden import Projector
from glassbox.preflight.workload import Length
from glassbox.randomness import generator_for
from glassbox.snapshot.batch import StoredSample
from glassbox.snapshot.composition import Item
from glassbox.snapshot.schema import Format
from glassbox.snapshot.teacher import Teacher
from glassbox.tasks.sample import Sample
from glassbox.training.schedule import make_schedule
from glassbox.training.student import Student
from suite.shapes import mixture, stored_samples

PARAMETERS = Path(__file__).resolve().parents[3] / "params.yaml"
GROUPS = ("sft", "black_box", "hidden_state", "attention", "combined")


@dataclass(frozen=True)
class Pair:
    """`captured` samples of the mixture are captured in batches of `capture_batch`; `steps` of 8 are trained on."""

    name: str
    teacher: LlamaConfig
    student: LlamaConfig
    captured: int
    capture_batch: int
    steps: int


def llama(vocabulary: int, width: int, feed_forward: int, layers: int, heads: int, key_heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=2_048,
        tie_word_embeddings=False,
    )


PAPER = Pair(
    "Llama-2-7B and TinyLlama-1.1B, random weights",
    teacher=llama(32_000, 4_096, 11_008, 32, 32, 32),
    student=llama(32_000, 2_048, 5_632, 22, 32, 4),
    captured=128,
    capture_batch=16,
    steps=4,
)
SMALL = Pair(
    "small pair for a CPU, random weights",
    teacher=llama(256, 64, 172, 3, 4, 4),
    student=llama(256, 32, 88, 2, 4, 2),
    captured=16,
    capture_batch=8,
    steps=1,
)


def pair_for(device: torch.device) -> Pair:
    return PAPER if device.type == "cuda" else SMALL


def train_settings() -> TrainSettings:
    """Batches and micro-batches of conf/scale/paper.yaml."""
    return TrainSettings(
        epochs=1,
        max_steps=None,
        batch_size=8,
        micro_batch_size=4,
        learning_rate=1e-4,
        weight_decay=0.01,
        schedule="linear",
        warmup=0.05,
        clip_norm=1.0,
        precision="auto",
        gradient_checkpointing=False,
        processes=1,
        parallelism="ddp",
        threads=1,
        logging_interval=10,
        liveness_steps=3,
        early_stopping=None,
        samples=None,
        labelled=1.0,
        labelled_per_step=None,
        dropout=None,
    )


def objective_settings() -> ObjectiveSettings:
    """Those of conf/config.yaml."""
    return ObjectiveSettings(
        positions=Positions(),
        temperature=2.0,
        temperature_squared=True,
        reduction="sample",
        logits_target="dense",
        hidden_loss="mse",
        attention_loss="mse",
        heads="match",
        balance="none",
        layer_map=None,
        relation_heads=None,
        negatives=256,
        contrastive_temperature=0.07,
    )


def settings(folder: Path, pair: Pair) -> Any:
    """What `plan` reads of the settings, for models whose configurations lie in `folder`."""
    snapshot = SnapshotSettings(
        max_length=512,
        overflow="truncate",
        positions=CapturedPositions(hidden="answer", attention="answer"),
        top_k=64,
        temperatures=(1.0, 2.0, 4.0),
        hidden_dtype="float16",
        attention_codec="sqrt_uint8",
        batch_size=pair.capture_batch,
        part_megabytes=256,
        audit_positions=200,
        layers=None,
        relations_layer=None,
        processes=1,
    )
    teacher, student = model_settings(folder / "teacher"), model_settings(folder / "student")
    return SimpleNamespace(
        teacher=teacher,
        student=student,
        snapshot=snapshot,
        objective=objective_settings(),
        train=train_settings(),
        signals_read=set(),
    )


def model_settings(folder: Path, dtype: Any = "auto") -> ModelSettings:
    return ModelSettings(model=str(folder), initialisation="random", dtype=dtype)


def groups() -> dict[str, Group]:
    """The objectives of params.yaml."""
    weights = yaml.safe_load(PARAMETERS.read_text(encoding="utf-8"))["distill"]
    return {name: Group(**weights[name]) for name in GROUPS}


def layout(pair: Pair, positions: Any = "answer") -> Format:
    teacher = pair.teacher
    return Format(
        vocabulary=teacher.vocab_size,
        width=teacher.hidden_size,
        heads=teacher.num_attention_heads,
        top_k=64,
        temperatures=(1.0, 2.0, 4.0),
        hidden_dtype="float16",
        attention_codec="sqrt_uint8",
        positions=positions,
        attention_positions=positions,
    )


def teacher(pair: Pair, device: torch.device) -> PreTrainedModel:
    """Drawn on the device itself: 7 billion numbers take minutes on a CPU."""
    with TemporaryDirectory() as folder, torch.device(device):
        pair.teacher.save_pretrained(folder)
        return load_model(model_settings(Path(folder)), seed=1)


def student(pair: Pair, device: torch.device) -> Student:
    """A trial's student with its projector, in float32."""
    with TemporaryDirectory() as folder, torch.device(device):
        pair.student.save_pretrained(folder)
        model = load_model(model_settings(Path(folder), "float32"), seed=0)
    projector = Projector(pair.student.hidden_size, pair.teacher.hidden_size, generator_for(0, "projector"))
    return Student(model, {"hidden": projector}, pair.teacher.vocab_size).to(device)


def capturing(pair: Pair, model: PreTrainedModel, positions: str) -> Teacher:
    return Teacher(model, layout(pair, positions), next(model.parameters()).device)


def objective(pair: Pair, group: Group, student: Student, device: torch.device) -> Objective:
    """Against a random output layer of the teacher, in float32 as a trial reads it off the snapshot."""
    width, vocabulary = pair.teacher.hidden_size, pair.teacher.vocab_size
    generator = torch.Generator(device).manual_seed(2)
    weight = torch.randn(vocabulary, width, generator=generator, device=device) * width**-0.5
    return Objective(
        group,
        objective_settings(),
        Ingredients(
            head=(weight, None),
            channels=(torch.zeros(width, device=device), torch.ones(width, device=device)),
            temperatures=layout(pair).temperatures,
            projectors=dict(student.projectors.items()),
        ),
    )


def items(pair: Pair, positions: str) -> list[Item]:
    """The mixture's samples as a capture composes them, of made-up ids and without a text."""
    found = []
    for sample in stored_samples(mixture(pair.captured), layout(pair)):
        ids = tuple(sample.input_ids.tolist())
        encoded = Encoded(ids, sample.loss_start, False, False, tuple((0, 0) for _ in ids))
        captured = sample.n_answer if positions == "answer" else sample.n_tokens - 1
        text = Sample(sample.sample_id, sample.task, "", "", (), "")
        found.append(Item(text, "train", encoded, captured, captured))
    return found


def steps(pair: Pair) -> list[list[list[StoredSample]]]:
    """Optimizer steps of the mixture as a trial plans them: micro-batches, sorted by length."""
    by_id = {sample.sample_id: sample for sample in stored_samples(mixture(8 * pair.steps), layout(pair))}
    schedule = make_schedule({name: sample.n_tokens for name, sample in by_id.items()}, train_settings(), 0)
    return [[[by_id[name] for name in batch] for batch in step] for step in schedule.steps]


def length(sample: StoredSample) -> Length:
    """What `plan` knows of a sample."""
    return Length(
        sample.sample_id, sample.task, "train", sample.n_tokens, sample.n_answer, sample.n_answer, sample.n_answer
    )


def linear_weights(model: PreTrainedModel) -> int:
    """Weights of the layers that are multiplied with every token: neither embeddings, nor norms, nor output layer."""
    linear = (module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear))
    return sum(module.weight.numel() for module in linear)


def forward_operations(model: PreTrainedModel, tokens: Sequence[int], head_rows: int) -> float:
    """Floating-point operations of a forward pass over samples of these lengths, without padding.

    2 per weight and token, 2 x 2 x width per layer and pair of a position and a column it sees, 2 per weight of the
    output layer and row.
    """
    config = model.config
    seen = sum(count * (count + 1) / 2 for count in tokens)
    attention = 4 * config.num_hidden_layers * config.hidden_size * seen
    return (
        2.0 * linear_weights(model) * sum(tokens) + attention + 2 * config.vocab_size * config.hidden_size * head_rows
    )
