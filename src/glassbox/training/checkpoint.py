"""Where a trial stands after a step, in safetensors and JSON: enough to go on to the same bits."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glassbox.errors import DivergedError
from glassbox.files import brief_ids, is_sealed, read_json, require_free_space, write_json, write_seal
from glassbox.processes import Processes, laid_out_like, whole, whole_state
from glassbox.training.router import MOMENTS, Router
from glassbox.training.student import Student, part_of

STATE = "state.safetensors"
PROGRESS = "progress.json"
SEAL = "seal.json"


@dataclass
class Progress:
    """What the loop counts. `history` holds every metric logged so far as (step, metric, value).

    `plan` is the digest of the analysis plan when the trial started. `mixture_before` is the mixture's mean accuracy
    before the first step, `router_stopped` whether it has fallen too far since. `layer_losses` are the losses of the
    teacher's layers before the first update, for `layer_router`.
    """

    step: int = 0
    updates: int = 0
    run_id: str | None = None
    seconds: float = 0.0
    best_validation: float | None = None
    epochs_without_improvement: int = 0
    stopped_early: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)
    initial_student: str = ""
    plan: str = ""
    mixture_before: float | None = None
    router_stopped: bool = False
    layer_losses: list[float] = field(default_factory=list)
    liveness: list[dict[str, dict[str, float | None]]] = field(default_factory=list)
    history: list[tuple[int, str, float]] = field(default_factory=list)


def save(
    folder: Path,
    progress: Progress,
    student: Student,
    optimizer: torch.optim.AdamW,
    processes: Processes,
    router: Router | None = None,
) -> None:
    """Write a new checkpoint, publish it by one rename, then drop the older ones; every process takes part."""
    tensors = {f"student.{name}": value for name, value in whole_state(student).items()}
    for name, parameter in student.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": whole(state[moment]) for moment in MOMENTS if moment in state}
    _require_finite(tensors, progress.step)
    tensors |= {f"router.{name}": value for name, value in (router.tensors() if router else {}).items()}
    for index, states in enumerate(processes.gather(_generators())):
        tensors |= {f"random.{index}.{device}": state for device, state in states.items()}
    if processes.is_main:
        _write(folder, progress, tensors)
    processes.wait()


def _require_finite(tensors: Mapping[str, torch.Tensor], step: int) -> None:
    """Raise DivergedError, on every rank, for weights or moments that are not finite.

    No loss tells of an infinite second moment: its weight stands still from then on.
    """
    bad = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if bad:
        raise DivergedError(f"After step {step} {brief_ids(bad)} of student and optimizer are not finite.")


def _generators() -> dict[str, torch.Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state()} | cuda


def _write(folder: Path, progress: Progress, tensors: dict[str, torch.Tensor]) -> None:
    staging = folder / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    require_free_space(staging, sum(tensor.nbytes for tensor in tensors.values()), "A checkpoint")
    save_file(_apart(tensors), staging / STATE)
    write_json(staging / PROGRESS, asdict(progress))
    write_seal(staging / SEAL, [staging / STATE, staging / PROGRESS])
    target = folder / f"step-{progress.step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)
    for older in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(older, ignore_errors=True)


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, each in a memory of its own: safetensors refuses tied weights, which are one tensor."""
    apart: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        apart[name] = value.clone() if value.data_ptr() in places else value
        places.add(value.data_ptr())
    return apart


def load(
    folder: Path,
    student: Student,
    optimizer: torch.optim.AdamW,
    processes: Processes,
    router: Router | None = None,
) -> Progress | None:
    """Bring student, optimizer, router and generators to the newest checkpoint; None where there is none.

    A checkpoint that is damaged is removed, which is said, and counts as none.
    """
    newest = _newest(folder, processes)
    if newest is None:
        return None
    values = read_json(newest / PROGRESS)
    values["history"] = [tuple(row) for row in values["history"]]
    progress = Progress(**values)
    with safe_open(newest / STATE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in student.state_dict().items():
        value.copy_(laid_out_like(tensors[f"student.{name}"], value))
    for name, parameter in student.named_parameters():
        state = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
        if state:
            optimizer.state[parameter] = {
                moment: value if moment == "step" else laid_out_like(value, parameter)
                for moment, value in state.items()
            }
    if router is not None:
        router.restore(part_of(tensors, "router"))
    own = f"random.{processes.index}"
    if f"{own}.cpu" in tensors:
        torch.set_rng_state(tensors[f"{own}.cpu"])
    if f"{own}.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"{own}.cuda"])
    return progress


def _newest(folder: Path, processes: Processes) -> Path | None:
    """The newest checkpoint, where it is whole in the eyes of every process."""
    found = sorted(folder.glob("step-*"))
    damaged = [path for path in found if not is_sealed(path / SEAL, (STATE, PROGRESS))]
    if processes.largest(len(damaged)):
        processes.wait()
        if processes.is_main:
            print(f"{found[-1]} is damaged and is removed: the trial begins anew, and ends in the same student.")
            drop(folder)
        processes.wait()
        return None
    return found[-1] if found else None


def drop(folder: Path) -> None:
    """Remove the checkpoints of a trial that is published."""
    shutil.rmtree(folder, ignore_errors=True)
