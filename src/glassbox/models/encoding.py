"""Prompt and answer to token ids: the one place where a sample is tokenized, for capture, training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from glassbox.errors import GlassboxError


@dataclass(frozen=True)
class Encoded:
    """[bos, prompt, answer, eos]; positions t in [loss_start, len(ids) - 1) predict ids[t + 1] of answer or eos.

    `spans` are the characters of prompt + answer that each id covers, [start, end).
    """

    ids: tuple[int, ...]
    loss_start: int
    retokenised: bool
    truncated: bool
    spans: tuple[tuple[int, int], ...] = field(repr=False)


class _Pieces(NamedTuple):
    ids: list[int]
    spans: list[tuple[int, int]]


def _tokenize(tokenizer: PreTrainedTokenizerFast, text: str) -> _Pieces:
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return _Pieces(encoding["input_ids"], encoding["offset_mapping"])


def _beginning(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    bos: Any = tokenizer.bos_token_id
    return [] if bos is None else [bos]


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str, max_tokens: int | None = None) -> list[int]:
    """[bos where there is one] + the prompt's ids; over `max_tokens` the prompt loses its start, after bos."""
    beginning = _beginning(tokenizer)
    ids = _tokenize(tokenizer, prompt).ids
    surplus = 0 if max_tokens is None else max(0, len(beginning) + len(ids) - max_tokens)
    if surplus and len(ids) - surplus + len(beginning) < 1:
        raise GlassboxError(f"A prompt cannot be shortened to {max_tokens} tokens: raise snapshot.max_length.")
    return beginning + ids[min(surplus, len(ids)) :]


def _split(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> tuple[_Pieces, _Pieces, bool]:
    """The prompt as tokenized alone, the answer's pieces after it (spans counted from the prompt's start), and
    whether the answer had to be tokenized by itself because the prompt's ids change in front of it."""
    prefix = _tokenize(tokenizer, prompt)
    whole = _tokenize(tokenizer, prompt + answer)
    size = len(prefix.ids)
    if whole.ids[:size] == prefix.ids:
        return prefix, _Pieces(whole.ids[size:], whole.spans[size:]), False
    alone = _tokenize(tokenizer, answer)
    shifted = [(start + len(prompt), end + len(prompt)) for start, end in alone.spans]
    return prefix, _Pieces(alone.ids, shifted), True


def _surplus(prefix_size: int, size: int, max_length: int, overflow: str, prompt: str) -> int:
    """How many prompt tokens go; `size` counts all tokens of the sample, `prefix_size` those of bos and prompt."""
    surplus = max(0, size - max_length)
    where = f"The sample that begins {prompt[:60]!r} has {size} tokens, snapshot.max_length is {max_length}"
    if surplus and overflow == "refuse":
        raise GlassboxError(
            f"{where}, and snapshot.overflow is 'refuse'. Raise the limit (`-S snapshot.max_length={size}`) or let "
            "prompts lose their start (`-S snapshot.overflow=truncate`)."
        )
    if prefix_size - surplus < 1:
        raise GlassboxError(
            f"{where}, and its answer alone fills that: an answer is never cut. Raise snapshot.max_length to at least "
            f"{size - prefix_size + 1}."
        )
    return surplus


def encode_sample(
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    answer: str,
    *,
    max_length: int,
    overflow: Literal["truncate", "refuse"],
    ends: bool = True,
    may_be_empty: bool = False,
) -> Encoded:
    """Tokenize one sample: the prompt alone, as at evaluation, the ids that follow it in prompt + answer, and eos.

    Over `max_length` the prompt loses its start (after bos), the answer nothing; `overflow="refuse"` raises instead.
    `ends=False` leaves eos out: the answer was cut off, and its last token is not an end. Raises GlassboxError for an
    answer longer than the limit, and for one without tokens unless it `may_be_empty`.
    """
    prefix, following, retokenised = _split(tokenizer, prompt, answer)
    if not following.ids and not may_be_empty:
        raise GlassboxError(
            f"The sample that begins {prompt[:60]!r} has an empty answer: give it one in its task file."
        )
    beginning = _beginning(tokenizer)
    prefix_size = len(beginning) + len(prefix.ids)
    tail = [*following.ids, *([tokenizer.eos_token_id] if ends else [])]
    surplus = _surplus(prefix_size, prefix_size + len(tail), max_length, overflow, prompt)
    ids = (*beginning, *prefix.ids[surplus:], *tail)
    end = len(prompt) + len(answer)
    spans = (*((0, 0) for _ in beginning), *prefix.spans[surplus:], *following.spans, *([(end, end)] if ends else []))
    return Encoded(ids, prefix_size - surplus - 1, retokenised, surplus > 0, spans)


def byte_spans(text: str, encoded: Encoded) -> np.ndarray:
    """The UTF-8 bytes of prompt + answer (`text`) that each of `encoded.ids` covers, [start, end): [tokens, 2] uint32.

    A token that holds part of a character covers the whole character; bos covers (0, 0), eos the empty end.
    """
    spans = np.asarray(encoded.spans, dtype="<u4").reshape(-1, 2)
    if text.isascii():
        return spans
    widths = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    sizes = 1 + (widths >= 0x80) + (widths >= 0x800) + (widths >= 0x10000)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return offsets[spans].astype("<u4")


def input_digest(ids: Sequence[int] | np.ndarray, loss_start: int) -> bytes:
    """sha256(uint32 n, int32 ids, uint8 loss mask), little-endian: the mask is 1 at the answer's tokens and eos."""
    mask = np.zeros(len(ids), dtype=np.uint8)
    mask[loss_start + 1 :] = 1
    digest = hashlib.sha256(np.array([len(ids)], dtype="<u4").tobytes())
    digest.update(np.asarray(ids, dtype="<i4").tobytes())
    digest.update(mask.tobytes())
    return digest.digest()
