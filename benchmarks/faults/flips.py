"""Damage to files that a later stage reads: a flipped bit, a cut at every percent, a file of another study.

Each file is read by the product's own readers, in this process: the functions by which the stage decides whether what
is there still counts, and those by which it reads. A damage is caught where one of them refuses it or would have the
file made again, and without effect where what they return is what they returned before.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from faults.counts import Injection, Verdict
from faults.study import Study, make_study
from glassbox.comparison.items import read_answers
from glassbox.comparison.learning_curves import FILE as HISTORY
from glassbox.comparison.learning_curves import learning_curves
from glassbox.comparison.study import _read_report
from glassbox.config.settings import Settings, load_settings
from glassbox.config.storage import ANSWERS_FOLDER, SNAPSHOT_FOLDER, TASKS_FOLDER
from glassbox.errors import GlassboxError
from glassbox.files import read_json
from glassbox.grid import kept
from glassbox.grid.cells import Cell, cells_of, is_current
from glassbox.snapshot.answers import CHUNK_SAMPLES, kept_answers
from glassbox.snapshot.labels import read_teacher_labels
from glassbox.snapshot.reader import Snapshot, read_manifest
from glassbox.snapshot.schema import SIGNAL_COLUMNS
from glassbox.snapshot.verify import _check_files
from glassbox.tasks.splits import read_split, tasks_digest
from glassbox.tracking.manifest import read_manifest as read_trial
from glassbox.tracking.restoration import whole_manifest
from glassbox.training import checkpoint
from glassbox.training.setup import Setup, prepare

REPORTS = "gate's and tasks' reports"
GROUP, SEED = "combined", 0


class MadeAgain(Exception):
    """The stage does not take what is there, and makes it again."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, where such files lie, and what the stages after it make of them. The path is that of the file."""

    name: str
    pattern: str
    read: Callable[[Path], Any]


def require(is_taken: bool) -> None:
    if not is_taken:
        raise MadeAgain


