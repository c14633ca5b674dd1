"""Trials of the groups with layers, a router over them, relations and contrast: what they compute, log, and refuse."""

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

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.objective import liveness
from glassbox.snapshot.capture import capture
from glassbox.snapshot.reader import Snapshot
from glassbox.training import diagnostics, trial
from glassbox.training.checkpoint import Progress
from glassbox.training.diagnostics import layer_similarity
from glassbox.training.negatives import Bank
from glassbox.training.setup import Setup, prepare
from glassbox.training.step import audit, objective_at, update

COMPONENTS = ("layers", "layer_router", "relations", "contrastive")
GROUPS: dict[str, dict[str, Any]] = {
    **{name: {"task": 1.0, "logits": 0.5, name: 0.3} for name in COMPONENTS},
    **{f"shuffled_{name}": {"task": 1.0, "logits": 0.5, name: 0.3, "shuffled": [name]} for name in COMPONENTS},
    "together": {"task": 1.0, **dict.fromkeys(COMPONENTS, 0.3), "temperature": "0:3, 1:2"},
}


def settings_of(project: Path, groups: dict[str, dict[str, Any]] = GROUPS, **changes: Any) -> Settings:
    return settings_with(project, groups, **{"objective": {"negatives": 16}, **changes})


@pytest.fixture
def seeds(project: Path) -> Settings:
    """A project whose snapshot holds what all these groups read."""
    settings = settings_of(project)
    capture(settings, project / "data/tasks", project / "data/snapshot", project / ".glassbox")
    return settings


def test_each_component_is_alive_reads_its_partner_and_takes_the_same_step_in_any_micro_batches(
    seeds: Settings,
) -> None:
    losses = {}
    for name in GROUPS:
        setup = prepare(seeds, name, 0)
        batches = [(batch, True) for batch in setup.batches(setup.schedule.steps[0])]
        found = audit(setup, batches, Progress())
        liveness.refuse_dead([found], name)
        assert all(figures["alive"] for figures in found.values()), name
        losses[name] = update(setup, batches, Progress(), due=True)
    assert losses["layer_router"]["train/loss_layer_router"] == pytest.approx(1.0)  # in units of what it begins with
    for name in COMPONENTS:
        figure = "layer_router_loss_of_last" if name == "layer_router" else f"loss_{name}"
        own, other = (losses[group][f"train/{figure}"] for group in (name, f"shuffled_{name}"))
        assert own > 0 and other > 0 and own != pytest.approx(other, rel=1e-4), name
    for size in (1, 2, 8):
        train = seeds.train.model_copy(update={"micro_batch_size": size})
        setup = prepare(seeds.model_copy(update={"train": train}), "together", 0)
        batches = [(batch, True) for batch in setup.batches(setup.schedule.steps[0])]
        again = update(setup, batches, Progress(), due=True)
        for name in ("loss_total", *(f"loss_{component}" for component in COMPONENTS), "gradient_norm"):
            assert again[f"train/{name}"] == pytest.approx(losses["together"][f"train/{name}"], rel=1e-5), name


def test_a_router_over_layers_logs_what_it_prefers_and_a_trial_keeps_what_its_layers_began_with(
    seeds: Settings,
) -> None:
    setup, progress = prepare(seeds, "layer_router", 0), Progress()
    logged = []
    for step in setup.schedule.steps[:2]:
        logged.append(update(setup, [(batch, True) for batch in setup.batches(step)], progress, due=True))
        progress.step += 1
    first, second = logged
    began = [first[f"train/layer_router_loss_of_{layer}"] for layer in ("1", "last")]
    assert progress.layer_losses == pytest.approx(began, rel=1e-5)
    weights = [second[f"train/layer_router_weight_of_{layer}"] for layer in ("1", "last")]
    assert sum(weights) == pytest.approx(1.0) and weights[0] != pytest.approx(0.5, abs=1e-7)
    assert math.log(2) / 2 < second["train/layer_router_entropy"] < math.log(2)
    assert second["train/loss_layer_router"] < 1.0


