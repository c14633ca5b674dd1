"""Tokenizers: loading, fingerprints, and whether teacher and student cut text into the same tokens."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from tokenizers.processors import TemplateProcessing
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


def beginning_texts(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy that begins every text with bos, as texts are encoded here; one without bos begins with nothing.

    It is what a student is saved with, so that a plain call of its tokenizer gives the ids it was trained on.
    """
    plain = tokenizer(PROBE_TEXT, add_special_tokens=False, verbose=False)["input_ids"]
    bos: Any = tokenizer.bos_token
    wanted = [*([] if bos is None else [tokenizer.bos_token_id]), *plain]
    result = copy.deepcopy(tokenizer)
    if tokenizer(PROBE_TEXT, verbose=False)["input_ids"] != wanted:
        single, special = ("$A", []) if bos is None else (f"{bos} $A", [(bos, tokenizer.bos_token_id)])
        pair = "$A $B:1" if bos is None else f"{bos} $A {bos}:1 $B:1"
        template = TemplateProcessing(single=single, pair=pair, special_tokens=special)
        result.backend_tokenizer.post_processor = template  # type: ignore[assignment]
        for name, value in (("add_bos_token", bos is not None), ("add_eos_token", False)):
            if hasattr(result, name):
                setattr(result, name, value)
    return result


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
        contrary = [index for index in unlike if index in mine["pieces"] and index in theirs["pieces"]]
        example = (contrary or unlike)[len(contrary or unlike) // 2]
        what = "name another piece" if contrary else "name a piece in one of them only"
        differences.append(
            f"{len(unlike)} of {len(ids)} ids {what} (id {example} is {mine['pieces'].get(example)!r} "
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


def contrary_pieces(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> list[int]:
    """The ids that both tokenizers know and that name another piece in each; padding does not count."""
    ignored = _padding_only(first, second)
    mine, theirs = _tokenizer_facts(first, ignored)["pieces"], _tokenizer_facts(second, ignored)["pieces"]
    return [index for index in sorted(mine.keys() & theirs.keys()) if mine[index] != theirs[index]]


def tokens_are_shared(settings: Settings) -> bool:
    """Whether a position means the same text to teacher and student.

    Raises GlassboxError where it does not and a selected group compares them token by token, and where a model is to
    read with a tokenizer that gives its ids other pieces.
    """
    teacher, student = load_tokenizer(settings.teacher), load_tokenizer(settings.student)
    for role, model, tokenizer in (("teacher", settings.teacher, teacher), ("student", settings.student, student)):
        _refuse_foreign_tokenizer(role, model, tokenizer)
    differences = tokenizer_differences(teacher, student)
    group = next((name for name in settings.groups if settings.distill[name].needs_shared_tokens), None)
    if differences and group is not None:
        found = (
            f"Group '{group}' compares teacher and student token by token, but their tokenizers differ: "
            f"{'; '.join(differences)}."
        )
        raise GlassboxError(f"{found} {_one_tokenizer(settings, teacher, student) or _OTHER_TOKENS}")
    return not differences


def captures_signals(settings: Settings) -> bool:
    """Whether anything can be learned of the teacher's signals: tokens are shared, or a selected group aligns them.

    Raises GlassboxError as `tokens_are_shared` does.
    """
    return tokens_are_shared(settings) or any(settings.distill[name].aligns for name in settings.groups)


_OTHER_TOKENS = (
    "The same position would mean another text in each. The way for such a pair is `-S distill=aligned`: its groups "
    "compare likelihoods, logits, hidden states and attention where the two tokenizations meet (docs/tokenizers.md), "
    "and `seqkd` among them trains the student on the teacher's answers as text. Or choose a student with the "
    "teacher's tokenizer (`-S student.model=...`), or a teacher with the student's."
)


def _one_tokenizer(
    settings: Settings, teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast
) -> str | None:
    """How both can read with one tokenizer, where all the pieces that both know are the same and text is cut alike."""
    ignored = _padding_only(teacher, student)
    mine, theirs = _tokenizer_facts(teacher, ignored), _tokenizer_facts(student, ignored)
    alike = ("unk", "normaliser", "pre-tokenizer", "ids of the probe text")
    if contrary_pieces(teacher, student) or any(mine[fact] != theirs[fact] for fact in alike):
        return None
    same = "Both name the same pieces by the same ids and cut text alike"
    if max(mine["pieces"]) < _output_rows(settings.student):
        source = settings.teacher.tokenizer or settings.teacher.model
        return (
            f"{same}, so one tokenizer can serve both: `-S student.tokenizer={source}` lets the student read, and end "
            f"its answers ({teacher.eos_token}), as the teacher does."
        )
    if mine["eos"] == theirs["eos"] and max(theirs["pieces"]) < _output_rows(settings.teacher):
        source = settings.student.tokenizer or settings.student.model
        return (
            f"{same}; the student has no rows for the pieces that only the teacher has, which no text needs: "
            f"`-S teacher.tokenizer={source}` lets the teacher read as the student does."
        )
    return None


def _output_rows(settings: ModelSettings) -> int:
    from glassbox.models.loading import configuration_of

    return configuration_of(settings).get_text_config().vocab_size


def _refuse_foreign_tokenizer(role: str, settings: ModelSettings, tokenizer: PreTrainedTokenizerFast) -> None:
    """A pretrained model knows its ids by the pieces that it was trained with, where it names them."""
    if settings.tokenizer is None or settings.initialisation == "random":
        return
    try:
        own = load_tokenizer(settings.model_copy(update={"tokenizer": None}))
    except GlassboxError:
        return
    contrary = contrary_pieces(own, tokenizer)
    if contrary:
        example = contrary[len(contrary) // 2]
        raise GlassboxError(
            f"{role}.tokenizer is {settings.tokenizer}, which gives {len(contrary)} ids of {settings.model} another "
            f"piece than it was trained with (id {example} is {tokenizer.convert_ids_to_tokens(example)!r} there and "
            f"{own.convert_ids_to_tokens(example)!r} in the model's own). Leave {role}.tokenizer at null, or choose "
            "another model."
        )
