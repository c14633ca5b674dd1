"""The two tokenizers of the embedded models: byte-level as GPT-2's, and metaspace with byte fallback as Llama's.

They cut the same texts into other pieces, and both never merge two digits.
"""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained on `texts`, that encodes any UTF-8 text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return _fast(core)


def metaspace(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A BPE over characters whose pieces hold spaces as "▁"; a character that it does not know becomes its bytes."""
    core = Tokenizer(models.BPE(unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    specials = [UNK, BOS, EOS, PAD]
    size = vocabulary - len(BYTES)
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False))
    learned = json.loads(core.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    ordered = [*specials, *BYTES, *(piece for piece in pieces if piece not in specials)]
    core.model = models.BPE(
        vocab={piece: index for index, piece in enumerate(ordered)},
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token=UNK,
        byte_fallback=True,
        fuse_unk=True,
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in specials])
    return _fast(core, unk_token=UNK)


def _fast(core: Tokenizer, **more: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=1024,
        **more,
    )
