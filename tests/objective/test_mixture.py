"""The mixture component and the router's loss: second implementations, derivatives, and what must stay still."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import sections
import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.models.mixture import Mixture
from glassbox.objective import Ingredients
from glassbox.objective.head import Head
from glassbox.objective.mixture import (
    Experts,
    Parts,
    figures,
    mixing_weights,
    new_logits,
    own_loads,
    parts_of,
    refuse_missing,
    router_gradient,
    rows_of_others,
    states,
    target_of,
    told,
    uniforms,
)
from glassbox.randomness import derived_seed
from glassbox.snapshot.batch import EXPERT_FIELDS, Batch

EXPERTS, WIDTH, VOCABULARY, ROWS = 4, 6, 9, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def experts(speaks: str = "all", *, gate: Tensor | None = None, **settings: Any) -> Experts:
    mixture = Mixture(draw(EXPERTS, WIDTH, seed=1), None, draw(WIDTH, seed=2), None, 1e-6, False, 2, False, 1.5)
    own = sections.objective().experts.model_copy(update=settings)
    return Experts(mixture, speaks, own, derived_seed(0, "experts"), gate)


def parts(kept: int = EXPERTS) -> Parts:
    inputs = draw(ROWS, WIDTH, seed=4)
    logits = experts().mixture.logits(inputs)
    ids = logits.topk(kept, dim=1).indices.sort(dim=1).values
    return Parts(logits, ids, inputs, draw(ROWS, WIDTH, seed=5), draw(ROWS, kept, WIDTH, seed=6))


def head() -> tuple[Tensor, Tensor | None]:
    return draw(VOCABULARY, WIDTH, seed=7), None


def batch(own: Parts, counts: tuple[int, ...] = (2, 3)) -> Batch:
    count = torch.tensor(counts)
    return Batch(
        sample_ids=tuple(f"sample {index}" for index in range(len(counts))),
        tasks=("gsm8k",) * len(counts),
        input_ids=torch.zeros(len(counts), 8, dtype=torch.int64),
        attention_mask=torch.ones(len(counts), 8, dtype=torch.bool),
        first=7 - count,
        count=count,
        answer_count=count,
        labels=torch.zeros(sum(counts), dtype=torch.int64),
        sample_index=torch.repeat_interleave(torch.arange(len(counts)), count),
        **{name: getattr(own, name) for name in EXPERT_FIELDS},
    )


def reading(own: Parts, mixed: Experts, counts: tuple[int, ...] = (2, 3), progress: float = 0.25) -> Any:
    source = batch(own, counts)
    return SimpleNamespace(
        ingredients=Ingredients(head(), experts=mixed), source=source, batch=source, rows=None, progress=progress
    )


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@pytest.mark.parametrize("kept", [EXPERTS, 3])
def test_all_experts_speak_by_the_gates_softmax(kept: int) -> None:
    own, mixed = parts(kept), experts()
    target: Any = target_of(reading(own, mixed))
    logits = own.router_logits.gather(1, own.expert_ids)
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)
    state = own.residual + 1.5 * sum(weights[:, [i]] * own.expert_outputs[:, i] for i in range(kept))
    expected = state / (state.square().mean(1, keepdim=True) + 1e-6).sqrt() * mixed.mixture.norm
    torch.testing.assert_close(target.hidden, expected)
    student = expected @ head()[0].t()
    assert target.divergence(student, slice(None), 2.0, True).values.abs().max() < 1e-12
    assert target.divergence(student.flip(0), slice(None), 2.0, True).values.max() > 1e-3


def test_the_mass_of_the_models_own_weights_scales_the_mixture() -> None:
    own = parts()
    one, model = (mixing_weights(experts(mass=mass), own, own.router_logits) for mass in ("one", "model"))
    assert one.sum(1).tolist() == pytest.approx([1.0] * ROWS)
    top = own.router_logits.softmax(1).topk(2, dim=1).values.sum(1)
    torch.testing.assert_close(model, one * top[:, None])


def test_passes_are_averaged_and_drawn_by_sample_whatever_the_batch() -> None:
    own, mixed = parts(), experts("sampled", sampled_share=1.0, passes=3)
    target: Any = target_of(reading(own, mixed))
    student = draw(ROWS, VOCABULARY, seed=8)
    term = target.divergence(student[1:4], slice(1, 4), 2.0, True)
    single = [each.divergence(student[1:4], slice(1, 4), 2.0, True) for each in target.targets]
    torch.testing.assert_close(term.values, sum(each.values for each in single) / 3)
    torch.testing.assert_close(term.gradient, sum(each.gradient for each in single) / 3)
    assert len({tuple(each.values.tolist()) for each in single}) > 1
    whole = uniforms(mixed, batch(own), 0.25, own)
    alone = uniforms(mixed, replace(batch(own[2:], (3,)), sample_ids=("sample 1",)), 0.25, own[2:])
    assert whole.shape == (3, ROWS, EXPERTS + 1) and torch.equal(whole[:, 2:], alone)
    assert not torch.equal(whole, uniforms(mixed, batch(own), 0.5, own))


def loss_of_router(gate: Tensor, own: Parts, log_q: Tensor, weights: Tensor, loads: Tensor) -> Tensor:
    """The router's loss once more: `KL(p' || q) + balance x N sum f P`, f as given."""
    mixed = experts("router")
    logits = own.router_input @ gate.t()
    mixing = logits.softmax(1)
    state = own.residual + 1.5 * torch.einsum("pk,pkw->pw", mixing, own.expert_outputs)
    state = state * (state.square().mean(1, keepdim=True) + 1e-6).rsqrt() * mixed.mixture.norm
    log_p = ((state @ head()[0].t()) / 2.0).log_softmax(1)
    balance = EXPERTS * (loads * (weights @ mixing)).sum()
    return (weights * kl(log_p, log_q)).sum() + mixed.settings.router_balance * balance


def test_the_routers_gradient_is_that_of_its_loss_and_agrees_with_numeric_derivatives() -> None:
    gate = (draw(EXPERTS, WIDTH, seed=1) + 0.1 * draw(EXPERTS, WIDTH, seed=9)).requires_grad_()
    own, student = parts(), draw(ROWS, 3, seed=10).requires_grad_()
    output = Head(draw(VOCABULARY, 3, seed=11), draw(VOCABULARY, seed=12))
    weights = torch.tensor([0.1, 0.3, 0.2, 0.2, 0.2], dtype=torch.float64)
    mixed = experts("router", gate=gate)
    loads = own_loads(mixed, own, weights)
    found, terms = router_gradient(mixed, own, student, (output, head()), weights, loads, 2.0)
    assert output.bias is not None
    log_q = ((student @ output.weight.t() + output.bias) / 2.0).log_softmax(1).detach()
    loss = loss_of_router(gate, own, log_q, weights, loads)
    torch.testing.assert_close(found, torch.autograd.grad(loss, gate)[0])
    assert float(terms["kl"] + mixed.settings.router_balance * terms["balance"]) == pytest.approx(float(loss.detach()))
    assert torch.autograd.gradcheck(lambda g: loss_of_router(g, own, log_q, weights, loads), (gate,))
    assert student.grad is None and gate.grad is None and found.abs().max() > 1e-4


def test_a_router_that_follows_its_gradient_comes_nearer_to_the_student() -> None:
    own, student = parts(), draw(ROWS, 3, seed=10)
    output, weights = Head(draw(VOCABULARY, 3, seed=11), None), torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    gate, losses = draw(EXPERTS, WIDTH, seed=1), []
    for _ in range(30):
        mixed = experts("router", gate=gate)
        loads = own_loads(mixed, own, weights)
        gradient, terms = router_gradient(mixed, own, student, (output, head()), weights, loads, 2.0)
        gate = gate - 0.5 * gradient
        losses.append(float(terms["kl"]))
    assert losses[-1] < 0.95 * losses[0]


def test_a_gate_that_has_not_moved_is_the_teachers_own_to_the_bit() -> None:
    own = parts()
    still = experts("router", gate=draw(EXPERTS, WIDTH, seed=1))
    assert torch.equal(new_logits(still, own), own.router_logits)
    moved = experts("router", gate=draw(EXPERTS, WIDTH, seed=1) + 0.1)
    assert not torch.equal(states(moved, own, new_logits(moved, own)), states(still, own, own.router_logits))
    weights = torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    assert float(figures(still, own, weights)["mixture_gate_kl"]) == 0.0
    assert 0 < float(figures(still, own, weights)["mixture_entropy"]) <= torch.tensor(float(EXPERTS)).log() + 1e-9
    lost = figures(experts(), parts(3), weights)["mixture_mass_lost"]
    assert float(lost) == pytest.approx(float(own.router_logits.softmax(1).min(1).values.mean()))


def test_the_row_of_another_sample_is_that_of_the_next_at_the_same_place() -> None:
    assert rows_of_others(torch.tensor([2, 3, 1])).tolist() == [2, 3, 5, 5, 5, 0]
    assert rows_of_others(torch.tensor([2])).tolist() == [0, 1]


def test_a_mixture_tells_an_answer_where_every_token_of_it_is_its_likeliest() -> None:
    own, mixed = parts(), experts()
    said = (states(mixed, own, own.router_logits) @ head()[0].t()).argmax(1)
    right = replace(batch(own), labels=said)
    assert told(mixed, right, head()).tolist() == [True, True]
    wrong = said.clone()
    wrong[3] = (wrong[3] + 1) % VOCABULARY
    assert told(mixed, replace(right, labels=wrong), head()).tolist() == [True, False]


def test_what_is_missing_is_said_before_anything_trains() -> None:
    with pytest.raises(GlassboxError, match=r"snapshot\.experts=last"):
        refuse_missing(Ingredients(head()), sections.objective())
    with pytest.raises(GlassboxError, match="experts"):
        parts_of(replace(batch(parts()), residual=None))
