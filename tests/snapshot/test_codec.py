"""Signals to cells and back."""

import pytest
import torch

from glassbox.snapshot import codec as codec_module
from glassbox.snapshot.codec import (
    byte_rows,
    decode_attention,
    encode_attention,
    log_sum_exp,
    pack_ragged,
    top_k_with_tails,
    undo_attention_codec,
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


@pytest.mark.parametrize("codec", ["sqrt_uint8", "float16"])
@pytest.mark.parametrize("block", [1, 7 * 3 * 40, 1 << 18])
def test_attention_is_decoded_row_by_row_to_the_same_bits_in_blocks_of_any_size(codec, block, monkeypatch):
    monkeypatch.setattr(codec_module, "BLOCK", block)
    positions = torch.tensor([4, 5, 6, 0, 1, 30, 31, 32, 33, 39])
    ragged = encode_attention(torch.rand(3, int((positions + 1).sum())), codec)
    ragged[:, :5] = 0  # a row without any mass
    decoded = decode_attention(ragged, positions, 40, codec)
    start = 0
    for row, position in enumerate(positions.tolist()):
        stored = torch.zeros(3, 40, dtype=ragged.dtype)
        stored[:, : position + 1] = ragged[:, start : start + position + 1]
        start += position + 1
        values = undo_attention_codec(stored, codec)
        sums = values.sum(-1, keepdim=True)
        assert torch.equal(decoded[row], values / torch.where(sums > 0, sums, 1.0))


def test_what_is_not_finite_in_one_row_does_not_reach_another():
    ragged = torch.full((2, 1 + 2 + 3), 0.25, dtype=torch.float16)
    ragged[:, 1:3] = float("nan")
    decoded = decode_attention(ragged, torch.tensor([0, 1, 2]), 5, "float16")
    assert decoded[0].tolist() == [[1, 0, 0, 0, 0]] * 2
    assert decoded[1, :, :2].isnan().all() and (decoded[1, :, 2:].nan_to_num() == 0).all()
    torch.testing.assert_close(decoded[2].sum(-1), torch.ones(2))


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
