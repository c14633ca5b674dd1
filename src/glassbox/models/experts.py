"""The mixture of experts in a live model's last layer: where it is, what it does, and what each expert says.

Nothing is found by a name. A model is a mixture of experts if one forward pass returns router logits; the gate is the
module whose output they are, the experts are the module that is called with the chosen ids and their weights, the norm
is the module whose output is the last hidden state. What they compute is then fitted and compared with what the model
did: a family that does something else is refused, with what it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from glassbox.errors import GlassboxError
from glassbox.models.mixture import Mixture, gate_logits, most_probable, normalise

PROBE = (2, 24)  # texts and their tokens
FIT = 1e-4
# The largest relative error of a position in float32; of the mean position where rounding is coarse
TOLERANCES = {torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.08}


class NoMixture(GlassboxError):
    """The model is dense, or its mixture is none that can be formed from a snapshot."""


@dataclass(frozen=True)
class _Call:
    module: nn.Module
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


@dataclass
class Seen:
    """What a watched forward pass of the last layer said, all positions in one row of states."""

    inputs: Tensor | None = None
    spoken: Tensor | None = None
    before_norm: Tensor | None = None


@dataclass(frozen=True)
class LastLayer:
    """The modules of a live mixture, and the same as numbers; `spoken_scale` is what the model multiplies the experts'
    sum by, after their weights."""

    experts: nn.Module
    norm: nn.Module
    mixture: Mixture
    spoken_scale: float


@dataclass(frozen=True)
class ExpertReading:
    """What the last layer's mixture is formed from at some positions; `ids`, ascending, names the experts of
    `outputs`."""

    inputs: Float[Tensor, "positions width"]
    residual: Float[Tensor, "positions width"]
    outputs: Float[Tensor, "positions kept width"]
    ids: Int[Tensor, "positions kept"]
    logits: Float[Tensor, "positions experts"]


@torch.no_grad()
def find_last_layer(model: PreTrainedModel) -> LastLayer:
    """The mixture of the last layer, compared with the live one. Raises NoMixture for a model without such a one."""
    name = type(model).__name__
    ids = _probe(model)
    calls: list[_Call] = []
    with _watching(model, calls):
        logits, final = router_logits_of(model, ids)
    gate = _last(call for call in calls if any(_is(each, logits) for each in call.outputs))
    experts = _last(call for call in calls if _choice(call) is not None)
    norm = _last(call for call in calls if any(_is(each, final) for each in call.outputs) and call.inputs)
    if gate is None or experts is None or norm is None:
        missing = "the gate" if gate is None else "the experts" if experts is None else "the final norm"
        raise NoMixture(_other(name, f"no module of it is called as {missing} of a mixture"))
    return _fitted(model, ids, gate, experts, norm, logits, final)


def _dense(name: str) -> str:
    return (
        f"{name} is no mixture of experts: its forward pass returns no router logits. Groups that mix experts "
        "(moe_all, moe_ka, moe_sar) need a teacher like OLMoE, Mixtral or Qwen3-MoE, and `snapshot.experts: last`."
    )


def _other(name: str, what: str) -> str:
    return (
        f"The mixture of experts of {name} cannot be formed from a snapshot: {what}. Choose groups without experts, "
        "or a teacher like OLMoE, Mixtral, Qwen2-MoE, Qwen3-MoE or GraniteMoE."
    )


def _probe(model: PreTrainedModel) -> Int[Tensor, "texts tokens"]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(0, vocabulary, PROBE, generator=generator).to(next(model.parameters()).device)


@contextmanager
def _watching(model: nn.Module, calls: list[_Call]) -> Iterator[None]:
    """Every call of every module, in the order in which they end: inner ones first."""

    def note(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        calls.append(_Call(module, _tensors([*inputs, *options.values()]), _tensors(output)))

    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def router_logits_of(model: PreTrainedModel, ids: Int[Tensor, "texts tokens"]) -> tuple[Tensor, Tensor]:
    """The last router logits of one forward pass, and its last hidden state. Raises NoMixture where there are none."""
    name = type(model).__name__
    try:
        output = model.base_model(input_ids=ids, use_cache=False, output_router_logits=True)
    except TypeError as error:
        raise NoMixture(_dense(name)) from error
    routed = [each for each in getattr(output, "router_logits", None) or () if isinstance(each, Tensor)]
    if not routed:
        raise NoMixture(_dense(name))
    final = getattr(output, "last_hidden_state", None)
    if final is None:
        raise NoMixture(_other(name, "its forward pass returns no last hidden state"))
    return routed[-1], final


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [each for each in values if isinstance(each, Tensor)] if isinstance(values, tuple | list) else []


def _is(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory, under whatever shape."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel() and one.dtype == other.dtype


def _last(calls: Iterator[_Call]) -> _Call | None:
    """The innermost module of the last call: modules around it end later, with the same output."""
    found = list(calls)
    if not found:
        return None
    outputs = found[-1].outputs
    same = [call for call in found if any(_is(a, b) for a in call.outputs for b in outputs)]
    return same[0]


def _choice(call: _Call) -> tuple[Tensor, Tensor, Tensor] | None:
    """States [positions, width], ids [positions, k] and weights [positions, k] where a call has just these."""
    ids = [each for each in call.inputs if each.dim() == 2 and not each.dtype.is_floating_point]
    real = [each for each in call.inputs if each.dim() == 2 and each.dtype.is_floating_point]
    if len(ids) != 1 or ids[0].dtype == torch.bool or len(real) != 2 or len(call.outputs) != 1:
        return None
    weights = [each for each in real if each.shape == ids[0].shape]
    states = [each for each in real if each.shape == call.outputs[0].shape and each is not (weights or [None])[0]]
    return (states[0], ids[0], weights[0]) if len(weights) == len(states) == 1 else None


def _fitted(
    model: PreTrainedModel, ids: Tensor, gate: _Call, experts: _Call, norm: _Call, logits: Tensor, final: Tensor
) -> LastLayer:
    """The mixture's numbers, each compared with what the model did."""
    name, choice = type(model).__name__, _choice(experts)
    assert choice is not None
    inputs, chosen, weights = choice
    width, tolerance = inputs.shape[-1], TOLERANCES.get(model.dtype, TOLERANCES[torch.float32])
    flat = logits.reshape(-1, logits.shape[-1]).float()
    if len(flat) != len(inputs):
        raise NoMixture(_other(name, "the last router logits are not those of the last experts"))
    matrix, bias = _gate_weight(gate.module, inputs, flat, name, tolerance)
    normalised, factor = _rule(flat, chosen, weights.float(), name, tolerance)
    spoken = experts.outputs[0].float()
    before, after = norm.inputs[0].reshape(-1, width).float(), final.reshape(-1, width).float()
    rest = _without_experts(model, ids, experts.module, norm.module).reshape(-1, width).float()
    scale = float((before - rest).double().flatten() @ spoken.double().flatten() / spoken.double().square().sum())
    scale = _plain_number(scale)
    if not _error(rest + scale * spoken, before, model.dtype) <= tolerance:
        what = "its last layer has no experts, or does more with what they say than to scale and add it"
        raise NoMixture(_other(name, what))
    plain = torch.ones(width, device=matrix.device)
    mixture = Mixture(matrix, bias, plain, None, 0.0, False, chosen.shape[-1], normalised, scale * factor)
    mixture = _with_norm(mixture, norm.module, before, after, model, tolerance)
    every = torch.arange(flat.shape[-1], device=inputs.device).expand(len(inputs), -1)
    outputs = expert_outputs(experts.module, inputs, every).float()
    formed = mixture.states(rest, outputs, mixture.own_weights(flat))
    if not (error := _error(formed, after, model.dtype)) <= tolerance:
        what = f"its experts are not added up by their weights (the last state differs by {error:.1e} of its norm)"
        raise NoMixture(_other(name, what))
    return LastLayer(experts.module, norm.module, mixture, scale)


