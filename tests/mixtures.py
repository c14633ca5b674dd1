"""Tiny mixture-of-experts models of several families for tests, drawn so that nothing in them is neutral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from miniatures import tiny_tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from glassbox.models.signals import ATTENTION_NAME

COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CHOSEN = {"num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
GROUPED = {"n_routed_experts": 6, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "olmoe": {"num_experts": 6, **CHOSEN},
    "mixtral": {"num_local_experts": 6, **CHOSEN},
    "qwen2_moe": {"num_experts": 6, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 16, **CHOSEN},
    "qwen3_moe": {"num_experts": 6, "moe_intermediate_size": 24, "head_dim": 8, "norm_topk_prob": True, **CHOSEN},
    "granitemoe": {"num_local_experts": 6, "residual_multiplier": 0.22, "logits_scaling": 4.0, **CHOSEN},
    "deepseek_v2": {"moe_intermediate_size": 24, "routed_scaling_factor": 1.7, **GROUPED, **LATENT, **CHOSEN},
    "gpt_oss": {
        "num_local_experts": 6,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        **CHOSEN,
    },
    "deepseek_v3": {"moe_intermediate_size": 24, **GROUPED, **LATENT, **CHOSEN},
    "flex_olmo": {"num_experts": 6, **CHOSEN},
    "jetmoe": {"num_local_experts": 4, "kv_channels": 8},
}


def tiny_mixture(family: str, seed: int = 0, *, gate: float = 0.5, **changes: Any) -> PreTrainedModel:
    """A random mixture in evaluation mode; the larger the spread of its gates, the clearer they prefer some experts."""
    config = type(AutoConfig.for_model(family))(**{**COMMON, **FAMILIES[family], **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME, dtype=torch.float32)
        for weight in model.parameters():
            if weight.shape == (6, 32):
                nn.init.normal_(weight, std=gate)
            elif weight.dim() == 1:
                nn.init.uniform_(weight, 0.5, 1.5)
    return model.eval()


def save_mixture(folder: Path, family: str = "mixtral", seed: int = 1, **changes: Any) -> Path:
    """A mixture-of-experts teacher as `load_model` reads it, with the tiny tokenizer."""
    tiny_mixture(family, seed, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
