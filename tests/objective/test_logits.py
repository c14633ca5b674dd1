"""The logits component: forward KL to the dense teacher, and to its top-k logits with one tail bucket."""

import math

import pytest
import terms
import torch
from torch import Tensor

from glassbox.objective.logits import DenseTarget, TopkTarget

POSITIONS, VOCABULARY, WIDTH = 6, 40, 8
TEMPERATURES = (1.0, 2.0, 4.0)


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def teacher_parts(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head weight and head bias of a made-up teacher."""
    return (
        draw(POSITIONS, WIDTH, seed=1, dtype=dtype),
        draw(VOCABULARY, WIDTH, seed=2, dtype=dtype),
        draw(VOCABULARY, seed=3, dtype=dtype),
    )


def dense_kl(
    student: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, *, squared: bool = True
) -> Tensor:
    target = DenseTarget(hidden, weight, bias)
    return terms.differentiable(lambda z: target.divergence(z, slice(None), temperature, squared), student)


def topk_kl(
    student: Tensor, ids: Tensor, values: Tensor, log_tail: Tensor, temperature: float, *, squared: bool = True
) -> Tensor:
    target = TopkTarget(ids, values, log_tail.unsqueeze(-1), (temperature,))
    return terms.differentiable(lambda z: target.divergence(z, slice(None), temperature, squared), student)


def truncated(teacher: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, logits minus the row's maximum and log-tail, as a snapshot stores them."""
    shifted = teacher - teacher.amax(dim=-1, keepdim=True)
    values, ids = shifted.topk(k, dim=-1)
    complement = (shifted / temperature).scatter(-1, ids, -torch.inf)
    return ids, values, torch.logsumexp(complement, dim=-1)


def naive_kl(student: Tensor, teacher: Tensor, temperature: float) -> list[float]:
    """T^2 * sum p log(p / q), in plain Python."""

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(z / temperature) for z in row]
        return [power / sum(powers) for power in powers]

    return [
        temperature**2 * sum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(s), strict=True))
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dense_agrees_with_a_naive_second_implementation(temperature: float) -> None:
    hidden, weight, bias = teacher_parts()
    student = draw(POSITIONS, VOCABULARY)
    expected = naive_kl(student, hidden @ weight.t() + bias, temperature)
    assert dense_kl(student, hidden, weight, bias, temperature).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_topk_agrees_with_a_naive_kl_over_k_plus_one_outcomes(temperature: float) -> None:
    k, student, teacher = 5, draw(POSITIONS, VOCABULARY), draw(POSITIONS, VOCABULARY, seed=4, scale=3.0)
    ids, values, log_tail = truncated(teacher, k, temperature)
    expected = []
    for row in range(POSITIONS):
        p, q = (torch.softmax(z[row] / temperature, -1) for z in (teacher, student))
        kept = set(ids[row].tolist())
        pairs = [(p[i].item(), q[i].item()) for i in kept]
        rest = [i for i in range(VOCABULARY) if i not in kept]
        pairs.append((p[rest].sum().item(), q[rest].sum().item()))
        expected.append(temperature**2 * sum(a * math.log(a / b) for a, b in pairs))
    assert topk_kl(student, ids, values, log_tail, temperature).tolist() == pytest.approx(expected, rel=1e-9)


def test_hand_written_rows_give_the_pinned_number() -> None:
    teacher, student = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]]))
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    identity = torch.eye(2)
    assert dense_kl(student, teacher, identity, None, 1.0).item() == pytest.approx(expected, abs=1e-6)


