"""The `aligned_logits` component: KL between distributions over two vocabularies, projected onto common roots.

At a byte where both tokenizations have a boundary, the roots are the student's k likeliest tokens and the label. Both
vocabularies are projected by one rule: a token adds its probability to the longest root whose bytes are its prefix, and
to a rest where there is none. With equal vocabularies that is a coarsening, so the loss is at most the dense KL, and 0
at a match.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.models.dtypes import linear, loss_dtype
from glassbox.objective.term import Term

SMALLEST_PROBABILITY = 1e-30
AFTER_ALL = "\U0010ffff"


@dataclass(frozen=True)
class Order:
    """A vocabulary in the order of its pieces: `rank` is each token's place there. In it the tokens that begin with the
    bytes of the student's token u are the places [first[u], last[u])."""

    rank: Int[Tensor, " vocabulary"]
    first: Int[Tensor, " student_vocabulary"]
    last: Int[Tensor, " student_vocabulary"]

    def to(self, device: torch.device | str) -> Order:
        return Order(self.rank.to(device), self.first.to(device), self.last.to(device))


@dataclass(frozen=True)
class Vocabularies:
    """What projecting needs of both vocabularies."""

    student: Order
    teacher: Order

    def to(self, device: torch.device | str) -> Vocabularies:
        return Vocabularies(self.student.to(device), self.teacher.to(device))


def order_of(pieces: Sequence[str], roots: Sequence[str]) -> Order:
    """The order of a vocabulary, and where in it the tokens stand that begin with each of `roots`, all as texts of
    bytes (models/pieces.py)."""
    order = sorted(range(len(pieces)), key=lambda index: pieces[index])
    ordered = [pieces[index] for index in order]
    rank = np.empty(len(pieces), dtype=np.int64)
    rank[order] = np.arange(len(pieces))
    first = np.array([bisect_left(ordered, root) for root in roots])
    last = np.array([bisect_left(ordered, root + AFTER_ALL) for root in roots])
    return Order(torch.from_numpy(rank), torch.from_numpy(first), torch.from_numpy(last))


def vocabularies_of(student: Sequence[str], teacher: Sequence[str]) -> Vocabularies:
    """Both vocabularies, by the texts of their pieces."""
    return Vocabularies(order_of(student, student), order_of(teacher, student))


@dataclass(frozen=True)
class Roots:
    """The roots of each row: the student's token ids, whether each is the first with its bytes, how many roots are its
    prefixes, and the longest of these (k where there is none)."""

    ids: Int[Tensor, "rows k"]
    is_first: Tensor
    depth: Int[Tensor, "rows k"]
    parent: Int[Tensor, "rows k"]


def roots_of(ids: Int[Tensor, "rows k"], own: Order) -> Roots:
    """How the roots lie within each other; of several with the same bytes, one id twice among them, the first stays."""
    k = ids.shape[1]
    first, last = own.first[ids], own.last[ids]
    same = (first[:, :, None] == first[:, None, :]) & (last[:, :, None] == last[:, None, :])
    place = torch.arange(k, device=ids.device)
    is_first = ~(same & (place[:, None] < place)).any(1)
    within = (first[:, :, None] <= first[:, None, :]) & (last[:, None, :] <= last[:, :, None]) & ~same
    holds = within & is_first[:, :, None]  # [row, outer, inner]
    depth = holds.sum(1)
    deepest = torch.where(holds, depth[:, :, None], -1).max(1)
    parent = torch.where(deepest.values < 0, k, deepest.indices)
    return Roots(ids, is_first, depth, parent)


