"""The layer_router component: how layers are weighed, what they count in units of, and what no position can do."""

from __future__ import annotations

import math

import pytest
import torch
from sections import objective
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.objective.layer_router import (
    LayerRouter,
    even_share,
    initial_losses,
    layer_weights,
    refuse_missing,
    routed,
)
from glassbox.objective.reading import Ingredients


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(weights: Tensor) -> Tensor:
    return -(weights * weights.log()).sum(-1)


def test_the_weighted_sum_agrees_with_loops_over_positions_and_layers() -> None:
    losses, logits, initial = drawn(4, 3).abs(), drawn(4, 3, seed=1), drawn(3, seed=2).abs()
    even, naive = even_share(3), []
    for position in range(4):
        exponentials = [math.exp(logits[position, layer]) for layer in range(3)]
        total = 0.0
        for layer in range(3):
            weight = (1 - even) * exponentials[layer] / sum(exponentials) + even / 3
            total += weight * losses[position, layer].item() / initial[layer].item()
        naive.append(total)
    assert routed(losses, logits, initial).tolist() == pytest.approx(naive)


def test_two_layers_written_by_hand() -> None:
    losses, even = torch.tensor([[1.0, 4.0]]), torch.zeros(1, 2)
    assert routed(losses, even, None).tolist() == [2.5]
    assert routed(losses, even, torch.tensor([1.0, 4.0])).tolist() == [1.0]
    assert routed(losses, torch.tensor([[100.0, 0.0]]), None).item() == pytest.approx(1.0 + 3.0 * 0.11002786, rel=1e-6)


@pytest.mark.parametrize("layers", [2, 3, 8, 32])
def test_the_entropy_of_the_weights_is_at_least_half_of_the_largest_and_no_more_than_needed(layers: int) -> None:
    floor = math.log(layers) / 2
    one_alone = torch.nn.functional.one_hot(torch.tensor(0), layers).double() * 1e4
    assert entropy(layer_weights(one_alone)).item() == pytest.approx(floor, abs=1e-9)
    for scale in (0.1, 1.0, 10.0, 1000.0):
        weights = layer_weights(scale * drawn(200, layers))
        assert bool((entropy(weights) >= floor - 1e-9).all())
        assert torch.allclose(weights.sum(-1), torch.ones(200, dtype=torch.float64))
    assert layer_weights(torch.zeros(1, layers)).tolist() == [pytest.approx([1 / layers] * layers)]


def test_the_gradient_agrees_with_a_numeric_derivative_in_losses_and_logits() -> None:
    losses, logits, initial = drawn(5, 3).abs(), drawn(5, 3, seed=1), drawn(3, seed=2).abs()
    for place, direction in ((0, drawn(5, 3, seed=3)), (1, drawn(5, 3, seed=4))):
        points = [losses.clone().requires_grad_(), logits.clone().requires_grad_()]
        (gradient,) = torch.autograd.grad(routed(points[0], points[1], initial).sum(), points[place])
        ends = []
        for size in (1e-5, -1e-5):
            moved = [losses, logits]
            moved[place] = moved[place] + size * direction
            ends.append(routed(moved[0], moved[1], initial).sum())
        assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_a_router_begins_with_equal_weights_and_projectors_of_their_own() -> None:
    router = LayerRouter(6, 4, 3, torch.Generator().manual_seed(0)).double()
    predicted, logits = router(drawn(5, 6))
    assert [each.shape for each in predicted] == [(5, 4)] * 3 and not logits.any()
    assert not torch.equal(predicted[0], predicted[1])
    again = LayerRouter(6, 4, 3, torch.Generator().manual_seed(0)).double()
    assert all(torch.equal(a, b) for a, b in zip(router.parameters(), again.parameters(), strict=True))


def test_the_losses_that_layers_begin_with_come_in_their_order() -> None:
    sums = {"loss_layer_router": 1.0, "layer_router_weight_of_2": 0.5, "layer_router_loss_of_2": 3.0}
    assert initial_losses(sums | {"layer_router_loss_of_last": 2.0}) == [3.0, 2.0]


def test_a_snapshot_without_layers_is_refused() -> None:
    with pytest.raises(GlassboxError, match="The layer_router component needs states of several"):
        refuse_missing(Ingredients(), objective())
