"""The objective on real tiny Llama models: shift, padding, micro-batches, processes, and where gradients arrive."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import sections
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from glassbox.config.settings import Weights
from glassbox.models.loading import output_head, output_rows
from glassbox.models.signals import ATTENTION_NAME, position_signals
from glassbox.objective import Objective, Projector, position_weights
from glassbox.objective.head import Head, HeadTerms, head_losses
from glassbox.objective.logits import DenseTarget
from glassbox.snapshot.reader import Batch

VOCABULARY, STUDENT_WIDTH, TEACHER_WIDTH = 24, 16, 24
ALL = Weights(task=1.0, logits=0.5, hidden=0.3, attention=0.7)
LENGTHS = ((5, 3), (9, 4), (4, 1), (12, 6), (7, 2), (6, 4), (11, 1), (8, 5))


@dataclass
class Sample:
    """Token ids, the first position whose next token is in the answer, and the teacher's signals at those positions."""

    ids: Tensor
    loss_start: int
    hidden: Tensor
    attention: Tensor

    @property
    def count(self) -> int:
        return len(self.ids) - 1 - self.loss_start


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def llama(width: int, heads: int, key_heads: int, seed: int, spread: float = 0.3) -> LlamaForCausalLM:
    """A random model in float64 throughout: Llama's own norms would round to float32 on the way."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=64,
        initializer_range=spread,
        attn_implementation=ATTENTION_NAME,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.input_layernorm = nn.RMSNorm(width, eps=1e-6)
        layer.post_attention_layernorm = nn.RMSNorm(width, eps=1e-6)
    model.model.norm = nn.RMSNorm(width, eps=1e-6)  # type: ignore[assignment]
    return model.double().eval()


def student_model() -> LlamaForCausalLM:
    return llama(STUDENT_WIDTH, 4, 2, seed=1)


def teacher_model() -> LlamaForCausalLM:
    return llama(TEACHER_WIDTH, 2, 2, seed=2)


def make_samples() -> list[Sample]:
    """Eight samples of different lengths with the signals of one teacher run per sample, without any padding."""
    teacher, samples = teacher_model(), []
    for seed, (prompt, answer) in enumerate(LENGTHS):
        ids = torch.randint(VOCABULARY, (prompt + answer,), generator=torch.Generator().manual_seed(seed))
        first, count = torch.tensor([prompt - 1]), torch.tensor([answer])
        with torch.no_grad():
            whole = torch.ones(1, len(ids), dtype=torch.bool)
            signals = position_signals(teacher, ids[None], whole, first, count, want_attention=True)
        assert signals.attention is not None
        samples.append(Sample(ids, prompt - 1, signals.hidden, signals.attention))
    return samples


def make_batch(samples: Sequence[Sample], side: str = "right", extra: int = 0, filler: int = 0) -> Batch:
    length = max(len(sample.ids) for sample in samples) + extra
    ids = torch.full((len(samples), length), filler)
    mask = torch.zeros(len(samples), length, dtype=torch.bool)
    starts = [length - len(sample.ids) if side == "left" else 0 for sample in samples]
    for row, (sample, start) in enumerate(zip(samples, starts, strict=True)):
        ids[row, start : start + len(sample.ids)] = sample.ids
        mask[row, start : start + len(sample.ids)] = True
    count = torch.tensor([sample.count for sample in samples])
    widened = [nn.functional.pad(sample.attention, (0, length - len(sample.ids))) for sample in samples]
    return Batch(
        sample_ids=tuple(f"toy/train/{row}" for row in range(len(samples))),
        tasks=("toy",) * len(samples),
        input_ids=ids,
        attention_mask=mask,
        first=torch.tensor([start + sample.loss_start for sample, start in zip(samples, starts, strict=True)]),
        count=count,
        answer_count=count,
        labels=torch.cat([sample.ids[sample.loss_start + 1 :] for sample in samples]),
        sample_index=torch.repeat_interleave(torch.arange(len(samples)), count),
        hidden=torch.cat([sample.hidden for sample in samples]),
        attention=torch.cat(widened),
    )


def make_objective(
    weights: Weights, projector: Projector | None, teacher: PreTrainedModel | None = None, **settings: object
) -> Objective:
    head = output_head(teacher or teacher_model()).weight
    assert isinstance(head, Tensor)
    width = head.shape[1]
    return Objective(
        weights,
        sections.objective(**settings),  # type: ignore[arg-type]
        head=(head.detach(), None),
        channels=(draw(width, seed=3), draw(width, seed=4).abs() + 0.2),
        temperatures=(1.0, 2.0, 4.0),
        projector=projector,
    )


def head_of(model: PreTrainedModel) -> Head:
    return Head(*output_rows(model, VOCABULARY))


def components_of(
    objective: Objective, model: PreTrainedModel, batch: Batch, ids: Tensor | None = None
) -> dict[str, Tensor]:
    """The components per position of a model's forward pass over the batch, or over other ids of its shape."""
    ids = batch.input_ids if ids is None else ids
    signals = position_signals(
        model, ids, batch.attention_mask, batch.first, batch.count, want_attention=objective.needs_attention
    )
    weights = dict.fromkeys(objective.weights, torch.ones(len(batch.labels), dtype=torch.float64))
    return objective.loss(signals, head_of(model), batch, weights)[1]


