"""The last layer of a mixture-of-experts teacher as a function of its gate: `h = norm(r + c sum_i w_i E_i(u))`.

r (everything but the routed experts), u (what the gate reads) and E_i(u) (what each expert says) are constants of the
frozen teacher, so that another gate, or other experts in the sum, give another last state without the teacher. Which
experts speak: `chosen` the model's own top-k, `all`, `sampled` (KA: knowledge augmentation) and `router` (SAR: a gate
that learns from the student) after Kim, Chu & Yang (2025), "Every expert matters", arXiv 2502.12947.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.models.dtypes import linear, loss_dtype


@dataclass(frozen=True)
class Mixture:
    """The gate and the final norm of a teacher, with what scales its experts.

    `gate` and `gate_bias` give the gate's logits from u. Of their softmax the model takes the `chosen` largest, divided
    by their sum where `normalised`, times `factor`; `scale` is the c above, `factor` included. The norm divides by the
    root of the mean square, after the mean is taken off where `centred`.
    """

    gate: Float[Tensor, "experts width"]
    gate_bias: Float[Tensor, " experts"] | None
    norm: Float[Tensor, " width"]
    norm_bias: Float[Tensor, " width"] | None
    epsilon: float
    centred: bool
    chosen: int
    normalised: bool
    scale: float

    def logits(self, inputs: Float[Tensor, "positions width"]) -> Float[Tensor, "positions experts"]:
        """What the gate says of its inputs, in at least float32."""
        return gate_logits(inputs, self.gate, self.gate_bias)

    def own_weights(self, logits: Float[Tensor, "positions experts"]) -> Float[Tensor, "positions experts"]:
        """The model's own weights, 0 for experts that it does not choose."""
        return chosen_weights(logits, self.chosen, self.normalised)

    def mass(self, logits: Float[Tensor, "positions experts"]) -> Float[Tensor, " positions"]:
        """The sum of the model's own weights: 1 where they are normalised."""
        return self.own_weights(logits).sum(dim=-1)

    def states(
        self,
        residual: Float[Tensor, "positions width"],
        outputs: Float[Tensor, "positions kept width"],
        weights: Float[Tensor, "positions kept"],
    ) -> Float[Tensor, "positions width"]:
        """The last state after the final norm, in at least float32."""
        dtype = torch.promote_types(weights.dtype, torch.float32)
        spoken = torch.einsum("pk,pkw->pw", weights.to(dtype), outputs.to(dtype))
        return normalise(residual.to(dtype) + self.scale * spoken, self)

    def to(self, device: torch.device | str) -> Mixture:
        moved = {name: value.to(device) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def as_tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, for a safetensors file; numbers are float64 scalars."""
        numbers = {name: float(getattr(self, name)) for name in NUMBERS}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._tensors().items()}
        return tensors | {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Mixture:
        """What `as_tensors` gave; weights as float32."""
        weights = {
            name: tensors[name].float() if name in tensors else None
            for name in ("gate", "gate_bias", "norm", "norm_bias")
        }
        return cls(**weights, **{name: kind(tensors[name].item()) for name, kind in NUMBERS.items()})  # type: ignore[arg-type]


NUMBERS = {"epsilon": float, "centred": bool, "chosen": int, "normalised": bool, "scale": float}


def gate_logits(
    inputs: Float[Tensor, "positions width"],
    gate: Float[Tensor, "experts width"],
    bias: Float[Tensor, " experts"] | None,
) -> Float[Tensor, "positions experts"]:
    return linear(inputs, gate, bias, loss_dtype(inputs, gate))


def chosen_weights(
    logits: Float[Tensor, "positions experts"], chosen: int, normalised: bool
) -> Float[Tensor, "positions experts"]:
    """Softmax over all, of which the `chosen` largest stay, divided by their sum where `normalised`.

    Softmax over the chosen logits alone (Granite) is the same number as the normalised one.
    """
    probability = logits.softmax(dim=-1)
    values, ids = probability.topk(chosen, dim=-1)
    if normalised:
        values = values / values.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probability).scatter(-1, ids, values)


def normalise(state: Float[Tensor, "positions width"], mixture: Mixture) -> Float[Tensor, "positions width"]:
    """The final norm: RMSNorm, or LayerNorm where `centred`."""
    if mixture.centred:
        state = state - state.mean(dim=-1, keepdim=True)
    scaled = state * torch.rsqrt(state.square().mean(dim=-1, keepdim=True) + mixture.epsilon)
    scaled = scaled * mixture.norm.to(scaled.dtype)
    return scaled if mixture.norm_bias is None else scaled + mixture.norm_bias.to(scaled.dtype)


def mixed(logits: Float[Tensor, "positions kept"], speaks: Tensor | None = None) -> Float[Tensor, "positions kept"]:
    """The softmax over the experts that speak ([positions, kept] bool; None: all), 0 for the others."""
    return (logits if speaks is None else logits.masked_fill(~speaks, -torch.inf)).softmax(dim=-1)


def draw_speakers(
    logits: Float[Tensor, "positions kept"], uniform: Float[Tensor, "positions kept_and_one"], share: float
) -> Tensor:
    """KA: all experts but one speak ([positions, kept] bool): the least likely is silent, or, with probability `share`,
    the one left over when the others are drawn without replacement from the gate's softmax.

    `uniform` are numbers in [0, 1), drawn by the caller: the first column decides which of the two, the others draw by
    the Gumbel trick (the largest of logit + Gumbel noise come in the order of draws without replacement).
    """
    tiny = torch.finfo(uniform.dtype).tiny
    noise = -(-uniform[:, 1:].clamp(min=tiny).log()).clamp(min=tiny).log()
    order = torch.where(uniform[:, :1] < share, logits + noise, logits)
    silent = order.argmin(dim=-1, keepdim=True)
    return torch.ones_like(order, dtype=torch.bool).scatter(-1, silent, False)


def load_balance(
    logits: Float[Tensor, "positions experts"],
    loads: Float[Tensor, " experts"],
    weights: Float[Tensor, " positions"],
) -> Float[Tensor, ""]:
    """`N sum_i f_i P_i` (Fedus et al. 2022), 1 where every expert has its share; differentiable in P alone.

    P_i is the gate's mean probability over positions as `weights` counts them, f_i = `loads`, without gradient.
    """
    probability = weights.to(logits.dtype) @ logits.softmax(dim=-1)
    return logits.shape[-1] * (loads.detach().to(logits.dtype) * probability).sum()


def expert_loads(
    logits: Float[Tensor, "positions experts"], chosen: int, weights: Float[Tensor, " positions"]
) -> Float[Tensor, " experts"]:
    """f_i: the share of positions, as `weights` counts them, whose gate ranks i among its `chosen`, divided by that."""
    ranked = torch.zeros_like(logits).scatter(-1, logits.topk(chosen, dim=-1).indices, 1.0)
    return weights.to(logits.dtype) @ ranked / chosen


def most_probable(logits: Float[Tensor, "positions experts"], kept: int) -> Int[Tensor, "positions kept"]:
    """The ids of the `kept` most probable experts of each position, ascending."""
    return logits.topk(kept, dim=-1).indices.sort(dim=-1).values
