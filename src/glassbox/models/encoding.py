"""Prompt and answer to token ids: the one place where a sample is tokenized, for capture, training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from glassbox.errors import GlassboxError
from glassbox.models.marks import CUT, RENDERED
from glassbox.models.running import block_of, is_running


@dataclass(frozen=True)
class Encoded:
    """[bos, prompt, answer, eos]; positions t in [loss_start, len(ids) - 1) predict ids[t + 1] of answer or eos.

    Of a prompt without an answer: [bos, prompt], and all positions count. Of running text: [bos where a text begins,
    context, scored], without eos. `spans` are the characters of prompt + answer that each id covers, [start, end).
    """

    ids: tuple[int, ...]
    loss_start: int
    retokenised: bool
    truncated: bool
    spans: tuple[tuple[int, int], ...] = field(repr=False)


class _Pieces(NamedTuple):
    ids: list[int]
    spans: list[tuple[int, int]]


def _tokenize(tokenizer: PreTrainedTokenizerFast, text: str, *, special: bool = False) -> _Pieces:
    """Text is text: `</s>` in it is four letters, and the special piece only where `special` pieces are meant."""
    encoding = tokenizer(
        text, add_special_tokens=False, split_special_tokens=not special, return_offsets_mapping=True, verbose=False
    )
    return _Pieces(encoding["input_ids"], encoding["offset_mapping"])


def _shifted(pieces: _Pieces, by: int) -> _Pieces:
    return _Pieces(pieces.ids, [(start + by, end + by) for start, end in pieces.spans])


def _parts_of_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> tuple[_Pieces, _Pieces]:
    """bos, where the prompt begins with it, and the rest: a chat template has written its own bos, or meant none."""
    bos: Any = tokenizer.bos_token_id
    if not prompt.startswith(RENDERED):
        return (_Pieces([], []) if bos is None else _Pieces([bos], [(0, 0)])), _tokenize(tokenizer, prompt)
    pieces = _shifted(_tokenize(tokenizer, prompt.replace(RENDERED, ""), special=True), len(RENDERED))
    size = int(pieces.ids[:1] == [bos])
    return _Pieces(pieces.ids[:size], pieces.spans[:size]), _Pieces(pieces.ids[size:], pieces.spans[size:])


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str, max_tokens: int | None = None) -> list[int]:
    """[bos where there is one] + the prompt's ids; over `max_tokens` the prompt loses its start, after bos."""
    beginning, (ids, _) = _parts_of_prompt(tokenizer, prompt)
    surplus = 0 if max_tokens is None else max(0, len(beginning.ids) + len(ids) - max_tokens)
    if surplus and len(ids) - surplus + len(beginning.ids) < 1:
        raise GlassboxError(f"A prompt cannot be shortened to {max_tokens} tokens: raise snapshot.max_length.")
    return beginning.ids + ids[min(surplus, len(ids)) :]


