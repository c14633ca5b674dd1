"""The `mixture` component: forward KL from the teacher's last layer with its experts mixed anew (models/mixture.py).

Which of the experts speak is the group's `experts`: all of them (`all`), all but one, drawn anew for each of several
passes whose losses are averaged (`sampled`), or all by a gate that learns from the student (`router`, `other_router`).
The student's side is that of the `logits` component: the same KL, temperature and reduction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.config.settings import ExpertsSettings, ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.models.dtypes import linear, loss_dtype, without_autocast
from glassbox.models.mixture import Mixture, draw_speakers, expert_loads, load_balance, mixed
from glassbox.objective.head import Head
from glassbox.objective.logits import DenseTarget
from glassbox.objective.reading import Ingredients, Reading, at, present
from glassbox.objective.term import Term
from glassbox.randomness import derived_seed
from glassbox.snapshot.batch import EXPERT_FIELDS, Batch

LEARNING = ("router", "other_router")
CHUNK_LOGITS = 1 << 22


@dataclass(frozen=True)
class Experts:
    """How one trial mixes the teacher's experts. `gate` is the one that learns, None where none does."""

    mixture: Mixture
    speaks: str
    settings: ExpertsSettings
    seed: int
    gate: Float[Tensor, "experts width"] | None = None

    def to(self, device: torch.device | str) -> Experts:
        return replace(self, mixture=self.mixture.to(device), gate=None if self.gate is None else self.gate.to(device))


@dataclass(frozen=True)
class Parts:
    """The teacher's last layer at some positions, as the snapshot holds it."""

    router_logits: Float[Tensor, "rows experts"]
    expert_ids: Int[Tensor, "rows kept"]
    router_input: Float[Tensor, "rows width"]
    residual: Float[Tensor, "rows width"]
    expert_outputs: Float[Tensor, "rows kept width"]

    def __getitem__(self, rows: slice) -> Parts:
        return Parts(**{name: value[rows] for name, value in vars(self).items()})

    def __len__(self) -> int:
        return len(self.router_logits)


@dataclass(frozen=True)
class PassesTarget:
    """The mean of the KLs to several targets."""

    targets: Sequence[DenseTarget]

    def divergence(
        self, student_logits: Float[Tensor, "chunk vocabulary"], chunk: slice, temperature: float, squared: bool
    ) -> Term:
        terms = [each.divergence(student_logits, chunk, temperature, squared) for each in self.targets]
        count = len(terms)
        return Term(sum(t.values for t in terms) / count, sum(t.gradient for t in terms) / count)  # type: ignore[arg-type]


def parts_of(batch: Batch, rows: Tensor | None = None) -> Parts:
    return Parts(**{name: at(present(getattr(batch, name), "experts"), rows) for name in EXPERT_FIELDS})


def target_of(reading: Reading) -> DenseTarget | PassesTarget:
    """The teacher's side of the component, with nothing that a gradient could flow into."""
    experts = present(reading.ingredients.experts, "experts")
    weight, bias = present(reading.ingredients.head, "head")
    with torch.no_grad(), without_autocast(weight):
        parts = parts_of(reading.source, reading.rows)
        if experts.speaks != "sampled":
            return DenseTarget(states(experts, parts, new_logits(experts, parts)), weight, bias)
        passes = [
            DenseTarget(states(experts, parts, parts.router_logits, uniform), weight, bias)
            for uniform in uniforms(experts, reading.batch, reading.progress, parts)
        ]
        return PassesTarget(passes)


