"""The output layer with its components: values and gradients, chunk by chunk, against autograd and float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from glassbox.objective.head import AT_ONE, Head, HeadTerms, head_losses
from glassbox.objective.logits import DenseTarget, TopkTarget

POSITIONS, VOCABULARY, WIDTH, TEACHER_WIDTH, K = 37, 60, 16, 24, 9
TEMPERATURES = (1.0, 2.0, 4.0)
TARGETS = ("dense", "topk")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """A student's states and output layer, and a teacher, in a number format."""

    def __init__(self, dtype: torch.dtype = torch.float64, positions: int = POSITIONS, vocabulary: int = VOCABULARY):
        self.hidden = draw(positions, WIDTH).to(dtype).requires_grad_()
        self.weight = draw(vocabulary, WIDTH, seed=1).to(dtype).requires_grad_()
        self.bias = draw(vocabulary, seed=2).to(dtype).requires_grad_()
        self.labels = torch.arange(positions) % vocabulary
        states, matrix = draw(positions, TEACHER_WIDTH, seed=3), draw(vocabulary, TEACHER_WIDTH, seed=4)
        logits = states @ matrix.t()
        logits = logits - logits.amax(-1, keepdim=True)
        kept, ids = logits.topk(K)
        rest = [(logits / t).scatter(-1, ids, -torch.inf).logsumexp(-1) for t in TEMPERATURES]
        self.targets = {
            "dense": DenseTarget(states.to(dtype), matrix.to(dtype), None),
            "topk": TopkTarget(ids, kept.to(dtype), torch.stack(rest, -1).to(dtype), TEMPERATURES),
        }
        self.weights = {"task": draw(positions, seed=5).abs(), "logits": draw(positions, seed=6).abs()}

    @property
    def head(self) -> Head:
        return Head(self.weight, self.bias)

    @property
    def gradients(self) -> list[Tensor]:
        found = [self.hidden.grad, self.weight.grad, self.bias.grad]
        assert all(gradient is not None for gradient in found)
        return found  # type: ignore[return-value]

    def losses(self, target: str, temperature: float = 2.0, **settings: int) -> tuple[Tensor, dict[str, Tensor]]:
        terms = HeadTerms(self.labels, {"logits": self.targets[target]}, temperature)
        return head_losses(self.hidden, self.head, terms, self.weights, **settings)


