"""Peak memory by part, for the capture and for each group: the study's own code on tensors without data.

Bytes of tensors at the worst moment, which is what `torch.cuda.max_memory_allocated` counts; the libraries, a GPU's
context and the allocator's gaps come on top. Parts: weights, gradients, optimizer, teacher's head, activations, logits,
attention maps, cache (of generation).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from glassbox.config.components import COMPONENTS
from glassbox.config.settings import Group, ModelSettings, Settings, Weights
from glassbox.evaluation.perplexity import LOGITS_AT_ONCE
from glassbox.models.chunks import Chunks
from glassbox.models.context import context_of
from glassbox.models.experts import router_logits_of
from glassbox.models.generation import GROWTH, cache_of
from glassbox.models.loading import configuration_of, head_logits, loaded_dtype, model_without_weights
from glassbox.models.mixture import Mixture
from glassbox.models.shapes import attention_widths, layers_of
from glassbox.models.signals import checkpoint_layers, gives_attention, packed_positions, position_signals
from glassbox.objective import Ingredients, Objective, liveness
from glassbox.objective.contrastive import Negatives
from glassbox.objective.mixture import LEARNING, Experts
from glassbox.objective.roots import Order, Vocabularies
from glassbox.preflight.workload import Length, Question, Workload
from glassbox.snapshot.aligned import align_batch
from glassbox.snapshot.batch import Batch
from glassbox.snapshot.codec import encode_attention, pack_ragged, top_k_with_tails
from glassbox.snapshot.further import relations_layer, stored_layers
from glassbox.snapshot.schema import SIGNAL_COLUMNS, Format
from glassbox.snapshot.teacher import CHUNK_LOGITS
from glassbox.training.ingredients import layer_facts, projectors_of, relation_facts
from glassbox.training.student import Student, Trainee, build_optimizer, set_dropout

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
Peak = dict[str, int]


@dataclass(frozen=True)
class Teacher:
    """What a trial meets of the teacher: the shapes of its stored signals. `experts` counts those of its last layer,
    where they are captured."""

    vocabulary: int
    width: int
    heads: int
    dtype: torch.dtype
    experts: int = 0

    def kept(self, settings: Settings) -> int:
        """How many of the experts are stored."""
        return min(settings.snapshot.experts_kept or self.experts, self.experts)


def teacher_of(settings: Settings, workload: Workload, on_gpu: bool) -> Teacher:
    text = configuration_of(settings.teacher).get_text_config()
    vocabulary = min(workload.vocabulary or text.vocab_size, text.vocab_size)
    dtype = teacher_dtype(settings.teacher, on_gpu)
    experts = 0 if settings.snapshot.experts == "none" else experts_of(settings.teacher)
    return Teacher(vocabulary, text.hidden_size, getattr(text, "num_attention_heads", 0), dtype, experts)


def experts_of(settings: ModelSettings) -> int:
    """How many experts the gate of the last mixture has. Raises NoMixture for a dense model."""
    abstraction = Abstraction(_parts(set(), set()))
    model = abstract_model(abstraction, settings, torch.float32).eval()
    with abstraction, torch.no_grad():
        logits, _ = router_logits_of(model, torch.zeros(1, 2, dtype=torch.int64))
    return logits.shape[-1]


def format_of(settings: Settings, teacher: Teacher) -> Format:
    """The format of the snapshot that would be captured."""
    snapshot, layers, layer = settings.snapshot, stored_layers(settings), relations_layer(settings)
    config = configuration_of(settings.teacher) if layers or layer else None
    return Format(
        vocabulary=teacher.vocabulary,
        width=teacher.width,
        heads=teacher.heads,
        top_k=min(snapshot.top_k, teacher.vocabulary),
        temperatures=snapshot.temperatures,
        hidden_dtype=snapshot.hidden_dtype,
        attention_codec=snapshot.attention_codec,
        positions=snapshot.positions.hidden,
        attention_positions=snapshot.positions.attention,
        layers=layers,
        relations=attention_widths(config) if layer else (),
        relations_layer=layer,
        n_layers=layers_of(config) if layers else 0,
        experts=teacher.experts,
        experts_kept=teacher.kept(settings),
        experts_dtype=snapshot.experts_dtype if teacher.experts else "",
    )


def capture_peak(settings: Settings, workload: Workload, teacher: Teacher) -> Peak:
    """The teacher over its largest batch, at the format it is loaded in."""
    size = settings.snapshot.batch_size
    batch = sorted(workload.lengths, key=lambda length: -length.n_tokens)[:size]
    abstraction = Abstraction(_parts({teacher.vocabulary}, {max(length.n_tokens for length in batch)}))
    model = abstract_model(abstraction, settings.teacher, teacher.dtype).eval()
    ids, mask = _ids_and_mask(batch)
    count = torch.tensor([length.n_captured for length in batch])
    attended = torch.tensor([length.n_attention for length in batch])
    first = torch.tensor([length.n_tokens for length in batch]) - 1 - count
    with abstraction, torch.no_grad():
        maps = gives_attention(model)
        layout = format_of(settings, teacher)
        signals = position_signals(
            model,
            ids,
            mask,
            first,
            count,
            want_attention=maps,
            attention_count=attended,
            layers=layout.layers,
            relations_layer=layout.relations_layer or None,
        )
        stored = signals.hidden.to(getattr(torch, settings.snapshot.hidden_dtype))
        rows = max(1, CHUNK_LOGITS // teacher.vocabulary)
        logits = head_logits(model, stored[:rows].float(), teacher.vocabulary)
        _ = top_k_with_tails(logits, min(settings.snapshot.top_k, teacher.vocabulary), settings.snapshot.temperatures)
        del logits, _
        if signals.attention is not None:
            ragged = pack_ragged(signals.attention, packed_positions(first + count - attended, attended)[1])
            encode_attention(ragged, settings.snapshot.attention_codec)
        if teacher.experts:
            answers = sum(length.n_answer for length in batch)
            one = [signals.hidden.new_empty(answers, teacher.width) for _ in range(teacher.kept(settings))]
            torch.stack(one, dim=1).to(getattr(torch, settings.snapshot.experts_dtype))
    return _without_nothing(abstraction.peak)


def hardest_batch(
    settings: Settings,
    teacher: Teacher,
    candidates: Sequence[tuple[Length, ...]],
    precision: str,
    on_gpu: bool = False,
) -> tuple[Length, ...]:
    """The micro-batch that needs the most memory, judged by the group with the most components."""
    weights = max(settings.distill.values(), key=lambda group: len(group.active))
    return max(candidates, key=lambda batch: total(training_peak(settings, weights, teacher, batch, precision, on_gpu)))


def training_peak(
    settings: Settings,
    weights: Weights,
    teacher: Teacher,
    lengths: Sequence[Length],
    precision: str,
    on_gpu: bool = False,
) -> Peak:
    """An optimizer step at its last micro-batch, or the audit of the first steps where that needs more.

    A GPU holds one component's gradients at a time while they are audited; the others wait in the computer's memory.
    """
    own = configuration_of(settings.student).get_text_config().vocab_size
    sides = [lengths, [length.teacher for length in lengths if length.teacher]]
    widths = {max(length.n_tokens for length in side) for side in sides if side}
    abstraction = Abstraction(_parts({teacher.vocabulary, own}, widths))
    with abstraction:
        student, objective = _student_and_objective(abstraction, settings, weights, teacher)
        if settings.train.gradient_checkpointing:
            checkpoint_layers(student.model)
        optimizer = _optimizer(abstraction, settings, student, on_gpu)
        batch = _batch(abstraction, objective, teacher, settings, lengths)
        abstraction.forget_peak()
        if settings.train.liveness_steps > 1 and not on_gpu:
            _audit(abstraction, settings, student, objective, batch, precision)
        if settings.train.micro_batch_size < settings.train.batch_size:
            _set_gradients(abstraction, student)
        if objective.ingredients.experts is not None and objective.ingredients.experts.gate is not None:
            _move_router(student, objective, batch, precision)
        _backward(settings, student, objective, batch, precision)
        torch.nn.utils.clip_grad_norm_(student.parameters(), settings.train.clip_norm)
        with abstraction.during("optimizer"):
            optimizer.step()
    return _without_nothing(abstraction.peak)


def _backward(settings: Settings, student: Student, objective: Objective, batch: Batch, precision: str) -> None:
    """A micro-batch as in the trial's step, on a step that is logged."""
    share = {name: torch.full(batch.labels.shape, 1.0 / len(batch.labels)) for name in objective.weights}
    with _autocast(precision)():
        loss, _ = Trainee(student)(batch, share, objective, at_one=True)
    loss.backward()


