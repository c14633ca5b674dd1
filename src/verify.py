"""Stage `verify`: the gate. Checks data/snapshot, measures teacher and untrained student -> reports/snapshot.json.

Ends at once where the report here has the key that snapshot, models, tasks, settings and code give now.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from glassbox.command import run
from glassbox.config.settings import SPLITS, Settings, load_settings
from glassbox.config.storage import CONF_FOLDER, REPORTS_FOLDER, SNAPSHOT_FOLDER, TASKS_FOLDER
from glassbox.files import read_json
from glassbox.snapshot.keys import verify_key

REPORT = REPORTS_FOLDER / "snapshot.json"


def dvc_md5(lock: Path, stage: str = "snapshot") -> str | None:
    """DVC's own digest of the snapshot's folder, where its stage has been recorded."""
    if not lock.exists():
        return None
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return next((output.get("md5") for output in stages.get(stage, {}).get("outs", [])), None)


def teacher_worth(settings: Settings, report: dict[str, Any]) -> list[str]:
    """A sentence for each task on which this teacher has little to teach, before anything trains."""
    from glassbox.comparison.notes import teacher_notes
    from glassbox.comparison.plan import plan_or_derived
    from glassbox.tasks.sample import METRICS, chance_levels
    from glassbox.tasks.splits import read_split

    samples = read_split(TASKS_FOLDER, "test")
    questions = Counter(sample.task for sample in samples)
    planned = plan_or_derived(CONF_FOLDER, settings).tasks
    texts = {task for task, each in settings.prepare.tasks.items() if each.text}
    chance = {
        task: None if task in texts else planned[task].chance if task in planned else own
        for task, own in chance_levels(samples).items()
    }
    roles = {"teacher": report["teacher_scores"], "initial_student": report["student_scores"]}
    scores = {
        role: {t: found[name] for t in chance for metric in METRICS if (name := f"test/{metric}_{t}") in found}
        for role, found in roles.items()
    }
    return teacher_notes(scores, chance, questions, report.get("label_probability", {}))


def report_on(settings: Settings) -> dict[str, Any]:
    """The gate's figures, and test scores of the teacher and of the first seed's student as trials begin with it."""
    from glassbox.evaluation.references import measure_student, measure_teacher
    from glassbox.models.files import commit_of, model_files, pin_warning
    from glassbox.models.meeting import meetings, warnings_of
    from glassbox.models.tokenizers import captures_signals, tokens_are_shared
    from glassbox.snapshot.reader import read_manifest
    from glassbox.snapshot.verify import verify, verify_nothing
    from glassbox.tasks.reading import sample_doubts
    from glassbox.tasks.splits import read_split

    started = time.monotonic()
    doubts = sample_doubts(settings, {split: read_split(TASKS_FOLDER, split) for split in SPLITS})
    report = (
        verify(settings, SNAPSHOT_FOLDER, TASKS_FOLDER)
        if captures_signals(settings) or read_manifest(SNAPSHOT_FOLDER)["signals"]
        else verify_nothing(SNAPSHOT_FOLDER)
    )
    shared, train = tokens_are_shared(settings), read_split(TASKS_FOLDER, "train")
    report["meeting"] = {} if shared else meetings(settings, ((s.task, s.prompt, s.answer) for s in train))
    report["verify_seconds"] = round(time.monotonic() - started, 1)
    report["dvc_md5"] = dvc_md5(Path("dvc.lock"))
    models = {"teacher": settings.teacher, "student": settings.student}
    report["commits"] = {role: commit_of(model_files(model)) for role, model in models.items()}
    pins = [pin_warning(role, model, report["commits"][role]) for role, model in models.items()]
    report |= measure_teacher(settings, TASKS_FOLDER)
    report["student_scores"] = measure_student(settings, TASKS_FOLDER)
    report["teacher_worth"] = teacher_worth(settings, report)
    report["warnings"] = [
        line
        for line in (
            *pins,
            *doubts,
            *warnings_of(report["meeting"]),
            *report["teacher_notes"],
            *report["teacher_worth"],
            report["banner"],
        )
        if line
    ]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)
    key = verify_key(settings, SNAPSHOT_FOLDER, TASKS_FOLDER)
    if read_json(REPORT).get("key") == key:
        print(f"{REPORT}: nothing that it depends on has changed")
        return

    import torch

    from glassbox.files import write_json
    from glassbox.models.meeting import lines_of
    from glassbox.tracking import log_snapshot

    torch.set_num_threads(settings.train.threads)
    report: dict[str, Any] = {**report_on(settings), "key": key}
    log_snapshot({name: value for name, value in report.items() if name != "teacher_right"}, settings.storage)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_json(REPORT, report)
    print(f"{SNAPSHOT_FOLDER} passed: {report['rows']} samples checked, logical digest {report['logical_digest']}")
    shots = f" ({report['teacher_shots']} shots)" if report["teacher_shots"] else ""
    for metric in sorted(report["teacher_scores"]):
        print(
            f"  {metric}: teacher{shots} {report['teacher_scores'][metric]:.3f}, student before training "
            f"{report['student_scores'][metric]:.3f}"
        )
    if report["meeting"]:
        print("Teacher and student cut text into other tokens. They meet so far (docs/tokenizers.md):")
        print("\n".join(f"  {line}" for line in lines_of(report["meeting"])))
    for warning in report["warnings"]:
        print(f"WARNING: {warning}")


if __name__ == "__main__":
    run(main)
