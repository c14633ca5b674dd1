"""Does a model say here what it says in Transformers' own plain forward? Asked before anything is captured or trained.

Compared on some real texts of unlike lengths, padded as capture, training and evaluation pad them: hidden states,
logits, the last layer's attention rows, and greedy generation. No list of architectures decides, only the numbers.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.files import code_digest, write_synced
from glassbox.models.encoding import encode_sample
from glassbox.models.generation import generate_tokens
from glassbox.models.loading import head_logits, load_model, output_head
from glassbox.models.running import is_running
from glassbox.models.signals import ATTENTION_NAME, position_signals

PROBES = 8
LONGEST = 1024
POSITIONS = 32
NEW_TOKENS = 16
ENDS_AFTER = 3
# Largest relative error per dtype: of the worst position in float32, of the mean position where rounding is coarse
TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.08}


@dataclass(frozen=True)
class Probe:
    """A text, its token ids, and the position that predicts the first token of its answer."""

    ids: tuple[int, ...]
    loss_start: int

    @property
    def count(self) -> int:
        return min(POSITIONS, len(self.ids) - 1 - self.loss_start)

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.ids[: self.loss_start + 1]


@dataclass(frozen=True)
class PlainAnswers:
    """What Transformers' own eager forward says of every probe, one at a time and unpadded; float32, on the CPU."""

    probes: Sequence[Probe]
    end: int
    hidden: list[Float[Tensor, "positions width"]]
    logits: list[Float[Tensor, "positions vocabulary"]]
    attention: list[Float[Tensor, "positions heads length"] | None]
    texts: list[list[int]]
    steps: list[Float[Tensor, "tokens vocabulary"]]


def draw_probes(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str]], max_length: int, count: int = PROBES
) -> list[Probe]:
    """The probes from prompts and answers: the shortest, the longest, and others between them."""
    ordered = sorted(texts, key=lambda text: (len(text[0]) + len(text[1]), text))
    last = len(ordered) - 1
    places = sorted({round(index * last / max(count - 1, 1)) for index in range(count)})
    limit = min(max_length, LONGEST)
    probes = []
    for prompt, answer in (ordered[place] for place in places):
        encoded = encode_sample(tokenizer, prompt, answer, max_length=max_length, overflow="truncate")
        start = max(encoded.loss_start, len(encoded.ids) // 2) if is_running(prompt) else encoded.loss_start
        ids = encoded.ids[: start + 1 + POSITIONS]
        cut = max(0, len(ids) - limit)
        if start > cut:
            probes.append(Probe(ids[cut:], start - cut))
    return probes


@torch.no_grad()
def ask_plainly(
    settings: ModelSettings,
    probes: Sequence[Probe],
    *,
    end: int,
    vocabulary: int | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
) -> PlainAnswers:
    """Load the model with Transformers' own eager attention, ask it, and let go of it again.

    `vocabulary` None takes all rows of the output layer. Raises GlassboxError for a model that cannot be run at all.
    """
    model = load_model(settings, seed=seed, plain=True).to(device)  # type: ignore[arg-type]
    plain = PlainAnswers(probes, end, [], [], [], [], [])
    with _running(model, settings, "Transformers' own forward pass"):
        for probe in probes:
            _ask_one(model, probe, plain, vocabulary or len(output_head(model).weight))  # type: ignore[arg-type]
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return plain


def _ask_one(model: Any, probe: Probe, plain: PlainAnswers, vocabulary: int) -> None:
    device = next(model.parameters()).device
    ids = torch.tensor([probe.ids], device=device)
    read: list[Tensor] = []
    hook = output_head(model).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    try:
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True)
    finally:
        hook.remove()
    here = slice(probe.loss_start, probe.loss_start + probe.count)
    plain.hidden.append(read[-1][0, here].float().cpu())
    plain.logits.append(output.logits[0, here, :vocabulary].float().cpu())
    maps = [each for each in getattr(output, "attentions", None) or () if each is not None]
    whole = bool(maps) and maps[-1].shape[-2:] == (len(probe.ids), len(probe.ids))
    plain.attention.append(maps[-1][0, :, here].transpose(0, 1).float().cpu() if whole else None)
    model.generation_config = GenerationConfig()
    prompt = torch.tensor([probe.prompt], device=device)
    generated = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        ),
        logits_processor=[_OnlyFrom(vocabulary, plain.end)],
    )
    plain.texts.append(generated.sequences[0, len(probe.prompt) :].tolist())
    plain.steps.append(torch.cat(generated.logits)[:, :vocabulary].float().cpu())


class _OnlyFrom(LogitsProcessor):
    """No token past the vocabulary, and none that ends a text."""

    def __init__(self, vocabulary: int, end: int) -> None:
        self.vocabulary, self.end = vocabulary, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = scores.clone()
        allowed[:, self.vocabulary :] = float("-inf")
        allowed[:, self.end] = float("-inf")
        return allowed


