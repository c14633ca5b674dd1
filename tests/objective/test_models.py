"""The objective on real tiny Llama models: shift, padding, micro-batches, processes, and where gradients arrive."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sections
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from glassbox.config.settings import Weights
from glassbox.errors import GlassboxError
from glassbox.models.loading import output_head, output_rows
from glassbox.models.signals import ATTENTION_NAME, PositionSignals, position_signals
from glassbox.objective import Ingredients, Objective, Projector, component_weights, totals_of
from glassbox.objective.contrastive import Negatives
from glassbox.objective.head import Head, HeadTerms, head_losses
from glassbox.objective.layer_router import LayerRouter
from glassbox.objective.logits import DenseTarget
from glassbox.snapshot.reader import Batch

VOCABULARY, STUDENT_WIDTH, TEACHER_WIDTH = 24, 16, 24
FURTHER = {"layers": 0.2, "layer_router": 0.2, "relations": 0.6, "contrastive": 0.1}
ALL = Weights(task=1.0, logits=0.5, hidden=0.3, attention=0.7, **FURTHER)
OUTLINE = ("task", "logits", "hidden", "attention")
COMPONENTS = tuple(ALL.active)
PAIRS = ((1, 1), (2, 2))
LENGTHS = ((5, 3), (9, 4), (4, 1), (12, 6), (7, 2), (6, 4), (11, 1), (8, 5))


SIGNALS = ("hidden", "attention", "layers")
ANSWERS = dict.fromkeys(COMPONENTS, "answer")
MIXED = {**ANSWERS, "logits": "all", "attention": "all", "layers": "all", "layer_router": "all", "contrastive": "all"}
RELATED = {**ANSWERS, "relations": "all"}
REACHES = [ANSWERS, *({**ANSWERS, name: "all"} for name in OUTLINE), RELATED, MIXED, dict.fromkeys(COMPONENTS, "all")]
LABELS = {
    "all": None,
    "half": (True, False, False, True, True, False, False, True),
    "none in a micro-batch": (False, False, False, False, False, True, True, False),
}


@dataclass
class Sample:
    """Token ids, the first position whose next token is in the answer, and the teacher's signals at every position."""

    ids: Tensor
    loss_start: int
    hidden: Tensor
    attention: Tensor
    layers: Tensor
    relations: Tensor

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
        first, count = torch.tensor([0]), torch.tensor([len(ids) - 1])
        with torch.no_grad():
            whole = torch.ones(1, len(ids), dtype=torch.bool)
            signals = position_signals(
                teacher, ids[None], whole, first, count, want_attention=True, layers=(1,), relations_layer=2
            )
        assert signals.attention is not None and signals.layers is not None and signals.relations is not None
        relations = torch.cat(signals.relations, -1)[0, :-1]
        samples.append(Sample(ids, prompt - 1, signals.hidden, signals.attention, signals.layers, relations))
    return samples


