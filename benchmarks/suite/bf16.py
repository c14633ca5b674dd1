"""Row 8: whether bfloat16 pays on this CPU, by the model's width; `train.precision: auto` goes by such figures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from glassbox.models.precision import NARROWEST_IN_BF16_ON_A_CPU, cpu_has_bf16
from suite.measuring import ratio, side_by_side
from suite.row import Row

WIDTHS = (96, 128, 192, 256, 512, 1_024)
ROWS, LENGTH = 4, 128


def measure() -> list[Row]:
    """One torch thread, as the embedded study has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_row(width) for width in WIDTHS]
    finally:
        torch.set_num_threads(threads)


def _row(width: int) -> Row:
    steps = {"bf16": _step(width, True), "float32": _step(width, False)}
    times = side_by_side(steps, repeat=WIDTHS[-1] // width)
    note = "" if cpu_has_bf16() else "this CPU does not multiply in bf16 itself, so that `auto` stays in float32"
    return Row.of(
        "8",
        f"step in bf16 / in float32, width {width}",
        f"two Llama layers, {ROWS} x {LENGTH} tokens, V 1,024, 1 thread",
        ratio(times["bf16"], times["float32"]),
        1.0 if width >= NARROWEST_IN_BF16_ON_A_CPU and cpu_has_bf16() else None,
        note=note,
    )


def _step(width: int, autocast: bool) -> Callable[[], None]:
    config = LlamaConfig(
        vocab_size=1_024,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=2,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(1_024, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