def _move_router(student: Student, objective: Objective, batch: Batch, precision: str) -> None:
    """The router's share of a step, before the student's."""
    share = {name: torch.full(batch.labels.shape, 1.0 / len(batch.labels)) for name in objective.weights}
    experts = objective.ingredients.experts
    assert experts is not None
    with torch.no_grad(), _autocast(precision)():
        Trainee(student)(batch, share, objective, loads=torch.zeros(len(experts.mixture.gate)))


def _audit(
    abstraction: Abstraction,
    settings: Settings,
    student: Student,
    objective: Objective,
    batch: Batch,
    precision: str,
) -> None:
    """The last component's turn: the gradients of all others are kept beside it, then all are compared."""
    names = list(objective.weights)
    parameters = [weight for weight in student.model.parameters() if weight.requires_grad]
    gradients = {name: [torch.zeros_like(weight) for weight in parameters] for name in names[:-1]}
    abstraction.assign([each for found in gradients.values() for each in found], "gradients")
    _backward(settings, student, objective.alone(names[-1]), batch, precision)
    gradients[names[-1]] = [weight.grad for weight in parameters if weight.grad is not None]
    liveness.audit(gradients, objective.highest_weights)
    student.zero_grad()


def evaluation_peak(settings: Settings, workload: Workload, teacher: Teacher, precision: str) -> Peak:
    """The student's final evaluation without what its training holds beside it (`beside`): its largest batches, and
    generation where no answer ends before the limit."""
    abstraction = Abstraction(_parts({teacher.vocabulary}, set()))
    model = abstract_model(abstraction, settings.student, torch.float32).eval()
    with abstraction:
        _evaluate(abstraction, settings, model, teacher.vocabulary, workload.questions, precision)
    return _without_nothing(abstraction.peak)


