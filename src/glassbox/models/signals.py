"""What is read off a model at chosen positions: its final hidden states and the last layer's attention rows.

One attention function, named "glassbox", runs scaled-dot-product attention in every layer. While a recorder is active
it also forms the wanted rows of the last layer's maps, in float32, from the queries and keys after rotary embedding.
Teacher capture and student training use the same call, without and with gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from glassbox.errors import GlassboxError
from glassbox.models.attention_dropout import dropped_attention, drops_here
from glassbox.models.shapes import layers_of

ATTENTION_NAME = "glassbox"


@dataclass
class PositionSignals:
    """Signals at the wanted positions of a batch, packed sample by sample in ascending order.

    `hidden` follows the final norm, in the model's dtype. Column 0 of `attention` is the sample's first real token;
    columns that a position may not see are 0. Its rows may be fewer positions than those of `hidden`. `layers` are the
    states after the layers that were asked for. `relations` are queries and keys after rotary embedding, and values, of
    a layer, at all columns from each sample's first real token on, all heads side by side.
    """

    hidden: Float[Tensor, "positions width"]
    attention: Float[Tensor, "rows heads length"] | None
    layers: Float[Tensor, "positions layers width"] | None = None
    relations: tuple[Float[Tensor, "batch length widths"], ...] | None = None


@dataclass
class _Recorder:
    """`start` is each sample's first column, None where all begin at column 0. Layers are counted from 0, None for one
    of which nothing is wanted."""

    last_layer: int | None
    start: Int[Tensor, " batch"] | None
    first: Int[Tensor, " batch"]
    count: Int[Tensor, " batch"]
    relations_layer: int | None = None
    rows: Float[Tensor, "positions heads length"] | None = None
    relations: tuple[Tensor, ...] | None = None


_active_recorder: ContextVar[_Recorder | None] = ContextVar("glassbox_attention_recorder", default=None)


@contextmanager
def _recording(recorder: _Recorder | None) -> Iterator[None]:
    token = _active_recorder.set(recorder)
    try:
        yield
    finally:
        _active_recorder.reset(token)


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep only each layer's input while training and compute the rest again for its gradient: less memory, more time.

    Raises GlassboxError for a model that does not support it.
    """
    try:
        model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": _recomputation})
    except ValueError as error:
        raise GlassboxError(
            f"{type(model).__name__} cannot compute its layers again for their gradient. "
            "Use `-S train.gradient_checkpointing=false` and a smaller train.micro_batch_size."
        ) from error


def _recomputation() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a layer's two runs: the second forms the attention rows again, for their gradient needs them."""
    recorder = _active_recorder.get()
    return nullcontext(), _recording(None if recorder is None else replace(recorder, rows=None, relations=None))


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled-dot-product attention; records the last layer's wanted rows where a recorder is active."""
    recorder, layer = _active_recorder.get(), getattr(module, "layer_idx", None)
    if recorder is not None and layer is not None:
        if layer == recorder.last_layer:
            recorder.rows = _attention_rows(
                query, key, recorder, scaling or query.shape[-1] ** -0.5, options.get("sliding_window")
            )
        if layer == recorder.relations_layer:
            recorder.relations = tuple(_side_by_side(each, recorder.start) for each in (query, key, value))
    if attention_mask is None and drops_here(module, query, key, options):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return dropped_attention(query, key, value, scale, options["dropout"]), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)


AttentionInterface.register(ATTENTION_NAME, attention_forward)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def _side_by_side(
    states: Float[Tensor, "batch heads length depth"], start: Int[Tensor, " batch"] | None
) -> Float[Tensor, "batch length width"]:
    """All heads of a position side by side, from each sample's first real token on."""
    joined = states.transpose(1, 2).flatten(2)
    if start is None:
        return joined
    length = joined.shape[1]
    column = (torch.arange(length, device=joined.device) + start[:, None]).clamp(max=length - 1)
    return joined.gather(1, column[:, :, None].expand_as(joined))


