"""Where weights meet components: what is computed, how it is averaged over a step, and what is logged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glassbox.config import ObjectiveSettings, Weights
from glassbox.errors import GlassboxError
from glassbox.objective import Objective, Projector, position_weights, shares
from glassbox.objective.attention import map_kl
from glassbox.objective.hidden import cosine, standardise
from glassbox.objective.logits import dense_kl
from glassbox.signals import PositionSignals
from glassbox.snapshot.reader import Batch

COUNTS = (3, 1, 5, 2)
TASKS = ("gsm8k", "sst2", "gsm8k", "mmlu")
POSITIONS, VOCABULARY, LENGTH = sum(COUNTS), 20, 12
STUDENT_WIDTH, TEACHER_WIDTH, STUDENT_HEADS, TEACHER_HEADS = 6, 8, 2, 4

ALL = Weights(task=1.0, logits=0.5, hidden=0.1, attention=0.2)
GROUPS = {
    "sft": Weights(task=1.0),
    "black_box": Weights(task=1.0, logits=0.5),
    "hidden_state": Weights(task=1.0, logits=0.5, hidden=0.1),
    "attention": Weights(task=1.0, logits=0.5, attention=0.1),
    "combined": Weights(task=1.0, logits=0.5, hidden=0.1, attention=0.1),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_batch() -> Batch:
    teacher = draw(POSITIONS, VOCABULARY, seed=1)
    teacher = teacher - teacher.amax(-1, keepdim=True)
    values, ids = teacher.topk(5)
    rest = teacher.scatter(-1, ids, -torch.inf)
    nowhere = torch.zeros(len(COUNTS), LENGTH, dtype=torch.long)
    return Batch(
        sample_ids=tuple(f"{task}/train/{row}" for row, task in enumerate(TASKS)),
        tasks=TASKS,
        input_ids=nowhere,
        attention_mask=nowhere.bool(),
        first=torch.zeros(len(COUNTS), dtype=torch.long),
        count=torch.tensor(COUNTS),
        labels=torch.arange(POSITIONS),
        sample_index=torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS)),
        topk_ids=ids,
        topk_logits=values,
        log_tail=torch.stack([torch.logsumexp(rest / t, -1) for t in (1.0, 2.0, 4.0)], -1),
        hidden=draw(POSITIONS, TEACHER_WIDTH, seed=2),
        attention=torch.softmax(draw(POSITIONS, TEACHER_HEADS, LENGTH, seed=3), -1),
    )


def make_student() -> tuple[PositionSignals, Tensor]:
    maps = torch.softmax(draw(POSITIONS, STUDENT_HEADS, LENGTH, seed=4).requires_grad_(), -1)
    return PositionSignals(draw(POSITIONS, STUDENT_WIDTH, seed=5).requires_grad_(), maps), draw(
        POSITIONS, VOCABULARY, seed=6
    ).requires_grad_()


def make_objective(weights: Weights, **settings) -> Objective:
    return Objective(
        weights,
        ObjectiveSettings(**settings),
        head=(draw(VOCABULARY, TEACHER_WIDTH, seed=7), draw(VOCABULARY, seed=8)),
        channels=(draw(TEACHER_WIDTH, seed=9), draw(TEACHER_WIDTH, seed=10).abs() + 0.1),
        temperatures=(1.0, 2.0, 4.0),
        projector=Projector(STUDENT_WIDTH, TEACHER_WIDTH, torch.Generator().manual_seed(0)),
    )


def weights_of(batch: Batch, reduction: str = "sample") -> Tensor:
    return position_weights(
        batch.sample_index,
        batch.count,
        samples_in_step=len(COUNTS),
        positions_in_step=POSITIONS,
        reduction=reduction,
    )


def test_sample_reduction_is_the_mean_over_a_samples_positions_and_then_over_samples() -> None:
    batch, values = make_batch(), draw(POSITIONS)
    naive = torch.stack([part.mean() for part in values.split(COUNTS)]).mean()
    assert (weights_of(batch) * values).sum().item() == pytest.approx(naive.item(), abs=1e-6)


def test_position_reduction_is_the_plain_mean() -> None:
    batch, values = make_batch(), draw(POSITIONS)
    assert (weights_of(batch, "position") * values).sum().item() == pytest.approx(values.mean().item(), abs=1e-6)


@pytest.mark.parametrize("reduction", ["sample", "position"])
def test_the_weights_of_all_micro_batches_of_a_step_sum_to_one(reduction: str) -> None:
    total = 0.0
    for counts in ([3, 1], [5], [], [2]):
        index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
        total += (
            position_weights(
                index,
                torch.tensor(counts, dtype=torch.long),
                samples_in_step=4,
                positions_in_step=11,
                reduction=reduction,
            )
            .sum()
            .item()
        )
    assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("reduction", ["sample", "position"])
def test_a_step_without_a_valid_position_is_an_error(reduction: str) -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    with pytest.raises(GlassboxError, match=r"no answer position.*the update was not made"):
        position_weights(nothing, nothing, samples_in_step=0, positions_in_step=0, reduction=reduction)


def test_an_empty_micro_batch_contributes_zero_and_a_zero_gradient() -> None:
    full, (signals, logits) = make_batch(), make_student()
    assert full.hidden is not None and full.attention is not None and signals.attention is not None
    batch = replace(
        full,
        count=torch.zeros(4, dtype=torch.long),
        labels=full.labels[:0],
        sample_index=full.sample_index[:0],
        hidden=full.hidden[:0],
        attention=full.attention[:0],
    )
    objective = make_objective(ALL)
    components = objective.components(PositionSignals(signals.hidden[:0], signals.attention[:0]), logits[:0], batch)
    weights = weights_of(batch)
    total = objective.total(components, weights)
    total.backward()
    assert total.item() == 0.0
    assert all(value.item() == 0.0 for value in objective.values(components, weights, batch).values())
    assert logits.grad is not None and signals.hidden.grad is not None
    assert logits.grad.abs().max() == 0 and signals.hidden.grad.abs().max() == 0
    assert objective.projector is not None and objective.projector.weight.grad is not None
    assert objective.projector.weight.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("group", "active", "signals", "maps"),
    [
        ("sft", ["task"], set(), False),
        ("black_box", ["task", "logits"], {"hidden"}, False),
        ("hidden_state", ["task", "logits", "hidden"], {"hidden"}, False),
        ("attention", ["task", "logits", "attention"], {"hidden", "attention"}, True),
        ("combined", ["task", "logits", "hidden", "attention"], {"hidden", "attention"}, True),
    ],
)
def test_a_group_computes_exactly_its_components_and_asks_for_exactly_their_signals(
    group: str, active: list[str], signals: set[str], maps: bool
) -> None:
    objective = make_objective(GROUPS[group])
    student, logits = make_student()
    full = make_batch()
    batch = replace(
        full,
        topk_ids=None,
        topk_logits=None,
        log_tail=None,
        hidden=full.hidden if "hidden" in signals else None,
        attention=full.attention if maps else None,
    )
    student = student if maps else PositionSignals(student.hidden, None)
    assert list(objective.components(student, logits, batch)) == active
    assert objective.signals == signals
    assert objective.needs_attention is maps
    assert make_objective(GROUPS["black_box"], logits_target="topk").signals == {"topk"}


def test_the_total_is_the_weighted_sum_not_divided_by_the_weights() -> None:
    objective, batch, (student, logits) = make_objective(ALL), make_batch(), make_student()
    components, weights = objective.components(student, logits, batch), weights_of(batch)
    expected = sum(
        weight * (components[name] * weights).sum().item()
        for name, weight in {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.2}.items()
    )
    assert objective.total(components, weights).item() == pytest.approx(expected, rel=1e-5)


def test_combined_differs_from_black_box_by_both_terms_and_nothing_else() -> None:
    batch, (student, logits) = make_batch(), make_student()
    weights = weights_of(batch)
    totals = {
        name: (lambda o: o.total(o.components(student, logits, batch), weights).item())(make_objective(group))
        for name, group in GROUPS.items()
    }
    extra = totals["hidden_state"] + totals["attention"] - 2 * totals["black_box"]
    assert totals["combined"] - totals["black_box"] == pytest.approx(extra, rel=1e-4)
    assert extra > 1e-3


def test_the_log_holds_every_component_plain_and_weighted_the_total_and_its_counts() -> None:
    objective, batch, (student, logits) = make_objective(ALL), make_batch(), make_student()
    components, weights = objective.components(student, logits, batch), weights_of(batch)
    values = objective.values(components, weights, batch)
    assert not any(value.requires_grad for value in values.values())
    for name, weight in {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.2}.items():
        plain = (components[name] * weights).sum().item()
        assert values[f"loss_{name}"].item() == pytest.approx(plain, rel=1e-5)
        assert values[f"weighted_{name}"].item() == pytest.approx(weight * plain, rel=1e-5)
    assert values["loss_total"].item() == pytest.approx(objective.total(components, weights).item(), rel=1e-5)
    assert (values["positions"].item(), values["samples"].item()) == (POSITIONS, len(COUNTS))


def test_each_tasks_share_of_a_component_is_what_its_positions_add_to_it() -> None:
    objective, batch, (student, logits) = make_objective(ALL), make_batch(), make_student()
    components, weights = objective.components(student, logits, batch), weights_of(batch)
    values = {name: value.item() for name, value in objective.values(components, weights, batch).items()}
    result = shares(values)
    assert len(result) == 4 * 3
    per_sample = [part.mean().item() for part in components["logits"].detach().split(COUNTS)]
    assert result["share_logits/gsm8k"] == pytest.approx((per_sample[0] + per_sample[2]) / sum(per_sample), rel=1e-5)
    assert result["share_logits/sst2"] == pytest.approx(per_sample[1] / sum(per_sample), rel=1e-5)
    for component in ("task", "logits", "hidden", "attention"):
        assert sum(v for name, v in result.items() if name.startswith(f"share_{component}/")) == pytest.approx(1.0)


def test_named_tasks_fix_the_keys_of_the_parts_where_a_batch_lacks_one() -> None:
    objective, batch, (student, logits) = make_objective(GROUPS["sft"]), make_batch(), make_student()
    components = objective.components(student, logits, batch)
    values = objective.values(components, weights_of(batch), batch, ("absent", "gsm8k", "mmlu", "sst2"))
    assert [name for name in values if name.startswith("part_")] == [
        f"part_task/{task}" for task in ("absent", "gsm8k", "mmlu", "sst2")
    ]
    assert values["part_task/absent"].item() == 0.0


def test_the_settings_choose_the_losses() -> None:
    objective = make_objective(
        ALL, temperature=4.0, temperature_squared=False, hidden_loss="cosine", attention_loss="kl"
    )
    batch, (student, logits) = make_batch(), make_student()
    assert batch.hidden is not None and batch.attention is not None and student.attention is not None
    assert objective.head is not None and objective.channels is not None and objective.projector is not None
    components = objective.components(student, logits, batch)
    paired = batch.attention.reshape(POSITIONS, STUDENT_HEADS, 2, LENGTH).mean(2)
    target = standardise(batch.hidden, *objective.channels)
    expected = {
        "logits": dense_kl(logits, batch.hidden, *objective.head, 4.0, squared=False),
        "hidden": cosine(objective.projector(student.hidden), target),
        "attention": map_kl(student.attention, paired),
    }
    for name, values in expected.items():
        assert torch.allclose(components[name], values), name


def test_topk_reads_the_log_tail_of_its_own_temperature() -> None:
    batch, (student, logits) = make_batch(), make_student()
    assert batch.log_tail is not None
    results = []
    for column, temperature in enumerate((1.0, 2.0, 4.0)):
        objective = make_objective(GROUPS["black_box"], logits_target="topk", temperature=temperature)
        spoiled = batch.log_tail.clone()
        spoiled[:, [other for other in range(3) if other != column]] = torch.nan
        results.append(objective.components(student, logits, replace(batch, log_tail=spoiled))["logits"])
    assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("target", ["dense", "topk"])
def test_the_divergence_at_temperature_one_is_logged_without_a_gradient(target: str) -> None:
    batch, (student, logits) = make_batch(), make_student()
    objective = make_objective(GROUPS["black_box"], logits_target=target, temperature=4.0)
    at_one = make_objective(GROUPS["black_box"], logits_target=target, temperature=1.0)
    logged = objective.kl_at_one(logits, batch)
    assert logged is not None and not logged.requires_grad
    assert torch.allclose(logged, at_one.components(student, logits, batch)["logits"], atol=1e-6)
    assert make_objective(GROUPS["sft"]).kl_at_one(logits, batch) is None


def test_a_temperature_that_was_not_captured_is_refused_for_topk_and_dense_is_offered() -> None:
    with pytest.raises(GlassboxError, match=r"temperature 3.*only at temperatures 1, 2, 4.*logits_target=dense"):
        make_objective(GROUPS["black_box"], logits_target="topk", temperature=3.0)
    make_objective(GROUPS["black_box"], logits_target="dense", temperature=3.0)


@pytest.mark.parametrize(
    ("weights", "missing", "said"),
    [
        (GROUPS["black_box"], "head", "logits_target=topk"),
        (GROUPS["hidden_state"], "channels", "no statistics"),
        (GROUPS["hidden_state"], "projector", "no projector"),
    ],
)
def test_a_missing_ingredient_is_refused_before_anything_trains(weights: Weights, missing: str, said: str) -> None:
    ingredients = {
        "head": (draw(VOCABULARY, TEACHER_WIDTH), None),
        "channels": (draw(TEACHER_WIDTH), torch.ones(TEACHER_WIDTH)),
        "projector": Projector(STUDENT_WIDTH, TEACHER_WIDTH, torch.Generator()),
    }
    del ingredients[missing]
    with pytest.raises(GlassboxError, match=said):
        Objective(weights, ObjectiveSettings(), **ingredients)  # type: ignore[arg-type]


def test_a_group_without_any_weight_is_refused() -> None:
    with pytest.raises(GlassboxError, match="nothing to train"):
        make_objective(Weights())


def test_channels_of_which_half_never_vary_are_refused() -> None:
    projector = Projector(STUDENT_WIDTH, 4, torch.Generator())
    with pytest.raises(GlassboxError, match="never vary"):
        Objective(
            Weights(hidden=1.0),
            ObjectiveSettings(),
            channels=(torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0])),
            projector=projector,
        )


def test_a_missing_map_is_an_error_on_either_side_and_never_a_zero() -> None:
    objective, batch, (student, logits) = make_objective(GROUPS["attention"]), make_batch(), make_student()
    with pytest.raises(GlassboxError, match="no attention map"):
        objective.components(PositionSignals(student.hidden, None), logits, batch)
    with pytest.raises(GlassboxError, match=r"'attention'.*carries none"):
        objective.components(student, logits, replace(batch, attention=None))


def test_shapes_are_as_annotated() -> None:
    beartype = pytest.importorskip("beartype")
    from jaxtyping import TypeCheckError, jaxtyped

    checked = jaxtyped(typechecker=beartype.beartype)(dense_kl)
    student, hidden, weight = torch.zeros(3, 5), torch.zeros(3, 2), torch.zeros(5, 2)
    assert checked(student, hidden, weight, None, 2.0).shape == (3,)
    with pytest.raises(TypeCheckError):
        checked(student, torch.zeros(4, 2), weight, None, 2.0)