def beside(evaluation: Peak, training: Peak) -> Peak:
    """An evaluation in a trial: weights, optimizer and teacher's head of the training stay where they are."""
    return evaluation | {
        part: training[part] for part in ("weights", "optimizer", "teacher's head") if part in training
    }


def teacher_evaluation_peak(settings: Settings, workload: Workload, teacher: Teacher) -> Peak:
    """The teacher's own test scores, which `verify` measures, with `teacher_shots` samples before each prompt."""
    abstraction = Abstraction(_parts({teacher.vocabulary}, set()))
    model = abstract_model(abstraction, settings.teacher, teacher.dtype).eval()
    times = 1 + settings.evaluation.teacher_shots
    questions = [
        replace(question, n_prompt=(1 if question.is_text else times) * question.n_prompt)
        for question in workload.questions
    ]
    with abstraction:
        _evaluate(abstraction, settings, model, teacher.vocabulary, questions, "no")
    return _without_nothing(abstraction.peak)


def _evaluate(
    abstraction: Abstraction,
    settings: Settings,
    model: PreTrainedModel,
    vocabulary: int,
    questions: Sequence[Question],
    precision: str,
) -> None:
    with torch.no_grad(), _autocast(precision)():
        _score_choices(settings, model, vocabulary, [each for each in questions if not each.is_text])
        _score_choices(settings, model, vocabulary, [each for each in questions if each.is_text])
        _generate(abstraction, settings, model, vocabulary, questions)


