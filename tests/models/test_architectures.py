"""Pairs of teacher and student as they are published, drawn small: capture, the gate, and a step of every component."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from miniatures import tiny_tokenizer
from projects import ROOT, shrunk_settings
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from glassbox.config.settings import ModelSettings
from glassbox.models.loading import load_model, model_digest
from glassbox.snapshot.capture import capture
from glassbox.snapshot.reader import read_manifest
from glassbox.snapshot.verify import verify
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import write_splits
from glassbox.training.trial import run_trial

VOCABULARY = 320
COMPONENTS = ("task", "logits", "hidden", "attention")


def llama(width: int, layers: int, heads: int, key_heads: int, *, theta: float, epsilon: float) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        rms_norm_eps=epsilon,
        initializer_range=0.15,
    )
    return LlamaForCausalLM(config)


def gpt2(width: int, layers: int, heads: int) -> PreTrainedModel:
    """Learned positions, biases, LayerNorm, dropout, and an output layer tied to the embeddings."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=512,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def qwen2(width: int, layers: int, heads: int, key_heads: int, *, tied: bool) -> PreTrainedModel:
    """Biases on queries, keys and values; more embeddings than pieces, as Qwen2 pads them."""
    config = Qwen2Config(
        vocab_size=VOCABULARY + 64,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=0,
    )
    return Qwen2ForCausalLM(config)


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """The end of a text is its beginning too, as with GPT-2's <|endoftext|>."""
    tokenizer = tiny_tokenizer(vocabulary=VOCABULARY, pad=None)
    tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def qwen2_tokenizer() -> PreTrainedTokenizerFast:
    """No token begins a text."""
    return tiny_tokenizer(vocabulary=VOCABULARY, bos=None)


PAIRS: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], Callable[[], list[PreTrainedModel]], str]] = {
    "Llama-2 into TinyLlama, grouped keys": (
        tiny_tokenizer,
        lambda: [
            llama(64, 4, 8, 8, theta=10000.0, epsilon=1e-5),
            llama(32, 2, 8, 1, theta=50000.0, epsilon=1e-6),
        ],
        "head by head",
    ),
    "DialoGPT-medium into distilgpt2, 16 and 12 heads": (
        gpt2_tokenizer,
        lambda: [gpt2(64, 3, 16), gpt2(48, 2, 12)],
        "mean",
    ),
    "Qwen2 into a smaller Qwen2": (
        qwen2_tokenizer,
        lambda: [qwen2(48, 3, 6, 2, tied=False), qwen2(32, 2, 2, 1, tied=True)],
        "neighbouring teacher heads",
    ),
}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def distilled(folder: Path, pair: str, **changes: Any) -> dict[str, Any]:
    """The manifest of one step of `combined`, after a capture that passed the gate."""
    make_tokenizer, make_models, _ = PAIRS[pair]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = make_models()
    for name, model in zip(("teacher", "student"), models, strict=True):
        model.save_pretrained(folder / "models" / name)
        make_tokenizer().save_pretrained(folder / "models" / name)
    step = {"train": {"max_steps": 1, "epochs": 1, "micro_batch_size": 4, **changes.pop("train", {})}}
    settings = shrunk_settings(folder, **step, **changes)
    write_splits(folder / "data/tasks", load_samples(settings.prepare))
    capture(settings, folder / "data/tasks", folder / "data/snapshot", folder / ".glassbox")
    verify(settings, folder / "data/snapshot", folder / "data/tasks")
    run_trial(settings, "combined", 0)
    return json.loads((folder / "runs/combined/0.json").read_text(encoding="utf-8"))


def assert_every_component_taught(manifest: dict[str, Any]) -> None:
    assert manifest["status"] == "finished", manifest["reason"]
    for component in COMPONENTS:
        assert manifest["metrics"][f"train/loss_{component}"] > 0
        assert manifest["metrics"][f"validation/loss_{component}"] > 0
        assert manifest["liveness"][component]["gradient_norm"] > 0
    assert manifest["digests"]["final_student"] != manifest["digests"]["initial_student"]


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_goes_from_capture_through_the_gate_to_a_step_of_every_component(
    pair: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    manifest = distilled(store, pair)
    assert_every_component_taught(manifest)
    assert PAIRS[pair][2] in manifest["heads"]
    kept = load_model(ModelSettings(model=str(store / "runs/combined/0/student"), dtype="float32"))
    assert model_digest(kept) == manifest["digests"]["final_student"]


@pytest.mark.slow
def test_a_bfloat16_teacher_teaches_a_float32_student_under_bfloat16_with_checkpointing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    manifest = distilled(
        store,
        "Llama-2 into TinyLlama, grouped keys",
        teacher={"dtype": "bfloat16"},
        train={"precision": "bf16", "gradient_checkpointing": True},
    )
    assert_every_component_taught(manifest)
    assert manifest["precision"] == "bf16"
    assert read_manifest(store / "data/snapshot")["provenance"]["teacher"]["dtype"] == "bfloat16"


def test_no_code_asks_for_the_name_of_an_architecture() -> None:
    families = ("llama", "gpt2", "gpt-2", "qwen", "mistral")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "src").rglob("*.py")
        if path.name not in ("models.py", "pretraining.py")  # pretraining makes the embedded Llamas
        for line in path.read_text(encoding="utf-8").splitlines()
        if ".model_type" in line or any(family in line.lower() and "if " in line for family in families)
    ]
    assert found == []