def packed_positions(first: Int[Tensor, " batch"], count: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """The sample index and the column of every wanted position, sample by sample, ascending."""
    sample_index = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    before = torch.cumsum(count, 0) - count
    within = torch.arange(len(sample_index), device=count.device) - before[sample_index]
    return sample_index, first[sample_index] + within


def _attention_rows(
    query: Float[Tensor, "batch heads length depth"],
    key: Float[Tensor, "batch key_heads length depth"],
    recorder: _Recorder,
    scaling: float,
    sliding_window: int | None,
) -> Float[Tensor, "positions heads length"]:
    """softmax(scaling q k^T) of the wanted rows over their causal, unpadded columns, in at least float32."""
    batch, heads, length, depth = query.shape
    key_heads = key.shape[1]
    sample_index, column = packed_positions(recorder.first, recorder.count)
    most = int(recorder.count.max())
    within = column - recorder.first[sample_index]
    gather = (recorder.first[:, None] + torch.arange(most, device=query.device)).clamp(max=length - 1)
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        rows = query.gather(2, gather[:, None, :, None].expand(batch, heads, most, depth)).to(dtype)
        grouped = rows.reshape(batch, key_heads, heads // key_heads * most, depth)
        scores = (grouped @ key.to(dtype).transpose(2, 3)).mul_(scaling)
        rows = scores.reshape(batch, heads, most, length)[sample_index, :, within]
        columns = torch.arange(length, device=query.device)
        if recorder.start is not None:
            start = recorder.start[sample_index]
            shifted = (columns + start[:, None]).clamp(max=length - 1)
            rows, column = rows.gather(2, shifted[:, None, :].expand_as(rows)), column - start
        visible = columns <= column[:, None]
        if sliding_window is not None:
            visible &= columns > (column - sliding_window)[:, None]
        return torch.softmax(rows.masked_fill_(~visible[:, None, :], float("-inf")), dim=-1)


def position_signals(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch length"],
    attention_mask: Bool[Tensor, "batch length"],
    first: Int[Tensor, " batch"],
    count: Int[Tensor, " batch"],
    *,
    want_attention: bool,
    attention_count: Int[Tensor, " batch"] | None = None,
    layers: Sequence[int] = (),
    relations_layer: int | None = None,
) -> PositionSignals:
    """Run `model` once and read its signals at columns [first, first + count) of every sample.

    Attention rows are those of the last `attention_count` of these columns (None: of all). `layers` and
    `relations_layer` are counted from 1; the states of the last layer are those after the final norm.
    The mask marks one unbroken run of real tokens per row: left and right padding both work. Right padding needs no
    mask in a causal model, so it takes the faster kernel. Raises GlassboxError where the model never reached the
    recorder, for a missing map must not pass as a zero.
    """
    mask = attention_mask.bool()
    start = mask.int().argmax(1)
    padded_left = bool(start.any())
    rows = count if attention_count is None else attention_count
    maps = want_attention and int(rows.sum()) > 0
    recorder = None
    if maps or relations_layer is not None:
        recorder = _Recorder(
            last_layer=layers_of(model.config) - 1 if maps else None,
            start=start if padded_left else None,
            first=first + count - rows,
            count=rows,
            relations_layer=None if relations_layer is None else relations_layer - 1,
        )
    padding: dict[str, Tensor] = {}
    if padded_left:
        padding = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with _recording(recorder):
        more = {"output_hidden_states": True} if layers else {}
        output = model.base_model(input_ids=input_ids, use_cache=False, **padding, **more)
    sample_index, column = packed_positions(first, count)
    hidden = output.last_hidden_state[sample_index, column]
    found = PositionSignals(hidden, None)
    if layers:
        found.layers = torch.stack([output.hidden_states[layer][sample_index, column] for layer in layers], dim=1)
    if want_attention and not maps:
        heads = model.config.get_text_config().num_attention_heads
        found.attention = hidden.new_zeros((0, heads, input_ids.shape[1]), dtype=torch.float32)
    if recorder is None:
        return found
    if maps and recorder.rows is None:
        raise GlassboxError(
            f"The last layer of {type(model).__name__} gives no attention map: it has none, or computes it out of "
            "reach of an attention function. Choose groups without `attention` (`-S distill=[sft,black_box]`), or "
            "another model."
        )
    if relations_layer is not None and recorder.relations is None:
        raise GlassboxError(
            f"Layer {relations_layer} of {type(model).__name__} shows no queries, keys and values: it has no attention "
            "function within reach. Choose groups without `relations`, or another `snapshot.relations_layer`."
        )
    found.attention = recorder.rows if maps else found.attention
    found.relations = recorder.relations
    return found


@torch.no_grad()
def gives_attention(model: PreTrainedModel) -> bool:
    """Whether the last layer's attention rows can be recorded, found by a text of two tokens."""
    ids = torch.zeros(1, 2, dtype=torch.int64, device=next(model.parameters()).device)
    one = torch.ones(1, dtype=torch.int64, device=ids.device)
    recorder = _Recorder(layers_of(model.config) - 1, None, one, one)
    with _recording(recorder):
        model.base_model(input_ids=ids, use_cache=False)
    return recorder.rows is not None


@torch.no_grad()
def relation_widths(model: PreTrainedModel, layer: int) -> tuple[int, ...]:
    """How wide queries, keys and values of a layer (from 1) are, heads side by side, found by a text of two tokens."""
    ids = torch.zeros(1, 2, dtype=torch.int64, device=next(model.parameters()).device)
    one = torch.ones(1, dtype=torch.int64, device=ids.device)
    found = position_signals(model, ids, torch.ones_like(ids), one, one, want_attention=False, relations_layer=layer)
    assert found.relations is not None
    return tuple(each.shape[-1] for each in found.relations)