def _score_choices(settings: Settings, model: PreTrainedModel, vocabulary: int, questions: Sequence[Question]) -> None:
    rows = [
        (question.n_prompt + max(question.choices) - 1, max(question.choices))
        for question in questions
        if question.choices
        for _ in range(1 if max(question.choices) == 1 else len(question.choices))
    ]
    batch = sorted(rows, reverse=True)[: settings.evaluation.batch_size]
    if not batch:
        return
    tokens = torch.tensor([row[0] for row in batch])
    count = torch.tensor([row[1] for row in batch])
    width = int(tokens.max())
    ids, mask = torch.zeros(len(batch), width, dtype=torch.int64), torch.arange(width) < tokens[:, None]
    signals = position_signals(model, ids, mask, tokens - count, count, want_attention=False)
    some = LOGITS_AT_ONCE // vocabulary if any(question.is_text for question in questions) else len(signals.hidden)
    torch.log_softmax(head_logits(model, signals.hidden[:some], vocabulary), dim=-1)


def _generate(
    abstraction: Abstraction,
    settings: Settings,
    model: PreTrainedModel,
    vocabulary: int,
    questions: Sequence[Question],
) -> None:
    """The prompts at once, then the cache as full as it may get and one more token."""
    limit = settings.evaluation.max_new_tokens
    context = context_of(model.config)
    longest = settings.snapshot.max_length * (1 + settings.evaluation.teacher_shots)
    longest = longest if context is None else max(1, min(longest, context - limit))
    prompts = sorted((min(question.n_prompt, longest) for question in questions if not question.choices), reverse=True)
    batch = torch.tensor(prompts[: settings.evaluation.batch_size])
    if not len(batch):
        return
    width = int(batch.max())
    mask = torch.arange(width) >= (width - batch)[:, None]
    cache: Any = cache_of(model)
    caching = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    for length, seen in ((width, width), (1 if cache is not None else width + limit, width + limit)):
        output = model.base_model(
            input_ids=torch.zeros(len(batch), length, dtype=torch.int64),
            attention_mask=torch.nn.functional.pad(mask, (0, seen - width), value=True),
            position_ids=torch.zeros(len(batch), length, dtype=torch.int64),
            **caching,
        )
        head_logits(model, output.last_hidden_state[:, -1], vocabulary)
        del output
        if seen == width and cache is not None:
            _fill(abstraction, cache, limit - 1)


def _fill(abstraction: Abstraction, cache: Any, tokens: int) -> None:
    """Room and length of a growing cache as they are `tokens` later; layers of another kind stay as they are."""
    for layer in cache.layers:
        if hasattr(layer, "room_keys"):
            after = layer.get_seq_length() + tokens
            for room in ("room_keys", "room_values"):
                held = getattr(layer, room)
                grown = held.new_empty(*held.shape[:2], after + GROWTH, held.shape[3])
                abstraction.assign([grown], "cache")
                setattr(layer, room, grown)
            layer.keys, layer.values = layer.room_keys[:, :, :after], layer.room_values[:, :, :after]


def _student_and_objective(
    abstraction: Abstraction, settings: Settings, weights: Weights, teacher: Teacher
) -> tuple[Student, Objective]:
    model = abstract_model(abstraction, settings.student, torch.float32).train()
    if settings.train.dropout is not None:
        set_dropout(model, settings.train.dropout)
    layout = format_of(settings, teacher)
    with abstraction.fake:
        projectors = projectors_of(model, layout, weights.active, settings.objective, seed=0)
    rows = model.config.get_text_config().vocab_size if weights.aligns else teacher.vocabulary
    student = Student(model, projectors, rows)
    abstraction.assign(student.projectors.parameters(), "weights")
    files = weights.needs("files")
    head = channels = None
    if "head" in files:
        head = abstraction.empty(teacher.vocabulary, teacher.width, dtype=torch.float32, part="teacher's head"), None
    if "channels" in files:
        mean, deviation = (
            abstraction.empty(teacher.width, dtype=torch.float32, part="teacher's head") for _ in range(2)
        )
        channels = mean, deviation
    experts = _experts(abstraction, settings, weights, teacher) if "experts" in files else None
    projectors = dict(student.projectors.items())
    ingredients = Ingredients(head, channels, settings.snapshot.temperatures, projectors, experts=experts)
    asks = weights.needs("asks")
    if "layers" in weights.needs("reads"):
        shape, part = (len(layout.layers), teacher.width), "teacher's head"
        own = tuple(abstraction.empty(*shape, dtype=torch.float32, part=part) for _ in range(2))
        facts = layer_facts(layout, model.config, settings)
        ingredients = replace(ingredients, **facts, layer_channels=own)
    if "relations" in asks:
        ingredients = replace(ingredients, **relation_facts(layout, model.config, settings))
    if "negatives" in files:
        count = settings.objective.negatives
        states = abstraction.empty(count, teacher.width, dtype=torch.float32, part="activations")
        ids = abstraction.empty(count, dtype=torch.int64, part="activations")
        ingredients = replace(ingredients, negatives=Negatives(states, ids))
    if any(COMPONENTS[name].pieces for name in weights.active):
        orders = (_order(abstraction, size, rows) for size in (rows, teacher.vocabulary))
        ingredients = replace(ingredients, vocabularies=Vocabularies(*orders))
    return student, Objective(weights, settings.objective, ingredients)


