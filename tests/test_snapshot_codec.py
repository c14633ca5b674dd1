"""Signals to cells and back."""

import pytest
import torch

from glassbox.snapshot.codec import (
    byte_rows,
    decode_attention,
    encode_attention,
    log_sum_exp,
    pack_ragged,
    top_k_with_tails,
)


def random_maps(positions, heads, length, sharpness, seed=0):
    scores = sharpness * torch.randn(len(positions), heads, length, generator=torch.Generator().manual_seed(seed))
    hidden = torch.arange(length) > torch.tensor(positions)[:, None, None]
    return torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)


@pytest.mark.parametrize("codec", ["sqrt_uint8", "float16"])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 6.0])
def test_attention_rows_come_back_within_rounding_and_sum_to_one(codec, sharpness):
    positions = [0, 3, 40, 41, 59]
    maps = random_maps(positions, 3, 60, sharpness)
    ragged = encode_attention(pack_ragged(maps, torch.tensor(positions)), codec)
    assert ragged.shape == (3, sum(position + 1 for position in positions))
    decoded = decode_attention(ragged, torch.tensor(positions), 60, codec)
    torch.testing.assert_close(decoded.sum(-1), torch.ones(5, 3))
    assert (decoded - maps).abs().max() < 0.01
    assert (decoded[maps == 0] == 0).all()
    live = decoded.double().clamp(min=1e-300)
    divergence = torch.xlogy(decoded.double(), live) - torch.xlogy(decoded.double(), maps.double().clamp(min=1e-30))
    lengths = torch.tensor(positions)[:, None] + 1
    assert (divergence.sum(-1) / lengths).mean() < 3e-6


def test_top_k_and_its_tail_hold_the_whole_mass_at_every_temperature():
    logits = 3 * torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    ids, values, tails = top_k_with_tails(logits, 8, (1.0, 2.0, 4.0))
    offset = logits.max(1, keepdim=True).values
    assert torch.equal(values, logits.gather(1, ids) - offset)
    assert (values.diff(dim=1) <= 0).all() and (values[:, 0] == 0).all()
    for column, temperature in enumerate((1.0, 2.0, 4.0)):
        mass = torch.logaddexp(torch.logsumexp(values / temperature, 1), tails[:, column])
        torch.testing.assert_close(mass, torch.logsumexp((logits - offset) / temperature, 1))


def test_a_confident_row_keeps_its_tail():
    logits = torch.zeros(1, 1000)
    logits[0, 3] = 60
    _, _, tails = top_k_with_tails(logits, 4, (1.0,))
    torch.testing.assert_close(tails[0, 0], torch.tensor(996.0).log() - 60)


def test_the_tail_is_empty_when_the_whole_vocabulary_is_kept():
    _, _, tails = top_k_with_tails(torch.randn(2, 6), 6, (1.0, 2.0))
    assert torch.isneginf(tails).all()


@pytest.mark.parametrize("columns", [1, 7, 930])
def test_log_sum_exp_is_torchs_to_the_bit_also_of_nothing(columns):
    rows = 5 * torch.randn(40, columns, generator=torch.Generator().manual_seed(1))
    rows[3] = float("-inf")
    expected = torch.logsumexp(rows, 1)
    assert torch.equal(log_sum_exp(rows, rows.amax(1, keepdim=True)), expected)


def test_byte_rows_are_each_rows_own_bytes_of_any_stride():
    values = torch.arange(6, dtype=torch.int32).reshape(2, 3).T.to(torch.uint16)
    assert byte_rows(values).tobytes() == values.numpy().tobytes()
    assert byte_rows(values)[1:2].tobytes() == values.numpy()[1:2].tobytes()
    assert byte_rows(torch.zeros(3)).shape == (3, 4)
