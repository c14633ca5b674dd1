"""The files of a model, in a folder or fetched from the hub, and what is said where they cannot be had."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from transformers.utils.hub import cached_file, cached_files, extract_commit_hash

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.models.hub_errors import Wanted, refusal, without_token

CONFIG, WEIGHTS, WEIGHTS_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@contextmanager
def opening(kind: Literal["model", "tokenizer"], source: str, revision: str | None) -> Iterator[None]:
    """Turns what goes wrong while a model or tokenizer is opened into a GlassboxError with the next step."""
    try:
        yield
    except GlassboxError:
        raise
    except Exception as error:  # the hub's libraries raise errors of several packages
        is_folder = Path(source).exists()
        elsewhere = (
            f"`hf download {source} --local-dir FOLDER` where there is a connection, then name FOLDER as teacher.model "
            "or student.model"
        )
        wanted = Wanted(kind, source, revision, "teacher.model or student.model", elsewhere)
        sentence = None if is_folder else refusal(error, wanted)
        if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
            raise
        raise GlassboxError(sentence or _unopened(kind, source, is_folder, error)) from error


def _unopened(kind: str, source: str, is_folder: bool, error: Exception) -> str:
    where = f"the folder {Path(source).resolve()}" if is_folder else f"'{source}', which is no folder here"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not isinstance(error, OSError | ValueError):
        reason = f"{type(error).__name__}: {reason}."
    return without_token(
        f"The {kind} could not be opened from {where}: {reason} Name a folder with config.json, safetensors weights "
        "and tokenizer.json, or a hub id that this machine can reach (`hf download` fetches one)."
    )


def model_files(settings: ModelSettings) -> list[Path]:
    """config.json and, unless its weights are drawn at random, every weight file; what is missing here is fetched."""
    source, revision = settings.model, settings.revision
    with opening("model", source, revision):
        config = cached_file(source, CONFIG, revision=revision)
        if config is None:
            raise OSError(f"{source} does not appear to have a file named {CONFIG}.")
        return [Path(config), *([] if settings.initialisation == "random" else _weight_files(source, revision))]


def _weight_files(source: str, revision: str | None) -> list[Path]:
    index = cached_file(source, WEIGHTS_INDEX, revision=revision, _raise_exceptions_for_missing_entries=False)
    if index is None:
        names = [WEIGHTS]
    else:
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    return [Path(path) for path in cached_files(source, names, revision=revision) or []]


def commit_of(files: Sequence[Path]) -> str | None:
    """The hub's commit that `model_files` were fetched from, also where a branch was named; None for a folder's."""
    return extract_commit_hash(str(files[0]), None)


def pin_warning(role: str, settings: ModelSettings, commit: str | None) -> str | None:
    """A line for a hub model (`role` is teacher or student) whose revision may name another commit tomorrow."""
    if commit is None or commit == settings.revision:
        return None
    return (
        f"{role}.model {settings.model} comes from '{settings.revision or 'main'}', which may move; it was commit "
        f"{commit}. Pin it: -S {role}.revision={commit}"
    )
