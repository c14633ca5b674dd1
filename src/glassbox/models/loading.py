"""Teacher and student from a hub id or a folder, and their output layers."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.models.dtypes import linear, loss_dtype, without_autocast
from glassbox.models.files import opening
from glassbox.models.precision import cuda_has_bf16
from glassbox.models.signals import ATTENTION_NAME


def load_model(settings: ModelSettings, *, seed: int | None = None, plain: bool = False) -> PreTrainedModel:
    """The causal language model in evaluation mode, with the attention function that can record its last layer.

    `initialisation: random` draws the weights of the named configuration from `seed` (None counts as 0) without
    touching the global generator. `plain` takes Transformers' own eager attention, to compare with. Raises
    GlassboxError where the model cannot be opened, or where its files lack a weight, which Transformers would otherwise
    fill with random numbers.
    """
    disable_progress_bar()
    config = configuration_of(settings)
    with opening("model", settings.model, settings.revision):
        return _with_attention(
            lambda attention: _opened(settings, config, attention, 0 if seed is None else seed),
            "eager" if plain else attention_of(config),
        ).eval()


def _with_attention(make: Callable[[str | None], PreTrainedModel], attention: str | None) -> PreTrainedModel:
    """What `make` gives; a class that chooses among attention classes of its own, by name, gets its own default."""
    try:
        return make(attention)
    except KeyError as error:
        if error.args != (attention,):
            raise
        return make(None)


def _opened(settings: ModelSettings, config: Any, attention: str | None, seed: int) -> PreTrainedModel:
    if settings.initialisation == "random":
        return _random_model(settings, copy.deepcopy(config), attention, seed)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        settings.model,
        dtype=loaded_dtype(settings),
        attn_implementation=attention,
        use_safetensors=True,
        output_loading_info=True,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    model, report = loaded
    unloaded = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if unloaded:
        raise GlassboxError(
            f"The weight files of '{settings.model}' lack {len(unloaded)} weights of its configuration or give them "
            f"another shape (the first: {unloaded[0]}), which would be random numbers. Save the model again, or set "
            "`initialisation: random` to train it from scratch."
        )
    return model


def _random_model(settings: ModelSettings, config: Any, attention: str | None, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            config,
            dtype=loaded_dtype(settings),
            attn_implementation=attention,
            trust_remote_code=settings.trust_remote_code,
        )


def attention_of(config: Any) -> str | None:
    """The attention function to ask for: ours, or None for a class that calls no exchangeable one.

    Such a class forms its causal mask only for the functions that it knows, so that under another name its positions
    would see the future.
    """
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    exchangeable = known is None or known._supports_attention_backend or known._supports_sdpa
    return ATTENTION_NAME if exchangeable else None


def model_without_weights(settings: ModelSettings, dtype: torch.dtype) -> PreTrainedModel:
    """The model as `load_model` builds it, under the device or fake mode of the caller: for counting."""
    config = configuration_of(settings)
    return _with_attention(
        lambda attention: AutoModelForCausalLM.from_config(
            copy.deepcopy(config),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=settings.trust_remote_code,
        ),
        attention_of(config),
    )


def configuration_of(settings: ModelSettings) -> Any:
    """The configuration from a folder or the hub; GlassboxError where it cannot be had, or is of quantised weights."""
    with opening("model", settings.model, settings.revision):
        config = AutoConfig.from_pretrained(
            settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    quantised = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if quantised:
        facts = quantised if isinstance(quantised, dict) else quantised.to_dict()
        raise GlassboxError(
            f"The weights of '{settings.model}' are quantised ({facts.get('quant_method', 'by an unnamed method')}), "
            "and only full-precision weights are read here. Name the model that it was quantised from as teacher.model "
            "or student.model; `-S teacher.dtype=bfloat16` halves the memory of a float32 model."
        )
    return config


def loaded_dtype(settings: ModelSettings) -> torch.dtype:
    """The format that weights are held in; `auto` is bfloat16, or what a GPU has instead, and float32 on a CPU."""
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if cuda_has_bf16() else torch.float16


def output_head(model: PreTrainedModel) -> nn.Module:
    """The output layer; GlassboxError for a model whose logits are not exactly `scale (hidden x weight + bias)`."""
    head = model.get_output_embeddings()
    capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None) is not None
    if not isinstance(getattr(head, "weight", None), Tensor) or capped:
        what = "transforms its logits (final_logit_softcapping)" if capped else "has no linear output layer"
        raise GlassboxError(
            f"{type(model).__name__} {what}, so its logits cannot be formed from stored hidden states. "
            "Choose a model with a plain linear output layer."
        )
    return head  # type: ignore[return-value]


def output_rows(
    model: PreTrainedModel, vocabulary: int
) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None]:
    """Weight and bias of the output layer without its padding past `vocabulary`, times the model's scale of logits."""
    head = output_head(model)
    weight: Tensor = head.weight  # type: ignore[assignment]
    if len(weight) < vocabulary:
        raise GlassboxError(
            f"The output layer of {type(model).__name__} has {len(weight)} rows, but the vocabulary has {vocabulary} "
            "pieces. Teacher and student must share one vocabulary: choose another student."
        )
    bias: Tensor | None = getattr(head, "bias", None)
    if len(weight) != vocabulary:
        weight, bias = weight[:vocabulary], None if bias is None else bias[:vocabulary]
    scale = logit_scale(model)
    return (weight, bias) if scale == 1.0 else (weight * scale, None if bias is None else bias * scale)


def logit_scale(model: PreTrainedModel) -> float:
    """What the model multiplies its logits by (Cohere), or divides them by (Granite); 1 for most."""
    config = model.config.get_text_config()
    multiplied, divided = (getattr(config, name, None) for name in ("logit_scale", "logits_scaling"))
    return (1.0 if multiplied is None else float(multiplied)) / (1.0 if divided is None else float(divided))


def head_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "positions width"], vocabulary: int
) -> Float[Tensor, "positions vocabulary"]:
    """Logits in at least float32, also under autocast, without the output layer's padding past `vocabulary`."""
    weight, bias = output_rows(model, vocabulary)
    with without_autocast(hidden):
        return linear(hidden, weight, bias, loss_dtype(hidden))


def model_digest(model: nn.Module | Mapping[str, Tensor]) -> str:
    """sha256 in hex over the sorted names, dtypes, shapes and bytes of all weights."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def vocabulary_size(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> int:
    """Pieces that both the tokenizer and the output layer know; further rows of the layer are padding."""
    return min(max(tokenizer.get_vocab().values()) + 1, len(output_head(model).weight))  # type: ignore[arg-type]
