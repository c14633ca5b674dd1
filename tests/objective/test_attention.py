"""The attention component: final-layer maps, per head and query row."""

import math

import pytest
import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.objective.attention import map_kl, map_mse, match_heads, pair_heads


def scores(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def causal(raw: Tensor) -> Tensor:
    """Row r of [positions, heads, columns] sees columns 0..r + 1."""
    rows, columns = torch.arange(raw.shape[0])[:, None, None], torch.arange(raw.shape[2])
    return torch.softmax(raw.masked_fill(columns > rows + 1, -torch.inf), dim=-1)


def maps(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return causal(scores(*shape, seed=seed, scale=scale))


LOSSES = [pytest.param(map_mse, id="mse"), pytest.param(map_kl, id="kl")]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_equal_to_its_teacher_has_no_loss_and_another_has(loss) -> None:
    teacher = maps(6, 4, 9).float()
    assert loss(teacher, teacher).abs().max() < 1e-6
    assert loss(maps(6, 4, 9, seed=1).float(), teacher).min() > 1e-2


def test_both_losses_agree_with_naive_second_implementations_over_valid_columns_only() -> None:
    student, teacher = maps(5, 3, 8, seed=1), maps(5, 3, 8)
    squares, divergences = [], []
    for row in range(5):
        square = divergence = 0.0
        for head in range(3):
            for column in range(row + 2):
                a, b = student[row, head, column].item(), teacher[row, head, column].item()
                square += (a - b) ** 2
                divergence += b * math.log(b / a)
        squares.append(square / 3)
        divergences.append(divergence / 3)
    assert map_mse(student, teacher).tolist() == pytest.approx(squares)
    assert map_kl(student, teacher).tolist() == pytest.approx(divergences)


def test_opposite_one_hot_rows_give_the_greatest_squared_difference_two() -> None:
    student, teacher = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[0.0, 0.0, 1.0]]])
    assert map_mse(student, teacher).item() == 2.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("student_heads", [2, 3, 4])
def test_gradient_agrees_with_a_numeric_directional_derivative(loss, student_heads: int) -> None:
    teacher, raw, direction = maps(5, 4, 8), scores(5, student_heads, 8, seed=1), scores(5, student_heads, 8, seed=2)

    def value(point: Tensor) -> Tensor:
        mine, theirs, _ = match_heads(causal(point), teacher, False)
        return loss(mine, theirs).sum()

    raw.requires_grad_()
    (gradient,) = torch.autograd.grad(value(raw), raw)
    step = 1e-6
    with torch.no_grad():
        numeric = ((value(raw + step * direction) - value(raw - step * direction)) / (2 * step)).item()
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5)


def test_equal_head_counts_are_compared_head_by_head() -> None:
    student, teacher = maps(4, 3, 6, seed=1), maps(4, 3, 6)
    mine, theirs, description = match_heads(student, teacher, True)
    assert torch.equal(mine, student) and torch.equal(theirs, teacher)
    assert description == "head by head (student 3, teacher 3 heads)"


@pytest.mark.parametrize(("student_heads", "teacher_heads"), [(2, 6), (6, 2)])
def test_where_one_count_divides_the_other_neighbouring_heads_are_averaged(
    student_heads: int, teacher_heads: int
) -> None:
    student, teacher = maps(4, student_heads, 6, seed=1), maps(4, teacher_heads, 6)
    mine, theirs, description = match_heads(student, teacher, False)
    many, averaged = (teacher, theirs) if teacher_heads > student_heads else (student, mine)
    assert mine.shape == theirs.shape == (4, 2, 6)
    assert torch.allclose(averaged[:, 0], (many[:, 0] + many[:, 1] + many[:, 2]) / 3)
    assert torch.allclose(averaged[:, 1], (many[:, 3] + many[:, 4] + many[:, 5]) / 3)
    assert "means of 3 neighbouring" in description
    assert torch.allclose(averaged.sum(-1), torch.ones(4, 2, dtype=torch.float64))