def project(roots: Roots, order: Order) -> Int[Tensor, "rows vocabulary"]:
    """The root of every token of a vocabulary, by its place among the row's; k for the rest.

    Tokens with a common beginning stand side by side in the order, and the ranges of two roots lie within or beside
    each other. So walking along it, the root changes only where a range begins (the deepest wins) or ends (the
    outermost does, and gives way to its own parent).
    """
    rows, k = roots.ids.shape
    size, base = len(order.rank), k + 1
    first, last = order.first[roots.ids], order.last[roots.ids]
    counts = roots.is_first & (first < last)
    place = torch.arange(k, device=first.device).expand(rows, k)
    begins = (k + 1 + roots.depth) * base + place
    ends = (k - roots.depth) * base + roots.parent
    events = first.new_full((rows, size + 2), -1)
    events[:, 0] = k
    for where, event in ((last, ends), (first, begins)):
        events.scatter_reduce_(1, torch.where(counts, where, size + 1), event, "amax")
    events = events[:, :size]
    latest = torch.where(events >= 0, torch.arange(size, device=first.device), 0).cummax(1).values
    return (events.gather(1, latest) % base)[:, order.rank]


def projected_kl(
    student: Float[Tensor, "rows student_vocabulary"],
    teacher: Float[Tensor, "rows teacher_vocabulary"],
    mine: Int[Tensor, "rows student_vocabulary"],
    theirs: Int[Tensor, "rows teacher_vocabulary"],
    roots: int,
    temperature: float,
    squared: bool,
) -> Term:
    """`T^2 KL(teacher || student)` over the roots and the rest, from logits; `mine` and `theirs` are the tokens' roots.

    The gradient of token v in root b is `T^2 / T * q(v) * (1 - p(b) / q(b))`. A root without a token of the student
    counts as probability 1e-30, which nothing can move.
    """
    factor = temperature**2 if squared else 1.0
    log_q = (student / temperature).log_softmax(dim=-1)
    p = (teacher / temperature).softmax(dim=-1)
    rows = len(student)
    wanted = p.new_zeros(rows, roots + 1).scatter_add_(1, theirs, p)
    largest = log_q.new_full((rows, roots + 1), -math.inf).scatter_reduce_(1, mine, log_q, "amax")
    sums = torch.zeros_like(wanted).scatter_add_(1, mine, (log_q - largest.gather(1, mine)).exp())
    held = largest > -math.inf
    given = torch.where(held, largest + sums.log(), math.log(SMALLEST_PROBABILITY))
    values = (torch.xlogy(wanted, wanted) - wanted * given).sum(dim=-1)
    reachable = (wanted * held).sum(dim=-1, keepdim=True)
    gradient = log_q.exp() * reachable - wanted.gather(1, mine) * (log_q - given.gather(1, mine)).exp()
    return Term(values.mul_(factor), gradient.mul_(factor / temperature))


@dataclass(frozen=True)
class RootTarget:
    """The teacher's complete distribution over its own vocabulary at the first position of every chunk."""

    hidden: Float[Tensor, "chunks width"]
    weight: Float[Tensor, "teacher_vocabulary width"]
    bias: Float[Tensor, " teacher_vocabulary"] | None
    labels: Int[Tensor, " chunks"]
    vocabularies: Vocabularies
    top_k: int

    def divergence(
        self, student_logits: Float[Tensor, "rows student_vocabulary"], chunk: slice, temperature: float, squared: bool
    ) -> Term:
        """Projected KL at the rows of `chunk`, whose teacher's logits are formed here and dropped again."""
        dtype = loss_dtype(student_logits, self.hidden, self.weight, self.bias)
        logits = student_logits.to(dtype)
        teacher = linear(self.hidden[chunk], self.weight, self.bias, dtype)
        likeliest = logits.topk(min(self.top_k, logits.shape[1]), dim=1).indices
        roots = roots_of(torch.cat((likeliest, self.labels[chunk, None]), dim=1), self.vocabularies.student)
        mine, theirs = (project(roots, order) for order in (self.vocabularies.student, self.vocabularies.teacher))
        return projected_kl(logits, teacher, mine, theirs, roots.ids.shape[1], temperature, squared)
