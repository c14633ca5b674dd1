"""One trial on a real small snapshot with a real MLflow store: what it computes, publishes, and survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from miniatures import save_model_folder, tiny_tokenizer
from projects import ROOT, shrunk_settings
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from glassbox import tracking
from glassbox.command import Interruption
from glassbox.config.analysis_plan import plan_digest
from glassbox.config.settings import SPLITS, Group, ModelSettings, Settings
from glassbox.errors import DivergedError, GlassboxError
from glassbox.models.encoding import encode_prompt
from glassbox.models.loading import model_digest
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.answers import ask_teacher
from glassbox.snapshot.capture import capture_nothing
from glassbox.snapshot.labels import write_teacher_labels
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.tasks.splits import read_split, write_splits
from glassbox.training import checkpoint
from glassbox.training import trial as training
from glassbox.training.checkpoint import Progress
from glassbox.training.schedule import learning_rate_factor
from glassbox.training.setup import Setup, prepare
from glassbox.training.step import audit, update


def run_trial(project: Path, group: str = "combined", seed: int = 0, **changes: Any) -> dict[str, Any]:
    training.run_trial(shrunk_settings(project, **changes), group, seed)
    return json.loads((project / f"runs/{group}/{seed}.json").read_text(encoding="utf-8"))


def test_a_trial_publishes_everything_its_manifest_names(project: Path) -> None:
    manifest = run_trial(project)
    folder = project / "runs/combined/0"
    assert manifest["status"] == "finished"
    assert {"history.parquet", "items.parquet", "student/model.safetensors", "student/projectors.safetensors"} <= set(
        manifest["files"]
    )
    assert all((folder / name).is_file() for name in manifest["files"])
    items = pd.read_parquet(folder / "items.parquet")
    assert len(items) == 12
    assert all((items["cluster"] != "") == (items["task"] == "mmlu"))
    assert manifest["peak_memory_bytes"] > 100_000_000
    assert (manifest["peak_gpu_bytes"] is None) == (not torch.cuda.is_available())
    assert set(manifest["metrics"]) >= {"test/accuracy_sst2", "test/accuracy_mmlu", "test/exact_match_gsm8k"}
    assert manifest["heads"] is not None
    assert not (project / ".glassbox/running" / manifest["key"]).exists()


def test_the_run_in_mlflow_shows_every_curve_and_names_its_snapshot(project: Path) -> None:
    manifest = run_trial(project)
    (record,) = tracking.find_runs([manifest["run_id"]])
    assert record.status == "FINISHED"
    assert record.params["group"] == "combined"
    assert record.tags["snapshot_digest"] == manifest["digests"]["snapshot"]
    assert record.tags["precision"] == "no"
    for component in ("total", "task", "logits", "hidden", "attention"):
        assert len(tracking.history(record.run_id, f"train/loss_{component}")) == 6
        assert len(tracking.history(record.run_id, f"validation/loss_{component}")) == 2
    for name in ("train/weighted_task", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second"):
        assert tracking.history(record.run_id, name)


def test_a_trial_carries_the_digest_of_the_plan_that_was_there_when_it_started(project: Path) -> None:
    plan = write_plan(project, "alpha: 0.05\n")
    manifest = run_trial(project, "sft")
    (record,) = tracking.find_runs([manifest["run_id"]])
    assert manifest["plan"] == manifest["tags"]["plan"] == record.tags["plan"] == plan
    key = manifest["key"]
    assert write_plan(project, "alpha: 0.1\n") != plan
    assert run_trial(project, "sft")["key"] == key


def write_plan(project: Path, text: str) -> str:
    (project / "conf").mkdir(exist_ok=True)
    (project / "conf" / "analysis.yaml").write_text(text, encoding="utf-8")
    return plan_digest(project / "conf", "embedded")


def test_the_logged_total_is_the_weighted_sum_of_the_logged_components(project: Path) -> None:
    manifest = run_trial(project)
    history = pd.read_parquet(project / "runs/combined/0/history.parquet").pivot(
        index="step", columns="metric", values="value"
    )
    weights = {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.1}
    total = sum(weight * history[f"train/loss_{name}"] for name, weight in weights.items())
    np.testing.assert_allclose(history["train/loss_total"], total, rtol=1e-5)
    assert manifest["params"]["weight_hidden"] == 0.1


def test_the_same_trial_twice_gives_the_same_bits(project: Path) -> None:
    first, second = run_trial(project), run_trial(project)
    assert first["digests"] == second["digests"]


def test_groups_of_one_seed_share_order_and_initial_student_but_not_the_final_one(project: Path) -> None:
    manifests = [run_trial(project, group) for group in ("sft", "black_box", "combined")]
    for name in ("data_order", "initial_student", "snapshot"):
        assert len({manifest["digests"][name] for manifest in manifests}) == 1
    assert len({manifest["digests"]["final_student"] for manifest in manifests}) == 3
    assert len({manifest["study_key"] for manifest in manifests}) == 1
    assert len({manifest["key"] for manifest in manifests}) == 3


def test_seeds_differ_in_their_order(project: Path) -> None:
    orders = {run_trial(project, "sft", seed)["digests"]["data_order"] for seed in (0, 1)}
    assert len(orders) == 2


def test_micro_batches_change_the_student_by_rounding_only(project: Path) -> None:
    run_trial(project, train={"micro_batch_size": 8})
    whole = load_file(project / "runs/combined/0/student/model.safetensors")
    run_trial(project, train={"micro_batch_size": 2})
    split = load_file(project / "runs/combined/0/student/model.safetensors")
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=2e-3, atol=2e-4)


def test_gradient_checkpointing_changes_no_bit_of_the_student(project: Path) -> None:
    plain = run_trial(project)
    again = run_trial(project, train={"gradient_checkpointing": True})
    assert again["digests"]["final_student"] == plain["digests"]["final_student"]


def test_the_kept_student_opens_with_transformers_and_has_a_card(project: Path) -> None:
    run_trial(project)
    folder = project / "runs/combined/0/student"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() > 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    for told in ("combined", "begins with `<s>`", "Temperature 2", "learning rate", "| items |", "from_pretrained"):
        assert told in card


def test_the_kept_students_tokenizer_begins_a_text_as_training_did(project: Path) -> None:
    run_trial(project, "sft")
    tokenizer = AutoTokenizer.from_pretrained(project / "runs/sft/0/student")
    assert tokenizer("Answer: 7")["input_ids"] == encode_prompt(tokenizer, "Answer: 7")
    assert tokenizer("Answer: 7")["input_ids"][0] == tokenizer.bos_token_id


def test_the_update_gets_a_gradient_no_longer_than_clip_norm(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepare(shrunk_settings(project, train={"clip_norm": 0.01}), "combined", 0)
    turns = [(batch, True) for batch in setup.batches(setup.schedule.steps[0])]
    setup.student.train()
    norms: list[float] = []
    step = setup.optimizer.step

    def measured() -> None:
        gradients = [weight.grad for weight in setup.student.parameters() if weight.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        step()

    monkeypatch.setattr(setup.optimizer, "step", measured)
    logged = update(setup, turns, Progress(), due=True)
    assert logged["train/gradient_norm"] > 0.02
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_only_the_first_seed_is_kept_where_one_per_group_is_asked_for(project: Path) -> None:
    storage = {"keep_students": "one_per_group"}
    files = [set(run_trial(project, "sft", seed, storage=storage)["files"]) for seed in (0, 1)]
    assert "student/model.safetensors" in files[0]
    assert "student/model.safetensors" not in files[1]


def test_a_non_finite_weight_makes_the_trial_diverged_with_a_dump_and_the_study_goes_on(project: Path) -> None:
    weights = project / "models/student/model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"][7] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    manifest = run_trial(project)
    assert manifest["status"] == "diverged"
    assert "step 0" in manifest["reason"]
    dump = json.loads((project / "runs/combined/0/diverged.json").read_text(encoding="utf-8"))
    assert len(dump["sample_ids"]) == 8
    assert set(dump["components_of_the_last_micro_batch"]) == {"task", "logits", "hidden", "attention"}
    (record,) = tracking.find_runs([manifest["run_id"]])
    assert record.status == "FAILED"


def test_a_student_with_another_tokenizer_is_refused_before_a_run_is_opened(project: Path) -> None:
    path = project / "models/student/tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(GlassboxError, match="token by token means nothing"):
        run_trial(project)
    assert not (project / "runs").exists()


def with_answers(project: Path, text: str | None = None) -> dict[str, Any]:
    """Settings of the group seqkd alone, for which the teacher has answered, or `text` stands for each answer."""
    own = {"groups": ("seqkd",), "distill": {"seqkd": Group(task=1.0, labels="teacher")}}
    settings = shrunk_settings(project, answers={"max_new_tokens": 8}).model_copy(update=own)
    answers, facts = ask_teacher(settings, project / "data/tasks", project / ".glassbox")
    if text is not None:
        answers = [replace(answer, answer=text) for answer in answers]
    write_teacher_labels(project / "data/answers", answers, facts)
    training.run_trial(settings, "seqkd", 0)
    return json.loads((project / "runs/seqkd/0.json").read_text(encoding="utf-8"))


def test_the_teachers_answers_teach_in_the_order_that_all_groups_share(project: Path) -> None:
    sft, seqkd = run_trial(project, "sft"), with_answers(project)
    for name in ("data_order", "initial_student", "snapshot", "tasks"):
        assert sft["digests"][name] == seqkd["digests"][name]
    assert sft["study_key"] == seqkd["study_key"]
    assert sft["digests"]["final_student"] != seqkd["digests"]["final_student"]
    assert seqkd["params"]["labels"] == "teacher"
    assert "answers" not in sft["digests"]


def test_other_answers_are_another_trial_of_the_same_study(project: Path) -> None:
    first, second = with_answers(project), with_answers(project, " 7")
    assert first["digests"]["answers"] != second["digests"]["answers"]
    assert first["key"] != second["key"]
    assert first["study_key"] == second["study_key"]


def test_a_student_with_another_tokenizer_learns_from_answers_and_is_refused_signals(project: Path) -> None:
    tiny_tokenizer(["zebra quilt vexing jumps over hazy lakes"] * 3).save_pretrained(project / "models/student")
    capture_nothing(project / "data/snapshot")
    manifest = with_answers(project)
    assert manifest["status"] == "finished"
    assert manifest["digests"]["snapshot"] == "none"
    assert run_trial(project, "sft")["digests"]["data_order"] == manifest["digests"]["data_order"]
    with pytest.raises(GlassboxError, match=r"token by token means nothing.*`-S distill=seqkd`"):
        run_trial(project, "black_box")


@pytest.mark.real
def test_a_student_of_llama_2_s_tokens_learns_from_a_teacher_of_mistral_s(project: Path) -> None:
    root = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent")) / "tokenizers"
    if not root.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    for role, source in (("teacher", "mistral-7b-v0.1"), ("student", "llama2")):
        tokenizer = load_tokenizer(ModelSettings(model=str(root / source)))
        save_model_folder(project / "models" / role, tokenizer, vocabulary=len(tokenizer))
    capture_nothing(project / "data/snapshot")
    manifest = with_answers(project)
    assert manifest["status"] == "finished"
    facts = json.loads((project / "data/answers/manifest.json").read_text(encoding="utf-8"))
    assert facts["rows"] == 24
    with pytest.raises(GlassboxError, match=r"token by token means nothing.*`-S distill=seqkd`"):
        run_trial(project, "black_box")


def test_early_stopping_ends_training_after_its_patience(project: Path) -> None:
    stopping = {"patience": 1, "minimum_improvement": 1000.0}
    manifest = run_trial(project, "sft", train={"epochs": 6, "early_stopping": stopping})
    assert manifest["stopped_early"]
    assert manifest["steps"] == 6


def test_bf16_is_in_force_where_it_is_asked_for(project: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    assert run_trial(project, train={"precision": "bf16"})["precision"] == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def scaled(project: Path) -> Iterator[tuple[Setup, list[tuple[Batch, bool]]]]:
    """A prepared trial that computes in float16 on the CPU under a real GradScaler, and its first step's batches.

    Accelerate itself allows float16 on a GPU only, so that its state is told afterwards.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    trial = prepare(shrunk_settings(project, train={"epochs": 20}), "combined", 0)
    trial.scratch.mkdir(parents=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    trial.accelerator.scaler, trial.accelerator.native_amp = scaler, True
    trial.accelerator.state._mixed_precision = "fp16"
    as_on_cuda = torch.optim.AdamW(trial.student.parameters(), foreach=True)
    trial = replace(trial, optimizer=AcceleratedOptimizer(as_on_cuda, scaler=scaler))
    trial.accelerator._optimizers = [trial.optimizer]
    batches = trial.snapshot.batches(trial.schedule.steps[0], trial.objective.signals)
    yield trial, [(batch, True) for batch in batches]
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_skipped_step_is_counted_and_moves_neither_weights_nor_schedule(
    scaled: tuple[Setup, list[tuple[Batch, bool]]],
) -> None:
    trial, batches = scaled
    progress, logged = Progress(), []
    digests = [model_digest(trial.student.model)]
    for _ in range(20):
        logged.append(update(trial, batches, progress, due=True))
        progress.step += 1
        digests.append(model_digest(trial.student.model))
    skipped = [before == after for before, after in pairwise(digests)]
    assert skipped[0] and not skipped[-1]
    assert progress.updates == skipped.count(False)
    assert [metrics["train/skipped_steps"] for metrics in logged] == list(np.cumsum(skipped))
    rates = [metrics["train/learning_rate"] for metrics in logged]
    updates_before = np.cumsum([0, *(not skip for skip in skipped[:-1])])
    steps, train = len(trial.schedule.steps), trial.settings.train
    assert rates == [train.learning_rate * learning_rate_factor(int(n), steps, train) for n in updates_before]
    assert ["train/gradient_norm" in metrics for metrics in logged] == [not skip for skip in skipped]
    assert all(parameter.dtype == torch.float32 for parameter in trial.student.parameters())


def test_a_gradient_that_overflows_without_any_scaling_is_divergence(
    scaled: tuple[Setup, list[tuple[Batch, bool]]],
) -> None:
    trial, batches = scaled
    next(trial.student.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    progress = Progress()
    with pytest.raises(DivergedError, match="the gradient of step 24 is not finite"):
        while True:
            update(trial, batches, progress, due=False)
            progress.step += 1
    assert progress.updates == 0


def history(project: Path, group: str) -> pd.DataFrame:
    """A row per step, a column per metric."""
    logged = pd.read_parquet(project / f"runs/{group}/0/history.parquet")
    logged = logged[~logged.metric.str.startswith("cka/")]  # before the first step, and after the last
    return logged.pivot(index="step", columns="metric", values="value")


def prepared(project: Path, group: str, **changes: Any) -> tuple[Setup, list[tuple[Batch, bool]]]:
    """A trial before its first step, and that step's batches."""
    trial = prepare(shrunk_settings(project, **changes), group, 0)
    trial.scratch.mkdir(parents=True, exist_ok=True)
    return trial, [(batch, True) for batch in trial.batches(trial.schedule.steps[0])]


@pytest.mark.parametrize("group", ["combined", "shuffled_hidden"])
def test_batches_are_decoded_on_the_device_of_the_trial(
    project: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    control = {"task": 1.0, "logits": 0.5, "hidden": 0.1, "shuffled": ["hidden"]}
    groups = [*shrunk_settings(project).groups, "shuffled_hidden"]
    trial, _ = prepared(project, group, distill={"shuffled_hidden": control}, groups=groups)
    read, devices = Snapshot.read, []

    def watched(
        snapshot: Snapshot, ids: Any, signals: Any, device: Any = "the default", whole: Any = frozenset()
    ) -> Batch:
        devices.append(device)
        return read(snapshot, ids, signals, "cpu", whole)

    monkeypatch.setattr(Snapshot, "read", watched)
    next(iter(trial.batches(trial.schedule.steps[0])))
    assert devices and all(device is trial.accelerator.device for device in devices)


CONTROL_AND_REAL = (("hidden_state", 0), ("shuffled_hidden", 0), ("shuffled_hidden", 1))
WEIGHTS_ON_CURVE = [0.6 * max(0.0, step / 6 - 0.5) for step in range(6)]
CURVE = {"distill": {"combined": {"hidden": "0:0, 0.5:0, 1:0.3"}}}


def test_a_level_curve_and_an_audit_train_to_the_same_bits_as_a_constant_without_one(project: Path) -> None:
    plain = run_trial(project, train={"liveness_steps": 0})
    audited = run_trial(
        project, distill={"combined": {"hidden": "0:0.1, 1:0.1"}}, objective={"temperature": "0:2, 1:2"}
    )
    assert plain["liveness"] == {} and audited["liveness"] != {}
    assert plain["digests"] == audited["digests"]
    assert plain["key"] != audited["key"]
    assert audited["params"]["weight_hidden"] == "0:0.1, 1:0.1"


def test_a_curve_is_logged_on_every_logging_step_of_training_and_never_by_an_evaluation(project: Path) -> None:
    run_trial(project, **CURVE, objective={"temperature": "0:4, 1:1"})
    logged = history(project, "combined")
    np.testing.assert_allclose(logged["train/weight_hidden"], WEIGHTS_ON_CURVE, atol=1e-12)
    np.testing.assert_allclose(logged["train/temperature"], [4 - 3 * step / 6 for step in range(6)])
    weighted = WEIGHTS_ON_CURVE * logged["train/loss_hidden"]
    np.testing.assert_allclose(logged["train/weighted_hidden"], weighted, rtol=1e-5)
    assert (logged["train/loss_hidden"] > 0).all()
    assert "train/weight_logits" not in logged
    assert [name for name in logged if "weight_" in name or "temperature" in name and "kl_" not in name] == [
        "train/temperature",
        "train/weight_hidden",
    ]
    at_the_end = logged["validation/weighted_hidden"].iloc[-1] / logged["validation/loss_hidden"].iloc[-1]
    assert at_the_end == pytest.approx(0.3, rel=1e-5)


def test_a_projector_stands_still_while_the_hidden_component_counts_nothing(project: Path) -> None:
    trial, batches = prepared(project, "combined", **CURVE)
    projector, progress = trial.student.projectors["hidden"], Progress()
    before = projector.weight.detach().clone()
    update(trial, batches, progress, due=False)
    assert torch.equal(projector.weight, before) and projector.weight not in trial.optimizer.optimizer.state
    progress.updates = 5
    update(trial, batches, progress, due=False)
    assert not torch.equal(projector.weight, before)


def test_every_trial_says_how_each_component_moved_the_student(project: Path) -> None:
    manifest = run_trial(project)
    (record,) = tracking.find_runs([manifest["run_id"]])
    assert set(manifest["liveness"]) == {"task", "logits", "hidden", "attention"}
    assert sum(figures["share"] for figures in manifest["liveness"].values()) == pytest.approx(1.0)
    assert manifest["liveness"]["task"]["cosine_to_task"] == pytest.approx(1.0)
    for component, figures in manifest["liveness"].items():
        for name, mean in figures.items():
            logged = tracking.history(record.run_id, f"liveness/{component}_{name}")
            assert [step for step, _ in logged] == [1, 2, 3]
            assert np.mean([value for _, value in logged]) == pytest.approx(mean)
        assert figures["gradient_norm"] > 0


def test_the_audit_measures_the_gradient_that_a_step_then_takes(project: Path) -> None:
    trial, batches = prepared(project, "sft", train={"clip_norm": 1e9})
    progress = Progress()
    audited = audit(trial, batches, progress)
    metrics = update(trial, batches, progress, due=True)
    assert metrics["train/gradient_norm"] == pytest.approx(audited["task"]["gradient_norm"], rel=1e-6)


def test_a_component_that_cannot_move_the_student_fails_its_trial(project: Path) -> None:
    with pytest.raises(GlassboxError, match="in the first 3 steps attention did not move the student"):
        run_trial(project, distill={"combined": {"attention": 1e-15}})
    assert not (project / "runs/combined/0.json").exists()


class Interrupted(Interruption):
    """A signal that comes before the first step is done."""

    def __enter__(self) -> Interruption:
        super().__enter__()
        self.received = signal.SIGTERM
        return self


def test_a_resumed_trial_audits_the_first_steps_once_and_goes_on_along_its_curve(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("glassbox.training.trial.Interruption", Interrupted)
        run_trial(project, **CURVE)
    manifest = run_trial(project, **CURVE)
    logged = tracking.history(manifest["run_id"], "liveness/hidden_share")
    assert [step for step, _ in logged] == [1, 2, 3]
    assert manifest["liveness"]["hidden"]["share"] == pytest.approx(np.mean([value for _, value in logged]))
    np.testing.assert_allclose(history(project, "combined")["train/weight_hidden"], WEIGHTS_ON_CURVE, atol=1e-12)


def test_balanced_signals_weigh_as_much_as_the_task_whatever_the_micro_batches(project: Path) -> None:
    logged = []
    for size in (4, 8):
        changes = {"objective": {"balance": "magnitude"}, "train": {"micro_batch_size": size}}
        trial, batches = prepared(project, "combined", **changes)
        assert len(batches) == 8 // size
        logged.append(update(trial, batches, Progress(), due=True))
        for component, weight in {"logits": 0.5, "hidden": 0.1, "attention": 0.1}.items():
            expected = weight * logged[-1]["train/loss_task"]
            assert logged[-1][f"train/weighted_{component}"] == pytest.approx(expected, rel=1e-4)
    for component in ("logits", "hidden", "attention"):
        name = f"train/balance_{component}"
        assert logged[0][name] == pytest.approx(logged[1][name], rel=1e-5)


def test_a_control_reads_the_same_other_samples_in_every_trial(project: Path) -> None:
    control = {"task": 1.0, "logits": 0.5, "hidden": 0.1, "shuffled": ["hidden"]}
    groups = [*shrunk_settings(project).groups, "shuffled_hidden"]
    changes = {"groups": groups, "distill": {"shuffled_hidden": control}, "train": {"max_steps": 3}}
    manifests = [run_trial(project, group, seed, **changes) for group, seed in CONTROL_AND_REAL]
    real, first, second = manifests
    assert real["digests"]["data_order"] == first["digests"]["data_order"]
    assert real["digests"]["final_student"] != first["digests"]["final_student"]
    assert first["digests"]["partners"] == second["digests"]["partners"] and "partners" not in real["digests"]
    assert first["params"]["shuffled"] == "hidden" and "shuffled" not in real["params"]
    assert first["study_key"] == real["study_key"]


def start(project: Path, settings: Settings) -> subprocess.Popen[str]:
    """The real script in a process of its own."""
    (project / "params.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, str(ROOT / "src/train.py"), "--group", "combined", "--seed", "0"]
    environment = {**os.environ, "DVC_ROOT": str(project), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_an_unknown_group_is_refused_with_those_there_are() -> None:
    command = [sys.executable, "src/train.py", "--group", "combine", "--seed", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no group of that name, but sft, sft_tuned, seqkd, black_box, black_box_matched, hidden_state" in done.stderr


def test_a_seed_outside_the_plan_is_refused_with_the_command_that_plans_it() -> None:
    command = [sys.executable, "src/train.py", "--group", "combined", "--seed", "99"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "--seed 99: the settings' seeds are" in done.stderr and "-S 'seeds=[99]'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_an_interrupted_trial_resumes_in_the_same_run_to_the_same_bits(
    project: Path, number: signal.Signals, code: int
) -> None:
    undisturbed = run_trial(project, train={"epochs": 60})
    shutil.rmtree(project / "runs")
    plan = write_plan(project, "alpha: 0.05\n")
    settings = shrunk_settings(project, train={"epochs": 60})
    process = start(project, settings)
    scratch = project / ".glassbox/running" / undisturbed["key"]
    deadline = time.monotonic() + 120
    while not list(scratch.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    (saved,) = scratch.glob("step-*")
    interrupted = json.loads((saved / "progress.json").read_text(encoding="utf-8"))
    assert 0 < interrupted["step"] < 180
    write_plan(project, "alpha: 0.1\n")
    resumed = start(project, settings)
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    manifest = json.loads((project / "runs/combined/0.json").read_text(encoding="utf-8"))
    assert manifest["run_id"] == interrupted["run_id"]
    assert manifest["plan"] == manifest["tags"]["plan"] == plan
    assert manifest["digests"] == undisturbed["digests"]
    steps = [step for step, _ in tracking.history(manifest["run_id"], "train/loss_total")]
    assert steps == list(range(1, 181))


def test_a_damaged_checkpoint_is_said_and_the_trial_begins_anew(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup, _ = prepared(project, "sft")
    before = model_digest(setup.student.model)
    for name in (checkpoint.STATE, checkpoint.PROGRESS, checkpoint.SEAL):
        checkpoint.save(setup.scratch, Progress(step=3), setup.student, setup.optimizer.optimizer, setup.processes)
        path = setup.scratch / "step-00000003" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert checkpoint.load(setup.scratch, setup.student, setup.optimizer.optimizer, setup.processes) is None
        assert "step-00000003 is damaged and is removed: the trial begins anew" in capsys.readouterr().out
        assert model_digest(setup.student.model) == before and not setup.scratch.exists()


def test_an_earlier_manifest_never_names_the_files_of_a_later_trial(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trial(project, "sft")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("glassbox.training.publication.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        training.run_trial(shrunk_settings(project, weights={"task": 1.0}), "sft", 0)
    assert not (project / "runs/sft/0.json").exists()


def test_a_trial_is_refused_where_the_tasks_are_not_those_of_the_snapshot(project: Path) -> None:
    settings = shrunk_settings(project)
    splits = {split: read_split(project / "data/tasks", split) for split in SPLITS}
    write_splits(project / "data/tasks", splits | {"test": splits["test"][1:]})
    with pytest.raises(GlassboxError, match="holds other samples than those that data/snapshot was made from"):
        prepare(settings, "sft", 0)


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_a_moment_that_is_not_finite_makes_the_trial_diverged(project: Path, moment: str) -> None:
    """An infinite second moment stops its weight without a trace in any loss."""
    setup = prepare(shrunk_settings(project), "sft", 0)

    class Planting(training.Unwatched):
        def step(self, step: int, *_: object) -> None:
            weight = next(iter(setup.student.model.parameters()))
            setup.optimizer.optimizer.state[weight][moment].view(-1)[0] = float("inf")

    assert training.run(setup, Planting()) == "diverged"
    manifest = json.loads((project / "runs/sft/0.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "diverged" and "finite" in manifest["reason"]


def test_a_watch_hears_of_the_beginning_once_and_before_the_first_step(project: Path) -> None:
    heard: list[tuple[str, int]] = []

    class Listening(training.Unwatched):
        def begins(self, step: int, steps: int) -> None:
            heard.append(("begins", step))

        def step(self, step: int, *_: object) -> None:
            heard.append(("step", step))

    training.run(prepare(shrunk_settings(project), "sft", 0), Listening())
    assert heard[:2] == [("begins", 0), ("step", 1)]
    assert [what for what, _ in heard].count("begins") == 1