@torch.no_grad()
def require_agreement(
    settings: ModelSettings, model: PreTrainedModel, plain: PlainAnswers, *, wants_attention: bool
) -> None:
    """Raise GlassboxError where `model`, read as this project reads it, differs from the plain answers.

    Plain answers that are not finite are compared to nothing.
    """
    if not all(bool(logits.isfinite().all()) for logits in plain.logits):
        return  # such a teacher is refused at its capture, such a student diverges in its first step
    was_training = model.training
    model.eval()
    try:
        with _running(model, settings, "reading it as this project does"):
            differences = [*_signal_differences(model, plain, wants_attention), *_generation_differences(model, plain)]
            differences += _glimpses_of_the_future(model, plain)
    finally:
        model.train(was_training)
    if differences:
        ours = model.config._attn_implementation == ATTENTION_NAME
        without_sdpa = _WITHOUT_SDPA if ours and not model._supports_sdpa else ""
        raise GlassboxError(
            f"{type(model).__name__} ('{settings.model}') says here something else than in Transformers' own eager "
            f"forward: {'; '.join(differences)}.{without_sdpa} Whatever is captured from it, taught to it or scored "
            "with it would be wrong. Choose another model: docs/models.md names the architectures that agree."
        )


_WITHOUT_SDPA = (
    " Transformers runs this architecture without scaled-dot-product attention, for its own has more in it (sinks, "
    "caps of scores, biases)."
)


def require_agreement_once(
    settings: ModelSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[tuple[str, str]],
    *,
    max_length: int,
    vocabulary: int,
    wants_attention: bool,
    weights: str,
    remembered: Path,
    seed: int | None = None,
) -> None:
    """`require_agreement` on texts (prompt and answer), unless `remembered` (a folder) has these weights already.

    What is remembered belongs to `weights` (their digest), configuration, texts, code and library versions. `model`
    is as `load_model` gave it from `settings` and `seed`.
    """
    probes = draw_probes(tokenizer, texts, max_length)
    facts = {
        "weights": weights,
        "configuration": model.config.to_json_string(use_diff=False),
        "device": str(next(model.parameters()).device.type),
        "probes": [[*probe.ids, probe.loss_start] for probe in probes],
        "attention": wants_attention,
        "code": code_digest("models/agreement.py"),
        "libraries": [version(name) for name in ("torch", "transformers")],
    }
    path = remembered / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}.json"
    if path.exists():
        return
    device, end = next(model.parameters()).device, int(tokenizer.eos_token_id)  # type: ignore[arg-type]
    plain = ask_plainly(settings, probes, end=end, vocabulary=vocabulary, device=device, seed=seed)
    require_agreement(settings, model, plain, wants_attention=wants_attention)
    remembered.mkdir(parents=True, exist_ok=True)
    write_synced(path, json.dumps({"model": settings.model, "agrees": type(model).__name__}).encode())


def _signal_differences(model: PreTrainedModel, plain: PlainAnswers, wants_attention: bool) -> Iterator[str]:
    """Hidden states, logits and maps of all probes in one batch, padded on the right as capture and training do."""
    vocabulary = plain.logits[0].shape[1]
    tolerance = _tolerance(model)
    ids, mask, first, count = _padded(plain.probes, next(model.parameters()).device)
    signals = position_signals(model, ids, mask, first, count, want_attention=wants_attention)
    hidden = _errors(signals.hidden, torch.cat(plain.hidden))
    logits = _errors(head_logits(model, signals.hidden, vocabulary), torch.cat(plain.logits))
    for what, errors in (("hidden states", hidden), ("logits", logits)):
        if not (error := _summary(errors, model)) <= tolerance:
            yield f"{what} differ by {error:.2%} of their norm (at most {tolerance:.1%})"
    if signals.attention is not None:
        yield from _map_differences(model, signals.attention.float().cpu(), plain)


def _map_differences(model: PreTrainedModel, rows: Tensor, plain: PlainAnswers) -> Iterator[str]:
    """The share of attention that lies elsewhere: half the sum of absolute differences, per position and head."""
    distances, start = [], 0
    for probe, theirs in zip(plain.probes, plain.attention, strict=True):
        ours = rows[start : start + probe.count, :, : len(probe.ids)]
        start += probe.count
        if theirs is None or theirs.shape != ours.shape:
            yield "the last layer's attention rows cannot be compared, for Transformers gives none of that shape"
            return
        distances.append((ours - theirs).abs().sum(-1).amax(-1) / 2)
    tolerance = _tolerance(model)
    if not (error := _summary(torch.cat(distances), model)) <= tolerance:
        yield f"{error:.2%} of an attention row of the last layer lies elsewhere (at most {tolerance:.1%})"