def test_the_factor_of_the_squared_temperature_is_explicit() -> None:
    hidden, weight, bias = teacher_parts()
    student, ids = draw(POSITIONS, VOCABULARY), torch.arange(4).expand(POSITIONS, 4)
    plain = dense_kl(student, hidden, weight, bias, 4.0, squared=False)
    assert torch.allclose(dense_kl(student, hidden, weight, bias, 4.0), 16 * plain)
    cut = (student, ids, torch.zeros(POSITIONS, 4), torch.ones(POSITIONS), 4.0)
    assert torch.allclose(topk_kl(*cut), 16 * topk_kl(*cut, squared=False))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_equal_to_its_teacher_has_no_divergence_and_another_has(
    temperature: float, dtype: torch.dtype
) -> None:
    hidden, weight, bias = teacher_parts(dtype)
    teacher = hidden @ weight.t() + bias
    other = draw(POSITIONS, VOCABULARY, seed=9, dtype=dtype)
    cut = truncated(teacher, 7, temperature)
    assert dense_kl(teacher, hidden, weight, bias, temperature).abs().max() < 1e-6
    assert topk_kl(teacher, *cut, temperature).abs().max() < 1e-6
    assert dense_kl(other, hidden, weight, bias, temperature).min() > 0.1
    assert topk_kl(other, *cut, temperature).min() > 0.05


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("target", ["dense", "topk", "topk without a tail"])
def test_gradient_agrees_with_a_numeric_directional_derivative(temperature: float, target: str) -> None:
    hidden, weight, bias = teacher_parts()
    cut = truncated(hidden @ weight.t() + bias, VOCABULARY if target.endswith("tail") else 5, temperature)
    upstream = torch.linspace(0.5, 2.0, POSITIONS, dtype=torch.float64)

    def loss(student: Tensor) -> Tensor:
        if target == "dense":
            return (upstream * dense_kl(student, hidden, weight, bias, temperature)).sum()
        return (upstream * topk_kl(student, *cut, temperature)).sum()

    student = draw(POSITIONS, VOCABULARY).requires_grad_()
    direction, step = draw(POSITIONS, VOCABULARY, seed=5), 1e-5
    (gradient,) = torch.autograd.grad(loss(student), student)
    with torch.no_grad():
        numeric = (loss(student + step * direction) - loss(student - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_topk_approaches_the_dense_divergence_from_below_and_meets_it_at_the_whole_vocabulary(
    temperature: float,
) -> None:
    hidden, weight, bias = teacher_parts()
    teacher, student = hidden @ weight.t() + bias, draw(POSITIONS, VOCABULARY)
    dense = dense_kl(student, hidden, weight, bias, temperature)
    gaps = torch.stack(
        [
            dense - topk_kl(student, *truncated(teacher, k, temperature), temperature)
            for k in (1, 2, 5, 10, 20, 39, VOCABULARY)
        ]
    )
    assert (gaps.diff(dim=0) <= 1e-12).all(), "a finer partition never loses divergence"
    assert (gaps[0] > 1e-2).all()
    assert gaps[-1].abs().max() < 1e-6


def test_the_gradients_of_both_targets_agree_at_the_whole_vocabulary_in_float32() -> None:
    hidden, weight, bias = teacher_parts(torch.float32)
    student = draw(POSITIONS, VOCABULARY, dtype=torch.float32).requires_grad_()
    cut = truncated(hidden @ weight.t() + bias, VOCABULARY, 2.0)
    (dense,) = torch.autograd.grad(dense_kl(student, hidden, weight, bias, 2.0).sum(), student)
    (topk,) = torch.autograd.grad(topk_kl(student, *cut, 2.0).sum(), student)
    assert torch.allclose(dense, topk, atol=1e-6)


def test_a_chunk_reads_its_own_positions_of_the_teacher() -> None:
    hidden, weight, bias = teacher_parts()
    student, part = draw(POSITIONS, VOCABULARY), slice(2, 5)
    ids, values, log_tail = truncated(hidden @ weight.t() + bias, 5, 2.0)
    for target in (DenseTarget(hidden, weight, bias), TopkTarget(ids, values, log_tail.unsqueeze(-1), (2.0,))):
        whole = target.divergence(student, slice(None), 2.0, squared=True)
        chunk = target.divergence(student[part], part, 2.0, squared=True)
        assert torch.allclose(chunk.values, whole.values[part], atol=1e-12)
        assert torch.allclose(chunk.gradient, whole.gradient[part], atol=1e-12)


def test_the_students_logits_are_left_as_they_are() -> None:
    hidden, weight, bias = teacher_parts()
    student = draw(POSITIONS, VOCABULARY)
    for temperature in TEMPERATURES:
        dense_kl(student, hidden, weight, bias, temperature)
        topk_kl(student, *truncated(hidden @ weight.t() + bias, 5, temperature), temperature)
        topk_kl(student, *truncated(hidden @ weight.t() + bias, VOCABULARY, temperature), temperature)
    assert torch.equal(student, draw(POSITIONS, VOCABULARY))


def test_nothing_flows_into_the_teacher() -> None:
    hidden, weight, bias = (tensor.requires_grad_() for tensor in teacher_parts())
    student = draw(POSITIONS, VOCABULARY).requires_grad_()
    dense_kl(student, hidden, weight, bias, 2.0).sum().backward()
    assert student.grad is not None
    assert hidden.grad is None and weight.grad is None and bias.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(dtype: torch.dtype) -> None:
    hidden, weight, bias = (tensor.to(dtype) for tensor in teacher_parts())
    student = draw(POSITIONS, VOCABULARY, scale=5.0).to(dtype).requires_grad_()
    cut = truncated((hidden.double() @ weight.double().t() + bias.double()), 5, 2.0)
    dense = dense_kl(student, hidden, weight, bias, 2.0)
    topk = topk_kl(student, cut[0], cut[1].float(), cut[2].float(), 2.0)
    exact = dense_kl(student.double(), hidden.double(), weight.double(), bias.double(), 2.0)
    assert dense.dtype == topk.dtype == torch.float32
    assert torch.allclose(dense.double(), exact, rtol=1e-4, atol=1e-5)
    assert torch.allclose(topk.double(), topk_kl(student.double(), *cut, 2.0), rtol=1e-4, atol=1e-5)


def test_strides_do_not_matter() -> None:
    hidden, weight, bias = teacher_parts()
    student = draw(VOCABULARY, POSITIONS).t()
    ids, values, log_tail = truncated(hidden @ weight.t() + bias, 5, 2.0)
    turned_ids, turned_values = ids.t().contiguous().t(), values.t().contiguous().t()
    turned = dense_kl(student, hidden.t().contiguous().t(), weight.t().contiguous().t(), bias, 2.0)
    assert torch.allclose(turned, dense_kl(student.contiguous(), hidden, weight, bias, 2.0), atol=1e-12)
    assert torch.allclose(
        topk_kl(student, turned_ids, turned_values, log_tail, 2.0),
        topk_kl(student.contiguous(), ids, values, log_tail, 2.0),
        atol=1e-12,
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_confident_rows_keep_value_and_gradient_finite(temperature: float) -> None:
    teacher = torch.zeros(3, VOCABULARY)
    teacher[:, 0] = 300.0
    student = torch.zeros(3, VOCABULARY)
    student[0, 0], student[1, 5], student[2, 39] = 300.0, 300.0, 3000.0
    cut = truncated(teacher, 4, temperature)
    for target in ("dense", "topk"):
        inputs = student.clone().requires_grad_()
        if target == "dense":
            loss = dense_kl(inputs, torch.eye(3), teacher.t(), None, temperature)
        else:
            loss = topk_kl(inputs, *cut, temperature)
        loss.sum().backward()
        assert inputs.grad is not None
        assert loss.isfinite().all() and inputs.grad.isfinite().all()
        assert loss[0].abs() < 1e-6
        expected = temperature * torch.tensor([300.0, 3000.0])
        assert torch.allclose(loss[1:], expected, rtol=1e-4)


def test_the_students_tail_is_exact_where_one_minus_the_rest_would_be_zero() -> None:
    """All of the student's mass but e^-40 lies in the top k: 1 - mass is 0 in float32 and its logarithm -inf."""
    student = torch.full((1, VOCABULARY), -40.0 - math.log(VOCABULARY - 1))
    student[0, 0] = 0.0
    teacher_tail = torch.tensor([math.log(0.5)])
    loss = topk_kl(student, torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]), teacher_tail, 1.0)
    assert loss.item() == pytest.approx(math.log(0.5) + 0.5 * 40.0, rel=1e-5)


def test_a_teacher_without_any_tail_mass_costs_nothing_there() -> None:
    student = draw(2, VOCABULARY, dtype=torch.float32).requires_grad_()
    loss = topk_kl(student, torch.tensor([[0], [1]]), torch.zeros(2, 1), torch.full((2,), -torch.inf), 2.0)
    loss.sum().backward()
    expected = -4 * torch.log_softmax(student.detach() / 2, -1)[torch.arange(2), torch.arange(2)]
    assert torch.allclose(loss, expected, atol=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_no_positions_give_no_values_and_a_zero_gradient() -> None:
    student = torch.zeros(0, VOCABULARY, requires_grad=True)
    _, weight, bias = teacher_parts(torch.float32)
    loss = dense_kl(student, torch.zeros(0, WIDTH), weight, bias, 2.0)
    empty_ids = torch.zeros(0, 3, dtype=torch.long)
    loss = loss.sum() + topk_kl(student, empty_ids, torch.zeros(0, 3), torch.zeros(0), 2.0).sum()
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("target", ["dense", "topk"])
def test_twice_the_positions_or_the_teachers_width_change_the_mean_by_less_than_five_per_cent(target: str) -> None:
    def mean(positions: int, width: int) -> float:
        student = draw(positions, 50)
        hidden, weight = draw(positions, width, seed=1), draw(50, width, seed=2, scale=width**-0.5)
        if target == "dense":
            return dense_kl(student, hidden, weight, None, 2.0).mean().item()
        return topk_kl(student, *truncated(hidden @ weight.t(), 10, 2.0), 2.0).mean().item()

    assert mean(8000, 64) == pytest.approx(mean(4000, 64), rel=0.05)
    assert mean(8000, 256) == pytest.approx(mean(8000, 128), rel=0.05)
