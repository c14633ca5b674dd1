"""The likelihood of chunks: value, derivative and what a chunk's sum is."""

from __future__ import annotations

import math

import pytest
import torch

from glassbox.objective.alm import coin_divergence, label_log_probabilities, log1mexp, sums_by_chunk
from glassbox.objective.head import Head


def naive(student: float, teacher: float, temperature: float) -> float:
    """KL between two coins, written with probabilities."""
    p, q = math.exp(teacher / temperature), math.exp(student / temperature)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_it_is_the_divergence_of_two_coins_and_zero_at_a_match() -> None:
    values = torch.tensor([-0.5, -3.0, -40.0, -170.0], dtype=torch.float64)
    others = torch.tensor([-2.0, -1.0, -90.0, -20.0], dtype=torch.float64)
    for temperature in (1.0, 100.0):
        found = coin_divergence(values, others, temperature)
        expected = [naive(float(b), float(a), temperature) for b, a in zip(values, others, strict=True)]
        assert found.tolist() == pytest.approx(expected, rel=1e-9)
        assert bool((found > 0).all())
    assert coin_divergence(values.float(), values.float(), 100.0).tolist() == [0.0] * 4


def test_a_number_worked_by_hand() -> None:
    # a = ln 0.5, b = ln 0.25: 0.5 ln 2 + 0.5 ln(0.5 / 0.75)
    found = coin_divergence(torch.tensor([math.log(0.25)]), torch.tensor([math.log(0.5)]), 1.0)
    assert float(found) == pytest.approx(0.1438410, abs=1e-6)


def test_its_derivative_is_the_numeric_one_at_every_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    for temperature in (1.0, 10.0, 100.0):
        student = (-torch.rand(6, dtype=torch.float64, generator=generator) * 30 - 0.01).requires_grad_()
        teacher = -torch.rand(6, dtype=torch.float64, generator=generator) * 30 - 0.01
        assert torch.autograd.gradcheck(lambda b, a=teacher, t=temperature: coin_divergence(b, a, t), student)


def test_sure_and_hopeless_chunks_stay_finite_with_their_gradient() -> None:
    student = torch.tensor([0.0, -1e-9, -1e4, -0.5], requires_grad=True)
    teacher = torch.tensor([-1e4, 0.0, 0.0, -1e-12])
    found = coin_divergence(student, teacher, 100.0)
    found.sum().backward()
    assert bool(found.isfinite().all()) and student.grad is not None and bool(student.grad.isfinite().all())
    for half in (torch.float16, torch.bfloat16):
        assert (
            coin_divergence(student.detach().to(half).clamp(min=-6e4), teacher.to(half), 100.0).dtype == torch.float32
        )


def test_log1mexp_is_exact_where_the_plain_formula_cancels() -> None:
    tiny = torch.tensor([-1e-6, -1e-3, -0.7, -30.0])
    exact = [math.log(-math.expm1(float(each))) if each > -1 else math.log1p(-math.exp(float(each))) for each in tiny]
    assert log1mexp(tiny).tolist() == pytest.approx(exact, rel=1e-6)


def test_positions_without_a_chunk_add_to_none() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    assert sums_by_chunk(values, torch.tensor([-1, 0, 0, 2, -1]), 3).tolist() == [6.0, 0.0, 8.0]


def test_label_log_probabilities_and_their_gradients_are_those_of_a_plain_softmax(monkeypatch) -> None:
    monkeypatch.setattr("glassbox.objective.alm.positions_per_chunk", lambda *_: 3)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(11, (7,), generator=generator)
    upstream = torch.randn(7, generator=generator, dtype=torch.float64)
    found = label_log_probabilities(hidden, Head(weight, None), labels)
    mine = torch.autograd.grad((found * upstream).sum(), (hidden, weight))
    plain = (hidden @ weight.T).log_softmax(-1)[torch.arange(7), labels]
    theirs = torch.autograd.grad((plain * upstream).sum(), (hidden, weight))
    torch.testing.assert_close(found, plain)
    for ours, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours, expected)
    assert len(label_log_probabilities(hidden[:0], Head(weight, None), labels[:0])) == 0
