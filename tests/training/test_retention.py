"""Agreement of student and teacher at one position, written a second way."""

from __future__ import annotations

import math

import pytest
import torch

from glassbox.training.retention import TOP, agreement


def test_a_student_that_is_its_teacher_keeps_everything() -> None:
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0))
    found = agreement(logits, logits + 3.0)
    assert found["kl"].abs().max() < 1e-6
    assert found["top1"].tolist() == found["top5"].tolist() == [1.0] * 6


def test_divergence_and_overlap_are_those_of_a_loop_over_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    teacher, student = torch.randn(4, 9, generator=generator), torch.randn(4, 9, generator=generator)
    found = agreement(teacher, student)
    for row in range(4):
        p, q = (values[row].double().softmax(-1).tolist() for values in (teacher, student))
        kl = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        best, other = (sorted(range(9), key=lambda token: -each[token])[:TOP] for each in (p, q))
        assert float(found["kl"][row]) == pytest.approx(kl, abs=1e-6)
        assert float(found["top1"][row]) == (best[0] == other[0])
        assert float(found["top5"][row]) == pytest.approx(len({*best} & {*other}) / TOP)


def test_agreement_and_divergence_are_two_things_and_neither_is_one_minus_the_other() -> None:
    teacher = torch.tensor([[4.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    flat, sure = torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.0, 0.0]]), torch.tensor([[3.9, 4.0, 0.0, 0.0, 0.0, 0.0]])
    timid, wrong = agreement(teacher, flat), agreement(teacher, sure)
    assert float(timid["top1"]) == 1.0 and float(wrong["top1"]) == 0.0
    assert float(timid["kl"]) > float(wrong["kl"]) > 0.0


def test_means_do_not_grow_with_the_length_of_the_texts() -> None:
    """`batchmean` over positions of a batch does: it divides by the first dimension alone."""
    generator = torch.Generator().manual_seed(2)
    teacher, student = torch.randn(5, 9, generator=generator), torch.randn(5, 9, generator=generator)
    once, twice = agreement(teacher, student), agreement(teacher.repeat(2, 1), student.repeat(2, 1))
    assert all(float(once[name].mean()) == pytest.approx(float(twice[name].mean())) for name in once)


def test_logits_are_what_is_compared_and_any_shift_of_them_says_the_same() -> None:
    """A softmax of probabilities would see the shift, and flatten both."""
    logits = 8 * torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
    other = 8 * torch.randn(5, 9, generator=torch.Generator().manual_seed(4))
    found = agreement(logits, other)["kl"]
    assert torch.allclose(found, agreement(logits + 50, other - 50)["kl"], atol=1e-4)
    assert float(found.mean()) > 1 > float(agreement(logits.softmax(-1), other.softmax(-1))["kl"].mean())


def test_small_vocabularies_have_fewer_than_five_best_tokens() -> None:
    assert float(agreement(torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 0.0]]))["top5"]) == 1.0