def damaged(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


class Readers:
    """The kinds of files of one finished study, whose folder is the working directory."""

    def __init__(self) -> None:
        self.settings: Settings = load_settings("params.yaml")
        self.cells = {cell.name: cell for cell in cells_of(self.settings, self.settings.groups, self.settings.seeds)}
        with redirect_stdout(StringIO()):
            self.setup: Setup = prepare(self.settings, GROUP, SEED)
        self._step()

    def _step(self) -> None:
        """A checkpoint as a trial writes it: with moments of the optimizer."""
        torch.manual_seed(0)
        for parameter in self.setup.student.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
        self.setup.optimizer.step()
        progress = checkpoint.Progress(step=1, history=[(1, "train/loss_total", 1.5)])
        checkpoint.save(
            self.setup.scratch, progress, self.setup.student, self.setup.optimizer.optimizer, self.setup.processes
        )

    def kinds(self) -> list[Kind]:
        return [
            Kind("tasks", "data/tasks/*.parquet", self._tasks),
            Kind("answers", "data/answers/*", lambda _: self._answers()),
            Kind("answers kept of an interruption", ".glassbox/answers/*/part-00000.parquet", self._kept_answers),
            Kind("snapshot, read by snapshot and verify", "data/snapshot/*", lambda _: self._gate()),
            Kind("snapshot, read by train", "data/snapshot/*", lambda path: self._signals(path)),
            Kind(REPORTS, "reports/[st]*[ts].json", self._report),
            Kind("checkpoints", ".glassbox/running/*/step-*/*", lambda _: self._checkpoint()),
            Kind("runs, read by train", "runs/*/*/*", self._due),
            Kind("students, read by train", "runs/*/*/student/*", self._due),
            Kind("manifests, read by train", "runs/*/*.json", self._due),
            Kind("runs and items, read by compare", "runs/*/*/*.parquet", self._compared),
            Kind("manifests, read by compare", "runs/*/*.json", self._compared),
            Kind("manifests, read by restore", "runs/*/*.json", whole_manifest),
            Kind("trials kept by key", ".glassbox/trials/*/*", self._kept),
            Kind("students kept by key", ".glassbox/trials/*/files/student/*", self._kept),
        ]

    def _tasks(self, path: Path) -> Any:
        """A split, as long as it is of the samples that the snapshot was made from; which is what `train` asks."""
        require(tasks_digest(TASKS_FOLDER) == read_json(SNAPSHOT_FOLDER / "manifest.json")["provenance"]["tasks"])
        return read_split(TASKS_FOLDER, path.stem)

    def _answers(self) -> Any:
        labels = read_teacher_labels(ANSWERS_FOLDER, tasks_digest(TASKS_FOLDER))
        return labels, read_json(ANSWERS_FOLDER / "manifest.json")

    def _kept_answers(self, path: Path) -> Any:
        samples = sorted(read_split(TASKS_FOLDER, "train"), key=lambda sample: sample.sample_id)
        found = kept_answers(path, samples[:CHUNK_SAMPLES])
        require(found is not None)
        return found

    def _gate(self) -> Any:
        manifest = read_manifest(SNAPSHOT_FOLDER)
        _check_files(SNAPSHOT_FOLDER, manifest)
        return manifest

    def _signals(self, path: Path) -> Any:
        """All that a trial can read of the snapshot. The audit is the gate's alone."""
        require(path.name != "audit.parquet" or self._gate() is not None)
        cells_of(self.settings, self.settings.groups, self.settings.seeds)
        snapshot = Snapshot(SNAPSHOT_FOLDER)
        infos = [info for split in ("train", "validation", "answered") for info in snapshot.samples(split)]
        signals = snapshot.manifest["signals"]
        columns = sorted({column for signal in signals for column in SIGNAL_COLUMNS[signal]})
        stored = snapshot.stored([info.sample_id for info in infos], columns)
        cells = [({**vars(each), "input_ids": each.input_ids.tolist(), "cells": _bytes(each.cells)}) for each in stored]
        tensors = [each if each is None else each.tolist() for each in (*snapshot.head(), *snapshot.channels())]
        return infos, cells, tensors, snapshot.manifest["format"], snapshot.manifest["provenance"]

    def _report(self, path: Path) -> Any:
        return _read_report(path)

    def _checkpoint(self) -> Any:
        with redirect_stdout(StringIO()):
            optimizer = self.setup.optimizer.optimizer
            found = checkpoint.load(self.setup.scratch, self.setup.student, optimizer, self.setup.processes)
        require(found is not None)
        state = {name: value.clone() for name, value in self.setup.student.state_dict().items()}
        moments = [
            {name: value.clone() for name, value in optimizer.state[each].items()}
            for each in self.setup.student.parameters()
        ]
        return (
            found,
            {name: value.tolist() for name, value in state.items()},
            [{name: value.tolist() for name, value in each.items()} for each in moments],
        )

    def _cell(self, path: Path) -> Cell:
        group, name = path.relative_to("runs").parts[:2]
        return self.cells[f"{group}/{name.removesuffix('.json')}"]

    def _due(self, path: Path) -> Any:
        cell = self._cell(path)
        require(is_current(cell))
        return read_json(cell.manifest)

    def _compared(self, path: Path) -> Any:
        trial = read_trial(self._cell(path).manifest)
        trial.whole_file(HISTORY)
        answers, faults = read_answers([trial], {})
        if faults:
            raise GlassboxError(str(faults[0]))
        return trial, answers, learning_curves([trial], 0.95)

    def _kept(self, path: Path) -> Any:
        key = path.relative_to(".glassbox/trials").parts[0]
        (cell,) = [cell for cell in self.cells.values() if cell.key == key]
        folder = kept.folder_of(self.settings) / key
        manifest = read_json(folder / kept.MANIFEST)
        require(bool(manifest) and kept._is_sound(manifest, cell, folder / kept.FILES))
        return manifest


def _bytes(cells: Any) -> dict[str, bytes]:
    return {name: bytes(memoryview(cell)) for name, cell in cells.items()}


def files_of(kind: Kind) -> list[Path]:
    return sorted(path for path in Path().glob(kind.pattern) if path.is_file())


def judged(kind: Kind, path: Path, content: bytes, expected: Any) -> tuple[Verdict, str]:
    """What the readers make of other content at a file's place; the file is put back."""
    original = path.read_bytes()
    aside = {each: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    try:
        path.write_bytes(content)
        try:
            found = kind.read(path)
        except (GlassboxError, MadeAgain) as error:
            return "caught", str(error)[:200]
        except Exception as error:
            return "lost", f"{path}: {type(error).__name__}: {error}"[:300]
        same = repr(found) == repr(expected)
        return ("no effect", "") if same else ("silent", f"{path}, {_first_difference(original, content)}")
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        for each, was in aside.items():
            if not each.is_file() or each.read_bytes() != was:
                each.write_bytes(was)


def _first_difference(before: bytes, after: bytes) -> str:
    place = next(
        (at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    return f"byte {place} of {len(before)}"


@contextmanager
def in_folder(study: Study) -> Iterator[None]:
    """This process in the study's folder, as a stage's script is."""
    with chdir(study.folder):
        former = os.environ.get("DVC_ROOT")
        os.environ["DVC_ROOT"] = str(study.folder)
        try:
            yield
        finally:
            os.environ.pop("DVC_ROOT") if former is None else os.environ.update(DVC_ROOT=former)


@contextmanager
def in_study(study: Study) -> Iterator[Readers]:
    """The readers of a finished study, in its folder."""
    with in_folder(study):
        yield Readers()


def flips(base: Study, work: Path, count: int, seed: int) -> Iterator[Injection]:
    """`count` flipped bits, shared out over the kinds of files and, within one, over its files."""
    places = random.Random(seed)
    with in_study(base.copy(work / "flips")) as readers:
        kinds = readers.kinds()
        for number, kind in enumerate(kinds):
            files = files_of(kind)
            whole = {path: kind.read(path) for path in files}
            for turn in range(count * (number + 1) // len(kinds) - count * number // len(kinds)):
                path = files[turn % len(files)]
                content = path.read_bytes()
                changed = damaged(content, places.randrange(len(content)), places.randrange(8))
                yield Injection("flipped bit", kind.name, *judged(kind, path, changed, whole[path]))


def cuts(base: Study, work: Path, count: int, _: int) -> Iterator[Injection]:
    """A file of every kind that ends at each of `count` equal parts of its length, as a disk that filled leaves it."""
    with in_study(base.copy(work / "cuts")) as readers:
        for kind in readers.kinds():
            path = max(files_of(kind), key=lambda each: each.stat().st_size)
            whole, content = kind.read(path), path.read_bytes()
            for part in range(count):
                cut = content[: len(content) * part // count]
                yield Injection("cut file", kind.name, *judged(kind, path, cut, whole))


def swaps(base: Study, work: Path, _: int, __: int) -> Iterator[Injection]:
    """A file of another study - other samples, the same settings otherwise - in the place of each file of this one."""
    other = work / "other"
    if not other.is_dir():
        make_study(other, "prepare.seed=7")
    foreign = {}
    with in_study(Study(other)) as readers:
        foreign = {kind.name: [path.read_bytes() for path in files_of(kind)] for kind in readers.kinds()}
    with in_study(base.copy(work / "swaps")) as readers:
        for kind in readers.kinds():
            for path, content in zip(files_of(kind), foreign[kind.name], strict=True):
                if content != path.read_bytes() and kind.name != REPORTS:
                    yield Injection("file of another study", kind.name, *judged(kind, path, content, kind.read(path)))
    for name, content in zip(("snapshot.json", "tasks.json"), foreign[REPORTS], strict=True):
        study = base.copy(work / "swaps")
        (study.folder / "reports" / name).write_bytes(content)
        yield Injection("file of another study", f"{REPORTS}, then dvc repro", *after_repro(study, base.digests()))


PLACES = {
    "tasks": "data/tasks/train.parquet",
    "answers": "data/answers/answers.parquet",
    "answers' manifest": "data/answers/manifest.json",
    "snapshot part": "data/snapshot/part-00000.parquet",
    "snapshot head": "data/snapshot/head.safetensors",
    "snapshot manifest": "data/snapshot/manifest.json",
    "gate's report": "reports/snapshot.json",
    "trial's manifest": "runs/combined/0.json",
    "items": "runs/combined/0/items.parquet",
    "history": "runs/combined/0/history.parquet",
    "student": "runs/combined/0/student/model.safetensors",
}


def flips_before_repro(base: Study, work: Path, count: int, seed: int) -> Iterator[Injection]:
    """A flipped bit in an output of a stage, then `dvc repro`."""
    places, undisturbed = random.Random(seed), base.digests()
    for number in range(count):
        name, place = list(PLACES.items())[number % len(PLACES)]
        study = base.copy(work / "repro")
        path = study.folder / place
        content = path.read_bytes()
        path.write_bytes(damaged(content, places.randrange(len(content)), places.randrange(8)))
        yield Injection("flipped bit, then dvc repro", name, *after_repro(study, undisturbed))


def flips_in_cache(base: Study, work: Path, count: int, seed: int) -> Iterator[Injection]:
    """A flipped bit in DVC's cache, from which all outputs are then checked out anew, then `dvc repro`."""
    places, undisturbed = random.Random(seed), base.digests()
    for _ in range(count):
        study = base.copy(work / "cache")
        files = sorted(path for path in (study.folder / ".dvc/cache/files").rglob("*") if path.is_file())
        path = places.choice(files)
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(damaged(content, places.randrange(len(content)), places.randrange(8)))
        path.chmod(0o444)
        study.forget_outputs()
        study.run("dvc", "checkout", "--force")
        yield Injection("flipped bit, then dvc checkout", "file of DVC's cache", *after_repro(study, undisturbed))


def after_repro(study: Study, undisturbed: Mapping[str, str]) -> tuple[Verdict, str]:
    """Survived where the command made all as it was; caught where it refused in a sentence."""
    done = study.repro()
    if done.code:
        return ("lost", done.said[-400:]) if done.has_traceback else ("caught", done.said[-200:])
    found = study.digests()
    differing = sorted(name for name in undisturbed if found.get(name) != undisturbed[name])
    fault = ", ".join(differing) or study.torn()
    return ("silent", fault) if fault else ("survived", "")
