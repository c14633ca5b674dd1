"""SST-2, MMLU and GSM8K from the Hugging Face hub, by the `datasets` library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glassbox.config import SPLITS
from glassbox.errors import GlassboxError
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.pools import Pool
from glassbox.tasks.sample import Sample

UNASSIGNED = "unassigned"


@dataclass(frozen=True)
class HubTask:
    """Which hub split serves each of ours; where one serves two, samples are drawn from it without overlap."""

    path: str
    configuration: str
    splits: Mapping[str, str]
    sample: Callable[[Mapping[str, Any]], Sample]


HUB_TASKS = {
    "sst2": HubTask(
        "nyu-mll/glue",
        "sst2",
        {"train": "train", "validation": "train", "test": "validation"},  # GLUE's test labels are not public
        lambda row: sst2.sample(UNASSIGNED, row["sentence"], bool(row["label"])),
    ),
    "mmlu": HubTask(
        "cais/mmlu",
        "all",
        {"train": "auxiliary_train", "validation": "validation", "test": "test"},
        lambda row: mmlu.sample(UNASSIGNED, row["question"], row["choices"], row["answer"], row["subject"]),
    ),
    "gsm8k": HubTask(
        "openai/gsm8k",
        "main",
        {"train": "train", "validation": "train", "test": "test"},
        lambda row: gsm8k.sample(UNASSIGNED, row["question"], row["answer"]),
    ),
}


def pools(task: str) -> dict[str, Pool]:
    """One pool per hub split; raises GlassboxError where the task is unknown or the hub cannot be reached."""
    if task not in HUB_TASKS:
        raise GlassboxError(
            f"Task '{task}' has source 'hub', and only {', '.join(HUB_TASKS)} are known there. "
            f"Save it as JSONL and set prepare.tasks.{task}.source to jsonl."
        )
    known = HUB_TASKS[task]
    read = {name: _read(task, known, name) for name in sorted(set(known.splits.values()))}
    return {split: read[known.splits[split]] for split in SPLITS}


def _read(task: str, known: HubTask, name: str) -> Pool:
    try:
        import datasets
    except ImportError as error:
        raise GlassboxError(
            f"Task '{task}' has source 'hub', which needs the `datasets` library. Run `pip install datasets`."
        ) from error
    try:
        rows = datasets.load_dataset(known.path, known.configuration, split=name)
    except Exception as error:  # the library raises errors of a dozen packages
        raise GlassboxError(
            f"Task '{task}': {known.path} ({known.configuration}, {name}) could not be loaded from the hub: "
            f"{type(error).__name__}: {error}. Check the connection (and HF_HUB_OFFLINE), or read local files: "
            f"set prepare.tasks.{task}.source and .files."
        ) from error
    return Pool(f"{known.path}/{known.configuration}/{name}", tuple(known.sample(dict(row)) for row in rows))
