"""Data sets of the Hugging Face hub, or of a folder laid out as there, by the `datasets` library: three known ones, and
any other with its fields mapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.files import Found, contradictions, locate
from glassbox.tasks.mapping import mapped
from glassbox.tasks.pools import Pool, refuse_unlike
from glassbox.tasks.rows import UNASSIGNED, Render, no_template, sample_of
from glassbox.tasks.sample import Sample

CARD = "README.md"


@dataclass(frozen=True)
class HubTask:
    """Which hub split serves each of ours; where one serves two, samples are drawn from it without overlap."""

    path: str
    configuration: str | None
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


def pools(
    task: str, settings: TaskSettings, mirror: str | None = None, render: Render = no_template
) -> dict[str, Pool]:
    """One pool per hub split, all of one commit; `mirror` is a folder with <owner>/<name> in the hub's layout.

    Raises GlassboxError where the task is unknown, the hub refuses, or a row is not as the task wants it.
    """
    known = HUB_TASKS.get(task) if settings.dataset is None else _mapped_task(settings, render)
    if known is None:
        raise GlassboxError(
            f"Task '{task}' has source 'hub' and names no data set; only {', '.join(HUB_TASKS)} are known there. Set "
            f"prepare.tasks.{task}.dataset and .fields (docs/own_data.md), or save it as JSONL and set "
            f"prepare.tasks.{task}.source to jsonl."
        )
    names = sorted(set(known.splits.values()))
    read = {name: _read(task, known, name, settings.revision, mirror) for name in names}
    for split in ("validation", "test"):
        if not all(sample.answer for sample in read[known.splits[split]].samples):
            raise GlassboxError(
                f"Task '{task}': {known.splits[split]} of {known.path} has rows without an answer, and {split} samples "
                f"are scored by theirs. Map prepare.tasks.{task}.fields.answer."
            )
    found = {split: read[known.splits[split]] for split in SPLITS}
    refuse_unlike(task, found, "fields")
    return found


def _mapped_task(settings: TaskSettings, render: Render) -> HubTask:
    assert settings.dataset and settings.fields  # config.rules sees to it
    dataset, fields = settings.dataset, settings.fields
    return HubTask(
        dataset.name,
        dataset.configuration,
        dataset.splits.model_dump(),
        lambda row: sample_of(mapped(row, fields), render),
    )


def _read(task: str, known: HubTask, name: str, revision: str | None, mirror: str | None) -> Pool:
    rows, commit = load_rows(task, known, name, revision, mirror)
    place = "/".join(filter(None, (known.path, known.configuration, name)))
    samples = []
    for number, row in enumerate(rows):
        try:
            samples.append(known.sample(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why, next_step = repr(error), f"Pin a revision whose rows the task knows: prepare.tasks.{task}.revision"
            if known not in HUB_TASKS.values():
                why, next_step = str(error), f"Correct prepare.tasks.{task}.fields"
            raise GlassboxError(
                f"{place}, row {number}: {why}; the columns are {', '.join(rows.column_names)}. {next_step}."
            ) from error
    found = (Found(Path(place), number, sample) for number, sample in enumerate(samples))
    return Pool(place, tuple(samples), revision, commit, tuple(contradictions(found, "row")))


def load_rows(task: str, known: HubTask, name: str, revision: str | None, mirror: str | None) -> tuple[Any, str | None]:
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
        raise GlassboxError(
            f"Task '{task}', {'/'.join(filter(None, (known.configuration, name)))}: {why}{where}"
        ) from error
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