def refuse_missing(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError for experts that were not captured."""
    if ingredients.experts is None or ingredients.head is None:
        raise GlassboxError(
            "The mixture component needs what the experts of the teacher's last layer say, and this snapshot holds "
            "none. Capture it from a mixture-of-experts teacher with `-S snapshot.experts=last`."
        )


def new_logits(experts: Experts, parts: Parts) -> Float[Tensor, "rows experts"]:
    """What the gate that learns says: the teacher's own logits, and what the gate has moved by since."""
    if experts.gate is None:
        return parts.router_logits
    return parts.router_logits + parts.router_input @ (experts.gate - experts.mixture.gate).t()


def mixing_weights(
    experts: Experts, parts: Parts, logits: Float[Tensor, "rows experts"], uniform: Tensor | None = None
) -> Float[Tensor, "rows kept"]:
    """What each stored expert counts: the softmax over those that speak, times the mass of the model's own weights
    where the settings ask for it. `uniform` draws who speaks."""
    kept = logits.gather(-1, parts.expert_ids)
    silenced = None if uniform is None else draw_speakers(kept, uniform, experts.settings.sampled_share)
    weights = mixed(kept, silenced)
    if experts.settings.mass == "model":
        weights = weights * experts.mixture.mass(parts.router_logits).unsqueeze(-1)
    return weights


def states(
    experts: Experts, parts: Parts, logits: Float[Tensor, "rows experts"], uniform: Tensor | None = None
) -> Float[Tensor, "rows width"]:
    """The teacher's last state under the new mixture."""
    weights = mixing_weights(experts, parts, logits, uniform)
    return experts.mixture.states(parts.residual, parts.expert_outputs, weights)


def uniforms(experts: Experts, batch: Batch, progress: float, parts: Parts) -> Float[Tensor, "passes rows draws"]:
    """What decides who speaks, drawn by trial, moment and sample: how samples are batched does not change it."""
    shape = experts.settings.passes, parts.expert_ids.shape[1] + 1
    drawn = []
    for sample_id, count in zip(batch.sample_ids, batch.answer_count.tolist(), strict=True):
        seed = derived_seed(experts.seed, f"experts/{sample_id}/{progress!r}")
        drawn.append(np.random.Generator(np.random.PCG64(seed)).random((shape[0], count, shape[1]), np.float32))
    return torch.from_numpy(np.concatenate(drawn, axis=1)).to(parts.router_logits.device)


def rows_of_others(count: Int[Tensor, " batch"]) -> Int[Tensor, " rows"]:
    """For every row of samples packed one after another, the row of the next sample (the first after the last) at the
    same place of its answer, or at that answer's end."""
    start = torch.cumsum(count, 0) - count
    sample = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    other = (sample + 1) % len(count)
    within = torch.arange(len(sample), device=count.device) - start[sample]
    return start[other] + torch.minimum(within, count[other] - 1)


def router_gradient(
    experts: Experts,
    parts: Parts,
    student: Float[Tensor, "rows student_width"],
    heads: tuple[Head, tuple[Tensor, Tensor | None]],
    weights: Float[Tensor, " rows"],
    loads: Float[Tensor, " experts"],
    temperature: float,
) -> tuple[Float[Tensor, "experts width"], dict[str, Tensor]]:
    """The gradient of the router's loss with respect to its gate, and the loss's terms, summed by `weights`.

    `KL(p' || q) + balance x N sum_i f_i P_i`: p' is the new mixture, q the student, which gets no gradient. `heads` are
    the output layers of student and teacher, `loads` the f_i of the whole optimizer step. By chunks of positions.
    """
    own, (weight, bias) = heads
    dtype = loss_dtype(student, weight, parts.residual)
    gate = present(experts.gate, "router").detach().requires_grad_()
    learning = replace(experts, gate=gate)
    gradient = torch.zeros_like(gate)
    sums = {"kl": weights.new_zeros(()), "balance": weights.new_zeros(())}
    for rows in _chunks(len(parts), len(weight)):
        with torch.enable_grad(), without_autocast(gate):
            here = parts[rows]
            logits = new_logits(learning, here)
            log_p = log_softmax(states(learning, here, logits), weight, bias, temperature, dtype)
            log_q = log_softmax(student[rows], own.weight, own.bias, temperature, dtype).detach()
            kl = (weights[rows] * (log_p.exp() * (log_p - log_q)).sum(dim=-1)).sum()
            balance = load_balance(logits, loads, weights[rows])
            gradient += torch.autograd.grad(kl + experts.settings.router_balance * balance, gate)[0]
        sums = {"kl": sums["kl"] + kl.detach(), "balance": sums["balance"] + balance.detach()}
    return gradient, sums


def log_softmax(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    temperature: float,
    dtype: torch.dtype,
) -> Float[Tensor, "rows vocabulary"]:
    """log p(v) of an output layer at a temperature."""
    return (linear(hidden, weight, bias, dtype) / temperature).log_softmax(dim=-1)


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return (slice(start, start + size) for start in range(0, rows, size))


@torch.no_grad()
def own_loads(experts: Experts, parts: Parts, weights: Float[Tensor, " rows"]) -> Float[Tensor, " experts"]:
    """This micro-batch's part of f_i under the gate as it is now."""
    return expert_loads(new_logits(experts, parts), experts.mixture.chosen, weights)


@torch.no_grad()
def figures(experts: Experts, parts: Parts, weights: Float[Tensor, " rows"]) -> dict[str, Tensor]:
    """What is logged of a mixture, summed by `weights`: the entropy of the mixing weights (of all that are stored), the
    KL of the new gate to the teacher's own, the mass of the model's own weights, and what the stored experts lack."""
    logits = new_logits(experts, parts)
    kept = mixed(logits.gather(-1, parts.expert_ids))
    log_new, log_old = logits.log_softmax(dim=-1), parts.router_logits.log_softmax(dim=-1)
    values = {
        "entropy": torch.special.entr(kept).sum(dim=-1),
        "gate_kl": (log_new.exp() * (log_new - log_old)).sum(dim=-1),
        "mass": experts.mixture.mass(parts.router_logits),
        "mass_lost": (1.0 - log_old.exp().gather(-1, parts.expert_ids).sum(dim=-1)).clamp(min=0.0),
    }
    return {f"mixture_{name}": (weights * value).sum() for name, value in values.items()}


@torch.no_grad()
def told(experts: Experts, batch: Batch, head: tuple[Tensor, Tensor | None]) -> Tensor:
    """By sample, whether the mixture's likeliest token is the answer's at every position of it: what greedy decoding
    would say. [samples] bool."""
    rows = batch.rows("answer")
    parts, labels, sample = parts_of(batch, rows), at(batch.labels, rows), at(batch.sample_index, rows)
    weight, bias = head
    wrong = torch.zeros(len(batch.sample_ids), dtype=torch.int64, device=labels.device)
    for chunk in _chunks(len(parts), len(weight)):
        here = parts[chunk]
        logits = torch.nn.functional.linear(states(experts, here, new_logits(experts, here)), weight, bias)
        wrong.index_add_(0, sample[chunk].long(), (logits.argmax(dim=-1) != labels[chunk]).long())
    return wrong == 0