def make_projector() -> Projector:
    return Projector(STUDENT_WIDTH, TEACHER_WIDTH, torch.Generator().manual_seed(5)).double()


class Trainee(nn.Module):
    """Student and projector in one module, whose forward is a micro-batch's part of the step's loss."""

    def __init__(self, weights: Weights = ALL, **settings: object) -> None:
        super().__init__()
        self.student, self.projector = student_model(), make_projector()
        self.objective = make_objective(weights, self.projector, **settings)

    def forward(self, batch: Batch, samples_in_step: int, positions_in_step: int) -> Tensor:
        objective = self.objective
        signals = position_signals(
            self.student,
            batch.input_ids,
            batch.attention_mask,
            batch.first,
            batch.count,
            want_attention=objective.needs_attention,
        )
        weights = position_weights(
            batch.sample_index,
            batch.count,
            samples_in_step=samples_in_step,
            positions_in_step=positions_in_step,
            reduction=objective.settings.reduction,
        )
        return objective.loss(signals, head_of(self.student), batch, dict.fromkeys(objective.weights, weights))[0]


def step(batches: Sequence[Batch], samples: Sequence[Sample], **settings: object) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one optimizer step over micro-batches."""
    trainee = Trainee(**settings)
    loss = 0.0
    for batch in batches:
        part = trainee(batch, len(samples), sum(sample.count for sample in samples))
        part.backward()
        loss += part.item()
    return loss, {name: weight.grad for name, weight in trainee.named_parameters() if weight.grad is not None}


def assert_same_step(
    one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]], tolerance: float = 1e-7
) -> None:
    """Position weights are float32, so whole steps agree to about eight digits."""
    assert other[0] == pytest.approx(one[0], rel=tolerance)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert torch.allclose(other[1][name], gradient, rtol=1e-5, atol=tolerance), name


VARIANTS = [
    pytest.param({}, id="default"),
    pytest.param({"reduction": "position", "hidden_loss": "cosine", "attention_loss": "kl"}, id="position, cosine, kl"),
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_padding_on_either_side_none_and_its_contents_leave_loss_and_gradient_alone(settings: dict[str, str]) -> None:
    samples = make_samples()
    unpadded = step([make_batch([sample]) for sample in samples], samples, **settings)
    assert unpadded[0] > 0.1
    for side in ("left", "right"):
        for extra, filler in ((0, 0), (3, 7)):
            assert_same_step(unpadded, step([make_batch(samples, side, extra, filler)], samples, **settings))


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_micro_batches_leave_loss_and_gradient_alone(size: int, settings: dict[str, str]) -> None:
    samples = make_samples()
    whole = step([make_batch(samples)], samples, **settings)
    parts = [make_batch(samples[start : start + size]) for start in range(0, len(samples), size)]
    assert_same_step(whole, step(parts, samples, **settings))


def test_an_empty_micro_batch_leaves_loss_and_gradient_alone() -> None:
    samples = make_samples()
    assert_same_step(step([make_batch(samples)], samples), step([make_batch(samples), empty_batch(samples)], samples))


def empty_batch(samples: Sequence[Sample]) -> Batch:
    return make_batch(
        [Sample(s.ids, len(s.ids) - 1, s.hidden[:0], s.attention[:0]) for s in samples[:2]],
    )


def train_one_rank(rank: int, folder: str, empty_last: bool) -> None:
    """One step of one of two processes; DDP averages gradients over processes, so the loss is multiplied back.

    Leaves without Python's clean-up: torch's process group, when its last owner lets go of it, can wait with the
    interpreter's lock for a thread that needs that lock.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=(Path(folder) / "rendezvous").as_uri(), rank=rank, world_size=2
    )
    samples = make_samples()
    if empty_last:
        batch = make_batch(samples) if rank == 0 else empty_batch(samples)
    else:
        batch = make_batch(samples[:3] if rank == 0 else samples[3:])
    trainee = Trainee()
    wrapped = DistributedDataParallel(trainee)
    loss = wrapped(batch, len(samples), sum(sample.count for sample in samples))
    (loss * 2).backward()
    gradients = {name: weight.grad for name, weight in trainee.named_parameters() if weight.grad is not None}
    torch.save({"loss": loss.item(), "gradients": gradients}, Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("empty_last", [False, True], ids=["shared out", "one rank empty"])
def test_two_processes_take_the_same_step_as_one(tmp_path: Path, empty_last: bool) -> None:
    processes = torch.multiprocessing.spawn(
        train_one_rank, args=(str(tmp_path), empty_last), nprocs=2, join=False, daemon=True
    )
    assert processes is not None
    deadline = time.monotonic() + 180
    while not processes.join(timeout=5):
        assert time.monotonic() < deadline, "the two processes did not end"
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    samples = make_samples()
    whole = step([make_batch(samples)], samples)
    for rank in ranks:
        assert_same_step(whole, (ranks[0]["loss"] + ranks[1]["loss"], rank["gradients"]))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_and_a_random_one_has() -> None:
    samples, teacher = make_samples(), teacher_model()
    projector = Projector(TEACHER_WIDTH, TEACHER_WIDTH, torch.Generator().manual_seed(0)).double()
    objective = make_objective(ALL, projector, teacher)
    assert objective.channels is not None
    mean, deviation = objective.channels
    with torch.no_grad():
        projector.weight.copy_(torch.diag(1 / deviation))
        projector.bias.copy_(-mean / deviation)
    for student, equal in ((teacher, True), (llama(TEACHER_WIDTH, 2, 1, seed=8), False)):
        for side in ("left", "right"):
            batch = make_batch(samples, side)
            components = components_of(objective, student, batch)
            for name in ("logits", "hidden", "attention"):
                if equal:
                    assert components[name].abs().max() < 1e-6, name
                else:
                    assert components[name].mean() > 1e-2, name


def test_the_dense_target_is_the_teachers_own_logits() -> None:
    samples, teacher = make_samples(), teacher_model()
    batch, student = make_batch(samples), draw(sum(sample.count for sample in samples), VOCABULARY)
    with torch.no_grad():
        own = torch.cat([teacher(s.ids[None]).logits[0, s.loss_start : len(s.ids) - 1] for s in samples])
    log_p, log_q = (torch.log_softmax(logits / 2.0, -1) for logits in (own, student))
    expected = 4.0 * (log_p.exp() * (log_p - log_q)).sum(-1)
    assert batch.hidden is not None
    target = DenseTarget(batch.hidden, *output_rows(teacher, VOCABULARY))
    assert torch.allclose(target.divergence(student, slice(None), 2.0, squared=True).values, expected, atol=1e-9)


COMPONENTS = {
    "task": Weights(task=1.0),
    "logits": Weights(logits=1.0),
    "hidden": Weights(hidden=1.0),
    "attention": Weights(attention=1.0),
}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("settings", VARIANTS)
def test_every_component_alone_sends_a_finite_gradient_that_is_not_zero_into_the_student(
    component: str, settings: dict[str, str]
) -> None:
    samples = make_samples()
    trainee = Trainee(COMPONENTS[component], **settings)
    trainee(make_batch(samples), len(samples), sum(sample.count for sample in samples)).backward()
    gradients = {name: weight.grad for name, weight in trainee.named_parameters() if weight.grad is not None}
    reached = ["student.model.embed_tokens.weight", "student.model.layers.0.mlp.down_proj.weight"]
    reached += [f"student.model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qk"]
    if component == "hidden":
        reached += ["projector.weight", "projector.bias"]
    for name in reached:
        assert gradients[name].isfinite().all(), name
        assert gradients[name].abs().max() > 1e-8, name
    if component == "attention":
        assert "student.model.layers.1.self_attn.v_proj.weight" not in gradients
    if component != "hidden":
        assert "projector.weight" not in gradients


@pytest.mark.parametrize("name", ["embed_tokens.weight", "layers.1.self_attn.q_proj.weight"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_whole_objectives_gradient_on_a_model_weight_agrees_with_a_numeric_derivative(
    name: str, temperature: float
) -> None:
    samples = make_samples()
    trainee, batch = Trainee(temperature=temperature), make_batch(samples, "left")
    weight = trainee.student.model.get_parameter(name)
    direction, size = draw(*weight.shape, seed=9), 1e-5
    counts = (len(samples), sum(sample.count for sample in samples))
    (gradient,) = torch.autograd.grad(trainee(batch, *counts), weight)
    with torch.no_grad():
        weight += size * direction
        rise = trainee(batch, *counts)
        weight -= 2 * size * direction
        fall = trainee(batch, *counts)
    assert (gradient * direction).sum().item() == pytest.approx(((rise - fall) / (2 * size)).item(), rel=1e-5)


def test_changing_a_future_token_changes_no_earlier_positions_loss() -> None:
    samples = make_samples()[3:4]
    trainee, batch = Trainee(), make_batch(samples)

    changed, touched = batch.input_ids.clone(), 3
    column = int(batch.first[0]) + touched
    changed[0, column] = (changed[0, column] + 1) % VOCABULARY
    with torch.no_grad():
        before = components_of(trainee.objective, trainee.student, batch)
        after = components_of(trainee.objective, trainee.student, batch, changed)
    for name, values in before.items():
        assert torch.equal(values[:touched], after[name][:touched]), name
        assert (values[touched:] != after[name][touched:]).all(), name


def final_loss(label_offset: int, position_offset: int) -> float:
    """Train `[random tokens] r g(r) [random token]` to say g(r) after r; every step draws new tokens."""
    generator = torch.Generator().manual_seed(0)
    student = llama(32, 2, 2, seed=3, spread=0.1).float()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    rows, prompt, losses = 32, 4, []
    for _ in range(120):
        ids = torch.randint(VOCABULARY, (rows, prompt + 3), generator=generator)
        ids[:, prompt + 1] = (ids[:, prompt] * 5 + 3) % VOCABULARY
        first = torch.full((rows,), prompt + position_offset)
        mask = torch.ones_like(ids, dtype=torch.bool)
        signals = position_signals(student, ids, mask, first, torch.ones_like(first), want_attention=False)
        terms = HeadTerms(ids[:, prompt + 1 + label_offset])
        loss, _ = head_losses(signals.hidden, head_of(student), terms, {"task": torch.full((rows,), 1 / rows)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


@pytest.mark.slow
def test_the_right_shift_drives_a_toy_task_under_a_hundredth() -> None:
    assert final_loss(0, 0) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("label_offset", "position_offset"), [(1, 0), (0, -1)], ids=["label late", "state early"])
def test_a_wrong_shift_cannot(label_offset: int, position_offset: int) -> None:
    assert final_loss(label_offset, position_offset) > 2.0
