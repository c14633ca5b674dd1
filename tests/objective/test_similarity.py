"""CKA, the diagnostic of how alike two models' states are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.objective.similarity import linear_cka


def states(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_agrees_with_the_centred_gram_matrices_of_its_definition() -> None:
    left, right = states(20, 4), states(20, 7, seed=1)
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20
    grams = [centre @ (each @ each.t()) @ centre for each in (left, right)]
    expected = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert linear_cka(left, right) == pytest.approx(float(expected))


def test_turning_scaling_and_shifting_a_side_leaves_it_at_one() -> None:
    left = states(30, 5)
    turn, _ = torch.linalg.qr(states(5, 5, seed=1))
    assert linear_cka(left, 3.0 * left @ turn + 7.0) == pytest.approx(1.0)
    assert linear_cka(left.float(), states(30, 5, seed=2)) < 0.5


def test_a_pair_written_by_hand() -> None:
    left, right = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [0.0]])
    assert linear_cka(left, right) == pytest.approx(0.0, abs=1e-12)
    assert linear_cka(left, torch.tensor([[0.0], [0.0], [1.0]])) == pytest.approx(0.75)


def test_states_without_a_value_are_refused() -> None:
    for left, right in ((states(1, 3), states(1, 3)), (states(4, 3), torch.ones(4, 2)), (states(4, 3), states(3, 3))):
        with pytest.raises(GlassboxError, match="CKA"):
            linear_cka(left, right)