def decode_answer(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of an answer's ids, blanks and punctuation as the pieces have them."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _split(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> tuple[_Pieces, _Pieces, _Pieces, bool]:
    """bos, the prompt as tokenized alone, the answer's pieces after it (spans counted from the prompt's start), and
    whether the answer had to be tokenized by itself because the prompt's ids change in front of it."""
    beginning, prefix = _parts_of_prompt(tokenizer, prompt)
    rendered = prompt.startswith(RENDERED)
    if not (rendered and _spells_special_piece(tokenizer, answer)):
        whole = _tokenize(tokenizer, (prompt + answer).replace(RENDERED, ""), special=rendered)
        whole = _shifted(whole, len(RENDERED)) if rendered else whole
        expected = beginning.ids + prefix.ids if rendered else prefix.ids
        size = len(expected)
        if whole.ids[:size] == expected:
            return beginning, prefix, _Pieces(whole.ids[size:], whole.spans[size:]), False
    return beginning, prefix, _shifted(_tokenize(tokenizer, answer), len(prompt)), True


def _spells_special_piece(tokenizer: PreTrainedTokenizerFast, text: str) -> bool:
    return any(token.special and token.content in text for token in tokenizer.added_tokens_decoder.values())


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
    `ends=False` leaves eos out: the answer was cut off, and its last token is not an end. The empty answer stands for a
    prompt alone, unless it `may_be_empty` as a teacher's can be. Raises GlassboxError for an answer longer than the
    limit, and for one without tokens.
    """
    if is_running(prompt):
        return _encode_block(tokenizer, prompt, answer, max_length, overflow)
    beginning, prefix, following, retokenised = _split(tokenizer, prompt, answer)
    alone = not answer and not may_be_empty
    if not following.ids and not may_be_empty and not alone:
        raise GlassboxError(
            f"The sample that begins {prompt[:60]!r} has an answer without tokens: give it one in its task file."
        )
    prefix_size = len(beginning.ids) + len(prefix.ids)
    tail = [*following.ids, *([tokenizer.eos_token_id] if ends and not alone else [])]
    surplus = _surplus(prefix_size, prefix_size + len(tail), max_length, overflow, prompt)
    ids = (*beginning.ids, *prefix.ids[surplus:], *tail)
    if alone and len(ids) < 2:
        raise GlassboxError(f"The prompt {prompt[:60]!r} has one token and no answer, so nothing can be learned of it.")
    end = len(prompt) + len(answer)
    spans = (
        *beginning.spans,
        *prefix.spans[surplus:],
        *following.spans,
        *([(end, end)] * (len(tail) - len(following.ids))),
    )
    return Encoded(ids, 0 if alone else prefix_size - surplus - 1, retokenised, surplus > 0, spans)


def text_pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text, and the characters that each covers, with the blanks that some tokenizers leave out of them."""
    ids, spans = _tokenize(tokenizer, text)
    whole, last = [], 0
    for start, end in spans:
        whole.append((last if last <= start else start, end))
        last = max(last, end)
    return ids, whole


def _encode_block(
    tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, max_length: int, overflow: str
) -> Encoded:
    """A block of running text: a token belongs to it where its last character does.

    Over `max_length` the context loses its start. The first token is not predicted where nothing stands before it.
    """
    block = block_of(prompt, answer)
    ids, spans = text_pieces(tokenizer, block.text)
    begin = len(block.before)
    middle, stop = begin + len(block.context), begin + len(block.context) + len(block.scored)
    places = [place for place, (_, end) in enumerate(spans) if begin < end <= stop]
    context = [place for place in places if spans[place][1] <= middle]
    bos: Any = tokenizer.bos_token_id
    own = [bos] if block.begins and bos is not None else []
    surplus = 0
    if len(own) + len(places) > max_length:
        shown = block.scored[:60]
        if len(context) < len(own) + len(places) - max_length + (not own):
            raise GlassboxError(
                f"The block of text {shown!r} has {len(own) + len(places)} tokens and snapshot.max_length is "
                f"{max_length}. Raise snapshot.max_length, or lower text.block_size of its task."
            )
        surplus = _surplus(len(own) + len(context), len(own) + len(places), max_length, overflow, shown)
    moved = len(prompt) - middle
    kept = places[surplus:]
    shifted = [(max(start, begin) + moved, end + moved) for start, end in (spans[place] for place in kept)]
    prefix_size = len(own) + len(context) - surplus
    return Encoded(
        (*own, *(ids[place] for place in kept)),
        max(prefix_size - 1, 0),
        False,
        surplus > 0,
        (*((0, 0) for _ in own), *shifted),
    )


def scored_bytes(text: str, encoded: Encoded) -> int:
    """UTF-8 bytes of prompt + answer (`text`) that the predicted tokens cover."""
    start, end = encoded.spans[encoded.loss_start + 1][0], encoded.spans[-1][1]
    return len(text[start:end].replace(CUT, "").encode())


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
