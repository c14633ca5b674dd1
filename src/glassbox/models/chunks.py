"""Where two tokenizations of one text meet: chunks, the smallest spans of bytes between boundaries of both.

Tokens are given by the bytes that they cover (`encoding.byte_spans`), so that any two tokenizers can be compared.
Tokens that hold parts of one character cover all of it and stay together. Bytes that no token covers, such as the space
that GPT-2 leaves out of a piece's span, belong to the token after them; a token that covers nothing, such as a prefix
that is not in the text, belongs with what follows. A beginning-of-text token stands by itself, and so does an end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

Spans = Int[np.ndarray, "tokens 2"]
END = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Chunks:
    """Chunk i holds the tokens [student[i], student[i + 1]) of one tokenization and [teacher[i], teacher[i + 1]) of the
    other, which cover the same bytes. The last entry of either is its number of tokens."""

    student: Int[np.ndarray, " chunks_and_one"]
    teacher: Int[np.ndarray, " chunks_and_one"]

    def __len__(self) -> int:
        return len(self.student) - 1


def boundaries(spans: Spans) -> tuple[Int[np.ndarray, " boundaries"], Int[np.ndarray, " boundaries"]]:
    """The bytes at which one token ends and another begins, ascending, and the first token behind each.

    The text's end comes last, as `END` with the number of tokens; its beginning is there where a token of no bytes
    stands before it.
    """
    wide = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    reached = np.maximum.accumulate(wide[:, 1])[:-1]
    ahead = np.minimum.accumulate(wide[::-1, 0])[::-1][1:]
    behind = np.flatnonzero(ahead >= reached)
    offsets = np.where(reached == 0, ahead, reached)[behind]
    offsets, first = np.unique(offsets, return_index=True)
    return np.append(offsets, END), np.append(behind[first] + 1, len(wide))


def align(student: Spans, teacher: Spans) -> Chunks:
    """The chunks of one text in two tokenizations, in its order."""
    (mine, my_tokens), (theirs, their_tokens) = boundaries(student), boundaries(teacher)
    _, own, other = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    return Chunks(my_tokens[own], their_tokens[other])


def chunk_of_token(first: Int[np.ndarray, " chunks_and_one"], tokens: int) -> Int[np.ndarray, " tokens"]:
    """The number of each token's chunk, from 1; 0 before the first."""
    return np.searchsorted(first[:-1], np.arange(tokens), side="right")
