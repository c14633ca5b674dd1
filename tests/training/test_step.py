"""An optimizer step of every group against one in plain PyTorch (tests/plain.py): losses, gradients and new weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from further import FEATURES, make_further, settings_of
from projects import ROOT

from glassbox.config.composition import composition
from glassbox.models.pieces import piece_texts
from glassbox.models.tokenizers import load_tokenizer
from glassbox.randomness import derived_seed
from glassbox.tasks.splits import read_split
from glassbox.training.checkpoint import Progress
from glassbox.training.setup import Setup, prepare
from glassbox.training.step import update

COMPOSED = yaml.safe_load(composition(ROOT / "conf", ["scale=faithful", "distill=[all,seeds,moe,aligned]"]))["distill"]
"""The groups of conf/distill with their weights there."""
TOKENS = (
    *("sft", "black_box", "hidden_state", "attention", "combined"),
    *("layers", "layer_router", "relations", "contrastive", "curriculum"),
)
SPEAKS = {"moe_all": "all", "moe_ka": "sampled", "moe_sar": "router"}
ALIGNED = ("alm", "aligned_logits", "aligned_hidden", "aligned_attention", "aligned_combined")
STEPS, SEED, DECAY = 6, 0, 1.0


def own_groups(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: COMPOSED[name] for name in names}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_further("dense", tmp_path_factory.mktemp("dense"), own_groups(TOKENS))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_further("experts", tmp_path_factory.mktemp("experts"), own_groups(tuple(SPEAKS)))


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_further("unlike", tmp_path_factory.mktemp("unlike"), own_groups(ALIGNED))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Setup]]:
    """Sets up a trial in a captured folder."""

    def begin(kind: str, folder: Path, group: str, groups: tuple[str, ...]) -> Setup:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_ROOT", str(folder))
        AcceleratorState._reset_state(reset_partial_state=True)
        setup = prepare(settings_of(kind, folder, own_groups(groups), train={"weight_decay": DECAY}), group, SEED)
        setup.student.train()
        return setup

    yield begin
    AcceleratorState._reset_state(reset_partial_state=True)


def plain_of(setup: Setup, temperature: float = 2.0, **facts: Any) -> plain.Plain:
    """The same student read from its folder, and copies of the projectors as they were drawn."""
    assert setup.snapshot is not None
    projectors = {name: copy.deepcopy(each) for name, each in setup.student.projectors.items()}
    model = plain.load_plain(setup.settings.student.model)
    return plain.Plain(model, projectors, setup.snapshot, temperature, DECAY, **facts)


def assert_same_step(setup: Setup, reference: plain.Plain, weights: dict[str, float], step: int, rate: float) -> None:
    """Losses and norm, every weight's clipped gradient (from AdamW's first moment) and every new weight.

    AdamW divides by the gradient's size + 1e-8: where that is all there is, rounding takes the step.
    """
    sample_ids = [sample_id for batch in setup.schedule.steps[step] for sample_id in batch]
    turns = [(batch, True) for batch in setup.batches(setup.schedule.steps[step])]
    assert len(turns) == 2
    logged = update(setup, turns, Progress(step=step, updates=step), due=True)
    gradients = reference.step(sample_ids, weights, rate)
    assert reference.reported["gradient_norm"] > 1.0, "the step is clipped"
    assert logged["train/learning_rate"] == pytest.approx(rate)
    for name, value in reference.reported.items():
        assert logged[f"train/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    expected, moments = reference.parameters, setup.optimizer.optimizer.state
    found = dict(setup.student.named_parameters())
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        gradient = moments[weight]["exp_avg"] / 0.1 if weight in moments else torch.zeros_like(weight)
        own = gradients.get(name, torch.zeros_like(weight))
        assert float((gradient - own).norm()) <= 1e-5 * float(own.norm()) + 1e-9, name
        off = (weight - expected[name]).detach().abs()
        is_rounding = (own != 0) & (own.abs() < 1e-7)
        assert bool((off <= torch.where(is_rounding, rate, 1e-5)).all()), name


@pytest.mark.parametrize("group", TOKENS[:-1])
def test_a_step_token_by_token_is_that_of_plain_code(dense: Path, begun: Callable[..., Setup], group: str) -> None:
    setup = begun("dense", dense, group, TOKENS)
    for weight in (w for name, w in setup.student.named_parameters() if name.endswith("layer_router.router.weight")):
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))  # else no layer is preferred yet
    reference = plain_of(setup, rows=setup.student.vocabulary, negatives=negatives_of(setup, 0))
    assert_same_step(setup, reference, COMPOSED[group], 0, 1e-3)


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_step_of_the_curriculum_has_the_weights_and_the_temperature_of_its_moment(
    dense: Path, begun: Callable[..., Setup], step: int
) -> None:
    setup = begun("dense", dense, "curriculum", TOKENS)
    assert len(setup.schedule.steps) == STEPS
    now = {name: plain.curve(value, step / STEPS) for name, value in COMPOSED["curriculum"].items()}
    reference = plain_of(setup, now.pop("temperature"), rows=setup.student.vocabulary)
    reference.negatives = negatives_of(setup, step)
    # one step of warm-up, then a straight line to 0
    assert_same_step(setup, reference, now, step, 1e-3 * (1.0 if step == 0 else 1.0 - (step - 1) / (STEPS - 1)))


def negatives_of(setup: Setup, step: int) -> Any:
    assert setup.snapshot is not None
    own = {sample_id for batch in setup.schedule.steps[step] for sample_id in batch}
    return plain.drawn_negatives(setup.snapshot, setup.draw.samples, own, FEATURES["negatives"], SEED, step)


@pytest.mark.parametrize("group", SPEAKS)
def test_a_step_that_mixes_experts_anew_is_that_of_plain_code(
    experts: Path, begun: Callable[..., Setup], group: str
) -> None:
    setup = begun("experts", experts, group, tuple(SPEAKS))
    assert setup.snapshot is not None
    fixed = setup.snapshot.mixture()
    drawing = derived_seed(SEED, "experts")
    own = plain.Experts(SPEAKS[group], fixed.gate.clone(), fixed, drawing, 0.0, **FEATURES["experts"])
    weights = {name: COMPOSED[group][name] for name in ("task", "mixture")}
    assert_same_step(setup, plain_of(setup, rows=setup.student.vocabulary, experts=own), weights, 0, 1e-3)
    if setup.router is not None:
        torch.testing.assert_close(setup.router.gate.detach(), own.gate, rtol=0, atol=1e-5)
        torch.testing.assert_close(setup.router.tensors()["exp_avg"] / 0.1, own.gradient, rtol=0, atol=1e-8)


@pytest.mark.parametrize("group", ALIGNED)
def test_a_step_across_tokenizers_is_that_of_plain_code(unlike: Path, begun: Callable[..., Setup], group: str) -> None:
    setup = begun("unlike", unlike, group, ALIGNED)
    teacher = load_tokenizer(setup.settings.teacher)
    assert setup.snapshot is not None
    facts = plain.Alignment(
        samples={sample.sample_id: sample for sample in read_split(unlike / "data/tasks", "train")},
        student=setup.tokenizer,
        teacher=teacher,
        own_pieces=piece_texts(setup.tokenizer, setup.student.vocabulary),
        other_pieces=piece_texts(teacher, setup.snapshot.vocabulary),
        top_k=FEATURES["aligned_top_k"],
    )
    assert_same_step(setup, plain_of(setup, aligned=facts), COMPOSED[group], 0, 1e-3)
