"""The layers component: states of several layers, pair by pair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.objective.layers import layer_mse
from glassbox.snapshot.further import layer_pairs


def states(count: int, *shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, *shape, generator=generator, dtype=torch.float64).unbind(0))


def test_the_mean_over_pairs_agrees_with_loops_over_pairs_positions_and_channels() -> None:
    mine, theirs = states(3, 4, 5, seed=1), states(3, 4, 5)
    naive = []
    for position in range(4):
        total = 0.0
        for pair in range(3):
            for channel in range(5):
                total += (mine[pair][position, channel].item() - theirs[pair][position, channel].item()) ** 2 / 5
        naive.append(total / 3)
    assert layer_mse(mine, theirs).tolist() == pytest.approx(naive)


def test_two_pairs_written_by_hand() -> None:
    mine = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])]
    theirs = [torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]])]
    assert layer_mse(mine, theirs).tolist() == [(2.5 + 5.0) / 2]


def test_nothing_to_compare_is_an_error_and_not_a_zero() -> None:
    for mine, theirs in (([], []), (states(1, 2, 3), states(2, 2, 3))):
        with pytest.raises(GlassboxError, match=r"pairs \d states.*dvc repro snapshot"):
            layer_mse(mine, theirs)


def test_the_gradient_agrees_with_a_numeric_derivative() -> None:
    mine, theirs, direction = states(2, 3, 4, seed=1), states(2, 3, 4), states(2, 3, 4, seed=2)
    points = [each.requires_grad_() for each in mine]
    gradients = torch.autograd.grad(layer_mse(points, theirs).sum(), points)
    exact = sum((gradient * way).sum() for gradient, way in zip(gradients, direction, strict=True))
    rise, fall = (
        layer_mse([p.detach() + s * d for p, d in zip(points, direction, strict=True)], theirs).sum()
        for s in (1e-5, -1e-5)
    )
    assert float(exact) == pytest.approx(float(rise - fall) / 2e-5, rel=1e-6)


def test_the_uniform_map_ends_with_both_last_layers_and_a_given_one_is_taken() -> None:
    assert layer_pairs(3, 4, None) == ((1, 1), (2, 3), (3, 4))
    assert layer_pairs(4, 12, None) == ((1, 3), (2, 6), (3, 9), (4, 12))
    assert layer_pairs(22, 32, None)[-1] == (22, 32)
    assert layer_pairs(4, 12, [(2, 5)]) == ((2, 5),)
    with pytest.raises(GlassboxError, match=r"pairs layer 5 of the student.*they have 4 and 12"):
        layer_pairs(4, 12, [(5, 6)])