def _error(found: Tensor, true: Tensor, dtype: torch.dtype) -> float:
    """|found - true| / |true|: of the worst position in float32, of the mean one where rounding is coarse."""
    errors = (found - true).norm(dim=-1) / true.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(errors.max() if dtype == torch.float32 else errors.mean())


def _gate_weight(
    gate: nn.Module, inputs: Tensor, logits: Tensor, name: str, tolerance: float
) -> tuple[Tensor, Tensor | None]:
    """The gate's matrix, and its bias where it has one, that give these logits from these inputs."""
    experts, width = logits.shape[-1], inputs.shape[-1]
    own = [value.detach() for value in (*gate.parameters(), *gate.buffers())]
    matrices = [value for value in own if value.shape == (experts, width)]
    biases: list[Tensor | None] = [None, *(value for value in own if value.shape == (experts,))]
    for matrix in matrices:
        for bias in biases:
            if _error(gate_logits(inputs, matrix, bias).float(), logits, matrix.dtype) <= tolerance:
                return matrix, bias
    raise NoMixture(_other(name, "its gate is no product of one matrix with what the experts read"))


def _rule(logits: Tensor, chosen: Tensor, weights: Tensor, name: str, tolerance: float) -> tuple[bool, float]:
    """Whether the weights of the chosen are divided by their sum, and by what factor they are multiplied then."""
    probability = logits.softmax(dim=-1)
    own, best = probability.gather(-1, chosen), probability.topk(chosen.shape[-1], dim=-1).values
    fits = []
    for normalised in (False, True):
        given = own / own.sum(dim=-1, keepdim=True) if normalised else own
        factor = float((weights * given).sum() / given.square().sum())
        fits.append((float((weights - factor * given).abs().max()) / max(abs(factor), 1e-12), normalised, factor))
    error, normalised, factor = min(fits)
    if not torch.allclose(own.amin(dim=-1), best.amin(dim=-1)) or not error <= max(tolerance, 1e-5):
        raise NoMixture(
            _other(name, "its gate chooses or weighs experts by something else than a softmax of its logits")
        )
    return normalised, _plain_number(factor)


