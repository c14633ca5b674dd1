"""Attention with dropout on a CPU is torch's, but for how it draws."""

from __future__ import annotations

import math

import pytest
import torch
from miniatures import tiny_llama
from torch.nn import functional

from glassbox.models import attention_dropout
from glassbox.models.attention_dropout import draw_kept, dropped_attention
from glassbox.models.signals import position_signals


def states(dtype=torch.float32, length=23):
    torch.manual_seed(0)
    return [torch.randn(3, heads, length, 8, dtype=dtype) for heads in (4, 2, 2)]


@pytest.mark.parametrize("dropout", [1e-9, 0.3])
def test_it_is_torchs_attention_with_the_weights_that_were_drawn(monkeypatch, dropout):
    query, key, value = states()
    kept, share = draw_kept((3, 4, 23, 23), dropout)
    monkeypatch.setattr(attention_dropout, "draw_kept", lambda shape, dropout: (kept, share))
    own = dropped_attention(query, key, value, 0.4, dropout)
    eye = torch.eye(23).expand(3, 4, 23, 23)  # of values that are the identity, attention is its weights
    weights = functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), eye, is_causal=True, scale=0.4
    )
    expected = (weights * kept / share) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(own, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.05, 0.5])
def test_the_share_that_is_dropped_is_the_one_asked_for_and_every_draw_is_another(dropout):
    torch.manual_seed(1)
    first, share = draw_kept((50, 40, 101), dropout)
    second, _ = draw_kept((50, 40, 101), dropout)
    assert abs(share - (1 - dropout)) < 1e-5 and not torch.equal(first, second)
    deviation = math.sqrt(dropout * (1 - dropout) / first.numel())
    for each in (first, second):
        assert abs(float(each.double().mean()) - share) < 4 * deviation
    both = float((first & second).double().mean())
    assert abs(both - share**2) < 4 * deviation
    along = float((first[..., :-1] & first[..., 1:]).double().mean())
    assert abs(along - share**2) < 4 * deviation


def test_a_probability_that_rounds_to_one_leaves_weights_to_scale_up():
    kept, share = draw_kept((400, 500), 0.999999)
    assert share == 1 / 65_536 and float(kept.double().mean()) < 1e-3


def test_a_seed_gives_the_same_draws():
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(draw_kept((3, 5, 7), 0.4)[0])
    assert torch.equal(*draws)


def test_its_derivative_is_right():
    inputs = [each.requires_grad_() for each in states(torch.float64, length=5)]

    def seeded(*inputs):
        torch.manual_seed(3)
        return dropped_attention(*inputs, 0.4, 0.3)

    assert torch.autograd.gradcheck(seeded, inputs)


def test_a_model_in_training_takes_it_and_one_in_evaluation_does_not(monkeypatch):
    model = tiny_llama()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    taken = []

    def counted(shape, dropout):
        taken.append(dropout)
        return draw_kept(shape, dropout)

    monkeypatch.setattr(attention_dropout, "draw_kept", counted)
    ids = torch.randint(3, 200, (2, 9))
    first, count = torch.tensor([2, 3]), torch.tensor([4, 5])

    def hidden(mask):
        torch.manual_seed(5)
        return position_signals(model, ids, mask, first, count, want_attention=True).hidden

    whole = torch.ones(2, 9, dtype=torch.bool)
    still = hidden(whole)
    assert taken == []
    model.train()
    moved = hidden(whole)
    assert taken == [0.5] * len(model.model.layers)
    assert not torch.allclose(still, moved)
    padded = whole.clone()
    padded[0, :2] = False
    hidden(padded)  # padding on the left wants a mask, and torch's own way
    assert len(taken) == len(model.model.layers)