def make_batch(
    samples: Sequence[Sample],
    side: str = "right",
    extra: int = 0,
    filler: int = 0,
    *,
    whole: Iterable[str] = (),
    labelled: Sequence[bool] | None = None,
) -> Batch:
    """The batch that a reader would deliver of an objective's `whole`, with `labelled` marks where there are any."""
    length = max(len(sample.ids) for sample in samples) + extra
    ids = torch.full((len(samples), length), filler)
    mask = torch.zeros(len(samples), length, dtype=torch.bool)
    starts = [length - len(sample.ids) if side == "left" else 0 for sample in samples]
    for row, (sample, start) in enumerate(zip(samples, starts, strict=True)):
        ids[row, start : start + len(sample.ids)] = sample.ids
        mask[row, start : start + len(sample.ids)] = True
    everywhere = "tokens" in whole
    answer_count = torch.tensor([sample.count for sample in samples])
    tokens = torch.tensor([len(sample.ids) for sample in samples])
    count = tokens - 1 if everywhere else answer_count
    widened = [nn.functional.pad(sample.attention, (0, length - len(sample.ids))) for sample in samples]
    places = [torch.arange(0 if everywhere else sample.loss_start, len(sample.ids) - 1) for sample in samples]
    hidden, attention, layers = (
        torch.cat([each[0 if name in whole else s.loss_start :] for each, s in zip(stored, samples, strict=True)])
        for name, stored in (
            ("hidden", [sample.hidden for sample in samples]),
            ("attention", widened),
            ("layers", [sample.layers for sample in samples]),
        )
    )
    in_answer = torch.cat([place >= sample.loss_start for place, sample in zip(places, samples, strict=True)])
    return Batch(
        sample_ids=tuple(f"toy/train/{row}" for row in range(len(samples))),
        tasks=("toy",) * len(samples),
        input_ids=ids,
        attention_mask=mask,
        first=torch.tensor(starts) + tokens - 1 - count,
        count=count,
        answer_count=answer_count,
        labels=torch.cat([sample.ids[place + 1] for sample, place in zip(samples, places, strict=True)]),
        sample_index=torch.repeat_interleave(torch.arange(len(samples)), count),
        answer=in_answer if everywhere else None,
        labelled=None if labelled is None else torch.tensor(labelled),
        hidden=hidden,
        attention=attention,
        further={"layers": layers, "relations": torch.cat([sample.relations for sample in samples])},
    )


def make_objective(
    weights: Weights,
    projectors: Mapping[str, nn.Module],
    teacher: PreTrainedModel | None = None,
    **settings: object,
) -> Objective:
    head = output_head(teacher or teacher_model()).weight
    assert isinstance(head, Tensor)
    width = head.shape[1]
    return Objective(
        weights,
        sections.objective(**settings),  # type: ignore[arg-type]
        Ingredients(
            head=(head.detach(), None),
            channels=(draw(width, seed=3), draw(width, seed=4).abs() + 0.2),
            temperatures=(1.0, 2.0, 4.0),
            projectors=projectors,
            layer_pairs=PAIRS,
            student_layers=(1,),
            teacher_layers=(1,),
            layer_channels=(draw(1, width, seed=5), draw(1, width, seed=6).abs() + 0.2),
            initial_layer_losses=torch.tensor([2.0, 0.5], dtype=torch.float64),
            student_relations_layer=2,
            relation_widths=(width, width, width),
            relation_heads=2,
            negatives=Negatives(draw(16, width, seed=7), torch.arange(16) % VOCABULARY),
        ),
    )


def head_of(model: PreTrainedModel) -> Head:
    return Head(*output_rows(model, VOCABULARY))


def components_of(
    objective: Objective, model: PreTrainedModel, batch: Batch, ids: Tensor | None = None
) -> dict[str, Tensor]:
    """The components per position of a model's forward pass over the batch, or over other ids of its shape."""
    ids = batch.input_ids if ids is None else ids
    signals = signals_of(objective, model, batch, ids)
    weights = dict.fromkeys(objective.weights, torch.ones(len(batch.labels), dtype=torch.float64))
    return objective.loss(signals, head_of(model), batch, weights)[1]


def signals_of(objective: Objective, model: PreTrainedModel, batch: Batch, ids: Tensor) -> PositionSignals:
    return position_signals(
        model,
        ids,
        batch.attention_mask,
        batch.first,
        batch.count,
        want_attention="attention" in objective.asks,
        attention_count=batch.counts(objective.reach_of("attention")),
        layers=(1,) if "layers" in objective.asks else (),
        relations_layer=2 if "relations" in objective.asks else None,
    )


def make_projectors(student: int = STUDENT_WIDTH) -> nn.ModuleDict:
    def one(seed: int) -> Projector:
        return Projector(student, TEACHER_WIDTH, torch.Generator().manual_seed(seed)).double()

    router = LayerRouter(student, TEACHER_WIDTH, 2, torch.Generator().manual_seed(9)).double()
    nn.init.normal_(router.router.weight, generator=torch.Generator().manual_seed(10))
    layers = nn.ModuleList([one(6), one(7)])
    return nn.ModuleDict({"hidden": one(5), "layers": layers, "layer_router": router, "contrastive": one(8)})


