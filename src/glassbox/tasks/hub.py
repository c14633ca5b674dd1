"""SST-2, MMLU and GSM8K from the Hugging Face hub, or from a folder laid out as there, by the `datasets` library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.files import locate
from glassbox.tasks.pools import Pool
from glassbox.tasks.sample import Sample

UNASSIGNED = "unassigned"
CARD = "README.md"


@dataclass(frozen=True)
class HubTask:
    """Which hub split serves each of ours; where one serves two, samples are drawn from it without overlap."""

    path: str
    configuration: str
    splits: Mapping[str, str]
    sample: Callable[[Mapping[str, Any]], Sample]


def _review(row: Mapping[str, Any]) -> Sample:
    if row["label"] not in (0, 1):
        raise ValueError(f"a label is 0 or 1, not {row['label']}")
    return sst2.sample(UNASSIGNED, row["sentence"], bool(row["label"]))


HUB_TASKS = {
    "sst2": HubTask(
        "nyu-mll/glue",
        "sst2",
        {"train": "train", "validation": "train", "test": "validation"},  # GLUE's test labels are not public
        _review,
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


def pools(task: str, settings: TaskSettings, mirror: str | None = None) -> dict[str, Pool]:
    """One pool per hub split, all of one commit; `mirror` is a folder with <owner>/<name> in the hub's layout.

    Raises GlassboxError where the task is unknown, the hub refuses, or a row is not as the task wants it.
    """
    if task not in HUB_TASKS:
        raise GlassboxError(
            f"Task '{task}' has source 'hub', and only {', '.join(HUB_TASKS)} are known there. "
            f"Save it as JSONL and set prepare.tasks.{task}.source to jsonl."
        )
    known = HUB_TASKS[task]
    names = sorted(set(known.splits.values()))
    read = {name: _read(task, known, name, settings.revision, mirror) for name in names}
    return {split: read[known.splits[split]] for split in SPLITS}


def _read(task: str, known: HubTask, name: str, revision: str | None, mirror: str | None) -> Pool:
    rows, commit = _load(task, known, name, revision, mirror)
    place = f"{known.path}/{known.configuration}/{name}"
    samples = []
    for number, row in enumerate(rows):
        try:
            samples.append(known.sample(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GlassboxError(
                f"{place}, row {number}: {error!r}; the columns are {', '.join(rows.column_names)}. Pin a revision "
                f"whose rows the task knows: prepare.tasks.{task}.revision."
            ) from error
    return Pool(place, tuple(samples), revision, commit)


def _load(task: str, known: HubTask, name: str, revision: str | None, mirror: str | None) -> tuple[Any, str | None]:
    """The rows of one hub split, and the commit they come from (None: from a folder)."""
    import datasets

    from glassbox.models.hub_errors import Wanted, refusal, without_token

    download = f"`hf download {known.path} --repo-type dataset --local-dir FOLDER/{known.path}`"
    elsewhere = f"{download} where there is a connection, then `-S prepare.hub=FOLDER`"
    wanted = Wanted("dataset", known.path, revision, f"prepare.tasks.{task}", elsewhere)
    try:
        if mirror is not None:
            folder = str(locate(f"{mirror}/{known.path}", "prepare.hub"))
            return datasets.load_dataset(folder, known.configuration, split=name), None
        commit = _commit(known.path, revision)
        rows = datasets.load_dataset(known.path, known.configuration, split=name, revision=commit)
    except GlassboxError:
        raise
    except Exception as error:  # the library raises errors of a dozen packages
        why = refusal(error, wanted) or without_token(
            f"{known.path} could not be read: {type(error).__name__}: {error}."
        )
        where = f" Looked for under {mirror}, as {download} leaves it." if mirror else ""
        raise GlassboxError(f"Task '{task}', {known.configuration}/{name}: {why}{where}") from error
    if not any(commit in entry["filename"] for entry in rows.cache_files):
        raise GlassboxError(
            f"Task '{task}': {known.path} could not be fetched at commit {commit}, and the cache holds another one, "
            "which `datasets` would have taken without a word. Connect and run the command again."
        )
    return rows, commit


def _commit(path: str, revision: str | None) -> str:
    """The commit that a revision (None: the main branch) names now; out of the cache where there is no connection."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(path, CARD, repo_type="dataset", revision=revision)).parent.name
