"""One trial, or one capture, in several processes: real launches of two CPU processes, against one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from further import make_further, settings_of
from projects import ROOT, shrunk_settings
from safetensors.torch import load_file, save_file

from glassbox import tracking
from glassbox.command import configuration
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.processes import Processes, start_accelerator
from glassbox.randomness import data_order
from glassbox.snapshot.reader import Snapshot, read_manifest
from glassbox.training.trial import run_trial

FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "tokens": (
        "dense",
        {"task": 1.0, "logits": 0.5, "layers": 0.1, "layer_router": 0.1, "relations": 0.1, "contrastive": 0.05},
    ),
    "sampled": ("experts", {"task": 1.0, "mixture": 0.5, "experts": "sampled"}),
    "router": ("experts", {"task": 1.0, "mixture": 0.5, "experts": "router"}),
    "chunks": (
        "unlike",
        {"task": 1.0, "alm": 50.0, "aligned_logits": 0.5, "aligned_hidden": 0.1, "aligned_attention": 0.1},
    ),
}
"""Groups that hold every component beside those of `combined`, and the kind of project that each needs."""
UNEVEN = {"batch_size": 9, "micro_batch_size": 3}  # steps of 3, 3 and 2 micro-batches: one process sits out a round
DEADLINE_SECONDS = 300


def process(index: int, count: int) -> Processes:
    processes = Processes(torch.device("cpu"))
    processes.index, processes.count = index, count
    return processes


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_every_item_counts_once_and_every_process_has_as_many_turns(count: int, size: int) -> None:
    items = list(range(size))
    turns = [process(index, count).turns(items) for index in range(count)]
    assert len({len(turn) for turn in turns}) == 1
    assert sorted(item for turn in turns for item, counts in turn if counts) == items


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7])
def test_shares_come_together_in_the_order_they_had(count: int, size: int) -> None:
    items = list(range(size))
    processes = [process(index, count) for index in range(count)]
    assert processes[0].in_order([each.share(items) for each in processes]) == items


def test_an_unknown_way_to_share_a_trial_is_refused_with_those_there_are() -> None:
    assert configuration("fsdp").is_file()
    with pytest.raises(GlassboxError, match="Choose one of ddp, fsdp"):
        configuration("dpp")


def test_the_environment_divides_no_gradient_and_starts_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerator = start_accelerator("no", cpu=True)
    student = accelerator.prepare_model(torch.nn.Linear(3, 1))
    accelerator.backward(student(torch.ones(2, 3)).sum())
    assert type(student) is torch.nn.Linear and student.weight.grad is not None
    assert student.weight.grad.tolist() == [[2.0, 2.0, 2.0]]
    assert accelerator.mixed_precision == "no"


@pytest.mark.parametrize("name", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DOWNCAST_BF16"])
def test_a_variable_that_would_train_another_way_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(GlassboxError, match=f"`unset {name}`"):
        start_accelerator("no", cpu=True)


def test_float16_shards_are_refused_for_their_gradients_may_overflow_in_one_process_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(GlassboxError, match="train.precision=bf16"):
        start_accelerator("fp16", cpu=True)


def start(project: Path, settings: Settings, *command: str) -> subprocess.Popen[str]:
    (project / "params.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    environment = {
        **os.environ,
        "DVC_ROOT": str(project),
        "OMP_NUM_THREADS": "1",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "30",
    }
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(started: subprocess.Popen[str]) -> str:
    """What the command wrote; a launch that does not end is ended, and is an error."""
    try:
        return started.communicate(timeout=DEADLINE_SECONDS)[0]
    except subprocess.TimeoutExpired:
        started.terminate()
        started.communicate(timeout=60)
        raise


def train(project: Path, **changes: Any) -> dict[str, Any]:
    """The manifest of combined/0, trained as the settings say."""
    return train_by_script(project, shrunk_settings(project, **changes), "combined")


TRIAL = ("--group", "combined", "--seed", "0")


def train_by_script(project: Path, settings: Settings, group: str) -> dict[str, Any]:
    started = start(project, settings, str(ROOT / "src/train.py"), "--group", group, "--seed", "0")
    output = finish(started)
    assert started.returncode == 0, output
    return read_trial(project, group)


def read_trial(project: Path, group: str = "combined") -> dict[str, Any]:
    return json.loads((project / f"runs/{group}/0.json").read_text(encoding="utf-8"))


def train_in_one(project: Path, **changes: Any) -> Path:
    """The folder of combined/0, trained in this process."""
    run_trial(shrunk_settings(project, **changes), "combined", 0)
    return (project / "runs").rename(project / "runs_of_one") / "combined/0"


def assert_same_trial(one: Path, several: Path) -> None:
    """Loss curves, scores and final weights agree within 1e-5."""
    kept = sorted(path.name for path in (one / "student").glob("*.safetensors"))
    assert "model.safetensors" in kept
    for name in kept:
        expected, found = (load_file(folder / "student" / name) for folder in (one, several))
        assert expected.keys() == found.keys()
        for weight, value in expected.items():
            torch.testing.assert_close(found[weight], value, rtol=0, atol=1e-5)
    curves = [pd.read_parquet(folder / "history.parquet") for folder in (one, several)]
    curves = [curve[~curve.metric.str.contains("second")].set_index(["step", "metric"]) for curve in curves]
    assert curves[0].index.equals(curves[1].index)
    np.testing.assert_allclose(curves[1].value, curves[0].value, rtol=1e-5, atol=1e-5)
    items = [pd.read_parquet(folder / "items.parquet") for folder in (one, several)]
    assert items[0].sample_id.equals(items[1].sample_id)


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_two_processes_train_the_student_that_one_trains(project: Path, parallelism: str) -> None:
    one = train_in_one(project, train=UNEVEN)
    manifest = train(project, train={**UNEVEN, "processes": 2, "parallelism": parallelism})
    assert_same_trial(one, project / "runs/combined/0")
    assert manifest["processes"] == 2
    (record,) = tracking.find_by_key(manifest["key"])
    assert (record.status, record.tags["processes"]) == ("FINISHED", "2")
    assert [step for step, _ in tracking.history(record.run_id, "train/loss_total")] == list(range(1, 7))
    assert not list((project / ".glassbox/running").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
@pytest.mark.parametrize("group", ["tokens", "router", "chunks", pytest.param("sampled", marks=pytest.mark.long)])
def test_two_processes_train_the_student_that_one_trains_by_every_further_component(
    store: Path, monkeypatch: pytest.MonkeyPatch, group: str, parallelism: str
) -> None:
    """The gate that learns, what is drawn of experts and negatives, chunks: all are those of the whole step."""
    kind, weights = FURTHER[group]
    monkeypatch.chdir(store)
    make_further(kind, store, {group: weights})
    run_trial(settings_of(kind, store, {group: weights}, train=UNEVEN), group, 0)
    one = (store / "runs").rename(store / "runs_of_one") / group / "0"
    several = settings_of(kind, store, {group: weights}, train={**UNEVEN, "processes": 2, "parallelism": parallelism})
    assert train_by_script(store, several, group)["processes"] == 2
    assert_same_trial(one, store / "runs" / group / "0")
    assert (one / "student/projectors.safetensors").is_file() == (kind != "experts")


@pytest.mark.long
@pytest.mark.slow
def test_accelerate_launch_does_the_same_as_the_settings(project: Path) -> None:
    one = train_in_one(project, train=UNEVEN)
    launch = ("-m", "accelerate.commands.launch", "--config_file", str(ROOT / "conf/accelerate/ddp.yaml"))
    started = start(project, shrunk_settings(project, train=UNEVEN), *launch, str(ROOT / "src/train.py"), *TRIAL)
    output = finish(started)
    assert started.returncode == 0, output
    assert_same_trial(one, project / "runs/combined/0")
    assert read_trial(project)["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_processes_stop_together_and_go_on_together(project: Path, parallelism: str) -> None:
    longer = {**UNEVEN, "epochs": 10, "learning_rate": 1e-4}
    one = train_in_one(project, train=longer)
    settings = shrunk_settings(project, train={**longer, "processes": 2, "parallelism": parallelism})
    started = start(project, settings, str(ROOT / "src/train.py"), *TRIAL)
    scratch = project / ".glassbox/running"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not list(scratch.glob("*/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    output = finish(started)
    assert started.returncode == 143, output
    (saved,) = scratch.glob("*/step-*")
    assert 0 < json.loads((saved / "progress.json").read_text(encoding="utf-8"))["step"] < 30
    resumed = start(project, settings, str(ROOT / "src/train.py"), *TRIAL)
    output = finish(resumed)
    assert resumed.returncode == 0, output
    (log,) = (project / ".glassbox/logs").glob("combined-0-*.log")
    assert "resumes after step" in log.read_text(encoding="utf-8")
    assert_same_trial(one, project / "runs/combined/0")


@pytest.mark.long
@pytest.mark.slow
def test_a_loss_that_one_process_finds_not_finite_ends_the_trial_in_both(project: Path) -> None:
    snapshot = Snapshot(project / "data/snapshot")
    infos = snapshot.samples("train")
    first_step = data_order([info.sample_id for info in infos], 0, "0")[: UNEVEN["batch_size"]]
    tokens = {name: snapshot.read([name], frozenset()).input_ids[0].unique().tolist() for name in first_step}
    uses = Counter(token for each in tokens.values() for token in each)
    culprit, token = next((name, token) for name, each in tokens.items() for token in each if uses[token] == 1)
    path = project / "models/student/model.safetensors"
    weights = load_file(path)
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    manifest = train(project, train={**UNEVEN, "processes": 2})
    assert manifest["status"] == "diverged"
    assert culprit in json.loads((project / "runs/combined/0/diverged.json").read_text(encoding="utf-8"))["sample_ids"]


@pytest.mark.slow
def test_two_processes_capture_the_snapshot_that_one_captures(project: Path) -> None:
    captured = read_manifest(project / "data/snapshot")
    shutil.rmtree(project / "data/snapshot")
    started = start(
        project, shrunk_settings(project, snapshot={"processes": 2, "batch_size": 16}), str(ROOT / "src/snapshot.py")
    )
    output = finish(started)
    assert started.returncode == 0, output
    again = read_manifest(project / "data/snapshot")
    assert again["logical_digest"] == captured["logical_digest"]
    assert again["files"] == captured["files"]
    assert list((project / "data").glob(".*")) == []
