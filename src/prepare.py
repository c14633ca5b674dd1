"""Stage `prepare`: the tasks' samples -> data/tasks/{train,validation,test}.parquet.

reports/tasks.json tells for each split where its samples come from (hub commits included), and how many were dropped.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from typing import Any

from glassbox.command import run
from glassbox.config.settings import load_settings
from glassbox.config.storage import REPORTS_FOLDER, TASKS_FOLDER
from glassbox.files import write_json
from glassbox.tasks.pools import Drawn
from glassbox.tasks.prepared import drawn_samples, write_prepared
from glassbox.tasks.splits import tasks_digest

REPORT = REPORTS_FOLDER / "tasks.json"


def write_report(drawn: list[Drawn]) -> None:
    origins: dict[str, dict[str, dict[str, Any]]] = {}
    for each in drawn:
        origin = asdict(each)
        origins.setdefault(origin.pop("task"), {})[origin.pop("split")] = origin
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_json(REPORT, origins)


def unpinned(drawn: list[Drawn]) -> list[str]:
    """A line for each task whose revision may name another commit tomorrow."""
    moving = {each.task: each for each in drawn if each.commit and each.revision != each.commit}
    return [
        f"WARNING: {task} comes from '{each.revision or 'main'}', which may move; it was commit {each.commit}. "
        f"Pin it: -S prepare.tasks.{task}.revision={each.commit}"
        for task, each in moving.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)
    drawn: list[Drawn] = []
    splits = drawn_samples(settings, drawn.append)
    write_prepared(TASKS_FOLDER, settings, splits)
    write_report(drawn)
    dropped = dict.fromkeys(sentence for each in drawn for sentence in each.sentences())
    print("\n".join([*dropped, *unpinned(drawn)]), end="\n" if dropped or unpinned(drawn) else "")
    for split, samples in splits.items():
        counts = Counter(sample.task for sample in samples)
        print(f"{split}: " + ", ".join(f"{count} {task}" for task, count in counts.items()))
    print(f"{TASKS_FOLDER}: {tasks_digest(TASKS_FOLDER)}")


if __name__ == "__main__":
    run(main)
