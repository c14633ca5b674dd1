"""The contrastive component: a state against the teacher's at its own position and at those of other samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.objective.contrastive import info_nce

IDS, NEGATIVE_IDS = torch.tensor([4, 7, 4]), torch.tensor([7, 7, 1, 4, 9])


def states(count: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_agrees_with_loops_that_leave_out_negatives_of_the_same_token() -> None:
    queries, keys, negatives = states(3), states(3, seed=1), states(5, seed=2)

    def cos(a: Tensor, b: Tensor) -> float:
        x, y = a.tolist(), b.tolist()
        return sum(i * j for i, j in zip(x, y, strict=True)) / math.sqrt(sum(i * i for i in x) * sum(j * j for j in y))

    expected = []
    for i in range(3):
        own = math.exp(cos(queries[i], keys[i]) / 0.1)
        others = [
            math.exp(cos(queries[i], negatives[j]) / 0.1) for j in range(5) if NEGATIVE_IDS[j].item() != IDS[i].item()
        ]
        expected.append(-math.log(own / (own + sum(others))))
    assert info_nce(queries, keys, IDS, negatives, NEGATIVE_IDS, 0.1).tolist() == pytest.approx(expected)


def test_one_position_written_by_hand() -> None:
    query, key = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]])
    negatives = torch.tensor([[0.0, 5.0], [-1.0, 0.0], [1.0, 0.0]])
    found = info_nce(query, key, torch.tensor([1]), negatives, torch.tensor([2, 3, 1]), 1.0)
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-1) + math.exp(-2))])  # the third is the same token


def test_a_state_at_its_own_key_has_less_loss_than_one_at_another() -> None:
    keys, negatives = states(3, seed=1), states(5, seed=2)
    at_home, away = (info_nce(each, keys, IDS, negatives, NEGATIVE_IDS, 0.07) for each in (keys, negatives[[2, 4, 2]]))
    assert (at_home < away).all() and at_home.max() < 1.0


def test_no_negative_at_any_position_is_an_error_and_no_position_is_none() -> None:
    with pytest.raises(GlassboxError, match=r"No negative is left.*objective.negatives"):
        info_nce(states(2), states(2), torch.tensor([4, 4]), states(3), torch.tensor([4, 4, 4]), 0.07)
    nothing = info_nce(states(0), states(0), IDS[:0], states(3), NEGATIVE_IDS[:3], 0.07)
    assert nothing.shape == (0,)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_gradient_agrees_with_a_numeric_derivative_and_half_formats_are_lifted(temperature: float) -> None:
    queries, keys, negatives, direction = (
        states(3).requires_grad_(),
        states(3, seed=1),
        states(5, seed=2),
        states(3, seed=4),
    )

    def value(point: Tensor) -> Tensor:
        return info_nce(point, keys, IDS, negatives, NEGATIVE_IDS, temperature).sum()

    (gradient,) = torch.autograd.grad(value(queries), queries)
    with torch.no_grad():
        numeric = (value(queries + 1e-6 * direction) - value(queries - 1e-6 * direction)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-5)
    assert info_nce(queries.half(), keys.bfloat16(), IDS, negatives, NEGATIVE_IDS, temperature).dtype == torch.float64
    assert info_nce(queries.half(), keys.half(), IDS, negatives.half(), NEGATIVE_IDS, 0.07).dtype == torch.float32
