"""What the configuration of a model says of its shape; nothing here loads torch."""

from __future__ import annotations

from typing import Any


def layers_of(config: Any) -> int:
    """How many layers a model of this configuration has."""
    return config.get_text_config().num_hidden_layers


def attention_widths(config: Any) -> tuple[int, int, int]:
    """How wide queries, keys and values of a layer are, heads side by side, by the usual names of a configuration."""
    text = config.get_text_config()
    depth = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    shared = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return text.num_attention_heads * depth, shared * depth, shared * depth
