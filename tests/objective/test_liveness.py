"""The audit that every component moves the student."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.objective import liveness


def gradients(**components: list[float]) -> dict[str, list[Tensor]]:
    """Two weights per component: the first value, and the others."""
    return {name: [torch.tensor(values[:1]), torch.tensor(values[1:])] for name, values in components.items()}


def test_norms_cosines_and_shares_are_those_of_the_whole_gradient() -> None:
    found = liveness.audit(
        gradients(task=[3.0, 0.0, 4.0], logits=[0.0, 2.0, 0.0], hidden=[-3.0, 0.0, -4.0]),
        {"task": 1.0, "logits": 0.5, "hidden": 0.2},
    )
    assert [found[name]["gradient_norm"] for name in found] == pytest.approx([5.0, 2.0, 5.0])
    assert [found[name]["cosine_to_task"] for name in found] == pytest.approx([1.0, 0.0, -1.0])
    assert [found[name]["share"] for name in found] == pytest.approx([5 / 7, 1 / 7, 1 / 7])
    assert all(figures["alive"] for figures in found.values())


def test_a_group_without_a_task_has_no_cosine() -> None:
    found = liveness.audit(gradients(hidden=[1.0, 1.0]), {"hidden": 0.1})
    assert found["hidden"]["cosine_to_task"] is None and found["hidden"]["share"] == 1.0
    assert "liveness/hidden_cosine_to_task" not in liveness.metrics(found)


@pytest.mark.parametrize(
    "dead",
    [[0.0, 0.0, 0.0], [math.nan, 1.0, 1.0], [math.inf, 0.0, 0.0], [1e-9, 1e-9, 0.0]],
    ids=["zero", "not a number", "infinite", "lost in rounding"],
)
def test_a_component_that_cannot_change_the_sum_of_the_others_fails_the_trial(dead: list[float]) -> None:
    found = liveness.audit(
        gradients(task=[3.0, 2.0, 4.0], logits=[1.0, 2.0, 1.0], hidden=dead),
        {"task": 1.0, "logits": 0.5, "hidden": 0.1},
    )
    assert not found["hidden"]["alive"]
    with pytest.raises(GlassboxError, match=r"Group mine: in the first 2 steps hidden did not move the student.*conf/"):
        liveness.refuse_dead([found, found], "mine")


def test_a_component_is_dead_only_where_no_audited_step_shows_it_alive() -> None:
    idle = liveness.audit(gradients(task=[1.0, 1.0], hidden=[0.0, 0.0]), {"task": 1.0, "hidden": 0.1})
    alive = liveness.audit(gradients(task=[1.0, 1.0], hidden=[0.0, 1.0]), {"task": 1.0, "hidden": 0.1})
    liveness.refuse_dead([idle, alive], "mine")
    liveness.refuse_dead([], "mine")


def test_the_manifest_holds_means_over_the_audited_steps_that_were_finite() -> None:
    steps = [
        liveness.audit(gradients(task=[1.0, 0.0], hidden=[value, 0.0]), {"task": 1.0, "hidden": 0.5})
        for value in (1.0, 3.0, math.nan)
    ]
    summary = liveness.summary(steps)
    assert summary["hidden"] == {
        "gradient_norm": pytest.approx(2.0),
        "cosine_to_task": pytest.approx(1.0),
        "share": pytest.approx((0.5 / 1.5 + 1.5 / 2.5) / 2),
    }
    assert liveness.summary([]) == {}
    assert all(math.isfinite(value) for value in liveness.metrics(steps[2]).values())


def test_parts_of_gradients_on_several_processes_give_the_figures_of_the_whole() -> None:
    whole = gradients(task=[3.0, 1.0, 4.0], hidden=[0.0, 2.0, 5.0])
    weights = {"task": 1.0, "hidden": 0.3}
    halves = [{name: [tensors[part]] for name, tensors in whole.items()} for part in (0, 1)]
    sums: list[dict[str, float]] = []
    for half in halves:
        liveness.audit(half, weights, lambda mine: sums.append(mine) or mine)
    together = {name: sums[0][name] + sums[1][name] for name in sums[0]}
    assert liveness.audit(halves[0], weights, lambda _: together) == liveness.audit(whole, weights)
