"""Models known by their configuration alone: no weights are read, no number is computed."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from glassbox.config import ModelSettings
from glassbox.estimate.abstraction import Abstraction
from glassbox.models import configuration_of, loaded_dtype
from glassbox.signals import ATTENTION_NAME


def teacher_dtype(settings: ModelSettings, on_gpu: bool) -> torch.dtype:
    """What the teacher is loaded in; a GPU that is not here is taken for one that has bfloat16."""
    if settings.dtype == "auto" and on_gpu != torch.cuda.is_available():
        return torch.bfloat16 if on_gpu else torch.float32
    return loaded_dtype(settings)


def abstract_model(abstraction: Abstraction, settings: ModelSettings, dtype: torch.dtype) -> PreTrainedModel:
    """The model without data, its weights and buffers counted as `weights`."""
    with abstraction.fake:
        model = AutoModelForCausalLM.from_config(
            configuration_of(settings),
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            trust_remote_code=settings.trust_remote_code,
        )
    abstraction.assign([*model.parameters(), *model.buffers()], "weights")
    return model


def parameter_count(settings: ModelSettings) -> int:
    """Weights of the model, each shared one counted once, by building it without storage."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            configuration_of(settings), trust_remote_code=settings.trust_remote_code
        )
    return sum(parameter.numel() for parameter in model.parameters())


def has_weights_here(settings: ModelSettings) -> bool:
    """Whether the model's weights lie in a folder of this machine."""
    return any(Path(settings.model).glob("*.safetensors")) or (
        settings.initialisation == "random" and Path(settings.model).is_dir()
    )
