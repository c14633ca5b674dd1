"""The task component: next-token cross-entropy on answer positions."""

import math

import pytest
import terms
import torch

from glassbox.objective import task


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return terms.differentiable(lambda chunk: task.cross_entropy(chunk, labels), logits)


def test_agrees_with_a_naive_second_implementation() -> None:
    logits, labels = draw(5, 7), torch.tensor([0, 6, 3, 3, 1])
    naive = [
        math.log(sum(math.exp(z) for z in row)) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert cross_entropy(logits, labels).tolist() == pytest.approx(naive, abs=1e-12)


def test_a_hand_written_row_gives_the_pinned_number() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    assert cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(math.log(4), abs=1e-6)


def test_gradient_agrees_with_a_numeric_directional_derivative() -> None:
    logits, labels, direction, step = draw(6, 9), torch.arange(6), draw(6, 9, seed=1), 1e-6
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, labels).sum(), logits)
    with torch.no_grad():
        rise = cross_entropy(logits + step * direction, labels).sum()
        fall = cross_entropy(logits - step * direction, labels).sum()
    assert (gradient * direction).sum().item() == pytest.approx(((rise - fall) / (2 * step)).item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = (draw(64, 500) * 8).to(dtype), torch.arange(64)
    loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), cross_entropy(logits.double(), labels), atol=1e-5)


def test_float64_stays_float64_and_strides_do_not_matter() -> None:
    logits, labels = draw(9, 6).t(), torch.arange(6)
    assert not logits.is_contiguous()
    loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float64
    assert torch.equal(loss, cross_entropy(logits.contiguous(), labels))


def test_confident_rows_stay_finite() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 2]))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 2e4]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("label", [-100, 7])
def test_a_label_outside_the_vocabulary_is_an_error_and_not_a_zero(label: int) -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        cross_entropy(draw(1, 7), torch.tensor([label]))


def test_no_positions_give_no_values_and_a_zero_gradient() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    loss.sum().backward()
    assert loss.shape == (0,)


def test_twice_the_positions_change_the_mean_by_less_than_five_per_cent() -> None:
    logits, labels = draw(8000, 50), torch.arange(8000) % 50
    once, twice = cross_entropy(logits[:4000], labels[:4000]).mean(), cross_entropy(logits, labels).mean()
    assert twice.item() == pytest.approx(once.item(), rel=0.05)
