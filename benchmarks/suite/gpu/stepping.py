"""Training steps: every group beside SFT and beside the teacher in the loop, compiled layers, memory, waiting."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from glassbox.models.loading import output_head
from glassbox.models.precision import PrecisionProbe, cuda_has_bf16, resolve
from glassbox.models.signals import position_signals
from glassbox.objective import Objective, component_weights, totals_of
from glassbox.preflight import memory
from glassbox.processes import start_accelerator
from glassbox.snapshot.batch import Batch, StoredSample, assemble
from glassbox.snapshot.reader import Snapshot
from glassbox.training.student import Student, Trainee, build_optimizer
from suite.gpu import shapes
from suite.gpu.measuring import Figure, guarded, in_turns, median_seconds, peak_bytes, utilisation
from suite.measuring import ratio

PRECISIONS = ("bf16", "fp16")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
DISTILLING = shapes.GROUPS[1:]
MEMORY = tuple(f"{group}, peak memory of a step / plan's estimate" for group in shapes.GROUPS)
WAITING = "combined, waiting for data / wall time of steps"
COMPILED = {
    "combined": "combined, feed-forward blocks compiled / not compiled, step",
    "sft": "sft, layers compiled / not compiled, step",
}


def step_names(precision: str) -> tuple[str, ...]:
    return (
        *(f"{group} / sft, {precision}, step" for group in DISTILLING),
        f"combined / teacher in the loop, {precision}, step",
        *(f"{group}, {precision}, model FLOP utilisation" for group in ("sft", "combined")),
        f"finite losses, gradients and weights, {precision}",
    )


class Step:
    """An optimizer step as a trial makes it: autocast, backward with loss scaling, clipping, AdamW.

    All groups of one process share a student and its moments: no time depends on their values.
    """

    def __init__(self, accelerator: Accelerator, student: Student) -> None:
        self.accelerator, self.student = accelerator, student
        self.settings = shapes.train_settings()
        self.probe = PrecisionProbe(student.model)
        optimizer = build_optimizer(student, self.settings)
        self.trainee, self.optimizer = accelerator.prepare(Trainee(student).train(), optimizer)
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.skipped = 0

    def __call__(
        self, objective: Objective, batches: Sequence[Batch], signals: Callable[[Batch], Batch] | None = None
    ) -> None:
        totals = totals_of(batches, objective.positions, objective.weights)
        for batch in batches:
            weights = component_weights(batch, objective.positions, objective.weights, totals, "sample")
            filled = batch if signals is None else signals(batch)
            with self.accelerator.autocast():
                loss, _ = self.trainee(filled, weights, objective)
            self.losses.append(loss.item())
            self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.trainee.parameters(), self.settings.clip_norm)
        self.norms.append(math.nan if norm is None else float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.skipped += self.optimizer.step_was_skipped


def opened(precision: str, device: torch.device) -> tuple[shapes.Pair, Step]:
    """The pair and a fresh student's step; GlassboxError for fp16 without a GPU, as a trial refuses it."""
    pair, cuda = shapes.pair_for(device), device.type == "cuda"
    accelerator = start_accelerator(resolve(precision, cuda, cuda_has_bf16()), cpu=not cuda)
    return pair, Step(accelerator, shapes.student(pair, device))


def on_device(samples: Sequence[Sequence[StoredSample]], pair: shapes.Pair, device: torch.device) -> list[Batch]:
    return [assemble(list(each), shapes.layout(pair), device) for each in samples]


def measure(precision: str, device: torch.device, seconds: float) -> Iterator[Figure]:
    """The rows of `step_names`."""
    pair, step = opened(precision, device)
    planned = shapes.steps(pair)
    batches = [on_device(each, pair, device) for each in planned]
    objectives = {name: shapes.objective(pair, group, step.student, device) for name, group in shapes.groups().items()}
    works: dict[str, Callable[[], object]] = {
        name: lambda objective=objective: [step(objective, each) for each in batches]
        for name, objective in objectives.items()
    }
    names = step_names(precision)
    try:
        online, signals = _teacher_in_the_loop(pair, objectives["combined"], device)
        works["online"] = lambda: [step(online, each, signals) for each in batches]
        reason = ""
    except Exception as error:
        reason = f"no teacher: {type(error).__name__}: {str(error)[:200]}"
    times = in_turns(works, device, seconds * 0.5)
    details = {f"seconds_{name}": median_seconds(found) / len(batches) for name, found in times.items()}
    for name, group in zip(names, DISTILLING, strict=False):
        yield Figure.of(name, ratio(times[group], times["sft"]), "", **details)
    yield (
        Figure(names[4], None, note=reason)
        if reason
        else Figure.of(names[4], ratio(times["combined"], times["online"]), "", **details)
    )
    samples = [sample for steps in planned for batch in steps for sample in batch]
    tokens, rows = [sample.n_tokens for sample in samples], sum(sample.n_answer for sample in samples)
    for name, group in zip(names[5:7], ("sft", "combined"), strict=True):
        operations = 3 * shapes.forward_operations(step.student.model, tokens, rows)
        if group == "combined":  # the teacher's logits and the projector
            width = pair.teacher.hidden_size
            operations += 2 * rows * width * pair.teacher.vocab_size + 6 * rows * width * pair.student.hidden_size
        taken = median_seconds(times[group])
        used = utilisation(operations, taken, device, DTYPES[precision])
        used |= {"tokens_per_second": sum(tokens) / taken, "answer_rows": rows, "tokens": sum(tokens)}
        note = f"{used['tokens_per_second']:,.0f} tokens/s in micro-batches of {step.settings.micro_batch_size}"
        yield Figure(name, used["of_a_product_here"], "share", note=note, details=used)
    yield _finite(names[7], precision, step)


