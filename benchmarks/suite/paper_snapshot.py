"""A snapshot with cells of paper size, made-up signals, written to disk by the project's own writer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from glassbox.snapshot.capture import build_manifest, channel_statistics, write_manifest
from glassbox.snapshot.codec import byte_rows, encode_attention, pack_ragged
from glassbox.snapshot.schema import AUDIT_FILE, CHANNELS_FILE, HEAD_FILE, Format, Row, part_file
from glassbox.snapshot.storage import write_audit, write_part

LAYOUT = Format(
    vocabulary=32_000,
    width=4096,
    heads=32,
    top_k=64,
    temperatures=(1.0, 2.0, 4.0),
    hidden_dtype="float16",
    attention_codec="sqrt_uint8",
    positions="answer",
    attention_positions="answer",
)
PROMPT_TOKENS = {"sst2": (30, 60), "mmlu": (100, 150), "gsm8k": (60, 140)}
SHORT_ANSWER = 2  # the answer and the end of sequence
LONG_ANSWER = (30, 363)
LONG_MEDIAN, LONG_SPREAD = 119, 0.4  # of a log-normal distribution, mean 129


def write_snapshot(folder: Path, counts: dict[str, int], layout: Format = LAYOUT, seed: int = 0) -> None:
    """`counts` samples of each task, all for training, in one part.

    Hidden states are normal; attention rows are a softmax over normal scores with much of the mass on the first token
    and on the last ones, as in a language model.
    """
    folder.mkdir(parents=True)
    maker = _Maker(layout, np.random.default_rng(seed), torch.Generator().manual_seed(seed))
    rows = [maker.row(task, index) for task, count in counts.items() for index in range(count)]
    positions = {task: sum(row.n_positions for row in rows if row.task == task) for task in counts}
    part = folder / part_file(0)
    write_part(part, rows)
    write_audit(folder / AUDIT_FILE, [])
    save_file({"weight": torch.zeros(layout.vocabulary, 1)}, folder / HEAD_FILE)
    save_file(channel_statistics([part], layout), folder / CHANNELS_FILE)
    counted = {"train": {task: {"rows": counts[task], "positions": positions[task]} for task in counts}}
    write_manifest(folder, build_manifest(folder, [part.name], layout, {}, counted))


@dataclass(frozen=True)
class _Maker:
    layout: Format
    numpy: np.random.Generator
    torch: torch.Generator

    def row(self, task: str, index: int) -> Row:
        layout, n_answer = self.layout, self._answer_positions(task)
        loss_start = int(self.numpy.integers(*PROMPT_TOKENS[task], endpoint=True))
        n_tokens = loss_start + 1 + n_answer
        logits = -torch.rand(n_answer, layout.top_k, generator=self.torch).mul_(20).sort(dim=1).values
        ids = self.numpy.integers(0, layout.vocabulary, (n_answer, layout.top_k))
        return Row(
            sample_id=f"{task}/train/{index:06d}",
            task=task,
            split="train",
            input_sha256=bytes(32),
            input_ids=self.numpy.integers(0, layout.vocabulary, n_tokens),
            loss_start=loss_start,
            n_positions=n_answer,
            topk_ids=ids.astype(layout.topk_id_dtype).tobytes(),
            topk_logits=byte_rows(logits.half()).tobytes(),
            log_tail=byte_rows(logits[:, : len(layout.temperatures)]).tobytes(),
            label_logp=byte_rows(logits[:, 0]).tobytes(),
            hidden=byte_rows(torch.randn(n_answer, layout.width, generator=self.torch).half()).tobytes(),
            attention=byte_rows(self._attention(loss_start, n_tokens)).tobytes(),
            byte_spans=bytes(8 * n_tokens),
        )

    def _answer_positions(self, task: str) -> int:
        if task != "gsm8k":
            return SHORT_ANSWER
        drawn = self.numpy.lognormal(np.log(LONG_MEDIAN), LONG_SPREAD)
        return int(np.clip(drawn, *LONG_ANSWER))

    def _attention(self, loss_start: int, n_tokens: int) -> torch.Tensor:
        position, column = torch.arange(loss_start, n_tokens - 1), torch.arange(n_tokens)
        distance = (position[:, None] - column).clamp(min=0)
        scores = 1.5 * torch.randn(len(position), self.layout.heads, n_tokens, generator=self.torch)
        scores += (3 * torch.exp(-distance / 4) + 4 * (column == 0))[:, None]
        scores.masked_fill_((column > position[:, None])[:, None], float("-inf"))
        return encode_attention(pack_ragged(torch.softmax(scores, -1), position), self.layout.attention_codec)
