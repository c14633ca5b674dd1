"""What other distillation code got wrong without noticing, each as a test that ours must pass."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from projects import settings_with

from glassbox.config.components import COMPONENTS
from glassbox.config.settings import Settings
from glassbox.errors import DivergedError
from glassbox.objective.hidden import mse, standardise
from glassbox.objective.logits import DenseTarget
from glassbox.objective.task import cross_entropy
from glassbox.snapshot.capture import capture
from glassbox.training import trial
from glassbox.training.checkpoint import Progress
from glassbox.training.setup import Setup, prepare
from glassbox.training.step import objective_at, update

EVERYTHING = {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.1, "layers": 0.1, "relations": 0.1}
GROUPS: dict[str, Any] = {"everything": {**EVERYTHING, "contrastive": 0.05}}


@pytest.fixture
def settings(project: Path) -> Settings:
    found = settings_with(project, GROUPS, objective={"negatives": 16})
    capture(found, project / "data/tasks", project / "data/snapshot", project / ".glassbox")
    return found


def first_step(setup: Setup) -> list[tuple[Any, bool]]:
    return [(batch, True) for batch in setup.batches(setup.schedule.steps[0])]


def test_what_the_log_names_is_what_moved_the_student(settings: Settings) -> None:
    """A flag switched distillation off while the log said KD."""
    trial.run_trial(settings, "everything", 0)
    manifest = json.loads(Path("runs/everything/0.json").read_text(encoding="utf-8"))
    history = pd.read_parquet("runs/everything/0/history.parquet")
    logged = {name.removeprefix("train/weighted_") for name in history.metric if name.startswith("train/weighted_")}
    active = settings.distill["everything"].active
    assert logged == set(manifest["liveness"]) == set(active)
    for name, weight in active.items():
        assert manifest["params"][f"weight_{name}"] == weight and manifest["liveness"][name]["gradient_norm"] > 0
    assert {name for name in COMPONENTS if manifest["params"][f"weight_{name}"] == 0} == set(COMPONENTS) - set(active)


def test_labels_are_shifted_once(settings: Settings) -> None:
    """Labels were shifted in the collator and again in the trainer."""
    setup = prepare(settings, "everything", 0)
    batch, _ = first_step(setup)[0]
    setup.student.eval()
    for row, count in enumerate(batch.answer_count.tolist()):
        ids = batch.input_ids[row, : int(batch.attention_mask[row].sum())]
        masked = ids.clone()
        masked[: len(ids) - count] = -100
        with torch.no_grad():
            plain = setup.student.model(input_ids=ids[None], labels=masked[None]).loss
            signals = setup.student(batch)
            logits = signals.hidden[batch.sample_index == row] @ setup.student.head.weight.t()
        own = cross_entropy(logits, batch.labels[batch.sample_index == row]).values.mean()
        assert float(own) == pytest.approx(float(plain), rel=1e-4)


def test_a_confident_mistake_costs_what_it_costs() -> None:
    """Logits and losses were clamped, so that the loss stood at 9.7453."""
    logits = torch.zeros(1, 50)
    for size in (20.0, 200.0, 2000.0):
        logits[0, 1] = size
        found = cross_entropy(logits, torch.tensor([0]))
        assert float(found.values) == pytest.approx(size, rel=1e-3) and float(found.gradient.norm()) > 1.0


def test_a_teacher_that_is_sure_against_a_student_that_knows_nothing_is_the_logarithm_of_the_vocabulary() -> None:
    """A softmax was taken of probabilities, which makes every distribution nearly flat."""
    teacher = torch.eye(32)[:4] * 100.0
    target = DenseTarget(teacher, torch.eye(32), None)
    uniform = target.divergence(torch.zeros(4, 32), slice(None), 1.0, squared=True).values
    assert uniform.tolist() == pytest.approx([math.log(32)] * 4, rel=1e-4)
    moved = target.divergence(torch.full((4, 32), 7.0), slice(None), 1.0, squared=True).values
    assert torch.allclose(moved, uniform, atol=1e-5)


def test_a_sample_that_is_there_twice_changes_no_component(settings: Settings) -> None:
    """`batchmean` on tensors of three and four axes let losses grow with length and batch."""
    setup = prepare(settings, "everything", 0)
    ids = setup.schedule.steps[0][0]
    found = []
    for plan in (ids, (*ids, *ids)):
        (batch,) = setup.batches([plan])
        setup.student.eval()
        found.append(update(setup, [(batch, True)], Progress(), due=True))
        setup = prepare(settings, "everything", 0)
    for name in settings.distill["everything"].active:
        assert found[1][f"train/loss_{name}"] == pytest.approx(found[0][f"train/loss_{name}"], rel=1e-5), name


def test_nothing_is_trained_but_the_student_and_its_projectors(settings: Settings) -> None:
    """A temperature was learned and shrank its own loss; "teacher logits" came from a trainable layer."""
    setup = prepare(settings, "everything", 0)
    own = {id(weight) for weight in setup.student.parameters()}
    trained = [weight for group in setup.optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in trained} == own
    names = {name.split(".")[0] for name, _ in setup.student.named_parameters()}
    assert names == {"model", "projectors"}
    assert set(setup.student.projectors) == {name for name in setup.objective.weights if COMPONENTS[name].projects}
    assert isinstance(setup.objective.temperature, float)
    batch, _ = first_step(setup)[0]
    ingredients = objective_at(setup, Progress()).ingredients
    theirs = [batch.hidden, batch.attention, *batch.further.values(), *(ingredients.head or ()), *ingredients.negatives]
    assert not any(tensor.requires_grad for tensor in theirs if tensor is not None)


def test_a_projector_of_zeros_does_not_make_the_loss_vanish(settings: Settings) -> None:
    """An alignment loss trained on both sides collapsed to zero."""
    setup = prepare(settings, "everything", 0)
    with torch.no_grad():
        for weight in setup.student.projectors.parameters():
            weight.zero_()
    found = update(setup, first_step(setup), Progress(), due=True)
    for name in ("hidden", "layers"):
        assert 0.3 < found[f"train/loss_{name}"] < 3.0, name
    assert found["train/loss_contrastive"] > 1.0
    states = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) * 9 + 4
    target = standardise(states, states.mean(0), states.std(0, correction=0))
    assert float(mse(torch.zeros_like(target), target).mean()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("spoiled", ["hidden", "attention", "layers", "relations"])
def test_a_value_that_is_not_finite_ends_the_trial_before_the_update(settings: Settings, spoiled: str) -> None:
    """NaN was replaced by 0, and training went on."""
    setup = prepare(settings, "everything", 0)
    setup.scratch.mkdir(parents=True)
    (batch, _), *others = first_step(setup)
    value = getattr(batch, spoiled) if hasattr(batch, spoiled) else batch.further[spoiled]
    value = value.clone()
    value[0] = torch.nan
    changed = {spoiled: value} if hasattr(batch, spoiled) else {"further": {**batch.further, spoiled: value}}
    before = [weight.detach().clone() for weight in setup.student.parameters()]
    with pytest.raises(DivergedError):
        update(setup, [(replace(batch, **changed), True), *others], Progress(), due=True)
    assert all(torch.equal(one, other) for one, other in zip(before, setup.student.parameters(), strict=True))