def _finite(name: str, precision: str, step: Step) -> Figure:
    """Skipped steps of the loss scaler are its normal work; their gradients alone may overflow."""
    weights = all(bool(torch.isfinite(weight).all()) for weight in step.student.parameters())
    losses = sum(not math.isfinite(loss) for loss in step.losses)
    norms = sum(not math.isfinite(norm) for norm in step.norms)
    observed = step.probe.require(precision)
    scaler = step.accelerator.scaler
    details = {
        "steps": len(step.norms),
        "losses_not_finite": losses,
        "gradients_not_finite": norms,
        "skipped": step.skipped,
        "weights_finite": weights,
        "computed_in": observed,
        "loss_scale": None if scaler is None else scaler.get_scale(),
    }
    good = weights and not losses and norms <= step.skipped
    note = f"{len(step.norms)} steps, {step.skipped} skipped by the loss scaler"
    return Figure(name, float(good), "1: all", note=note, details=details)


def _teacher_in_the_loop(
    pair: shapes.Pair, combined: Objective, device: torch.device
) -> tuple[Objective, Callable[[Batch], Batch]]:
    """The objective over the teacher's own output layer, and a batch with its signals read off the teacher."""
    model: PreTrainedModel = shapes.teacher(pair, device)
    online = combined.at(0.0)
    online.head = (output_head(model).weight.detach().float(), None)  # type: ignore[union-attr]

    @torch.no_grad()
    def signals(batch: Batch) -> Batch:
        found = position_signals(
            model, batch.input_ids, batch.attention_mask, batch.first, batch.count, want_attention=True
        )
        return replace(batch, hidden=found.hidden.float(), attention=found.attention)

    return online, signals


def memory_of_groups(device: torch.device, seconds: float) -> Iterator[Figure]:
    """A fresh student and optimizer for each group; the second step of the hardest micro-batches counts."""
    pair = shapes.pair_for(device)
    known = memory.Teacher(
        pair.teacher.vocab_size, pair.teacher.hidden_size, pair.teacher.num_attention_heads, torch.bfloat16
    )
    hardest = max((batch for step in shapes.steps(pair) for batch in step), key=lambda b: sum(s.n_tokens for s in b))
    groups = shapes.groups()
    for name, each in zip(MEMORY, shapes.GROUPS, strict=True):
        yield from guarded((name,), lambda name=name, each=each: _memory(name, groups[each], known, hardest, device))
        gc.collect()


def _memory(
    name: str, group: Any, known: memory.Teacher, hardest: list[StoredSample], device: torch.device
) -> Iterator[Figure]:
    pair = shapes.pair_for(device)
    lengths = tuple(shapes.length(sample) for sample in hardest)
    with TemporaryDirectory() as folder:
        pair.student.save_pretrained(Path(folder) / "student")
        settings = shapes.settings(Path(folder), pair)
        plan = memory.total(memory.training_peak(settings, group, known, lengths, "bf16", on_gpu=True))
    if device.type != "cuda":
        note = "a CPU does not count the bytes of its tensors; `make bench`, row 5, measures its process"
        yield Figure(name, None, note=note, details={"plan_bytes": plan})
        return
    before = torch.cuda.memory_allocated(device)
    _, step = opened("bf16", device)
    if "hidden" not in group.active:
        step.student.projectors.clear()
    objective = shapes.objective(pair, group, step.student, device)
    if "logits" not in group.active:
        objective.ingredients = replace(objective.ingredients, head=None)
    with_signals = on_device([hardest, hardest], pair, device)
    batches = [keep_signals(batch, objective) for batch in with_signals]
    del with_signals
    step(objective, batches)
    peak = peak_bytes(lambda: step(objective, batches), device) - before
    yield Figure(name, peak / plan, details={"peak_bytes": peak, "plan_bytes": plan})


