"""The bytes that each token of a vocabulary stands for, so that the pieces of two tokenizers can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from glassbox.errors import GlassboxError

END_OF_TEXT = "\u0100"
SPECIAL, CLOSED = "\u0101", "\u0102"
NOTHING = "\u0103"
METASPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
OF_CHARACTER = {character: byte for byte, character in bytes_to_unicode().items()}


def piece_texts(tokenizer: PreTrainedTokenizerFast, rows: int) -> list[str]:
    """What each of the first `rows` ids stands for: its bytes, one character (U+0000 to U+00FF) a byte.

    Marks above U+00FF keep what is no text apart: the end of the text is the same mark in every vocabulary, another
    special piece its name, and an id without a piece, or with an empty one, is like no other. Raises GlassboxError for
    a kind of tokenizer whose pieces' bytes are not known.
    """
    to_text = _reader(tokenizer)
    added = tokenizer.added_tokens_decoder
    texts = [f"{NOTHING}{index}{CLOSED}" for index in range(rows)]
    for piece, index in tokenizer.get_vocab().items():
        if index >= rows:
            continue
        token = added.get(index)
        if index == tokenizer.eos_token_id:
            texts[index] = END_OF_TEXT
        elif token is not None and (token.special or piece in tokenizer.all_special_tokens):
            texts[index] = f"{SPECIAL}{piece}{CLOSED}"
        else:
            content = piece.encode() if token is not None else to_text(piece)
            texts[index] = content.decode("latin-1") or texts[index]
    return texts


def _reader(tokenizer: PreTrainedTokenizerFast) -> Any:
    kinds = dict(_decoders(json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder")))
    if "ByteLevel" in kinds:
        return _byte_level
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        return _with_bytes if "ByteFallback" in kinds else _metaspace
    raise GlassboxError(
        f"The tokenizer '{tokenizer.name_or_path}' decodes its pieces by {', '.join(kinds) or 'nothing'}, so the bytes "
        "that each piece stands for are not known, and logits of two vocabularies cannot be compared. Choose `alm`, "
        "which needs no pieces: `dvc exp run -S 'distill=[sft,seqkd,alm]'`."
    )


def _decoders(found: Any) -> Iterator[tuple[str, Any]]:
    """Every step of a decoder by its type."""
    if found:
        yield found["type"], found
        for each in found.get("decoders", ()):
            yield from _decoders(each)


def _byte_level(piece: str) -> bytes:
    return bytes(OF_CHARACTER[character] for character in piece)


def _metaspace(piece: str) -> bytes:
    return piece.replace(METASPACE, " ").encode()


def _with_bytes(piece: str) -> bytes:
    found = BYTE.fullmatch(piece)
    return bytes([int(found[1], 16)]) if found else _metaspace(piece)