def _experts(abstraction: Abstraction, settings: Settings, weights: Weights, teacher: Teacher) -> Experts:
    """The teacher's gate and norm, and the gate that learns where the group has one."""
    speaks = weights.experts if isinstance(weights, Group) and weights.experts else "all"
    gate, learning = (
        abstraction.empty(teacher.experts, teacher.width, dtype=torch.float32, part="teacher's head") for _ in range(2)
    )
    norm = abstraction.empty(teacher.width, dtype=torch.float32, part="teacher's head")
    mixture = Mixture(gate, None, norm, None, 1e-6, centred=False, chosen=1, normalised=True, scale=1.0)
    return Experts(mixture, speaks, settings.objective.experts, 0, learning if speaks in LEARNING else None)


def _order(abstraction: Abstraction, vocabulary: int, roots: int) -> Order:
    sizes = (vocabulary, roots, roots)
    return Order(*(abstraction.empty(size, dtype=torch.int64, part="teacher's head") for size in sizes))


def _optimizer(abstraction: Abstraction, settings: Settings, student: Student, on_gpu: bool) -> torch.optim.AdamW:
    """AdamW after its first update, with its moments, by the kernel that the device gets."""
    optimizer = build_optimizer(student, settings.train)
    for group in optimizer.param_groups:
        group |= {"foreach": on_gpu, "fused": not on_gpu}
    _set_gradients(abstraction, student)
    optimizer.step()
    optimizer.zero_grad()
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    abstraction.assign(moments, "optimizer")
    for parameter in student.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: abstraction.assign([p.grad], "gradients"))
    return optimizer


def _set_gradients(abstraction: Abstraction, student: Student) -> None:
    """Gradients as earlier micro-batches leave them."""
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
        abstraction.assign([parameter.grad], "gradients")


def _batch(
    abstraction: Abstraction, objective: Objective, teacher: Teacher, settings: Settings, lengths: Sequence[Length]
) -> Batch:
    """What a trial's source would deliver for these samples, with their partners where signals are shuffled."""
    whole, signals, lent = objective.whole, objective.signals, objective.partner_signals
    if not any(COMPONENTS[name].by_chunk for name in objective.weights):
        return _one_side(abstraction, teacher, settings, lengths, whole, signals, lent)
    others = [length.teacher or length for length in lengths]
    own = _one_side(abstraction, teacher, settings, lengths, whole, frozenset(), frozenset())
    side = _one_side(abstraction, teacher, settings, others, whole, signals, lent)
    chunks = [_most_chunks(*pair) for pair in zip(lengths, others, strict=True)]
    return replace(own, aligned=align_batch(own, side, chunks))


def _most_chunks(student: Length, teacher: Length) -> Chunks:
    """As many as there can be: prompt and answer have as many chunks as tokens in the side with fewer of them."""
    starts = [length.n_tokens - 1 - length.n_answer for length in (student, teacher)]
    prompt, answer = np.arange(min(starts)), np.arange(min(student.n_answer, teacher.n_answer))
    sides = [
        np.concatenate([prompt + 1, answer + start + 1, [length.n_tokens]])
        for start, length in zip(starts, (student, teacher), strict=True)
    ]
    return Chunks(*sides)


