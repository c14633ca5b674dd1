"""The relations component: how positions relate in queries, keys and values, for any numbers of heads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.objective.relations import relation_heads_of, relation_kl, relation_rows

ROWS = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 3, 0, 1, 4])  # samples and columns


def states(width: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 6, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(student: Tensor, teacher: Tensor, heads: int) -> list[float]:
    def row(side: Tensor, sample: int, column: int, head: int) -> list[float]:
        depth = side.shape[-1] // heads
        own = slice(head * depth, (head + 1) * depth)
        scores = [
            sum(
                a * b
                for a, b in zip(side[sample, column, own].tolist(), side[sample, other, own].tolist(), strict=True)
            )
            / math.sqrt(depth)
            for other in range(column + 1)
        ]
        total = sum(map(math.exp, scores))
        return [math.exp(score) / total for score in scores]

    found = []
    for sample, column in zip(*(each.tolist() for each in ROWS), strict=True):
        value = 0.0
        for head in range(heads):
            p, q = (row(side, sample, column, head) for side in (teacher, student))
            value += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        found.append(value / heads)
    return found


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_widths_that_differ_are_cut_into_as_many_heads_and_agree_with_loops(heads: int) -> None:
    student, teacher = states(8, seed=1), states(12)
    assert relation_kl(student, teacher, *ROWS, heads).tolist() == pytest.approx(naive(student, teacher, heads))


def test_one_row_written_by_hand() -> None:
    log_3 = math.log(3.0)
    teacher = torch.tensor([[[1.0, 0.0], [log_3 * math.sqrt(2), 0.0]]])
    student = torch.zeros(1, 2, 2)
    sample, column = torch.tensor([0]), torch.tensor([1])
    first, second = log_3, log_3**2 * math.sqrt(2)  # scores of the second row: x_1 x_0 and x_1 x_1, over sqrt(2)
    p = math.exp(second) / (math.exp(first) + math.exp(second))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert relation_kl(student, teacher, sample, column, 1).tolist() == pytest.approx([expected])
    assert expected == pytest.approx(0.0442, abs=1e-4)


def test_the_same_relations_have_no_loss_and_turning_all_heads_of_a_side_alike_leaves_it() -> None:
    teacher, other = states(8), states(8, seed=1)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    assert relation_kl(teacher, teacher, *ROWS, 2).abs().max() < 1e-12
    assert torch.allclose(relation_kl(other @ turn, teacher, *ROWS, 1), relation_kl(other, teacher, *ROWS, 1))
    assert relation_kl(other, teacher, *ROWS, 1)[[0, 1, 3, 4]].min() > 1e-3


def test_rows_see_no_later_column_and_no_other_sample() -> None:
    rows, visible = relation_rows(states(8), *ROWS, 2)
    assert visible[:, 0].sum(-1).tolist() == [2, 4, 1, 2, 5]
    assert torch.allclose((rows.exp() * visible).sum(-1), torch.ones(5, 2, dtype=torch.float64))
    changed = states(8)
    changed[0, 4:] += 5.0
    changed[1, 5:] -= 5.0
    before, after = (relation_kl(each, states(8, seed=1), *ROWS, 2) for each in (states(8), changed))
    assert torch.equal(before, after)


def test_the_gradient_agrees_with_a_numeric_derivative_in_half_and_double_formats() -> None:
    student, teacher, direction = states(8, seed=1).requires_grad_(), states(12), states(8, seed=2)

    def value(point: Tensor) -> Tensor:
        return relation_kl(point, teacher, *ROWS, 2).sum()

    (gradient,) = torch.autograd.grad(value(student), student)
    with torch.no_grad():
        numeric = (value(student + 1e-5 * direction) - value(student - 1e-5 * direction)) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-6)
    half = relation_kl(student.detach().bfloat16(), teacher.half(), *ROWS, 2)
    exact = relation_kl(student.detach(), teacher, *ROWS, 2)
    assert half.dtype == torch.float32 and torch.allclose(half.double(), exact, rtol=0.05, atol=0.01)


def test_no_rows_have_no_values_and_heads_that_do_not_divide_are_refused() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert relation_kl(states(8), states(12), nothing, nothing, 2).shape == (0,)
    assert relation_heads_of((96, 48, 48, 128, 128, 128), 8, None) == 8
    assert relation_heads_of((96, 36, 36, 128, 128, 128), 8, None) == 4
    assert relation_heads_of((96, 48, 48, 128), 8, 16) == 16
    with pytest.raises(GlassboxError, match=r"relation_heads is 5, which does not divide.*These do: 1, 2, 4"):
        relation_heads_of((8, 12), 4, 5)
    with pytest.raises(GlassboxError, match="does not divide"):
        relation_kl(states(8), states(12), *ROWS, 3)
