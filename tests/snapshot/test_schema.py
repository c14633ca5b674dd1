"""The logical digest: what it depends on, and one value that must never change."""

from dataclasses import replace

import numpy as np
import pytest

from glassbox.models.encoding import input_digest
from glassbox.snapshot.schema import COLUMNS, Format, Row, attention_entries, logical_digest

LAYOUT = Format(
    vocabulary=7,
    width=2,
    heads=1,
    top_k=2,
    temperatures=(1.0, 2.0),
    hidden_dtype="float16",
    attention_codec="sqrt_uint8",
    positions="answer",
    attention_positions="answer",
)
PINNED = "b175764ba43754e3ad29f62d30a351fc5bdd2db19747c88a5a00884473d94532"


def hand_made_row(sample_id: str) -> Row:
    ids = [1, 5, 6, 2]
    return Row(
        sample_id=sample_id,
        task="sst2",
        split="train",
        input_sha256=input_digest(ids, 1),
        input_ids=np.array(ids, dtype=np.int32),
        loss_start=1,
        n_positions=2,
        topk_ids=np.array([[6, 2], [2, 3]], dtype="<u2").tobytes(),
        topk_logits=np.array([[0, -1.5], [0, -0.25]], dtype="<f2").tobytes(),
        log_tail=np.array([[-1, -2], [-3, -4]], dtype="<f4").tobytes(),
        label_logp=np.array([-0.5, -0.25], dtype="<f4").tobytes(),
        hidden=np.array([[1, -2], [0.5, 4]], dtype="<f2").tobytes(),
        attention=bytes([180, 180, 147, 147, 147]),
        byte_spans=np.array([[0, 0], [0, 4], [4, 9], [9, 9]], dtype="<u4").tobytes(),
    )


def digest_of(rows, layout=LAYOUT, channels="c" * 64, head="d" * 64):
    return logical_digest(layout, channels, head, rows)


def test_the_digest_of_a_hand_made_snapshot_is_pinned():
    assert digest_of([hand_made_row("a"), hand_made_row("b")]) == PINNED


def test_the_digest_depends_on_every_column():
    reference = digest_of([hand_made_row("a")])
    for name in COLUMNS:
        value = getattr(hand_made_row("a"), name)
        if isinstance(value, str):
            changed = value + "x"
        elif isinstance(value, int | np.ndarray):
            changed = value + 1
        else:
            changed = bytes([value[0] ^ 1]) + value[1:]
        assert digest_of([replace(hand_made_row("a"), **{name: changed})]) != reference, name


def test_the_digest_depends_on_format_channels_and_head():
    reference = digest_of([hand_made_row("a")])
    assert digest_of([hand_made_row("a")], replace(LAYOUT, temperatures=(1.0, 4.0))) != reference
    assert digest_of([hand_made_row("a")], channels="e" * 64) != reference
    assert digest_of([hand_made_row("a")], head="e" * 64) != reference


def test_rows_out_of_order_or_repeated_have_no_digest():
    for ids in ("ba", "aa"):
        with pytest.raises(ValueError, match="ascend by sample id"):
            digest_of([hand_made_row(sample_id) for sample_id in ids])


def test_the_format_survives_json_and_chooses_the_smallest_id_type():
    assert Format.from_json(LAYOUT.as_json()) == LAYOUT
    assert LAYOUT.topk_id_dtype == np.uint16
    assert replace(LAYOUT, vocabulary=2**16 + 1).topk_id_dtype == np.uint32


def test_ragged_rows_have_one_entry_more_than_their_position():
    assert attention_entries(n_tokens=6, n_positions=2) == 4 + 5
    assert attention_entries(n_tokens=6, n_positions=5) == 1 + 2 + 3 + 4 + 5