def _one_side(
    abstraction: Abstraction,
    teacher: Teacher,
    settings: Settings,
    lengths: Sequence[Length],
    whole: frozenset[str],
    signals: frozenset[str],
    lent: frozenset[str],
) -> Batch:
    """The samples in one tokenization, with these signals, and those that partners lend."""
    ids, mask = _ids_and_mask(lengths)
    tokens, answer = (torch.tensor([getattr(length, name) for length in lengths]) for name in ("n_tokens", "n_answer"))
    layout = format_of(settings, teacher)
    count = tokens - 1 if "tokens" in whole else answer
    first = tokens - 1 - count
    sample_index, column = packed_positions(first, count)
    positions = {name: int((tokens - 1 if name in whole else answer).sum()) for name in SIGNAL_COLUMNS}
    k, answers, kept = min(settings.snapshot.top_k, teacher.vocabulary), int(answer.sum()), teacher.kept(settings)
    maps = (positions["attention"], teacher.heads, ids.shape[1])
    shapes: dict[str, tuple[tuple[str, tuple[int, ...], torch.dtype, str], ...]] = {
        "hidden": (("hidden", (positions["hidden"], teacher.width), torch.float32, "activations"),),
        "attention": (("attention", maps, torch.float32, "attention maps"),),
        "label_logp": (("label_logp", (positions["label_logp"],), torch.float32, "logits"),),
        "topk": (
            ("topk_ids", (positions["topk"], k), torch.int64, "logits"),
            ("topk_logits", (positions["topk"], k), torch.float32, "logits"),
            ("log_tail", (positions["topk"], len(settings.snapshot.temperatures)), torch.float32, "logits"),
        ),
        "experts": (
            ("router_logits", (answers, teacher.experts), torch.float32, "activations"),
            ("expert_ids", (answers, kept), torch.int64, "activations"),
            ("router_input", (answers, teacher.width), torch.float32, "activations"),
            ("residual", (answers, teacher.width), torch.float32, "activations"),
            ("expert_outputs", (answers, kept, teacher.width), torch.float32, "activations"),
        ),
    }

    def with_signals(wanted: frozenset[str], partner: Batch | None) -> Batch:
        held: dict[str, Any] = {
            name: abstraction.empty(*shape, dtype=dtype, part=part)
            for signal in wanted & shapes.keys()
            for name, shape, dtype, part in shapes[signal]
        }
        held["further"] = {
            name: abstraction.empty(rows, *column.shape(layout), dtype=torch.float32, part="activations")
            for name, column in layout.further.items()
            if column.signal in wanted - shapes.keys()
            for rows in [int((tokens - 1 if column.everywhere or column.signal in whole else answer).sum())]
        }
        return Batch(
            sample_ids=tuple(length.sample_id for length in lengths),
            tasks=tuple(length.task for length in lengths),
            input_ids=ids,
            attention_mask=mask,
            first=first,
            count=count,
            answer_count=answer,
            labels=torch.zeros(len(sample_index), dtype=torch.int64),
            sample_index=sample_index,
            answer=column >= (tokens - 1 - answer)[sample_index] if "tokens" in whole else None,
            partner=partner,
            **held,
        )

    return with_signals(signals, with_signals(lent, None) if lent else None)


def _ids_and_mask(lengths: Sequence[Length]) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([length.n_tokens for length in lengths])
    width = int(tokens.max())
    return torch.zeros(len(lengths), width, dtype=torch.int64), torch.arange(width) < tokens[:, None]


def _parts(vocabularies: set[int], lengths: set[int]) -> Callable[[torch.Size], str | None]:
    """By shape: [positions, vocabulary] are logits, [..., heads, length] attention maps; anything else has no name."""

    def part_of(shape: torch.Size) -> str | None:
        if len(shape) == 2 and shape[-1] in vocabularies:
            return "logits"
        return "attention maps" if len(shape) > 2 and shape[-1] in lengths else None

    return part_of


def _autocast(precision: str) -> Callable[[], AbstractContextManager[Any]]:
    dtype = AUTOCAST.get(precision)
    return nullcontext if dtype is None else lambda: torch.autocast("cpu", dtype)


def total(peak: Peak) -> int:
    return sum(peak.values())


def _without_nothing(peak: Peak) -> Peak:
    return {part: size for part, size in peak.items() if size}


