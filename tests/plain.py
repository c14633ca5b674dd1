"""One optimizer step in plain PyTorch: what a trial must do, written a second time.

Nothing here imports glassbox.objective or the step under test. Every sample goes alone through Transformers' own eager
forward pass, positions and chunks are loops, clipping and AdamW are their formulas. The snapshot is read through its
reader, a sample at a time; random numbers are drawn by the same streams as the product's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from glassbox.models.chunks import Chunks, align
from glassbox.models.encoding import byte_spans, encode_sample
from glassbox.randomness import derived_seed
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.tasks.sample import Sample

TOKEN_SIGNALS = {"hidden", "attention", "layers", "relations", "experts", "label_logp"}
ROTARY_BASE = 10_000.0


@dataclass
class Lesson:
    """One sample of a step: what the student says of it, and what the snapshot holds.

    ids: the student's. answer: the positions that predict its answer, as a slice. states: by layer, counted from 1, the
    last after the final norm. maps: of the last layer, [heads, length, length]. relations: queries and keys after
    rotary embedding, and values, of the last layer, [length, width] each.
    """

    sample_id: str
    ids: Tensor
    answer: slice
    logits: Tensor
    states: dict[int, Tensor]
    maps: Tensor
    relations: tuple[Tensor, ...]
    stored: Batch

    @property
    def labels(self) -> Tensor:
        return self.ids[self.answer.start + 1 :]


@dataclass
class Plain:
    """A student, its projectors, and what belongs to neither; `step` changes the weights in place.

    rows: those of the output layer that count (None: all). initial: the loss of every layer of the teacher before the
    step, for a router over layers.
    """

    model: Any
    projectors: Mapping[str, nn.Module]
    snapshot: Snapshot
    temperature: float
    decay: float
    rows: int | None = None
    negatives: tuple[Tensor, Tensor] | None = None
    initial: Tensor | None = None
    experts: Experts | None = None
    aligned: Alignment | None = None
    reported: dict[str, float] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        own = {f"model.{name}": weight for name, weight in self.model.named_parameters()}
        for component, projector in self.projectors.items():
            own |= {f"projectors.{component}.{name}": weight for name, weight in projector.named_parameters()}
        return own

    def step(self, sample_ids: Sequence[str], weights: Mapping[str, float], rate: float) -> dict[str, Tensor]:
        """One AdamW step; returns the clipped gradients, and leaves losses and the norm in `reported`."""
        lessons = [self.lesson(sample_id) for sample_id in sample_ids]
        if self.experts is not None and self.experts.speaks == "router":
            self.experts.move(lessons, self)
        if "layer_router" in weights:
            self.initial = torch.stack([by_layer(each, self).mean(0) for each in lessons]).mean(0).detach()
        losses = {
            name: torch.stack([COMPONENTS[name](each, self).mean() for each in lessons]).mean() for name in weights
        }
        total = sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(()))
        learning = {
            name: weight
            for name, weight in self.parameters.items()
            if not name.startswith("projectors.") or weights[name.split(".")[1]]
        }
        found = torch.autograd.grad(total, list(learning.values()), allow_unused=True)
        gradients = {name: each for name, each in zip(learning, found, strict=True) if each is not None}
        self.reported = {f"loss_{name}": float(loss.detach()) for name, loss in losses.items()}
        self.reported |= {"loss_total": float(total.detach()), "gradient_norm": norm_of(gradients.values())}
        return adamw(learning, gradients, rate, self.decay)

    def lesson(self, sample_id: str) -> Lesson:
        wanted = frozenset(TOKEN_SIGNALS & {*self.snapshot.manifest["signals"]})
        stored = self.snapshot.read([sample_id], wanted)
        if self.aligned is None:
            ids, start = stored.input_ids[0], int(stored.first[0])
        else:
            ids, start = self.aligned.encoded(sample_id)
        output, relations = watched(self.model, ids)
        states = dict(enumerate(output.hidden_states))  # the embedding is 0, and the last one comes after the norm
        return Lesson(
            sample_id,
            ids,
            slice(start, len(ids) - 1),
            output.logits[0, :, : self.rows],
            {layer: each[0] for layer, each in states.items()},
            output.attentions[-1][0],
            relations,
            stored,
        )

    def projected(self, component: str, states: Tensor, pair: int | None = None) -> Tensor:
        own: Any = self.projectors[component] if pair is None else self.projectors[component][pair]  # type: ignore[index]
        return states @ own.weight.T + own.bias


def load_plain(folder: Any) -> Any:
    """A model as Transformers loads it, with eager attention."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def watched(model: Any, ids: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
    """The output of a Llama, and queries and keys after rotary embedding, and values, of its last layer."""
    seen: dict[str, Tensor] = {}
    attention = model.model.layers[-1].self_attn
    handles = [
        getattr(attention, f"{name}_proj").register_forward_hook(
            lambda module, given, output, name=name: seen.__setitem__(name, output[0])
        )
        for name in "qkv"
    ]
    output = model(input_ids=ids[None], output_hidden_states=True, output_attentions=True)
    for handle in handles:
        handle.remove()
    depth = attention.head_dim
    return output, (rotated(seen["q"], depth), rotated(seen["k"], depth), seen["v"])