def keep_signals(batch: Batch, objective: Objective) -> Batch:
    """Without the signals that the objective does not read, as the reader delivers it."""
    fields = {"hidden": ("hidden",), "attention": ("attention",), "topk": ("topk_ids", "topk_logits", "log_tail")}
    dropped = {name: None for signal, names in fields.items() if signal not in objective.signals for name in names}
    return replace(batch, **dropped)


class InMemory(Snapshot):
    """The snapshot's reader over samples that are already in memory: only decoding and travelling are left."""

    def __init__(self, samples: Sequence[StoredSample], pair: shapes.Pair) -> None:
        self.folder, self.format = Path("memory"), shapes.layout(pair)
        self.manifest = {"signals": ["attention", "hidden", "topk"]}
        self._places = {sample.sample_id: sample for sample in samples}  # type: ignore[assignment]

    def stored(self, sample_ids: Sequence[str], columns: Sequence[str]) -> list[StoredSample]:
        samples: Any = [self._places[sample_id] for sample_id in sample_ids]
        return [replace(each, cells={name: each.cells[name] for name in columns}) for each in samples]


def waiting(device: torch.device, seconds: float, missing: Sequence[str]) -> Iterator[Figure]:
    """Time inside next() from the second micro-batch on, over the wall time of the steps."""
    yield from guarded((WAITING,), lambda: _waiting(device, seconds, missing))


def _waiting(device: torch.device, seconds: float, missing: Sequence[str]) -> Iterator[Figure]:
    pair, step = opened("bf16", device)
    objective = shapes.objective(pair, shapes.groups()["combined"], step.student, device)
    planned = shapes.steps(pair) * 4
    with TemporaryDirectory(prefix="glassbox-") as folder:
        if "pyarrow" in missing:
            source: Snapshot = InMemory([s for each in planned for batch in each for s in batch], pair)
            ids = [[sample.sample_id for sample in batch] for each in planned for batch in each]
        else:
            from suite.paper_snapshot import write_snapshot

            write_snapshot(Path(folder) / "snapshot", {"sst2": 22, "mmlu": 5, "gsm8k": 5}, shapes.layout(pair))
            source = Snapshot(Path(folder) / "snapshot")
            names = sorted((each.n_tokens, each.sample_id) for each in source.samples("train"))
            ids = [[name for _, name in names[at : at + 4]] for at in range(0, len(names), 4)] * 4
        step(objective, [source.read(each, objective.signals, device) for each in ids[:2]])
        waited, started = [], time.perf_counter()
        batches = source.batches(ids, objective.signals, device)
        for _ in range(len(ids) // 2):
            before = time.perf_counter()
            pulled = list(itertools.islice(batches, 2))
            waited.append(time.perf_counter() - before)
            step(objective, pulled)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - started
    share = sum(waited[1:]) / (elapsed - waited[0])
    note = "read from memory: PyArrow is not installed" if "pyarrow" in missing else "read from Parquet"
    yield Figure(WAITING, share, "share", note=note, details={"steps": len(waited), "first_seconds": waited[0]})


def compiled(device: torch.device, seconds: float) -> Iterator[Figure]:
    """A step under torch.compile with free sizes, beside the same without.

    Where attention is recorded, feed-forward blocks alone: whole layers would be compiled once for each place in the
    model. A CPU traces those without generating code, which takes minutes there and says nothing about a GPU.
    """
    pair, step = opened("bf16", device)
    batches = [on_device(each, pair, device) for each in shapes.steps(pair)]
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    layers: Any = step.student.model.base_model.layers
    for group, name in COMPILED.items():
        if group == "sft" and device.type != "cuda":
            yield Figure(name, None, note="whole layers are compiled on a GPU alone")
            continue
        for layer in layers:
            (layer if group == "sft" else layer.mlp).compile(dynamic=True, backend=backend)
        objective = shapes.objective(pair, shapes.groups()[group], step.student, device)
        yield from guarded(
            (name,),
            lambda name=name, objective=objective: _compiled(name, step, objective, batches, device, seconds / 6),
        )


def _compiled(
    name: str, step: Step, objective: Objective, batches: list[list[Batch]], device: torch.device, seconds: float
) -> Iterator[Figure]:
    def run() -> None:
        for each in batches:
            step(objective, each)

    def eager() -> None:
        with torch.compiler.set_stance("force_eager"):
            run()

    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    times = in_turns({"compiled": run, "eager": eager}, device, seconds)
    note = f"pays below 1; the first {len(batches)} steps, which compile, took {first:.0f} s"
    yield Figure.of(name, ratio(times["compiled"], times["eager"]), note, first_seconds=first)
