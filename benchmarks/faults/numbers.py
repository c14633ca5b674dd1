"""NaN and infinity planted where a number may come from: a teacher's weight, a stored signal, a gradient, a moment of
the optimizer, a weight, a logit of the evaluation. Each must end in a refused snapshot or a diverged trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from faults.counts import Injection, Verdict
from faults.flips import in_folder
from faults.study import Study
from glassbox.config.settings import Settings, load_settings
from glassbox.config.storage import SNAPSHOT_FOLDER, TASKS_FOLDER
from glassbox.errors import GlassboxError
from glassbox.evaluation import evaluation
from glassbox.files import read_json
from glassbox.snapshot.capture import build_manifest, capture, write_manifest
from glassbox.snapshot.reader import read_manifest
from glassbox.snapshot.schema import Format
from glassbox.snapshot.storage import part_rows, write_part
from glassbox.snapshot.verify import verify
from glassbox.training.setup import Setup, prepare
from glassbox.training.trial import Unwatched, run

VALUES = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}
GROUP, SEED = "combined", 0
STEP = 2
Plant = Callable[[Setup, float], None]


class Planting(Unwatched):
    """Calls a function after one step of the trial."""

    def __init__(self, setup: Setup, plant: Plant, value: float, step: int) -> None:
        self._setup, self._plant, self._value, self._step = setup, plant, value, step

    def step(self, step: int, steps: int, loss: float | None, samples_per_second: float) -> None:
        if step == (self._step if self._step > 0 else steps + self._step):
            self._plant(self._setup, self._value)


def in_gradient(setup: Setup, value: float) -> None:
    weight = next(iter(setup.student.model.parameters()))
    weight.register_hook(lambda gradient: torch.full_like(gradient, value))


def in_weight(setup: Setup, value: float) -> None:
    with torch.no_grad():
        next(iter(setup.student.model.parameters())).view(-1)[0] = value


def in_moment(name: str) -> Plant:
    def plant(setup: Setup, value: float) -> None:
        weight = next(iter(setup.student.model.parameters()))
        setup.optimizer.optimizer.state[weight][name].view(-1)[0] = value

    return plant


def in_logit(_: Setup, value: float) -> None:
    """In every row that the evaluation scores; `_trial` takes it out again."""
    whole = evaluation.head_logits

    def spoilt(*arguments: Any) -> torch.Tensor:
        logits = whole(*arguments).clone()
        logits[..., 0] = value
        return logits

    evaluation.head_logits = spoilt


TRIALS: dict[str, tuple[Plant, int]] = {
    "a gradient": (in_gradient, STEP),
    "a weight of the student": (in_weight, STEP),
    "a weight after the last step": (in_weight, 0),
    "the optimizer's first moment": (in_moment("exp_avg"), STEP),
    "the optimizer's second moment": (in_moment("exp_avg_sq"), STEP),
    "the second moment before the last step": (in_moment("exp_avg_sq"), -1),
    "a logit of the evaluation": (in_logit, 0),
}


def numbers(base: Study, work: Path, count: int, _: int) -> Iterator[Injection]:
    """Each value in each place, in `count` of the places of a trial; and in the teacher and in a stored signal."""
    with in_folder(base.copy(work / "numbers")):
        settings = load_settings("params.yaml")
        for value_name, value in VALUES.items():
            yield Injection("number", f"{value_name} in the teacher's weights", *_refusal(lambda v=value: _teach(v)))
            yield Injection(
                "number", f"{value_name} in a stored signal", *_refusal(lambda v=value: _signal(settings, v))
            )
            for place, (plant, step) in list(TRIALS.items())[:count]:
                yield Injection("number", f"{value_name} in {place}", *_trial(settings, plant, value, step))


def _refusal(run_with_fault: Callable[[], None]) -> tuple[Verdict, str]:
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            run_with_fault()
    except GlassboxError as error:
        return "caught", str(error)[:200]
    except Exception as error:
        return "lost", f"{type(error).__name__}: {error}"[:300]
    return "silent", "it was taken"


def _teach(value: float) -> None:
    """Capture from a teacher with one spoilt weight, which is put back."""
    settings = load_settings("params.yaml")
    path = Path(settings.teacher.model) / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in sorted(weights) if "layers.0." in name)
    spoilt = weights[name].clone()
    spoilt.view(-1)[0] = value
    content = path.read_bytes()
    try:
        save_file(weights | {name: spoilt}, path, metadata={"format": "pt"})
        capture(settings, TASKS_FOLDER, Path("spoilt/snapshot"), Path("spoilt/scratch"))
    finally:
        path.write_bytes(content)


def _signal(settings: Settings, value: float) -> None:
    """The gate on a snapshot in which one sample's hidden state is spoilt, and all digests agree with it."""
    manifest = read_manifest(SNAPSHOT_FOLDER)
    path = SNAPSHOT_FOLDER / manifest["parts"][0]
    content = path.read_bytes(), (SNAPSHOT_FOLDER / "manifest.json").read_bytes()
    rows = [row for _, row in part_rows(path)]
    whole = [
        replace(row, **{name: bytes(cell) for name, cell in vars(row).items() if isinstance(cell, memoryview)})
        for row in rows
    ]
    del rows
    hidden = torch.frombuffer(bytearray(whole[0].hidden), dtype=torch.float16)
    hidden[0] = value
    whole[0] = replace(whole[0], hidden=hidden.numpy().tobytes())
    layout = Format.from_json(manifest["format"])
    try:
        write_part(path, whole)
        built = build_manifest(SNAPSHOT_FOLDER, manifest["parts"], layout, manifest["provenance"], manifest["counts"])
        write_manifest(SNAPSHOT_FOLDER, built)
        verify(settings, SNAPSHOT_FOLDER, TASKS_FOLDER)
    finally:
        path.write_bytes(content[0])
        (SNAPSHOT_FOLDER / "manifest.json").write_bytes(content[1])


def _trial(settings: Settings, plant: Plant, value: float, step: int) -> tuple[Verdict, str]:
    """A trial into which the value is planted; only one that says that it diverged has met it well."""
    whole = evaluation.head_logits
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            setup = prepare(settings, GROUP, SEED)
            status = run(setup, Planting(setup, plant, value, step))
    except Exception as error:
        return "lost", f"{type(error).__name__}: {error}"[:300]
    finally:
        evaluation.head_logits = whole
    manifest = read_json(Path(f"runs/{GROUP}/{SEED}.json"))
    if status == manifest["status"] == "diverged" and manifest["reason"]:
        return "caught", manifest["reason"][:200]
    return "silent", f"the trial {status}"
