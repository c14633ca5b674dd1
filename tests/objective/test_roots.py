"""Distributions over two vocabularies, projected onto common roots."""

from __future__ import annotations

import math
import random

import pytest
import torch

from glassbox.objective.logits import dense_kl
from glassbox.objective.roots import RootTarget, order_of, project, projected_kl, roots_of, vocabularies_of

STUDENT = ["a", "ab", "abc", "b", "bc", "c", "x", "ab", "\u0100", "\u01033\u0102"]
TEACHER = ["\u0100", "abcd", "a", "abd", "b", "bcx", "c", "y", "ca", "ab", "\u01037\u0102", "abc"]


def naive_root(piece: str, roots: list[str]) -> int:
    """The longest root that the piece begins with, the first of equal ones; the rest is one past the last."""
    best = max((len(root) for root in roots if piece.startswith(root)), default=0)
    return next((i for i, root in enumerate(roots) if len(root) == best and piece.startswith(root)), len(roots))


def random_pieces(draw: random.Random, count: int) -> list[str]:
    return ["".join(draw.choices("abc", k=draw.randrange(1, 5))) for _ in range(count)]


def test_every_token_goes_to_the_longest_root_that_it_begins_with() -> None:
    draw = random.Random(0)
    for round in range(60):
        student = STUDENT if round == 0 else random_pieces(draw, draw.randrange(2, 20))
        teacher = TEACHER if round == 0 else random_pieces(draw, draw.randrange(1, 25))
        vocabularies = vocabularies_of(student, teacher)
        k = draw.randrange(1, len(student) + 2)
        ids = torch.tensor([[draw.randrange(len(student)) for _ in range(k)] for _ in range(4)])
        roots = roots_of(ids, vocabularies.student)
        for pieces, order in ((student, vocabularies.student), (teacher, vocabularies.teacher)):
            found = project(roots, order)
            for row, chosen in enumerate(ids.tolist()):
                names = [student[index] for index in chosen]
                assert found[row].tolist() == [naive_root(piece, names) for piece in pieces]


def test_a_root_that_is_there_twice_counts_once() -> None:
    """Top-k sets joined without removing duplicates count the label's probability twice."""
    vocabularies = vocabularies_of(STUDENT, TEACHER)
    ids = torch.tensor([[1, 7, 1, 5]])  # "ab", "ab" under another id, "ab" again, "c"
    found = project(roots_of(ids, vocabularies.student), vocabularies.teacher)
    assert set(found[0].tolist()) == {0, 3, 4}
    p = torch.zeros(1, 5).scatter_add_(1, found, torch.full((1, len(TEACHER)), 1 / len(TEACHER)))
    assert float(p.sum()) == pytest.approx(1.0)


def test_ids_of_two_vocabularies_are_never_equated() -> None:
    """The same pieces under other ids, as many of them, are the same distribution: matched by bytes, the loss is 0."""
    order = torch.randperm(len(STUDENT), generator=torch.Generator().manual_seed(3))
    logits = torch.randn(4, len(STUDENT), generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 3
    teacher = [STUDENT[index] for index in order]
    target = target_of(STUDENT, teacher, logits[:, order])
    found = target.divergence(logits, slice(None), 2.0, True)
    assert float(found.values.abs().max()) < 1e-9
    by_id = dense_kl(logits[:, order].log_softmax(-1), logits.log_softmax(-1), 1.0, True)
    assert float(by_id.values.min()) > 0.1


def target_of(student: list[str], teacher: list[str], logits: torch.Tensor, top_k: int = 4) -> RootTarget:
    """A teacher whose logits are given: its output layer is the identity."""
    width = len(teacher)
    labels = torch.arange(len(logits)) % len(student)
    return RootTarget(
        logits, torch.eye(width, dtype=logits.dtype), None, labels, vocabularies_of(student, teacher), top_k
    )


def test_it_is_zero_at_a_match_and_at_most_the_dense_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(20, len(STUDENT), generator=generator, dtype=torch.float64) * 4
    student = torch.randn(20, len(STUDENT), generator=generator, dtype=torch.float64) * 4
    for k in (1, 3, len(STUDENT)):
        target = target_of(STUDENT, STUDENT, teacher, k)
        assert float(target.divergence(teacher.clone(), slice(None), 2.0, True).values.abs().max()) < 1e-12
        found = target.divergence(student, slice(None), 2.0, True).values
        dense = dense_kl((teacher / 2).log_softmax(-1), (student / 2).log_softmax(-1), 2.0, True).values
        assert bool((found <= dense + 1e-9).all()) and bool((found >= 0).all())
    assert float((dense - found).max()) > 1e-4  # the two ids of "ab" are one root


def test_a_number_worked_by_hand() -> None:
    # roots "ab" and "a" (the label); teacher: "abd" .5, "a" .25, "x" .25; student: "ab" .25, "a" .25, "c" .5
    student, teacher = ["ab", "a", "c"], ["abd", "a", "x"]
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    vocabularies = vocabularies_of(student, teacher)
    roots = roots_of(torch.tensor([[0, 1]]), vocabularies.student)
    mine, theirs = project(roots, vocabularies.student), project(roots, vocabularies.teacher)
    assert (mine.tolist(), theirs.tolist()) == ([[0, 1, 2]], [[0, 1, 2]])
    found = projected_kl(q.log(), p.log(), mine, theirs, 2, 1.0, True)
    assert float(found.values) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5), abs=1e-6)


def test_its_gradient_is_the_numeric_one_with_the_roots_held_still() -> None:
    generator = torch.Generator().manual_seed(5)
    teacher = torch.randn(3, len(TEACHER), generator=generator, dtype=torch.float64) * 2
    student = torch.randn(3, len(STUDENT), generator=generator, dtype=torch.float64) * 2
    vocabularies = vocabularies_of(STUDENT, TEACHER)
    roots = roots_of(torch.tensor([[1, 0, 5, 8], [2, 2, 3, 4], [6, 8, 9, 0]]), vocabularies.student)
    mine, theirs = project(roots, vocabularies.student), project(roots, vocabularies.teacher)
    for temperature in (1.0, 2.0, 4.0):
        term = projected_kl(student, teacher, mine, theirs, 4, temperature, True)
        step = 1e-6
        for column in range(len(STUDENT)):
            moved = torch.zeros_like(student)
            moved[:, column] = step
            up, down = (
                projected_kl(student + sign * moved, teacher, mine, theirs, 4, temperature, True).values
                for sign in (1, -1)
            )
            assert torch.allclose((up - down) / (2 * step), term.gradient[:, column], atol=1e-7)


def test_a_root_that_no_token_of_the_student_has_is_finite() -> None:
    # all of the student's tokens are roots, so that the rest holds the teacher's "y" alone
    target = target_of(["a", "b"], ["a", "b", "y"], torch.tensor([[1.0, 0.0, 5.0]]), 2)
    for scale in (1.0, 300.0):
        found = target.divergence(torch.tensor([[scale, -scale]]), slice(None), 1.0, True)
        assert bool(found.values.isfinite().all()) and bool(found.gradient.isfinite().all())


def test_the_order_holds_a_range_for_every_root() -> None:
    order = order_of(["b", "ab", "a", "abc"], ["a", "ab", "z"])
    assert order.first.tolist() == [0, 1, 4] and order.last.tolist() == [3, 3, 4]
    assert order.rank.tolist() == [3, 1, 0, 2]