def _plain_number(value: float) -> float:
    """The shortest decimal number that differs by less than a fit explains: scales are written in configurations."""
    for digits in range(1, 8):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= FIT * abs(value):
            return short
    return value


def _nothing(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _without_experts(model: PreTrainedModel, ids: Tensor, experts: nn.Module, norm: nn.Module) -> Tensor:
    """What reaches the final norm when the last experts say nothing."""
    seen: list[Tensor] = []
    hooks = [
        experts.register_forward_hook(_nothing),
        norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
    ]
    try:
        model.base_model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1]


def _with_norm(
    mixture: Mixture, norm: nn.Module, before: Tensor, after: Tensor, model: PreTrainedModel, tolerance: float
) -> Mixture:
    """The mixture with the final norm, whose kind is found by what it gives."""
    width = before.shape[-1]
    weights = [value.detach().float() for value in norm.parameters() if value.shape == (width,)]
    numbers = [value for value in vars(norm).values() if isinstance(value, float)]
    configured = model.config.get_text_config()
    numbers += [value for value in vars(configured).values() if isinstance(value, float) and 0 < value < 1e-2]
    scales = [torch.ones(width, device=before.device)] if not weights else [weights[0], 1.0 + weights[0]]
    offset = weights[1] if len(weights) > 1 else None
    best, smallest = mixture, math.inf
    for centred in (False, True):
        for scale in scales:
            for epsilon in (*dict.fromkeys(numbers), 0.0):
                values = {"norm": scale, "norm_bias": offset, "epsilon": epsilon, "centred": centred}
                tried = Mixture(**{**vars(mixture), **values})
                error = _error(normalise(before, tried), after, model.dtype)
                if error < smallest:
                    best, smallest = tried, error
    if not smallest <= tolerance:
        raise NoMixture(_other(type(model).__name__, "its final norm is neither RMSNorm nor LayerNorm"))
    return best


def expert_outputs(
    experts: nn.Module, inputs: Float[Tensor, "positions width"], ids: Int[Tensor, "positions kept"]
) -> Float[Tensor, "positions kept width"]:
    """What the experts that each position names say of it, each by itself."""
    one = inputs.new_ones(len(inputs), 1)
    return torch.stack([experts(inputs, ids[:, [place]], one) for place in range(ids.shape[1])], dim=1)


@contextmanager
def watching_experts(layer: LastLayer) -> Iterator[Seen]:
    """Keeps what the last layer's gate and experts said in the forward passes within."""
    seen = Seen()

    def spoken(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> None:
        choice = _choice(_Call(module, _tensors([*inputs, *options.values()]), [output]))
        assert choice is not None
        seen.inputs, seen.spoken = choice[0], output

    hooks = [
        layer.experts.register_forward_hook(spoken, with_kwargs=True),
        layer.norm.register_forward_pre_hook(lambda module, inputs: setattr(seen, "before_norm", inputs[0])),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def read_experts(layer: LastLayer, seen: Seen, rows: Int[Tensor, " positions"], kept: int) -> ExpertReading:
    """What was seen at some positions (`rows` counts them over the whole padded batch), and what the `kept` most
    probable experts say there."""
    assert seen.inputs is not None and seen.spoken is not None and seen.before_norm is not None
    inputs, spoken = seen.inputs[rows], seen.spoken[rows].float()
    before = seen.before_norm.reshape(len(seen.inputs), -1)[rows].float()
    logits = layer.mixture.logits(inputs)
    ids = most_probable(logits, kept)
    outputs = expert_outputs(layer.experts, inputs, ids)
    return ExpertReading(inputs, before - layer.spoken_scale * spoken, outputs, ids, logits)
