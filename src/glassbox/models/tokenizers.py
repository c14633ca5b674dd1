"""Tokenizers: loading, fingerprints, and whether teacher and student cut text into the same tokens."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.models.files import opening

PROBE_TEXT = (
    "The quick brown fox isn't 1,234.5 metres away;  two  spaces,\ttab,\n\nnew lines.\n"
    "Answer: B\n#### -72 $3.50 100% café naïve Ünïcödé ﬁne Å e\u0301 ЖЯ 中文字 日本語 العربية हिन्दी 👩‍🚀🙂 "
    "def f(x): return x**2 != [0x1F]  <b>&amp;</b> ½ ² … “quoted” – dash \u00a0\u200b end "
)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerFast:
    """The model's fast tokenizer; GlassboxError where it cannot be opened or has no end-of-sequence token."""
    source = settings.tokenizer or settings.model
    revision = settings.revision if settings.tokenizer is None else None
    with opening("tokenizer", source, revision):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=settings.trust_remote_code
        )
    if not tokenizer.is_fast:
        raise GlassboxError(
            f"The tokenizer '{source}' has no fast version, so the text that each token covers is unknown. Save it "
            "with a tokenizer.json (AutoTokenizer.from_pretrained(...).save_pretrained(folder)) and name that folder."
        )
    if tokenizer.eos_token_id is None:
        raise GlassboxError(
            f"The tokenizer '{source}' names no end-of-sequence token, so no answer could end. Set `eos_token` in its "
            "tokenizer_config.json and run the command again."
        )
    return tokenizer


def _tokenizer_facts(tokenizer: PreTrainedTokenizerFast, ignored: frozenset[str]) -> dict[str, Any]:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items() if piece not in ignored}
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    return {
        "pieces": pieces,
        "added tokens": {index: content for index, content in sorted(added.items()) if content not in ignored},
        "bos": [tokenizer.bos_token, tokenizer.bos_token_id],
        "eos": [tokenizer.eos_token, tokenizer.eos_token_id],
        "unk": [tokenizer.unk_token, tokenizer.unk_token_id],
        "normaliser": backend.get("normalizer"),
        "pre-tokenizer": backend.get("pre_tokenizer"),
        "ids of the probe text": tokenizer(PROBE_TEXT, add_special_tokens=False, verbose=False)["input_ids"],
    }


def _padding_only(*tokenizers: PreTrainedTokenizerFast) -> frozenset[str]:
    """Added tokens that serve as padding and as nothing else: they never occur in a text."""
    padding = {
        str(tokenizer.pad_token)
        for tokenizer in tokenizers
        if tokenizer.pad_token in {token.content for token in tokenizer.added_tokens_decoder.values()}
    }
    used = {str(token) for each in tokenizers for token in (each.bos_token, each.eos_token, each.unk_token)}
    return frozenset(padding - used)


def tokenizer_differences(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> list[str]:
    """In what two tokenizers behave differently, one phrase each; empty where they behave as one.

    Compared: the id -> piece map, added tokens, bos, eos, unk, normaliser, pre-tokenizer and the ids of a probe text.
    Not compared: padding, its side, the maximum length and the chat template.
    """
    ignored = _padding_only(first, second)
    mine, theirs = _tokenizer_facts(first, ignored), _tokenizer_facts(second, ignored)
    differences = []
    if mine["pieces"] != theirs["pieces"]:
        ids = sorted(mine["pieces"].keys() | theirs["pieces"].keys())
        unlike = [index for index in ids if mine["pieces"].get(index) != theirs["pieces"].get(index)]
        example = unlike[len(unlike) // 2]
        differences.append(
            f"{len(unlike)} of {len(ids)} ids name another piece (id {example} is {mine['pieces'].get(example)!r} "
            f"and {theirs['pieces'].get(example)!r})"
        )
    for fact in mine:
        if fact != "pieces" and mine[fact] != theirs[fact]:
            differences.append(f"the {fact} differ: {_brief(mine[fact])} and {_brief(theirs[fact])}")
    return differences


def _brief(fact: Any) -> str:
    text = json.dumps(fact, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 in hex over the facts that `tokenizer_differences` compares."""
    facts = _tokenizer_facts(tokenizer, _padding_only(tokenizer))
    facts["pieces"] = sorted(facts["pieces"].items())
    return hashlib.sha256(json.dumps(facts, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def tokens_are_shared(settings: Settings) -> bool:
    """Whether a position means the same text to teacher and student.

    Raises GlassboxError where it does not and a selected group compares them token by token.
    """
    differences = tokenizer_differences(load_tokenizer(settings.teacher), load_tokenizer(settings.student))
    group = next((name for name in settings.groups if settings.distill[name].uses_signals), None)
    if differences and group is not None:
        raise GlassboxError(
            f"Group '{group}' compares teacher and student token by token, but their tokenizers differ: "
            f"{'; '.join(differences)}. The same position would mean another text in each. The way for such a pair is "
            "`seqkd`, which trains the student on the teacher's answers as text: `dvc exp run -S "
            "'distill=[sft,seqkd]'` with the same teacher and student. Or choose a student with the teacher's "
            "tokenizer (`-S student.model=...`), or a teacher with the student's."
        )
    return not differences