def rotated(states: Tensor, depth: int) -> Tensor:
    """Rotary embedding of every head's `depth` channels, halves paired, positions counted from 0."""
    frequency = ROTARY_BASE ** (-torch.arange(0, depth, 2) / depth)
    angle = torch.arange(len(states))[:, None] * frequency
    heads = states.reshape(len(states), -1, 2, depth // 2)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second = heads[:, :, 0], heads[:, :, 1]
    return torch.stack((first * cos - second * sin, second * cos + first * sin), 2).reshape(len(states), -1)


def norm_of(gradients: Any) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in gradients))


def adamw(
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    rate: float,
    decay: float,
    clip: float = 1.0,
) -> dict[str, Tensor]:
    """The first step of AdamW, whose moments are then the gradient's own. Returns the gradients as clipped.

    Matrices alone decay.
    """
    factor = min(1.0, clip / (norm_of(gradients.values()) + 1e-6))
    clipped = {name: gradient * factor for name, gradient in gradients.items()}
    with torch.no_grad():
        for name, gradient in clipped.items():
            weight = parameters[name]
            if weight.ndim >= 2:
                weight.mul_(1.0 - rate * decay)
            weight.sub_(rate * gradient / (gradient.square().sqrt() + 1e-8))
    return clipped


def standardised(states: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    floor = 0.01 * float(np.median(deviation.numpy()))
    return (states.float() - mean) / deviation.clamp(min=floor)


def kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """sum_v p log(p / q) of the logits of both at a temperature, per row."""
    log_p, log_q = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def task(lesson: Lesson, plain: Plain) -> Tensor:
    said = lesson.logits[lesson.answer].log_softmax(-1)
    return torch.stack([-said[row, label] for row, label in enumerate(lesson.labels.tolist())])


def logits(lesson: Lesson, plain: Plain) -> Tensor:
    assert lesson.stored.hidden is not None
    teacher = lesson.stored.hidden.float() @ plain.snapshot.head()[0].T
    return plain.temperature**2 * kl(teacher, lesson.logits[lesson.answer], plain.temperature)


def final_states(lesson: Lesson) -> Tensor:
    return lesson.states[max(lesson.states)][lesson.answer]


def hidden(lesson: Lesson, plain: Plain) -> Tensor:
    assert lesson.stored.hidden is not None
    target = standardised(lesson.stored.hidden, *plain.snapshot.channels())
    return (plain.projected("hidden", final_states(lesson)) - target).square().mean(-1)


def attention(lesson: Lesson, plain: Plain) -> Tensor:
    assert lesson.stored.attention is not None
    mine = lesson.maps[:, lesson.answer]
    return (mine - lesson.stored.attention.transpose(0, 1)).square().sum(-1).mean(0)


def layers(lesson: Lesson, plain: Plain) -> Tensor:
    """Layer s beside layer round(s L_T / L_S), halves rounded up; the last states are those after the final norm."""
    stored, layout = lesson.stored, plain.snapshot.format
    assert stored.hidden is not None
    means, deviations = plain.snapshot.layer_channels()
    depth, found = max(lesson.states), []
    for s in range(1, depth + 1):
        t = math.floor(s * layout.n_layers / depth + 0.5)
        if t == layout.n_layers:
            target = standardised(stored.hidden, *plain.snapshot.channels())
        else:
            place = layout.layers.index(t)
            target = standardised(stored.further["layers"][:, place], means[place], deviations[place])
        found.append((plain.projected("layers", lesson.states[s][lesson.answer], s - 1) - target).square().mean(-1))
    return torch.stack(found).mean(0)


def by_layer(lesson: Lesson, plain: Plain) -> Tensor:
    """The loss of every layer that is stored and of the last, each predicted from the student's last state."""
    stored, router = lesson.stored, plain.projectors["layer_router"]
    assert stored.hidden is not None
    means, deviations = plain.snapshot.layer_channels()
    targets = [
        standardised(stored.further["layers"][:, i], means[i], deviations[i])
        for i in range(len(plain.snapshot.format.layers))
    ]
    targets.append(standardised(stored.hidden, *plain.snapshot.channels()))
    found = []
    for own, target in zip(router.layers, targets, strict=True):  # type: ignore[arg-type]
        found.append((final_states(lesson) @ own.weight.T + own.bias - target).square().mean(-1))
    return torch.stack(found, -1)


def layer_router(lesson: Lesson, plain: Plain) -> Tensor:
    """Softmax and even weights mixed so that one layer with all of the softmax leaves half of the largest entropy."""
    losses, router = by_layer(lesson, plain), plain.projectors["layer_router"].router
    count = losses.shape[-1]

    def surplus(even: float) -> float:
        shares = [1 - even + even / count] + [even / count] * (count - 1)
        return -sum(each * math.log(each) for each in shares) - math.log(count) / 2

    even: Any = brentq(surplus, 1e-9, 1 - 1e-9)
    said = final_states(lesson) @ router.weight.T + router.bias  # type: ignore[union-attr, operator]
    weights = (1 - even) * said.softmax(-1) + even / count
    assert plain.initial is not None
    return (weights * losses / plain.initial).sum(-1)


def relations(lesson: Lesson, plain: Plain) -> Tensor:
    """Row by row; as many relation heads as divide every width, at most the larger head count of the two models."""
    widths = plain.snapshot.format.relations
    own = [each.shape[1] for each in lesson.relations]
    most = max(plain.snapshot.format.heads, len(lesson.maps))
    heads = max(n for n in range(1, most + 1) if all(width % n == 0 for width in (*widths, *own)))
    theirs = lesson.stored.further["relations"].split(list(widths), dim=-1)
    rows = []
    for i in range(lesson.answer.start, lesson.answer.stop):
        found = []
        for mine, other in zip(lesson.relations, theirs, strict=True):
            for head in range(heads):
                scores = []
                for states in (other, mine):
                    size = states.shape[1] // heads
                    part = states[: i + 1, head * size : (head + 1) * size].float()
                    scores.append(part @ part[i] / math.sqrt(size))
                found.append(kl(scores[0], scores[1], 1.0))
        rows.append(torch.stack(found).mean())
    return torch.stack(rows)


def contrastive(lesson: Lesson, plain: Plain) -> Tensor:
    assert plain.negatives is not None and lesson.stored.hidden is not None
    channels = plain.snapshot.channels()
    queries = plain.projected("contrastive", final_states(lesson))
    keys = standardised(lesson.stored.hidden, *channels)
    others, tokens = standardised(plain.negatives[0], *channels), plain.negatives[1]
    rows = []
    for query, key, label in zip(queries, keys, lesson.labels, strict=True):
        compared = [key, *(state for state, token in zip(others, tokens, strict=True) if token != label)]
        scores = torch.stack([query @ each / query.norm() / each.norm() / 0.07 for each in compared])
        rows.append(scores.logsumexp(0) - scores[0])
    return torch.stack(rows)


def drawn_negatives(
    snapshot: Snapshot, texts: Sequence[str], own: set[str], count: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """States and next tokens of `count` positions of the trial's texts, those of the step's `own` left out."""
    everything = [
        (text, batch.hidden[row], batch.labels[row])
        for text in sorted(texts)
        for batch in [snapshot.read([text], frozenset({"hidden"}))]
        for row in range(len(batch.labels))
        if batch.hidden is not None
    ]
    generator = np.random.Generator(np.random.PCG64(derived_seed(seed, f"negatives/step-{step}")))
    order = [everything[index] for index in generator.permutation(len(everything))]
    chosen = [(state, token) for text, state, token in order if text not in own][:count]
    return torch.stack([state for state, _ in chosen]), torch.stack([token for _, token in chosen])


@dataclass
class Experts:
    """How a teacher's experts are mixed: by `speaks`, with the gate as it is now and its last clipped gradient."""

    speaks: str
    gate: Tensor
    fixed: Any
    seed: int
    progress: float
    passes: int
    sampled_share: float
    router_rate: float
    router_clip: float
    balance: float = 0.01
    gradient: Tensor | None = None

    def teacher(self, lesson: Lesson, plain: Plain, weights: Tensor) -> Tensor:
        """Logits of the last state under these mixing weights, [positions, experts]."""
        stored = lesson.stored
        assert stored.residual is not None and stored.expert_outputs is not None
        spoken = sum(weights[:, i, None] * stored.expert_outputs[:, i] for i in range(weights.shape[1]))
        state = stored.residual + self.fixed.scale * spoken
        state = state / (state.square().mean(-1, keepdim=True) + self.fixed.epsilon).sqrt() * self.fixed.norm
        return state @ plain.snapshot.head()[0].T

    def routes(self, lesson: Lesson, gate: Tensor) -> Tensor:
        stored = lesson.stored
        assert stored.router_input is not None and stored.router_logits is not None
        return stored.router_logits + stored.router_input @ (gate - self.fixed.gate).T

    def speakers(self, lesson: Lesson) -> list[Tensor]:
        """Of each pass, the mixing weights without one expert a position: the least likely, or one drawn by Gumbel."""
        routes = self.routes(lesson, self.gate)
        seed = derived_seed(self.seed, f"experts/{lesson.sample_id}/{self.progress!r}")
        shape = self.passes, len(routes), routes.shape[1] + 1
        found = []
        for uniform in np.random.Generator(np.random.PCG64(seed)).random(shape, np.float32):
            weights = torch.zeros_like(routes)
            for row, said in enumerate(routes):
                noise = torch.tensor([-math.log(-math.log(float(each))) for each in uniform[row, 1:]])
                silent = int((said + noise if uniform[row, 0] < self.sampled_share else said).argmin())
                others = [each for each in range(len(said)) if each != silent]
                weights[row, others] = said[others].softmax(-1)
            found.append(weights)
        return found

    def move(self, lessons: Sequence[Lesson], plain: Plain) -> None:
        """The router's own step: KL of the new mixture to the student as it is, and the balance of the experts."""
        gate = nn.Parameter(self.gate.clone())
        divergences, chosen, mean = [], [], []
        for lesson in lessons:
            routes = self.routes(lesson, gate)
            mixture = self.teacher(lesson, plain, routes.softmax(-1))
            divergences.append(kl(mixture, lesson.logits[lesson.answer].detach(), plain.temperature).mean())
            ranked = torch.zeros_like(routes)
            for row, said in enumerate(routes):
                ranked[row, said.topk(self.fixed.chosen).indices] = 1.0 / self.fixed.chosen
            chosen.append(ranked.mean(0))
            mean.append(routes.softmax(-1).mean(0))
        balance = len(gate) * (torch.stack(chosen).mean(0) * torch.stack(mean).mean(0)).sum()
        loss = torch.stack(divergences).mean() + self.balance * balance
        (gradient,) = torch.autograd.grad(loss, gate)
        assert float(gradient.norm()) > self.router_clip, "the router's step is clipped"
        clipped = adamw({"gate": gate}, {"gate": gradient}, self.router_rate, 0.0, self.router_clip)
        self.gate, self.gradient = gate.detach(), clipped["gate"]


def mixture(lesson: Lesson, plain: Plain) -> Tensor:
    assert plain.experts is not None
    own = plain.experts
    mixed = own.speakers(lesson) if own.speaks == "sampled" else [own.routes(lesson, own.gate).softmax(-1)]
    said, square = lesson.logits[lesson.answer], plain.temperature**2
    targets = [own.teacher(lesson, plain, weights) for weights in mixed]
    return torch.stack([square * kl(target, said, plain.temperature) for target in targets]).mean(0)


@dataclass
class Side:
    """One sample as one of two models cuts it: states after the final norm, logits, maps of the last layer."""

    ids: list[int]
    start: int
    spans: Any
    states: Tensor
    logits: Tensor
    maps: Tensor


@dataclass
class Alignment:
    """What a step across tokenizers needs beside the snapshot. Pieces are texts of bytes, by id."""

    samples: Mapping[str, Sample]
    student: PreTrainedTokenizerFast
    teacher: PreTrainedTokenizerFast
    own_pieces: list[str]
    other_pieces: list[str]
    top_k: int

    def encoded(self, sample_id: str) -> tuple[Tensor, int]:
        side = self.cut(self.student, sample_id)
        return torch.tensor(side.ids), side.loss_start

    def cut(self, tokenizer: PreTrainedTokenizerFast, sample_id: str) -> Any:
        sample = self.samples[sample_id]
        return encode_sample(tokenizer, sample.prompt, sample.answer, max_length=512, overflow="refuse")

    def side(
        self, tokenizer: PreTrainedTokenizerFast, sample_id: str, states: Tensor, logits: Tensor, maps: Tensor
    ) -> Side:
        encoded, sample = self.cut(tokenizer, sample_id), self.samples[sample_id]
        spans = byte_spans(sample.prompt + sample.answer, encoded)
        return Side(list(encoded.ids), encoded.loss_start, spans, states, logits, maps)

    def sides(self, lesson: Lesson, plain: Plain) -> tuple[Side, Side]:
        """Both of one sample, the teacher's as stored at all positions."""
        everything = frozenset({"tokens", "hidden", "attention"})
        stored = plain.snapshot.read([lesson.sample_id], frozenset({"hidden", "attention"}), whole=everything)
        assert stored.hidden is not None and stored.attention is not None
        said = stored.hidden @ plain.snapshot.head()[0].T
        mine = lesson.states[max(lesson.states)], lesson.logits, lesson.maps
        theirs = stored.hidden, said, stored.attention.transpose(0, 1)
        return self.side(self.student, lesson.sample_id, *mine), self.side(self.teacher, lesson.sample_id, *theirs)


def chunks_that_count(mine: Side, theirs: Side, reach: str = "answer") -> tuple[Chunks, list[int]]:
    """The chunks of both sides, and those that begin where both sides have a position."""
    chunks, first = align(mine.spans, theirs.spans), ((mine.start, theirs.start) if reach == "answer" else (0, 0))
    begins = zip(chunks.student[:-1], chunks.teacher[:-1], strict=True)
    return chunks, [at for at, (s, t) in enumerate(begins) if s - 1 >= first[0] and t - 1 >= first[1]]


def coins(mine: Side, theirs: Side, reach: str = "answer") -> Tensor:
    chunks, counted = chunks_that_count(mine, theirs, reach)
    found = []
    for at in counted:
        likelihood = []
        for side, first in ((mine, chunks.student), (theirs, chunks.teacher)):
            span = range(int(first[at]), int(first[at + 1]))
            said = sum((side.logits[i - 1].log_softmax(-1)[side.ids[i]] for i in span), torch.zeros(()))
            likelihood.append((said / 100).exp())
        q, p = likelihood
        found.append(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    return torch.stack(found)


def roots(mine: Side, theirs: Side, facts: Alignment, temperature: float, reach: str = "answer") -> Tensor:
    chunks, counted = chunks_that_count(mine, theirs, reach)
    found = []
    for at in counted:
        s, t = int(chunks.student[at]), int(chunks.teacher[at])
        found.append(projection(mine.logits[s - 1], theirs.logits[t - 1], mine.ids[s], facts, temperature))
    return torch.stack(found)


def projection(student: Tensor, teacher: Tensor, gold: int, facts: Alignment, temperature: float) -> Tensor:
    """KL over buckets: every token belongs to the longest root that it begins with, or to a rest."""
    own, others = facts.own_pieces, facts.other_pieces
    kept = list(dict.fromkeys(own[index] for index in [*student.topk(facts.top_k).indices.tolist(), gold]))

    def bucket(piece: str) -> int:
        prefixes = [root for root in kept if piece.startswith(root)]
        return kept.index(max(prefixes, key=len)) if prefixes else len(kept)

    q, p = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    own_buckets, other_buckets = ([bucket(piece) for piece in pieces] for pieces in (own, others))
    total = torch.zeros(())
    for each in sorted(set(other_buckets)):
        x = q[[place == each for place in own_buckets]].sum()
        y = p[[place == each for place in other_buckets]].sum()
        total = total + y * (y / x).log()
    return temperature**2 * total


def chunk_states(mine: Side, theirs: Side, projector: Any, channels: Any, reach: str = "answer") -> Tensor:
    chunks, counted = chunks_that_count(mine, theirs, reach)
    found = []
    for at in counted:
        target = standardised(theirs.states[int(chunks.teacher[at]) - 1], *channels)
        said = mine.states[int(chunks.student[at]) - 1] @ projector.weight.T + projector.bias
        found.append((said - target).square().mean())
    return torch.stack(found)


def chunk_maps(mine: Side, theirs: Side, reach: str = "answer") -> Tensor:
    """Columns summed over chunks; heads of the larger count averaged, neighbours together."""
    chunks, counted = chunks_that_count(mine, theirs, reach)
    heads = min(len(mine.maps), len(theirs.maps))
    found = []
    for at in counted:
        rows = []
        for side, first in ((mine, chunks.student), (theirs, chunks.teacher)):
            row = side.maps[:, int(first[at]) - 1]
            edges = [0, *(int(each) for each in first[: at + 1])]
            summed = torch.stack([row[:, a:b].sum(-1) for a, b in zip(edges, edges[1:], strict=False)], -1)
            rows.append(summed.reshape(heads, -1, summed.shape[-1]).mean(1))
        found.append((rows[0] - rows[1]).square().sum(-1).mean())
    return torch.stack(found)


def _sides(lesson: Lesson, plain: Plain) -> tuple[Side, Side, Alignment]:
    assert plain.aligned is not None
    return *plain.aligned.sides(lesson, plain), plain.aligned


def alm(lesson: Lesson, plain: Plain) -> Tensor:
    return coins(*_sides(lesson, plain)[:2])


def aligned_logits(lesson: Lesson, plain: Plain) -> Tensor:
    return roots(*_sides(lesson, plain), plain.temperature)


def aligned_hidden(lesson: Lesson, plain: Plain) -> Tensor:
    mine, theirs, _ = _sides(lesson, plain)
    return chunk_states(mine, theirs, plain.projectors["aligned_hidden"], plain.snapshot.channels())


def aligned_attention(lesson: Lesson, plain: Plain) -> Tensor:
    return chunk_maps(*_sides(lesson, plain)[:2])


COMPONENTS: dict[str, Callable[[Lesson, Plain], Tensor]] = {
    each.__name__: each
    for each in (
        *(task, logits, hidden, attention, layers, layer_router, relations, contrastive, mixture),
        *(alm, aligned_logits, aligned_hidden, aligned_attention),
    )
}
"""What every component says of a sample, at each of its answer's positions or chunks."""


def curve(text: str | float, progress: float) -> float:
    """A weight that is a number, or points 'progress:value' joined by straight lines."""
    if not isinstance(text, str):
        return float(text)
    points = [tuple(float(each) for each in point.split(":")) for point in text.split(",")]
    for (a, low), (b, high) in zip(points, points[1:], strict=False):
        if a <= progress <= b:
            return low + (high - low) * (progress - a) / (b - a)
    return points[0][1] if progress < points[0][0] else points[-1][1]