aten = torch.ops.aten


class Abstraction(TorchDispatchMode):
    """While active, computes with fake tensors and keeps count of the bytes that live, by part.

    `part_of` names the part that a new tensor of some shape belongs to, None for the part of the current phase.
    """

    def __init__(self, part_of: Callable[[torch.Size], str | None]) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.part_of = part_of
        self.phase = "activations"
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self._known: dict[int, _Storage] = {}

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """New tensors of no part of their own are counted under `phase`."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def empty(self, *shape: int, dtype: torch.dtype, part: str) -> Tensor:
        """A fake tensor that is already there when the code starts, such as a weight."""
        with self.fake:
            tensor = torch.empty(*shape, dtype=dtype)
        self.assign([tensor], part)
        return tensor

    def assign(self, tensors: Iterable[Tensor], part: str) -> None:
        """Count these tensors under `part`, whatever they were before."""
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                self._count(tensor, part)

    def forget_peak(self) -> None:
        self.peak = dict(self.live)

    def _count(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        known = self._known.get(id(storage))
        if known is not None:
            self.live[known.part] -= known.size
            known.part = part
            self.live[part] += known.size
            return
        key = id(storage)
        entry = _Storage(part, storage.nbytes())
        entry.reference = weakref.ref(storage, lambda _: self._release(key))
        self._known[key] = entry
        self.live[part] += entry.size
        if sum(self.live.values()) > sum(self.peak.values()):
            self.peak = dict(self.live)

    def _release(self, key: int) -> None:
        entry = self._known.pop(key)
        self.live[entry.part] -= entry.size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0
        if func is aten.equal.default:
            return False
        if func is aten._grouped_mm.default:  # its rules of formats and strides do not hold on every device
            return self._product_of_experts(*args, **kwargs)
        if func is aten.index.Tensor:
            args = (args[0], _positions_of_masks(args[1]))
        with self.fake:
            result = func(*args, **kwargs)
        self._count_new(tree_leaves(result))
        return result

    def _product_of_experts(
        self, left: Tensor, right: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        """The result of a grouped product: rows by expert, or one matrix for each expert."""
        shape = [*left.shape[-2:-1], *right.shape[-1:]]
        if left.ndim == right.ndim:
            shape = [len(offsets) if offsets is not None else len(left), *shape]
        with self.fake:
            result = left.new_empty(shape)
        self._count_new([result])
        return result

    def _count_new(self, tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, FakeTensor) and id(tensor.untyped_storage()) not in self._known:
                self._count(tensor, self.part_of(tensor.shape) or self.phase)


class _Storage:
    def __init__(self, part: str, size: int) -> None:
        self.part, self.size = part, size
        self.reference: weakref.ref[Any] | None = None


def _positions_of_masks(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Real masks as the positions they select: a fake tensor cannot be cut to a size that only data knows."""
    result: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            result += index.nonzero().unbind(1)
        else:
            result.append(index)
    return result


def teacher_dtype(settings: ModelSettings, on_gpu: bool) -> torch.dtype:
    """What the teacher is loaded in; a GPU that is not here is taken for one that has bfloat16."""
    if settings.dtype == "auto" and on_gpu != torch.cuda.is_available():
        return torch.bfloat16 if on_gpu else torch.float32
    return loaded_dtype(settings)


def abstract_model(abstraction: Abstraction, settings: ModelSettings, dtype: torch.dtype) -> PreTrainedModel:
    """The model without data, its weights and buffers counted as `weights`."""
    with abstraction.fake:
        model = model_without_weights(settings, dtype)
    abstraction.assign([*model.parameters(), *model.buffers()], "weights")
    return model


def parameter_count(settings: ModelSettings) -> int:
    """Weights of the model, each shared one counted once, by building it without storage."""
    with torch.device("meta"):
        model = model_without_weights(settings, torch.float32)
    return sum(parameter.numel() for parameter in model.parameters())


def has_weights_here(settings: ModelSettings) -> bool:
    """Whether the model's weights lie in a folder of this machine."""
    return any(Path(settings.model).glob("*.safetensors")) or (
        settings.initialisation == "random" and Path(settings.model).is_dir()
    )
