"""Trials that mix a teacher's experts anew: what moves, what stands still, and a router that resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from miniatures import save_model_folder, tiny_tokenizer
from mixtures import save_mixture
from projects import shrunk_settings

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.models.loading import model_digest
from glassbox.snapshot.capture import capture
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import write_splits
from glassbox.training import checkpoint, router, trial
from glassbox.training.checkpoint import Progress
from glassbox.training.setup import Setup, prepare
from glassbox.training.step import audit, update

SPEAKS = {"moe_all": "all", "moe_ka": "sampled", "moe_sar": "router", "moe_sar_other": "other_router"}
PLAIN = ("sft", "black_box", "hidden_state", "attention", "combined")


def settings_of(folder: Path, **changes: Any) -> Settings:
    groups = {name: {"task": 1.0, "mixture": 0.5, "experts": speaks} for name, speaks in SPEAKS.items()}
    experts = {"router_rate": 1e-2} | changes.pop("experts", {})
    return shrunk_settings(
        folder,
        groups=[*PLAIN, *SPEAKS],
        distill=groups,
        snapshot={"experts": "last"},
        objective={"experts": experts},
        **changes,
    )


@pytest.fixture(scope="module")
def captured_mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    save_mixture(folder / "models/teacher", "olmoe")
    save_model_folder(folder / "models/student", tiny_tokenizer(), width=32, heads=4, key_heads=2, seed=2)
    settings = settings_of(folder)
    write_splits(folder / "data/tasks", load_samples(settings.prepare))
    capture(settings, folder / "data/tasks", folder / "data/snapshot", folder / ".glassbox")
    return folder


@pytest.fixture
def begun(captured_mixture: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Setup]]:
    """Sets up a trial of a group in a copy of the captured project."""
    for name in ("models", "data"):
        shutil.copytree(captured_mixture / name, store / name)
    monkeypatch.chdir(store)

    def begin(group: str, **changes: Any) -> Setup:
        AcceleratorState._reset_state(reset_partial_state=True)
        setup = prepare(settings_of(store, **changes), group, 0)
        setup.student.train()
        return setup

    yield begin
    AcceleratorState._reset_state(reset_partial_state=True)


def train(setup: Setup, progress: Progress, first: int, last: int) -> dict[str, float]:
    logged: dict[str, float] = {}
    for step in setup.schedule.steps[first:last]:
        logged = update(setup, [(batch, True) for batch in setup.batches(step)], progress, due=True)
        progress.step += 1
    return logged


def bits(setup: Setup) -> str:
    return model_digest({**setup.student.state_dict(), **(setup.router.tensors() if setup.router else {})})


def test_a_router_that_stands_still_trains_the_student_of_all_experts_to_the_bit(
    begun: Callable[..., Setup],
) -> None:
    """Nothing of the router reaches the student but the mixture, its random numbers included."""
    digests = {}
    for group in ("moe_all", "moe_sar", "moe_sar_other"):
        setup = begun(group, experts={"router_rate": 1e-30}, train={"dropout": 0.1})
        train(setup, Progress(), 0, 2)
        digests[group] = model_digest(setup.student)
    assert len(set(digests.values())) == 1


def test_groups_differ_and_the_control_learns_from_other_samples(begun: Callable[..., Setup]) -> None:
    digests, gates = set(), {}
    for group in SPEAKS:
        setup = begun(group)
        train(setup, Progress(), 0, 2)
        digests.add(model_digest(setup.student))
        gates[group] = setup.router.gate.detach().clone() if setup.router else None
    assert len(digests) == len(SPEAKS)
    assert not torch.equal(gates["moe_sar"], gates["moe_sar_other"])


@pytest.mark.parametrize("group", ["moe_ka", "moe_sar"])
def test_a_resumed_trial_goes_on_to_the_same_bits(begun: Callable[..., Setup], group: str, tmp_path: Path) -> None:
    undisturbed = begun(group, train={"dropout": 0.1})
    train(undisturbed, Progress(), 0, 4)
    broken, progress = begun(group, train={"dropout": 0.1}), Progress()
    train(broken, progress, 0, 2)
    own = broken.student, broken.optimizer.optimizer, broken.processes, broken.router
    checkpoint.save(tmp_path / "saved", progress, *own)
    again = begun(group, train={"dropout": 0.1})
    restored = checkpoint.load(
        tmp_path / "saved", again.student, again.optimizer.optimizer, again.processes, again.router
    )
    assert restored is not None and restored.step == 2
    train(again, restored, 2, 4)
    assert bits(again) == bits(undisturbed)


def test_every_component_of_a_mixing_group_moves_the_student(begun: Callable[..., Setup]) -> None:
    setup = begun("moe_ka")
    found = audit(setup, [(batch, True) for batch in setup.batches(setup.schedule.steps[0])], Progress())
    assert all(found[name]["alive"] and found[name]["share"] for name in ("task", "mixture"))


def test_a_router_stops_once_the_mixture_answers_worse(
    begun: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = begun("moe_sar")
    tasks = setup.task_names
    history = [(6, f"validation/mixture_accuracy_{task}", 0.5) for task in tasks]
    assert trial.router_has_moved_enough(setup, Progress(mixture_before=0.52, history=history))
    assert not trial.router_has_moved_enough(setup, Progress(mixture_before=0.505, history=history))
    accuracy = router.mixture_accuracy(setup)
    assert set(accuracy) == {f"mixture_accuracy_{task}" for task in tasks}
    assert all(0.0 <= value <= 1.0 for value in accuracy.values())
    still = Progress(router_stopped=True)
    before = setup.router.gate.detach().clone() if setup.router else None
    logged = train(setup, still, 0, 1)
    assert setup.router is not None and torch.equal(setup.router.gate, before) and "train/router_kl" not in logged


def test_a_router_without_a_gradient_is_an_error(begun: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate probabilities that were detached by mistake would leave the router where it is, and the log silent."""
    setup = begun("moe_sar")
    monkeypatch.setattr(setup.router, "move", lambda gradient, rate: 0.0)
    with pytest.raises(GlassboxError, match="the router's gradient is 0"):
        train(setup, Progress(), 0, 1)


@pytest.mark.slow
def test_a_trial_with_a_router_finishes_and_logs_what_the_mixture_would_say(begun: Callable[..., Setup]) -> None:
    setup = begun("moe_sar")
    assert trial.run(setup, trial.Unwatched()) == "finished"
