"""The formulas of a mixture: a second, naive implementation, numbers by hand, derivatives, and who is drawn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from glassbox.models.mixture import (
    Mixture,
    chosen_weights,
    draw_speakers,
    expert_loads,
    load_balance,
    mixed,
    most_probable,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made_up(*, centred: bool, normalised: bool) -> Mixture:
    return Mixture(
        gate=draw(4, 6, seed=1),
        gate_bias=draw(4, seed=2),
        norm=draw(6, seed=3),
        norm_bias=draw(6, seed=4) if centred else None,
        epsilon=1e-5,
        centred=centred,
        chosen=2,
        normalised=normalised,
        scale=0.22,
    )


@pytest.mark.parametrize(("centred", "normalised"), [(False, True), (True, False)])
def test_the_last_state_agrees_with_a_naive_second_implementation(centred: bool, normalised: bool) -> None:
    mixture, inputs, residual, outputs = (
        made_up(centred=centred, normalised=normalised),
        *(
            draw(3, 6, seed=5),
            draw(3, 6, seed=6),
            draw(3, 4, 6, seed=7),
        ),
    )
    found = mixture.states(residual, outputs, mixture.own_weights(mixture.logits(inputs)))
    assert mixture.gate_bias is not None
    for row in range(3):
        logits = [
            sum(float(mixture.gate[i, c] * inputs[row, c]) for c in range(6)) + float(mixture.gate_bias[i])
            for i in range(4)
        ]
        powers = [math.exp(each) for each in logits]
        probability = [each / sum(powers) for each in powers]
        best = sorted(range(4), key=lambda i: -probability[i])[:2]
        mass = sum(probability[i] for i in best) if normalised else 1.0
        state = [
            float(residual[row, c]) + 0.22 * sum(probability[i] / mass * float(outputs[row, i, c]) for i in best)
            for c in range(6)
        ]
        mean = sum(state) / 6 if centred else 0.0
        root = math.sqrt(sum((each - mean) ** 2 for each in state) / 6 + 1e-5)
        bias = [0.0] * 6 if mixture.norm_bias is None else mixture.norm_bias.tolist()
        expected = [(state[c] - mean) / root * float(mixture.norm[c]) + bias[c] for c in range(6)]
        assert found[row].tolist() == pytest.approx(expected, rel=1e-9)


def test_weights_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]], dtype=torch.float64)
    assert chosen_weights(logits, 2, normalised=False)[0].tolist() == pytest.approx([0, 2 / 8, 5 / 8])
    assert chosen_weights(logits, 2, normalised=True)[0].tolist() == pytest.approx([0, 2 / 7, 5 / 7])
    assert mixed(logits)[0].tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    speaks = torch.tensor([[True, False, True]])
    assert mixed(logits, speaks)[0].tolist() == pytest.approx([1 / 6, 0, 5 / 6])
    assert most_probable(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist() == [[0, 2]]


def test_the_mixture_survives_its_file() -> None:
    mixture = made_up(centred=True, normalised=False)
    again = Mixture.from_tensors(mixture.as_tensors())
    for name, value in vars(mixture).items():
        found = getattr(again, name)
        same = torch.allclose(found, value.float()) if isinstance(value, Tensor) else found == value
        assert same and type(found) is type(value), name


def test_all_but_one_speak_and_the_silent_one_is_drawn_as_without_replacement() -> None:
    """The order of draws without replacement: P(a, b, c) = p_a p_b / (1 - p_a); the last one stays silent."""
    logits = torch.tensor([0.0, math.log(2), math.log(5)])
    p = [1 / 8, 2 / 8, 5 / 8]
    expected = [0.0] * 3
    for order in itertools.permutations(range(3)):
        expected[order[2]] += p[order[0]] * p[order[1]] / (1 - p[order[0]])
    uniform = torch.rand(40000, 4, generator=torch.Generator().manual_seed(0))
    speaks = draw_speakers(logits.expand(40000, 3), uniform, share=1.0)
    assert (speaks.sum(1) == 2).all()
    assert (~speaks).float().mean(0).tolist() == pytest.approx(expected, abs=0.01)
    best = draw_speakers(logits.expand(40000, 3), uniform, share=0.0)
    assert best.tolist()[0] == [False, True, True] and (best == best[0]).all()
    few = draw_speakers(logits.expand(40000, 3), uniform, share=0.05)
    assert (few != best).any(1).float().mean() == pytest.approx(0.05 * (1 - expected[0]), abs=0.005)


def test_load_balance_is_that_of_transformers_and_moves_the_gate() -> None:
    """Detached gate probabilities would balance nothing: the loss must have a gradient, and through P alone."""
    logits = draw(12, 4).requires_grad_()
    weights = torch.full((12,), 1 / 12, dtype=torch.float64)
    own = load_balance(logits, expert_loads(logits, 2, weights), weights)
    theirs = load_balancing_loss_func((logits,), 4, 2)
    assert isinstance(theirs, Tensor)
    assert float(own.detach()) == pytest.approx(float(theirs.detach()) / 2, rel=1e-6)
    (gradient,) = torch.autograd.grad(own, logits)
    assert gradient.abs().sum() > 1e-3
    loads = expert_loads(logits, 2, weights).detach()
    assert torch.autograd.gradcheck(lambda z: load_balance(z, loads, weights), (logits,))
    even = torch.zeros(1, 4, dtype=torch.float64)
    assert float(load_balance(even, torch.full((4,), 0.25), torch.ones(1))) == pytest.approx(1.0)