def plainly(case: Case, target: str, temperature: float) -> Tensor:
    """The same loss from whole logits by torch's own functions, for autograd to differentiate."""
    logits = functional.linear(case.hidden, case.weight, case.bias)
    task = functional.cross_entropy(logits, case.labels, reduction="none")
    teacher, mine = case.targets[target], logits / temperature
    if isinstance(teacher, DenseTarget):
        log_p = (teacher.hidden @ teacher.weight.t() / temperature).log_softmax(-1)
        log_q = mine.log_softmax(-1)
    else:
        tail = teacher.log_tails[:, TEMPERATURES.index(temperature), None]
        log_p = torch.cat((teacher.logits / temperature, tail), -1).log_softmax(-1)
        rest = mine.scatter(-1, teacher.ids, -torch.inf).logsumexp(-1, keepdim=True)
        log_q = torch.cat((mine.gather(-1, teacher.ids), rest), -1).log_softmax(-1)
    divergence = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)
    return (case.weights["task"] * task + case.weights["logits"] * divergence).sum()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_value_and_gradients_are_those_of_whole_logits_under_autograd(target: str, temperature: float) -> None:
    fused, plain = Case(), Case()
    loss, _ = fused.losses(target, temperature, chunk=8)
    expected = plainly(plain, target, temperature)
    (3.0 * loss).backward()
    (3.0 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for found, wanted in zip(fused.gradients, plain.gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_float32_agrees_with_float64_to_one_in_a_million(target: str, temperature: float) -> None:
    single, double = Case(torch.float32, 300, 2000), Case(torch.float64, 300, 2000)
    with torch.no_grad():
        for rounded, exact in (
            (single.hidden, double.hidden),
            (single.weight, double.weight),
            (single.bias, double.bias),
        ):
            exact.copy_(rounded)
    for name, teacher in single.targets.items():
        widened = {
            key: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
            for key, value in vars(teacher).items()
        }
        double.targets[name] = type(teacher)(**widened)
    losses = []
    for case in (single, double):
        loss, _ = case.losses(target, temperature)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for found, wanted in zip(single.gradients, double.gradients, strict=True):
        assert ((found.double() - wanted).norm() / wanted.norm()).item() < 1e-6


@pytest.mark.parametrize("target", TARGETS)
def test_the_size_of_the_chunks_changes_neither_values_nor_gradients(target: str) -> None:
    results = []
    for chunk in (1, 5, POSITIONS, None):
        case = Case()
        loss, values = case.losses(target, chunk=chunk)
        loss.backward()
        results.append([loss, *values.values(), *case.gradients])
    for result in results[1:]:
        for found, wanted in zip(result, results[0], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_of_the_size_of_positions_times_vocabulary_survives_the_forward_pass(target: str) -> None:
    case = Case(positions=512, vocabulary=300)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tuple(tensor.shape)), lambda found: found):
        loss, values = case.losses(target, chunk=16)
    largest = max(gradient.numel() for gradient in loss.grad_fn.gradients)  # type: ignore[union-attr]
    assert kept == []
    assert largest < 512 * 300 / 4
    assert all(value.shape == (512,) for value in values.values())


def test_only_the_components_with_a_weight_are_computed_and_one_at_temperature_one_is_only_logged() -> None:
    case = Case()
    loss, values = head_losses(case.hidden, case.head, HeadTerms(case.labels), {"task": case.weights["task"]})
    assert list(values) == ["task"]
    assert loss.item() == pytest.approx((values["task"] * case.weights["task"]).sum().item())
    loss.backward()
    without = case.gradients
    logged = Case()
    terms = HeadTerms(logged.labels, {"logits": logged.targets["dense"]}, 4.0, at_one=True)
    loss, values = head_losses(logged.hidden, logged.head, terms, {"task": logged.weights["task"]})
    loss.backward()
    _, at_one = logged.losses("dense", 1.0)
    torch.testing.assert_close(values[AT_ONE], at_one["logits"])
    assert not values[AT_ONE].requires_grad
    assert all(torch.equal(*pair) for pair in zip(logged.gradients, without, strict=True))


def test_a_weight_of_zero_adds_exactly_nothing_to_any_gradient() -> None:
    case, alone = Case(), Case()
    case.weights["logits"].zero_()
    case.losses("dense")[0].backward()
    head_losses(alone.hidden, alone.head, HeadTerms(alone.labels), {"task": alone.weights["task"]})[0].backward()
    assert all(torch.equal(*pair) for pair in zip(case.gradients, alone.gradients, strict=True))


def test_a_frozen_output_layer_gets_no_gradient_and_the_states_still_do() -> None:
    case, free = Case(), Case()
    case.weight.requires_grad_(False)
    case.bias.requires_grad_(False)
    case.losses("dense")[0].backward()
    free.losses("dense")[0].backward()
    assert case.weight.grad is None and case.bias.grad is None
    assert case.hidden.grad is not None and torch.equal(case.hidden.grad, free.gradients[0])


def test_without_gradients_the_values_are_the_same() -> None:
    case = Case()
    with torch.no_grad():
        loss, values = case.losses("topk")
    assert not loss.requires_grad
    again, expected = case.losses("topk")
    assert torch.equal(loss, again) and all(torch.equal(values[name], expected[name]) for name in values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_states_under_autocast_are_computed_in_float32_and_get_gradients_of_their_own_format(
    dtype: torch.dtype,
) -> None:
    case = Case(torch.float32)
    half = case.hidden.detach().to(dtype).requires_grad_()
    terms = HeadTerms(case.labels, {"logits": case.targets["dense"]}, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, values = head_losses(half, case.head, terms, case.weights)
    exact, _ = head_losses(half.float(), case.head, terms, case.weights)
    loss.backward()
    assert loss.dtype == values["task"].dtype == torch.float32
    assert torch.equal(loss, exact)
    assert half.grad is not None and half.grad.dtype == dtype and half.grad.isfinite().all()
    assert case.weight.grad is not None and case.weight.grad.dtype == torch.float32


def test_no_positions_give_no_values_and_gradients_of_zero() -> None:
    case = Case(positions=0)
    loss, values = case.losses("dense")
    loss.backward()
    assert loss.item() == 0.0
    assert values["task"].shape == (0,)
    assert all(gradient.abs().sum() == 0 for gradient in case.gradients)


def test_a_second_differentiation_is_an_error_and_not_a_wrong_gradient() -> None:
    loss, _ = Case().losses("dense")
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="once"):
        loss.backward()
