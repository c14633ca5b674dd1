"""Trials on running text: a real snapshot of blocks, perplexity, and what becomes of a student that diverges."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import sections
import torch
from miniatures import save_model_folder, tiny_tokenizer
from projects import merged

from glassbox.config.settings import Settings
from glassbox.evaluation import evaluation
from glassbox.evaluation.references import measure_student, measure_teacher
from glassbox.snapshot.capture import capture
from glassbox.snapshot.reader import Snapshot, open_snapshot
from glassbox.tasks.miniature import chronicle
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import write_splits
from glassbox.tracking.items import read_items
from glassbox.training import retention, trial


def text_settings(folder: Path) -> Settings:
    import random

    text = chronicle.article(random.Random(0)) * 2
    tokenizer = tiny_tokenizer([text])
    save_model_folder(folder / "models/teacher", tokenizer, width=48, heads=4, key_heads=4, seed=1)
    save_model_folder(folder / "models/student", tokenizer, width=32, heads=4, key_heads=2, seed=2)
    changes = {
        "seeds": [0],
        "teacher": {"model": str(folder / "models/teacher")},
        "student": {"model": str(folder / "models/student")},
        "snapshot": {"audit_positions": 20, "max_length": 64},
        "train": {"epochs": 2, "logging_interval": 1, "micro_batch_size": 4, "threads": 1},
        "evaluation": {"max_new_tokens": 8},
    }
    values = merged(sections.FAITHFUL, changes)
    counts = {"train": 8, "validation": 4, "test": 6}
    task = {"source": "embedded", "text": {"block_size": 64, "stride": 48}, **counts}
    values["prepare"] = {**values["prepare"], "tasks": {"chronicle": task}}
    values["distill"] = {name: values["distill"][name] for name in ("sft", "combined")}
    values["groups"] = ["sft", "combined"]
    return Settings.model_validate(values)


OF_THE_STUDENT = ("retention/perplexity_chronicle", "retention/tokens_chronicle")


def teacher_nats(snapshot: Snapshot) -> float:
    """Minus the mean of the labels' log-probabilities that the snapshot stores."""
    infos = snapshot.samples("validation")
    batch = snapshot.read([info.sample_id for info in infos], frozenset({"hidden"}))
    assert batch.hidden is not None
    logits = torch.nn.functional.linear(batch.hidden.float(), *snapshot.head())
    return float(torch.nn.functional.cross_entropy(logits, batch.labels))


@pytest.mark.slow
def test_a_trial_on_running_text_from_blocks_to_manifest(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)
    settings = text_settings(store)
    splits = load_samples(settings.prepare, teacher=settings.teacher)
    write_splits(store / "data/tasks", splits)
    capture(settings, store / "data/tasks", store / "data/snapshot", store / ".glassbox")
    snapshot = open_snapshot(store / "data/snapshot")
    assert snapshot is not None
    assert all(info.n_positions_answer == info.n_tokens - 1 for info in snapshot.samples("train"))

    trial.run_trial(settings, "combined", 0)
    manifest = json.loads((store / "runs/combined/0.json").read_text(encoding="utf-8"))
    metrics = manifest["metrics"]
    assert manifest["status"] == "finished"
    assert metrics["test/perplexity_chronicle"] > 1 and metrics["test/tokens_chronicle"] > 0
    assert {"validation/perplexity_chronicle", "test/bits_per_byte_chronicle", "retention/kl_chronicle"} <= set(metrics)
    assert 0 <= metrics["retention/top1_chronicle"] <= 1 and metrics["retention/kl_chronicle"] > 0
    items = read_items(store / "runs/combined/0/items.parquet")
    nats = -sum(item["log_likelihoods"][0] for item in items) / sum(item["tokens"] for item in items)
    assert math.exp(nats) == pytest.approx(metrics["test/perplexity_chronicle"], rel=1e-9)
    positions = sum(info.n_positions_answer for info in snapshot.samples("validation"))
    assert metrics["retention/tokens_chronicle"] == positions

    teacher = measure_teacher(settings, store / "data/tasks")
    untrained = measure_student(settings, store / "data/tasks")
    assert (
        set(teacher["teacher_scores"])
        == {"test/perplexity_chronicle", "test/bits_per_byte_chronicle"}
        == set(untrained)
    )
    assert teacher["teacher_right"] == {} and teacher["teacher_unread"] == []
    assert metrics["test/perplexity_chronicle"] < untrained["test/perplexity_chronicle"]

    def broken(*arguments: object) -> None:
        raise RuntimeError("a batch fails")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="a batch fails"):
        patch.setattr(evaluation, "score_texts", broken)
        trial.run_trial(settings, "sft", 0)
    assert not (store / "runs/sft/0.json").exists()

    setup = trial.prepare(settings, "sft", 0)
    kept = retention.retention(setup)
    assert kept["retention/teacher_perplexity_chronicle"] == pytest.approx(math.exp(teacher_nats(snapshot)), rel=1e-3)
    own = retention.retention(replace(setup, shares_tokens=False))
    assert own == {name: pytest.approx(kept[name], rel=1e-6) for name in OF_THE_STUDENT}
    with torch.no_grad():
        setup.student.model.lm_head.weight[3] = math.nan
    monkeypatch.setattr(trial, "train", lambda *arguments: None)
    monkeypatch.setattr(trial, "resume", lambda given: trial.Progress(initial_student=given.initial_student, plan=""))
    assert trial.run(setup, trial.Unwatched()) == "diverged"
    diverged = json.loads((store / "runs/sft/0.json").read_text(encoding="utf-8"))
    assert not any("perplexity" in name for name in diverged["metrics"])