def test_how_alike_an_initial_student_is_is_found_once_for_all_groups_that_begin_with_it(
    seeds: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(setup: Setup) -> dict[str, float]:
        calls.append(setup.name)
        return layer_similarity(setup)

    monkeypatch.setattr(diagnostics, "layer_similarity", counted)
    monkeypatch.setattr(diagnostics, "_of_initial_students", {})
    for group in ("layers", "shuffled_layers", "relations"):
        setup = prepare(seeds, group, 0)
        assert diagnostics.initial_similarity(setup) == layer_similarity(setup)
    setup = prepare(seeds, "layers", 1)
    with torch.no_grad():
        setup.student.model.get_input_embeddings().weight.mul_(2)
    changed = replace(setup, initial_student="another")
    assert diagnostics.initial_similarity(changed) == layer_similarity(changed)
    assert calls == ["layers/0", "relations/0", "layers/1"]


def test_a_trial_logs_how_alike_the_layers_are_before_and_after_training(seeds: Settings) -> None:
    for name, pairs in (("sft", {"1_to_last", "2_to_last"}), ("together", {"1_to_last", "2_to_last", "1_to_1"})):
        assert trial.run_trial(seeds, name, 0) == "finished"
        logged = pd.read_parquet(f"runs/{name}/0/history.parquet")
        similar = logged[logged.metric.str.startswith("cka/")]
        assert {metric.removeprefix("cka/layer_") for metric in similar.metric} == pairs
        assert sorted(set(similar.step)) == [0, 6]
        assert similar.value.between(0, 1).all()
    manifest = json.loads(Path("runs/together/0.json").read_text(encoding="utf-8"))
    assert set(manifest["liveness"]) == {"task", *COMPONENTS}
    assert manifest["params"]["temperature"] == "0:3, 1:2"
    validation = set(logged.metric[logged.metric.str.startswith("validation/loss_")])
    assert {f"validation/loss_{name}" for name in COMPONENTS} <= validation


def test_the_temperature_of_a_group_is_its_own(seeds: Settings) -> None:
    setup = prepare(seeds, "together", 0)
    assert setup.objective.temperature == 3.0 and setup.objective.at(1.0).temperature == 2.0
    assert prepare(seeds, "layers", 0).objective.temperature == seeds.objective.temperature


def test_negatives_are_the_same_for_every_group_of_a_seed_and_none_is_of_the_steps_own_samples(seeds: Settings) -> None:
    one, other = (prepare(seeds, name, 0) for name in ("contrastive", "together"))
    drawn = [objective_at(setup, Progress(step=2)).ingredients.negatives for setup in (one, other)]
    assert torch.equal(drawn[0].states, drawn[1].states) and torch.equal(drawn[0].ids, drawn[1].ids)
    assert drawn[0].states.shape == (16, one.snapshot.format.width)  # type: ignore[union-attr]
    later = objective_at(one, Progress(step=1)).ingredients.negatives
    assert not torch.equal(drawn[0].states, later.states)
    snapshot, step = Snapshot("data/snapshot"), {each for batch in one.schedule.steps[2] for each in batch}
    batch = snapshot.read(sorted(step), frozenset({"hidden"}))
    assert batch.hidden is not None
    assert not (drawn[0].states[:, None] == batch.hidden).all(-1).any()


def test_negatives_stand_with_the_token_that_they_predict(seeds: Settings) -> None:
    snapshot = Snapshot("data/snapshot")
    texts = [info.sample_id for info in snapshot.samples("train")]
    everything = Bank(snapshot, texts, 10_000, 0, "answer").drawn("all")
    batch = snapshot.read(texts, frozenset({"hidden"}))
    assert batch.hidden is not None and len(everything.ids) == len(batch.labels)
    stored = {tuple(state): int(label) for state, label in zip(batch.hidden.tolist(), batch.labels, strict=True)}
    assert all(
        stored[tuple(state)] == int(label)
        for state, label in zip(everything.states.tolist(), everything.ids, strict=True)
    )
    with pytest.raises(GlassboxError, match="no sample to draw negatives from"):
        Bank(snapshot, texts, 16, 0, "answer").drawn("step-0", set(texts))


def test_a_snapshot_without_what_a_group_reads_is_refused_before_a_model_loads(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(project)
    monkeypatch.setattr("glassbox.training.setup.build_student", lambda *_, **__: pytest.fail("a model was loaded"))
    for name, read in (("layers", "layers"), ("layer_router", "layers"), ("relations", "relations")):
        with pytest.raises(GlassboxError, match=f"reads {read} of the snapshot.*dvc repro snapshot"):
            prepare(settings, name, 0)


def test_a_map_of_other_layers_than_those_stored_is_refused(seeds: Settings) -> None:
    objective = seeds.objective.model_copy(update={"layer_map": ((1, 3),)})
    with pytest.raises(GlassboxError, match=r"layer_map pairs layer 1.*they have 2 and 2"):
        prepare(seeds.model_copy(update={"objective": objective}), "layers", 0)
    wide = seeds.objective.model_copy(update={"relation_heads": 5})
    with pytest.raises(GlassboxError, match="relation_heads is 5"):
        prepare(seeds.model_copy(update={"objective": wide}), "relations", 0)


def test_a_stopped_trial_with_negatives_goes_on_to_the_same_student(seeds: Settings) -> None:
    finals = []
    for stop in (None, 3):
        setup = prepare(seeds, "together", 0)
        progress = Progress()
        for step in setup.schedule.steps:
            if progress.step == stop:
                setup, progress = _restarted(seeds, setup, progress)
            update(setup, [(batch, True) for batch in setup.batches(step)], progress, due=False)
            progress.step += 1
        finals.append({name: value.clone() for name, value in setup.student.state_dict().items()})
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def _restarted(settings: Settings, setup: Any, progress: Progress) -> tuple[Any, Progress]:
    from glassbox.training import checkpoint

    checkpoint.save(setup.scratch, progress, setup.student, setup.optimizer.optimizer, setup.processes)
    again = prepare(settings, "together", 0)
    found = checkpoint.load(again.scratch, again.student, again.optimizer.optimizer, again.processes)
    assert found is not None and replace(found) is not found
    return again, found