def _generation_differences(model: PreTrainedModel, plain: PlainAnswers) -> Iterator[str]:
    """Greedy tokens of all prompts in one batch from which half of the rows end early, and the logits behind them."""
    names = [f"probe {index}" for index in range(len(plain.probes))]
    early = set(names[::2]) if len(names) > 1 else set()
    said: dict[tuple[str, int], tuple[Tensor, int]] = {}
    allow = _OnlyFrom(plain.logits[0].shape[1], plain.end)

    def pick(logits: Tensor, held: Sequence[str], step: int) -> Tensor:
        chosen = allow(logits, logits).argmax(-1)
        said.update(
            {(name, step): (row.cpu(), int(token)) for name, row, token in zip(held, logits, chosen, strict=True)}
        )
        ending = torch.tensor([name in early and step >= ENDS_AFTER for name in held], device=logits.device)
        return torch.where(ending, plain.end, chosen)

    texts = generate_tokens(
        model,
        [probe.prompt for probe in plain.probes],
        names,
        vocabulary=plain.logits[0].shape[1],
        end=plain.end,
        max_new_tokens=NEW_TOKENS,
        pick=pick,
    )
    errors = []
    for name, text, theirs, steps in zip(names, texts, plain.texts, plain.steps, strict=True):
        wanted = min(ENDS_AFTER, NEW_TOKENS) if name in early else NEW_TOKENS
        if len(text) != wanted or any(token != said[name, step][1] for step, token in enumerate(text)):
            yield "generated texts are not those of their own rows"
            return
        for step, token in enumerate(text):
            errors.append(_errors(said[name, step][0][None], steps[step : step + 1]))
            if token != theirs[step]:  # from here on the texts differ; where the logits agree it was a tie
                break
    tolerance = _tolerance(model)
    if not (error := _summary(torch.cat(errors), model)) <= tolerance:
        yield f"logits of generated tokens differ by {error:.2%} of their norm (at most {tolerance:.1%})"


def _glimpses_of_the_future(model: PreTrainedModel, plain: PlainAnswers) -> Iterator[str]:
    """States that move when a later token is another one."""
    longest = max(plain.probes, key=lambda probe: len(probe.ids))
    place = len(longest.ids) * 2 // 3
    ids = torch.tensor([longest.ids, longest.ids], device=next(model.parameters()).device)
    ids[1, place] = (ids[1, place] + 1) % plain.logits[0].shape[1]
    none, count = torch.zeros(2, dtype=torch.int64, device=ids.device), ids.new_tensor([place, place])
    states = position_signals(model, ids, torch.ones_like(ids), none, count, want_attention=False).hidden
    error = _summary(_errors(states[place:], states[:place].float().cpu()), model)
    if not error <= _tolerance(model):
        yield f"another token at position {place} moves hidden states before it by {error:.2%} of their norm"


def _padded(
    probes: Sequence[Probe], device: torch.device
) -> tuple[Int[Tensor, "batch length"], Tensor, Tensor, Tensor]:
    length = max(len(probe.ids) for probe in probes)
    ids = torch.tensor([(*probe.ids, *[0] * (length - len(probe.ids))) for probe in probes])
    mask = torch.arange(length) < torch.tensor([len(probe.ids) for probe in probes])[:, None]
    first = torch.tensor([probe.loss_start for probe in probes])
    count = torch.tensor([probe.count for probe in probes])
    return ids.to(device), mask.to(device), first.to(device), count.to(device)


def _errors(ours: Tensor, theirs: Float[Tensor, "positions width"]) -> Float[Tensor, " positions"]:
    """|ours - theirs| / |theirs| of every position; infinite where the shapes differ or a number is not finite."""
    ours = ours.float().cpu()
    if ours.shape != theirs.shape:
        return torch.full((len(theirs),), float("inf"))
    errors = (ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return errors.nan_to_num(nan=float("inf"))


def _summary(errors: Float[Tensor, " positions"], model: PreTrainedModel) -> float:
    return float(errors.max() if model.dtype == torch.float32 else errors.mean())


def _tolerance(model: PreTrainedModel) -> float:
    return TOLERANCES.get(model.dtype, TOLERANCES[torch.float32])


@contextmanager
def _running(model: PreTrainedModel, settings: ModelSettings, what: str) -> Iterator[None]:
    """Turns what goes wrong inside a model's own code into one sentence; a full memory stays what it is."""
    try:
        yield
    except (GlassboxError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason given"
        raise GlassboxError(
            f"{type(model).__name__} ('{settings.model}') cannot be used here: {what} ends in "
            f"{type(error).__name__}: {reason.rstrip('.')}. Choose another model: docs/models.md names the "
            "architectures that agree with Transformers."
        ) from error