def test_otherwise_the_mean_map_is_compared_and_said() -> None:
    student, teacher = maps(4, 4, 6, seed=1), maps(4, 6, 6)
    mine, theirs, description = match_heads(student, teacher, False)
    assert torch.allclose(mine[:, 0], student.mean(1)) and torch.allclose(theirs[:, 0], teacher.mean(1))
    assert mine.shape[1] == theirs.shape[1] == 1
    assert "mean map" in description


def test_strict_refuses_different_head_counts_with_a_way_out() -> None:
    with pytest.raises(GlassboxError, match=r"student 2, teacher 4 heads.*objective.heads=match"):
        pair_heads(2, 4, strict=True)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(loss, dtype: torch.dtype) -> None:
    student, teacher = maps(5, 4, 8, seed=1).to(dtype), maps(5, 2, 8).to(dtype)
    value = loss(*match_heads(student, teacher, False)[:2])
    assert value.dtype == torch.float32
    exact = loss(*match_heads(student.double(), teacher.double(), False)[:2])
    assert torch.allclose(value.double(), exact, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_strides_do_not_matter(loss) -> None:
    student, teacher = maps(5, 4, 8, seed=1), maps(5, 2, 8)
    turned = [tensor.transpose(0, 2).contiguous().transpose(0, 2) for tensor in (student, teacher)]
    assert not turned[0].is_contiguous()
    assert torch.allclose(loss(*match_heads(*turned, False)[:2]), loss(*match_heads(student, teacher, False)[:2]))


def test_entries_of_1e_8_keep_their_divergence() -> None:
    student, teacher = torch.tensor([[[1 - 1e-8, 1e-8]]]), torch.tensor([[[1e-8, 1 - 1e-8]]])
    exact = (1 - 2e-8) * math.log((1 - 1e-8) / 1e-8)
    assert map_kl(student, teacher).item() == pytest.approx(exact, rel=1e-6)
    assert map_kl(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)


def test_a_student_row_that_underflowed_to_zero_has_a_finite_value_and_gradient() -> None:
    raw = torch.tensor([[[0.0, 500.0, 0.0]]], requires_grad=True)
    loss = map_kl(torch.softmax(raw, -1), torch.tensor([[[1.0, 0.0, 0.0]]]))
    loss.sum().backward()
    assert raw.grad is not None
    assert loss.isfinite().all() and raw.grad.isfinite().all()
    assert loss.item() == pytest.approx(-math.log(1e-30), rel=1e-5)


def spread(positions: int, heads: int, length: int, live: int, scale: float, seed: int) -> Tensor:
    """Maps whose mass lies on `live` columns, the others at the far low end of a softmax."""
    raw = scores(positions, heads, length, seed=seed, scale=scale)
    raw[:, :, live:] -= 200.0
    return torch.softmax(raw, dim=-1)


@pytest.mark.parametrize(
    ("loss", "live_share", "scale"),
    [
        pytest.param(map_mse, None, 1.0, id="mse, eight live columns"),
        pytest.param(map_kl, None, 3.0, id="kl, peaked"),
        pytest.param(map_kl, 1.0, 0.5, id="kl, diffuse"),
    ],
)
def test_twice_the_length_heads_or_positions_change_the_mean_by_less_than_five_per_cent(
    loss,
    live_share: float | None,
    scale: float,
) -> None:
    def mean(positions: int, heads: int, length: int) -> float:
        live = 8 if live_share is None else int(length * live_share)
        student = spread(positions, heads, length, live, scale, seed=1)
        return loss(student, spread(positions, heads, length, live, scale, seed=2)).mean().item()

    base = mean(2000, 4, 64)
    assert mean(2000, 4, 128) == pytest.approx(base, rel=0.05)
    assert mean(2000, 8, 64) == pytest.approx(base, rel=0.05)
    assert mean(4000, 4, 64) == pytest.approx(base, rel=0.05)