class Trainee(nn.Module):
    """Student and projectors in one module, whose forward is a micro-batch's part of the step's loss."""

    def __init__(self, weights: Weights = ALL, **settings: object) -> None:
        super().__init__()
        self.student, self.projectors = student_model(), make_projectors()
        self.objective = make_objective(weights, dict(self.projectors.items()), **settings)

    def totals(self, batches: Iterable[Batch]) -> dict[str, float]:
        return totals_of(batches, self.objective.positions, self.objective.weights)

    def forward(self, batch: Batch, totals: Mapping[str, float]) -> Tensor:
        objective = self.objective
        signals = signals_of(objective, self.student, batch, batch.input_ids)
        weights = component_weights(batch, objective.positions, objective.weights, totals, objective.settings.reduction)
        return objective.loss(signals, head_of(self.student), batch, weights)[0]


def step(batches: Sequence[Batch], **settings: object) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one optimizer step over micro-batches."""
    trainee = Trainee(**settings)
    loss, totals = 0.0, trainee.totals(batches)
    for batch in batches:
        part = trainee(batch, totals)
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
    unpadded = step([make_batch([sample]) for sample in samples], **settings)
    assert unpadded[0] > 0.1
    for side in ("left", "right"):
        for extra, filler in ((0, 0), (3, 7)):
            assert_same_step(unpadded, step([make_batch(samples, side, extra, filler)], **settings))


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_micro_batches_leave_loss_and_gradient_alone(size: int, settings: dict[str, str]) -> None:
    samples = make_samples()
    whole = step([make_batch(samples)], **settings)
    parts = [make_batch(samples[start : start + size]) for start in range(0, len(samples), size)]
    assert_same_step(whole, step(parts, **settings))


def whole_of(positions: Mapping[str, str]) -> frozenset[str]:
    """What a reader must deliver at all positions for these."""
    return make_objective(ALL, dict(make_projectors().items()), positions=dict(positions)).whole


def marks(labelled: Sequence[bool] | None, part: slice) -> Sequence[bool] | None:
    return None if labelled is None else labelled[part]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("positions", REACHES, ids=lambda each: " ".join(k for k, v in each.items() if v == "all"))
def test_padding_and_micro_batches_leave_the_step_alone_at_any_positions_and_labels(
    positions: dict[str, str], labels: str
) -> None:
    samples, whole, labelled = make_samples(), whole_of(positions), LABELS[labels]
    settings = {"positions": positions, "reduction": "position" if positions["task"] == "all" else "sample"}
    reference = step([make_batch(samples, whole=whole, labelled=labelled)], **settings)
    padded = make_batch(samples, "left", 3, 7, whole=whole, labelled=labelled)
    assert_same_step(reference, step([padded], **settings))
    for size in (1, 2):
        parts = [slice(start, start + size) for start in range(0, len(samples), size)]
        if labels == "none in a micro-batch":
            assert not any(marks(labelled, parts[0]) or ())
        batches = [make_batch(samples[part], whole=whole, labelled=marks(labelled, part)) for part in parts]
        assert_same_step(reference, step(batches, **settings))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("reduction", ["sample", "position"])
@pytest.mark.parametrize("positions", REACHES, ids=lambda each: " ".join(k for k, v in each.items() if v == "all"))
def test_each_component_is_the_mean_over_the_samples_that_have_it(
    positions: dict[str, str], reduction: str, labels: str
) -> None:
    """Against loops over each sample alone, whose components are taken at all of its positions."""
    samples, labelled = make_samples(), LABELS[labels]
    everywhere = dict.fromkeys(COMPONENTS, "all")
    alone = Trainee(positions=everywhere)
    expected = {name: [] for name in COMPONENTS}
    for row, sample in enumerate(samples):
        found = components_of(alone.objective, alone.student, make_batch([sample], whole=whole_of(everywhere)))
        for name, values in found.items():
            if name != "task" or labelled is None or labelled[row]:
                expected[name].append(values[sample.loss_start :] if positions[name] == "answer" else values)
    means = {
        name: torch.cat(parts).mean() if reduction == "position" else torch.stack([p.mean() for p in parts]).mean()
        for name, parts in expected.items()
    }
    trainee = Trainee(positions=positions, reduction=reduction)
    batch = make_batch(samples, "left", whole=trainee.objective.whole, labelled=labelled)
    weights = component_weights(batch, positions, COMPONENTS, trainee.totals([batch]), reduction)
    with torch.no_grad():
        signals = signals_of(trainee.objective, trainee.student, batch, batch.input_ids)
        loss, components = trainee.objective.loss(signals, head_of(trainee.student), batch, weights)
    for name, mean in means.items():
        assert (components[name] * weights[name]).sum().item() == pytest.approx(mean.item(), rel=1e-6), name
        assert weights[name].sum().item() == pytest.approx(1.0, rel=1e-6), name
    total = sum(weight * float(means[name]) for name, weight in ALL.active.items())
    assert loss.item() == pytest.approx(total, rel=1e-6)


def test_a_batch_that_holds_all_positions_changes_nothing_for_components_at_the_answer() -> None:
    samples = make_samples()
    everything = frozenset({"tokens", *SIGNALS})
    assert_same_step(step([make_batch(samples)]), step([make_batch(samples, whole=everything)]))


def test_a_step_without_a_label_has_no_task_loss_and_one_without_any_component_is_refused() -> None:
    samples, nobody = make_samples()[:2], (False, False)
    labels, objective = make_batch(samples, labelled=nobody), make_objective(ALL, dict(make_projectors().items()))
    totals = totals_of([labels], objective.positions, objective.weights)
    weights = component_weights(labels, objective.positions, objective.weights, totals, "sample")
    assert weights["task"].tolist() == [0.0] * len(labels.labels)
    assert weights["logits"].sum().item() == pytest.approx(1.0)
    with pytest.raises(GlassboxError, match="holds no answer position"):
        component_weights(labels, objective.positions, ["task"], totals, "sample")


def test_an_empty_micro_batch_leaves_loss_and_gradient_alone() -> None:
    samples = make_samples()
    assert_same_step(step([make_batch(samples)]), step([make_batch(samples), empty_batch(samples)]))


def empty_batch(samples: Sequence[Sample]) -> Batch:
    return make_batch(
        [Sample(s.ids, len(s.ids) - 1, s.hidden, s.attention, s.layers, s.relations) for s in samples[:2]],
    )


CASES = ("shared out", "one rank empty", "mixed positions, one rank unlabelled")


def rank_batches(samples: Sequence[Sample], case: str) -> list[Batch]:
    """The micro-batch of each of two ranks."""
    if case == "one rank empty":
        return [make_batch(samples), empty_batch(samples)]
    if case == "shared out":
        return [make_batch(samples[:3]), make_batch(samples[3:])]
    whole, labelled = whole_of(MIXED), (False,) * 3 + (True, False, True, True, False)
    return [make_batch(samples[part], whole=whole, labelled=labelled[part]) for part in (slice(0, 3), slice(3, None))]


def train_one_rank(rank: int, folder: str, case: str) -> None:
    """One step of one of two processes; DDP averages gradients over processes, so the loss is multiplied back.

    Leaves without Python's clean-up: torch's process group, when its last owner lets go of it, can wait with the
    interpreter's lock for a thread that needs that lock.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=(Path(folder) / "rendezvous").as_uri(), rank=rank, world_size=2
    )
    samples = make_samples()
    batches = rank_batches(samples, case)
    batch = batches[rank]
    trainee = Trainee(positions=MIXED if case == "mixed positions, one rank unlabelled" else ANSWERS)
    wrapped = DistributedDataParallel(trainee)
    loss = wrapped(batch, trainee.totals(batches))
    (loss * 2).backward()
    gradients = {name: weight.grad for name, weight in trainee.named_parameters() if weight.grad is not None}
    torch.save({"loss": loss.item(), "gradients": gradients}, Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_same_step_as_one(tmp_path: Path, case: str) -> None:
    processes = torch.multiprocessing.spawn(
        train_one_rank, args=(str(tmp_path), case), nprocs=2, join=False, daemon=True
    )
    assert processes is not None
    deadline = time.monotonic() + 180
    while not processes.join(timeout=5):
        assert time.monotonic() < deadline, "the two processes did not end"
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    samples = make_samples()
    whole = step([make_batch(samples)])
    if case == CASES[2]:
        labelled = (False,) * 3 + (True, False, True, True, False)
        whole = step([make_batch(samples, whole=whole_of(MIXED), labelled=labelled)], positions=MIXED)
    for rank in ranks:
        assert_same_step(whole, (ranks[0]["loss"] + ranks[1]["loss"], rank["gradients"]))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_and_a_random_one_has() -> None:
    samples, teacher = make_samples(), teacher_model()
    projectors: Any = make_projectors(TEACHER_WIDTH)
    objective = make_objective(ALL, dict(projectors.items()), teacher)
    own = objective.ingredients
    assert own.channels is not None and own.layer_channels is not None
    last, first = own.channels, [each[0] for each in own.layer_channels]
    standardising = {projectors["hidden"]: last, projectors["layers"][0]: first, projectors["layers"][1]: last}
    with torch.no_grad():
        for projector, (mean, deviation) in standardising.items():
            projector.weight.copy_(torch.diag(1 / deviation))
            projector.bias.copy_(-mean / deviation)
    for student, equal in ((teacher, True), (llama(TEACHER_WIDTH, 2, 1, seed=8), False)):
        for side in ("left", "right"):
            batch = make_batch(samples, side)
            components = components_of(objective, student, batch)
            for name in ("logits", "hidden", "attention", "layers", "relations"):
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


ALONE = {name: Weights.model_validate({name: 1.0}) for name in COMPONENTS}


@pytest.mark.parametrize("component", ALONE)
@pytest.mark.parametrize("settings", VARIANTS)
def test_every_component_alone_sends_a_finite_gradient_that_is_not_zero_into_the_student(
    component: str, settings: dict[str, str]
) -> None:
    samples = make_samples()
    trainee = Trainee(ALONE[component], **settings)
    batch = make_batch(samples)
    trainee(batch, trainee.totals([batch])).backward()
    gradients = {name: weight.grad for name, weight in trainee.named_parameters() if weight.grad is not None}
    reached = ["student.model.embed_tokens.weight", "student.model.layers.0.mlp.down_proj.weight"]
    reached += [f"student.model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qk"]
    own = [name for name, _ in trainee.named_parameters() if name.startswith(f"projectors.{component}.")]
    reached += own
    for name in reached:
        assert gradients[name].isfinite().all(), name
        assert gradients[name].abs().max() > 1e-8, name
    if component == "relations":
        assert "student.model.layers.1.mlp.down_proj.weight" not in gradients
    if component == "attention":
        assert "student.model.layers.1.self_attn.v_proj.weight" not in gradients
    assert [name for name in gradients if name.startswith("projectors.")] == own


@pytest.mark.parametrize("name", ["embed_tokens.weight", "layers.1.self_attn.q_proj.weight"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("mixed", [False, True], ids=["answers", "mixed positions, half labelled"])
def test_the_whole_objectives_gradient_on_a_model_weight_agrees_with_a_numeric_derivative(
    name: str, temperature: float, mixed: bool
) -> None:
    samples, positions, labelled = make_samples(), MIXED if mixed else ANSWERS, LABELS["half"] if mixed else None
    trainee = Trainee(temperature=temperature, positions=positions)
    batch = make_batch(samples, "left", whole=whole_of(positions), labelled=labelled)
    weight = trainee.student.model.get_parameter(name)
    direction, size = draw(*weight.shape, seed=9), 1e-5
    totals = trainee.totals([batch])
    (gradient,) = torch.autograd.grad(trainee(batch, totals), weight)
    with torch.no_grad():
        weight += size * direction
        rise = trainee(batch, totals)
        weight -= 2 * size * direction
        fall = trainee(batch, totals)
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
