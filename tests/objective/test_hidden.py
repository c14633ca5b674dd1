"""The hidden component: the projected student state against the standardised teacher state."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from glassbox.objective.hidden import Projector, cosine, mse, standardise


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def projector(student: int, teacher: int, seed: int = 7) -> Projector:
    return Projector(student, teacher, torch.Generator().manual_seed(seed))


def test_standardising_gives_every_channel_mean_zero_and_deviation_one() -> None:
    hidden = draw(500, 6) * torch.tensor([1.0, 300.0, 0.1, 2.0, 5.0, 1.0]) + 40.0
    standard = standardise(hidden, hidden.mean(0), hidden.std(0, correction=0))
    assert torch.allclose(standard.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(standard.std(0, correction=0), torch.ones(6, dtype=torch.float64))


def test_a_dead_channel_is_divided_by_a_hundredth_of_the_median_deviation() -> None:
    deviation = [2.0, 4.0, 0.0, 1e-9]
    hidden, mean = torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.zeros(4)
    floor = 0.01 * statistics.median(deviation)
    expected = [1.0 / max(value, floor) for value in deviation]
    assert standardise(hidden, mean, torch.tensor(deviation))[0].tolist() == pytest.approx(expected)


def test_a_projector_set_to_the_standardisation_makes_a_student_equal_to_its_teacher_lossless() -> None:
    hidden = draw(9, 5, dtype=torch.float32)
    mean, deviation = hidden.mean(0), hidden.std(0)
    layer = projector(5, 5)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(1 / deviation))
        layer.bias.copy_(-mean / deviation)
    target = standardise(hidden, mean, deviation)
    assert mse(layer(hidden), target).max() < 1e-6
    assert cosine(layer(hidden), target).abs().max() < 1e-6
    assert mse(projector(5, 5)(hidden), target).mean() > 0.1
    assert cosine(projector(5, 5)(hidden), target).mean() > 0.1


def test_both_losses_agree_with_naive_second_implementations() -> None:
    first, second = draw(4, 3), draw(4, 3, seed=1)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    squares = [sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) / 3 for pair in pairs]
    angles = [1 - sum(a * b for a, b in zip(*p, strict=True)) / (math.hypot(*p[0]) * math.hypot(*p[1])) for p in pairs]
    assert mse(first, second).tolist() == pytest.approx(squares)
    assert cosine(first, second).tolist() == pytest.approx(angles)


@pytest.mark.parametrize("loss", [mse, cosine])
def test_gradients_on_student_and_projector_agree_with_numeric_directional_derivatives(loss) -> None:
    layer = projector(4, 6).double()
    hidden, target = (
        draw(5, 4).requires_grad_(),
        standardise(draw(5, 6, seed=1), draw(6, seed=2), draw(6, seed=3).abs()),
    )
    points = [hidden, layer.weight, layer.bias]
    gradients = torch.autograd.grad(loss(layer(hidden), target).sum(), points)
    step = 1e-6
    for seed, (point, gradient) in enumerate(zip(points, gradients, strict=True)):
        direction = draw(*point.shape, seed=seed + 20)
        with torch.no_grad():
            point += step * direction
            rise = loss(layer(hidden), target).sum()
            point -= 2 * step * direction
            fall = loss(layer(hidden), target).sum()
            point += step * direction
        numeric = ((rise - fall) / (2 * step)).item()
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("loss", [mse, cosine])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_and_a_difference_of_300_stay_exact(loss, dtype: torch.dtype) -> None:
    """300 squared is 90,000, which float16 cannot hold."""
    first = torch.full((2, 8), 300.0, dtype=dtype)
    second = torch.zeros(2, 8, dtype=dtype)
    second[:, 0] = 1.0
    value = loss(first, second)
    assert value.dtype == torch.float32
    assert torch.allclose(value.double(), loss(first.double(), second.double()), rtol=1e-5)


def test_the_projector_computes_in_float32_under_autocast_and_from_half_states() -> None:
    layer, hidden = projector(64, 32), draw(3, 64).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = layer(hidden)
    assert predicted.dtype == torch.float32
    assert torch.allclose(predicted.double(), layer.double()(hidden.double()), atol=1e-5)


def test_strides_do_not_matter() -> None:
    first, second = draw(8, 4).t(), draw(8, 4, seed=1).t()
    turned = standardise(first, draw(8, seed=2), draw(8, seed=3).abs())
    assert torch.allclose(turned, standardise(first.contiguous(), draw(8, seed=2), draw(8, seed=3).abs()))
    assert torch.allclose(mse(first, second), mse(first.contiguous(), second.contiguous()))
    assert torch.allclose(cosine(first, second), cosine(first.contiguous(), second.contiguous()))


def test_the_projector_draws_from_its_own_generator_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, same, other = projector(6, 4), projector(6, 4), projector(6, 4, seed=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.weight, same.weight)
    assert not torch.equal(first.weight, other.weight)
    assert first.weight.abs().max() <= 6**-0.5
    assert first.weight.std() > 0.1


@pytest.mark.parametrize("loss", [mse, cosine])
def test_twice_the_width_or_the_positions_change_the_mean_by_less_than_five_per_cent(loss) -> None:
    def mean(positions: int, width: int) -> float:
        hidden, outliers = draw(positions, width, seed=1), torch.ones(width, dtype=torch.float64)
        outliers[:: width // 4] = 100.0
        states = hidden * outliers
        target = standardise(states, states.mean(0), states.std(0))
        return loss(projector(width, width).double()(draw(positions, width)), target).mean().item()

    assert mean(1000, 128) == pytest.approx(mean(1000, 64), rel=0.05)
    assert mean(2000, 64) == pytest.approx(mean(1000, 64), rel=0.05)
