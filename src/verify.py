"""Stage `verify`: the gate. Checks data/snapshot, measures teacher and untrained student -> reports/snapshot.json.

Trials depend on data/verified.json, which names the snapshot that passed and nothing that varies from run to run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml

from glassbox.command import run
from glassbox.config import ModelSettings, Settings, load_settings

TASKS = Path("data/tasks")
FOLDER = Path("data/snapshot")
REPORT = Path("reports/snapshot.json")
PASSED = Path("data/verified.json")


def dvc_md5(lock: Path, stage: str = "snapshot") -> str | None:
    """DVC's own digest of the snapshot's folder, where its stage has been recorded."""
    if not lock.exists():
        return None
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return next((output.get("md5") for output in stages.get(stage, {}).get("outs", [])), None)


def scores_of(model_settings: ModelSettings, settings: Settings, seed: int = 0) -> dict[str, float]:
    """Test scores of a model as it stands, by the code that also measures every trial's student."""
    import torch

    from glassbox.evaluation import evaluate
    from glassbox.models import load_model, load_tokenizer
    from glassbox.tasks import read_split

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(model_settings, seed=seed).to(device)  # type: ignore[arg-type]
    evaluation = evaluate(
        model,
        load_tokenizer(model_settings),
        read_split(TASKS, "test"),
        settings.evaluation,
        settings.snapshot.max_length,
        settings.snapshot.overflow,
    )
    return evaluation.metrics("test")


def report_on(settings: Settings) -> dict[str, Any]:
    """The gate's figures, and test scores of the teacher and of the first seed's student as trials begin with it."""
    from glassbox.randomness import derived_seed
    from glassbox.snapshot.verify import verify

    started = time.monotonic()
    report = verify(settings, FOLDER, TASKS)
    report["verify_seconds"] = round(time.monotonic() - started, 1)
    report["dvc_md5"] = dvc_md5(Path("dvc.lock"))
    report["teacher_scores"] = scores_of(settings.teacher, settings)
    student = settings.student.model_copy(update={"dtype": "float32"})
    report["student_scores"] = scores_of(student, settings, derived_seed(settings.seeds[0], "student"))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)

    import torch

    from glassbox.models import load_tokenizer, refuse_different_tokenizers
    from glassbox.snapshot.storage import write_synced
    from glassbox.tracking import log_snapshot

    refuse_different_tokenizers(load_tokenizer(settings.teacher), load_tokenizer(settings.student), settings.groups[0])
    torch.set_num_threads(settings.train.threads)
    report = report_on(settings)
    log_snapshot(report, settings.storage)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_synced(REPORT, (json.dumps(report, indent=2) + "\n").encode())
    write_synced(PASSED, (json.dumps({"snapshot": report["logical_digest"]}) + "\n").encode())
    print(f"{FOLDER} holds: {report['rows']} samples checked, logical digest {report['logical_digest']}")
    for metric in sorted(report["teacher_scores"]):
        print(
            f"  {metric}: teacher {report['teacher_scores'][metric]:.3f}, student before training "
            f"{report['student_scores'][metric]:.3f}"
        )
    if report["banner"]:
        print(f"WARNING: {report['banner']}")


if __name__ == "__main__":
    run(main)
