"""Where weights meet components: what is computed, how it is averaged over a step, and what is logged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sections
import torch
from torch import Tensor

from glassbox.config.settings import COMPONENTS, Group, Weights
from glassbox.errors import GlassboxError
from glassbox.models.signals import PositionSignals
from glassbox.objective import Ingredients, Objective, Projector, position_weights, shares
from glassbox.objective.attention import map_kl
from glassbox.objective.head import AT_ONE, Head
from glassbox.objective.hidden import cosine, standardise
from glassbox.objective.logits import DenseTarget
from glassbox.objective.task import cross_entropy
from glassbox.snapshot.reader import Batch

COUNTS = (3, 1, 5, 2)
TASKS = ("gsm8k", "sst2", "gsm8k", "mmlu")
POSITIONS, VOCABULARY, LENGTH = sum(COUNTS), 20, 12
STUDENT_WIDTH, TEACHER_WIDTH, STUDENT_HEADS, TEACHER_HEADS = 6, 8, 2, 4

SIGNALS = ("logits", "hidden", "attention")
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
        answer_count=torch.tensor(COUNTS),
        labels=torch.arange(POSITIONS),
        sample_index=torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS)),
        topk_ids=ids,
        topk_logits=values,
        log_tail=torch.stack([torch.logsumexp(rest / t, -1) for t in (1.0, 2.0, 4.0)], -1),
        hidden=draw(POSITIONS, TEACHER_WIDTH, seed=2),
        attention=torch.softmax(draw(POSITIONS, TEACHER_HEADS, LENGTH, seed=3), -1),
    )


def make_student() -> tuple[PositionSignals, Head]:
    maps = torch.softmax(draw(POSITIONS, STUDENT_HEADS, LENGTH, seed=4).requires_grad_(), -1)
    head = Head(draw(VOCABULARY, STUDENT_WIDTH, seed=6).requires_grad_(), None)
    return PositionSignals(draw(POSITIONS, STUDENT_WIDTH, seed=5).requires_grad_(), maps), head


def components_of(
    objective: Objective, student: PositionSignals, head: Head, batch: Batch, at_one: bool = False
) -> dict[str, Tensor]:
    return objective.loss(student, head, batch, weights_of(batch), at_one=at_one)[1]


def make_objective(weights: Weights, **settings) -> Objective:
    return Objective(
        weights,
        sections.objective(**settings),
        Ingredients(
            head=(draw(VOCABULARY, TEACHER_WIDTH, seed=7), draw(VOCABULARY, seed=8)),
            channels=(draw(TEACHER_WIDTH, seed=9), draw(TEACHER_WIDTH, seed=10).abs() + 0.1),
            temperatures=(1.0, 2.0, 4.0),
            projectors={"hidden": Projector(STUDENT_WIDTH, TEACHER_WIDTH, torch.Generator().manual_seed(0))},
        ),
    )


def weights_of(batch: Batch) -> dict[str, Tensor]:
    """The same weight of a position in every component."""
    return dict.fromkeys(COMPONENTS, share_of(batch))


def share_of(batch: Batch, reduction: str = "sample") -> Tensor:
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
    assert (share_of(batch) * values).sum().item() == pytest.approx(naive.item(), abs=1e-6)


def test_position_reduction_is_the_plain_mean() -> None:
    batch, values = make_batch(), draw(POSITIONS)
    assert (share_of(batch, "position") * values).sum().item() == pytest.approx(values.mean().item(), abs=1e-6)


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
    full, (signals, head) = make_batch(), make_student()
    assert full.hidden is not None and full.attention is not None and signals.attention is not None
    batch = replace(
        full,
        count=torch.zeros(4, dtype=torch.long),
        answer_count=torch.zeros(4, dtype=torch.long),
        labels=full.labels[:0],
        sample_index=full.sample_index[:0],
        hidden=full.hidden[:0],
        attention=full.attention[:0],
    )
    objective = make_objective(ALL)
    weights = weights_of(batch)
    total, components = objective.loss(PositionSignals(signals.hidden[:0], signals.attention[:0]), head, batch, weights)
    total.backward()
    assert total.item() == 0.0
    assert all(value.item() == 0.0 for value in objective.values(components, weights, batch).values())
    assert head.weight.grad is not None and signals.hidden.grad is not None
    assert head.weight.grad.abs().max() == 0 and signals.hidden.grad.abs().max() == 0
    (gradient, _) = (weight.grad for weight in objective.ingredients.projectors["hidden"].parameters())
    assert gradient is not None and gradient.abs().max() == 0


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
    student, head = make_student()
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
    assert list(components_of(objective, student, head, batch)) == active
    assert objective.signals == signals
    assert objective.asks == ({"attention"} if maps else set())
    assert make_objective(GROUPS["black_box"], logits_target="topk").signals == {"topk"}


def test_the_total_is_the_weighted_sum_not_divided_by_the_weights() -> None:
    objective, batch, (student, head) = make_objective(ALL), make_batch(), make_student()
    weights = weights_of(batch)
    loss, components = objective.loss(student, head, batch, weights)
    expected = sum(
        weight * (components[name] * weights[name]).sum().item()
        for name, weight in {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.2}.items()
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_combined_differs_from_black_box_by_both_terms_and_nothing_else() -> None:
    batch, (student, head) = make_batch(), make_student()
    weights = weights_of(batch)
    totals = {
        name: make_objective(group).loss(student, head, batch, weights)[0].item() for name, group in GROUPS.items()
    }
    extra = totals["hidden_state"] + totals["attention"] - 2 * totals["black_box"]
    assert totals["combined"] - totals["black_box"] == pytest.approx(extra, rel=1e-4)
    assert extra > 1e-3


def test_the_log_holds_every_component_plain_and_weighted_the_total_and_its_counts() -> None:
    objective, batch, (student, head) = make_objective(ALL), make_batch(), make_student()
    weights = weights_of(batch)
    loss, components = objective.loss(student, head, batch, weights)
    values = objective.values(components, weights, batch)
    assert not any(value.requires_grad for value in values.values())
    for name, weight in {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.2}.items():
        plain = (components[name] * weights[name]).sum().item()
        assert values[f"loss_{name}"].item() == pytest.approx(plain, rel=1e-5)
        assert values[f"weighted_{name}"].item() == pytest.approx(weight * plain, rel=1e-5)
    assert values["loss_total"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert (values["positions"].item(), values["samples"].item()) == (POSITIONS, len(COUNTS))


def test_each_tasks_share_of_a_component_is_what_its_positions_add_to_it() -> None:
    objective, batch, (student, head) = make_objective(ALL), make_batch(), make_student()
    components, weights = components_of(objective, student, head, batch), weights_of(batch)
    values = {name: value.item() for name, value in objective.values(components, weights, batch).items()}
    result = shares(values)
    assert len(result) == 4 * 3
    per_sample = [part.mean().item() for part in components["logits"].detach().split(COUNTS)]
    assert result["share_logits/gsm8k"] == pytest.approx((per_sample[0] + per_sample[2]) / sum(per_sample), rel=1e-5)
    assert result["share_logits/sst2"] == pytest.approx(per_sample[1] / sum(per_sample), rel=1e-5)
    for component in ("task", "logits", "hidden", "attention"):
        assert sum(v for name, v in result.items() if name.startswith(f"share_{component}/")) == pytest.approx(1.0)


def test_named_tasks_fix_the_keys_of_the_parts_where_a_batch_lacks_one() -> None:
    objective, batch, (student, head) = make_objective(GROUPS["sft"]), make_batch(), make_student()
    components = components_of(objective, student, head, batch)
    values = objective.values(components, weights_of(batch), batch, ("absent", "gsm8k", "mmlu", "sst2"))
    assert [name for name in values if name.startswith("part_")] == [
        f"part_task/{task}" for task in ("absent", "gsm8k", "mmlu", "sst2")
    ]
    assert values["part_task/absent"].item() == 0.0


def test_the_settings_choose_the_losses() -> None:
    objective = make_objective(
        ALL, temperature=4.0, temperature_squared=False, hidden_loss="cosine", attention_loss="kl"
    )
    batch, (student, head) = make_batch(), make_student()
    assert batch.hidden is not None and batch.attention is not None and student.attention is not None
    own = objective.ingredients
    assert own.head is not None and own.channels is not None
    components = components_of(objective, student, head, batch)
    paired = batch.attention.reshape(POSITIONS, STUDENT_HEADS, 2, LENGTH).mean(2)
    target = standardise(batch.hidden, *own.channels)
    expected = {
        "logits": DenseTarget(batch.hidden, *own.head)
        .divergence(student.hidden.detach() @ head.weight.detach().t(), slice(None), 4.0, squared=False)
        .values,
        "hidden": cosine(own.projectors["hidden"](student.hidden), target),
        "attention": map_kl(student.attention, paired),
    }
    for name, values in expected.items():
        assert torch.allclose(components[name], values), name


def test_topk_reads_the_log_tail_of_its_own_temperature() -> None:
    batch, (student, head) = make_batch(), make_student()
    assert batch.log_tail is not None
    results = []
    for column, temperature in enumerate((1.0, 2.0, 4.0)):
        objective = make_objective(GROUPS["black_box"], logits_target="topk", temperature=temperature)
        spoiled = batch.log_tail.clone()
        spoiled[:, [other for other in range(3) if other != column]] = torch.nan
        results.append(components_of(objective, student, head, replace(batch, log_tail=spoiled))["logits"])
    assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("target", ["dense", "topk"])
def test_the_divergence_at_temperature_one_is_logged_without_a_gradient(target: str) -> None:
    batch, (student, head) = make_batch(), make_student()
    objective = make_objective(GROUPS["black_box"], logits_target=target, temperature=4.0)
    at_one = make_objective(GROUPS["black_box"], logits_target=target, temperature=1.0)
    components = components_of(objective, student, head, batch, at_one=True)
    logged = components[AT_ONE]
    assert not logged.requires_grad
    assert torch.allclose(logged, components_of(at_one, student, head, batch)["logits"], atol=1e-6)
    values = objective.values(components, weights_of(batch))
    assert values[AT_ONE].item() == pytest.approx((logged * share_of(batch)).sum().item())
    assert f"loss_{AT_ONE}" not in values
    assert AT_ONE not in components_of(objective, student, head, batch)
    assert AT_ONE not in components_of(make_objective(GROUPS["sft"]), student, head, batch, at_one=True)


def test_a_topk_snapshot_without_temperature_one_logs_no_divergence_there() -> None:
    batch, (student, head) = make_batch(), make_student()
    objective = make_objective(GROUPS["black_box"], logits_target="topk")
    objective.ingredients = replace(objective.ingredients, temperatures=(3.0, 2.0, 4.0))
    assert AT_ONE not in components_of(objective, student, head, batch, at_one=True)


def test_a_temperature_that_was_not_captured_is_refused_for_topk_and_dense_is_offered() -> None:
    with pytest.raises(GlassboxError, match=r"temperature 3.*only at temperatures 1, 2, 4.*logits_target=dense"):
        make_objective(GROUPS["black_box"], logits_target="topk", temperature=3.0)
    make_objective(GROUPS["black_box"], logits_target="dense", temperature=3.0)


@pytest.mark.parametrize(
    ("weights", "missing", "said"),
    [
        (GROUPS["black_box"], "head", "logits_target=topk"),
        (GROUPS["hidden_state"], "channels", "no statistics"),
        (GROUPS["hidden_state"], "projectors", "no projector"),
    ],
)
def test_a_missing_ingredient_is_refused_before_anything_trains(weights: Weights, missing: str, said: str) -> None:
    ingredients = {
        "head": (draw(VOCABULARY, TEACHER_WIDTH), None),
        "channels": (draw(TEACHER_WIDTH), torch.ones(TEACHER_WIDTH)),
        "projectors": {"hidden": Projector(STUDENT_WIDTH, TEACHER_WIDTH, torch.Generator())},
    }
    del ingredients[missing]
    with pytest.raises(GlassboxError, match=said):
        Objective(weights, sections.objective(), Ingredients(**ingredients))  # type: ignore[arg-type]


def test_a_group_without_any_weight_is_refused() -> None:
    with pytest.raises(GlassboxError, match="nothing to train"):
        make_objective(Weights())


def test_channels_of_which_half_never_vary_are_refused() -> None:
    projector = Projector(STUDENT_WIDTH, 4, torch.Generator())
    with pytest.raises(GlassboxError, match="never vary"):
        Objective(
            Weights(hidden=1.0),
            sections.objective(),
            Ingredients(
                channels=(torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0])), projectors={"hidden": projector}
            ),
        )


def test_a_missing_map_is_an_error_on_either_side_and_never_a_zero() -> None:
    objective, batch, (student, head) = make_objective(GROUPS["attention"]), make_batch(), make_student()
    with pytest.raises(GlassboxError, match="no attention map"):
        components_of(objective, PositionSignals(student.hidden, None), head, batch)
    with pytest.raises(GlassboxError, match=r"'attention'.*carries none"):
        components_of(objective, student, head, replace(batch, attention=None))


def test_shapes_are_as_annotated() -> None:
    beartype = pytest.importorskip("beartype")
    from jaxtyping import TypeCheckError, jaxtyped

    checked = jaxtyped(typechecker=beartype.beartype)(cross_entropy)
    assert checked(torch.zeros(3, 5), torch.zeros(3, dtype=torch.long)).values.shape == (3,)
    with pytest.raises(TypeCheckError):
        checked(torch.zeros(3, 5), torch.zeros(4, dtype=torch.long))


CURVES = Weights(task=1.0, logits="0:0, 0.5:0, 1:0.4", hidden=0.1)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.5, 0.0), (0.75, 0.2), (1.0, 0.4)])
def test_a_weights_curve_counts_at_its_progress_and_is_logged(progress: float, weight: float) -> None:
    batch, (student, head) = make_batch(), make_student()
    moment, plain = make_objective(CURVES).at(progress), make_objective(GROUPS["hidden_state"])
    plain.ingredients = moment.ingredients
    weights = weights_of(batch)
    loss, components = moment.loss(student, head, batch, weights)
    assert list(components) == ["task", "logits", "hidden"], "also where the weight is 0"
    values = moment.values(components, weights)
    assert moment.logged == {"weight_logits": pytest.approx(weight)}
    assert values["loss_logits"] > 0
    assert values["weighted_logits"].item() == pytest.approx(weight * values["loss_logits"].item())
    expected = (
        plain.loss(student, head, batch, weights)[0] + (weight - 0.5) * (components["logits"] * weights["logits"]).sum()
    )
    torch.testing.assert_close(loss, expected)


def test_a_level_curve_is_the_constant_bit_by_bit() -> None:
    batch, (student, head) = make_batch(), make_student()
    gradients = []
    for level in (0.5, "0:0.5, 1:0.5"):
        objective = make_objective(Weights(task=1.0, logits=level), temperature=2.0 if level == 0.5 else "0:2, 1:2")
        for progress in (0.0, 0.123, 1.0):
            head.weight.grad = None
            objective.at(progress).loss(student, head, batch, weights_of(batch))[0].backward()
            assert head.weight.grad is not None
            gradients.append(head.weight.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_a_component_whose_curve_is_at_zero_sends_a_gradient_of_exactly_zero() -> None:
    batch, (student, head) = make_batch(), make_student()
    objective = make_objective(Weights(task=1.0, hidden="0:0, 1:1")).at(0.0)
    alone = make_objective(GROUPS["sft"])
    gradients = [
        torch.autograd.grad(moment.loss(student, head, batch, weights_of(batch))[0], student.hidden)[0]
        for moment in (objective, alone)
    ]
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


def test_the_temperature_follows_its_curve_with_the_dense_target_alone() -> None:
    batch, (student, head) = make_batch(), make_student()
    moment = make_objective(GROUPS["black_box"], temperature="0:4, 1:1").at(0.5)
    plain = make_objective(GROUPS["black_box"], temperature=2.5)
    assert moment.logged == {"temperature": 2.5}
    assert make_objective(GROUPS["sft"], temperature="0:4, 1:1").at(0.5).logged == {}
    assert torch.equal(
        components_of(moment, student, head, batch)["logits"], components_of(plain, student, head, batch)["logits"]
    )
    with pytest.raises(GlassboxError, match=r"temperature '0:4, 1:1'.*logits_target=dense"):
        make_objective(GROUPS["black_box"], temperature="0:4, 1:1", logits_target="topk")
    level = make_objective(GROUPS["black_box"], temperature="0:4, 1:4", logits_target="topk")
    assert components_of(level.at(0.3), student, head, batch)["logits"].isfinite().all()


def test_balanced_signals_are_as_large_as_the_task_before_their_weights() -> None:
    batch, (student, head) = make_batch(), make_student()
    objective = make_objective(ALL)
    components, weights = components_of(objective, student, head, batch), weights_of(batch)
    losses = {name: (values * weights[name]).sum().item() for name, values in components.items()}
    balanced = objective.balanced(losses)
    values = balanced.values(components, weights)
    for name, weight in {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.2}.items():
        assert values[f"weighted_{name}"].item() == pytest.approx(weight * losses["task"], rel=1e-5), name
    assert balanced.logged == {f"balance_{name}": losses["task"] / losses[name] for name in SIGNALS}
    assert objective.logged == {} and objective.weights["logits"] == 0.5
    assert objective.balanced({**losses, "hidden": 0.0}).factors["hidden"] == 1.0


def test_the_highest_weights_are_those_of_the_curves_under_the_factors() -> None:
    objective = make_objective(CURVES).at(0.0)
    assert objective.highest_weights == {"task": 1.0, "logits": 0.4, "hidden": 0.1}
    balanced = objective.balanced({"task": 3.0, "logits": 1.5, "hidden": 1.0})
    assert balanced.highest_weights == pytest.approx({"task": 1.0, "logits": 0.8, "hidden": 0.3})


@pytest.mark.parametrize("component", SIGNALS)
@pytest.mark.parametrize("target", ["dense", "topk"])
def test_a_shuffled_component_reads_the_partner_and_the_others_the_sample_itself(component: str, target: str) -> None:
    own, (student, head) = make_batch(), make_student()
    order = torch.arange(POSITIONS).flip(0)
    names = ("topk_ids", "topk_logits", "log_tail", "hidden", "attention")
    partner = replace(own, **{name: getattr(own, name)[order] for name in names})
    real = make_objective(ALL, logits_target=target)
    shuffled = make_objective(Group(**ALL.components, shuffled=(component,)), logits_target=target)
    batch = replace(own, partner=partner)
    found = components_of(shuffled, student, head, batch)
    expected = {name: components_of(real, student, head, partner if name == component else own)[name] for name in found}
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
    assert not torch.equal(found[component], components_of(real, student, head, own)[component])
    at_one = components_of(shuffled, student, head, batch, at_one=True)[AT_ONE]
    lender = partner if component == "logits" else own
    assert torch.equal(at_one, components_of(real, student, head, lender, at_one=True)[AT_ONE])
    with pytest.raises(GlassboxError, match="'partner'"):
        components_of(shuffled, student, head, own)


def test_a_shuffled_group_asks_for_each_signal_where_it_is_read() -> None:
    asked = {
        ("logits",): (set(), {"hidden"}),
        ("hidden",): ({"hidden"}, {"hidden"}),
        ("attention",): ({"hidden"}, {"attention"}),
    }
    groups = {"logits": "black_box", "hidden": "hidden_state", "attention": "attention"}
    for shuffled, (own, lent) in asked.items():
        weights = GROUPS[groups[shuffled[0]]].components
        objective = make_objective(Group(**weights, shuffled=shuffled))
        assert (objective.signals, objective.partner_signals) == (own, lent)
    assert make_objective(GROUPS["combined"]).partner_signals == frozenset()
