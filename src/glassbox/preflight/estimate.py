"""All that a study will need, in one mapping that is the content of reports/plan.json, and what of it cannot fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.models.context import refused_lengths
from glassbox.models.loading import configuration_of
from glassbox.models.precision import cpu_has_bf16, cuda_has_bf16, resolve
from glassbox.preflight.disk import RESERVE, Drive, Need, drives_of, needs_of, snapshot_bytes
from glassbox.preflight.memory import (
    Peak,
    Teacher,
    beside,
    capture_peak,
    evaluation_peak,
    hardest_batch,
    parameter_count,
    teacher_evaluation_peak,
    teacher_of,
    total,
    training_peak,
)
from glassbox.preflight.workload import Training, Workload, training_of, workload_of
from glassbox.report.notation import in_units
from glassbox.snapshot.schema import CAPTURED_SPLITS
from glassbox.snapshot.sizes import refused_cells

STATE = ("weights", "gradients", "optimizer", "teacher's head")


def estimate_study(settings: Settings, root: Path, tasks_folder: Path) -> dict[str, Any]:
    """Everything but the time. Bytes are those of tensors and files; `refusals` are sentences."""
    workload = workload_of(settings, tasks_folder)
    training = training_of(settings, workload)
    has_gpu = torch.cuda.is_available()
    teacher = teacher_of(settings, workload, on_gpu=has_gpu)
    parameters = {role: parameter_count(getattr(settings, role)) for role in ("teacher", "student")}
    needs = needs_of(settings, workload, training, teacher, parameters["student"], root)
    drives = drives_of(needs)
    here = memory_on(settings, workload, training, has_gpu)
    there = here if has_gpu else memory_on(settings, workload, training, on_gpu=True)
    refusals = [*refused_lengths(settings), *refused_samples(settings, workload, teacher)]
    refusals += [*refused_drives(needs, drives), *refused_memory(settings, here)]
    return {
        "scale": settings.scale,
        "counted": {"exact": workload.exact, "how": workload.source},
        "samples": _samples(workload),
        "trials": len(settings.groups) * len(settings.seeds),
        "groups": list(settings.groups),
        "seeds": list(settings.seeds),
        "steps_per_trial": training.steps,
        "tokens_per_trial": training.tokens,
        "padded_tokens_per_trial": training.padded_tokens,
        "captured_tokens": sum(length.n_tokens for length in workload.lengths),
        "captured_positions": sum(length.n_captured for length in workload.lengths),
        "parameters": parameters,
        "snapshot_bytes": snapshot_bytes(settings, workload, teacher),
        "disk": [{"what": need.what, "folder": str(need.folder), "bytes": need.size} for need in needs],
        "drives": [{"folder": str(drive.folder), "bytes": drive.needed, "free": drive.free} for drive in drives],
        "memory": here,
        "memory_on_a_gpu": there,
        "refusals": refusals if workload.exact else [],
        "warnings": [] if workload.exact else refusals,
    }


def _samples(workload: Workload) -> dict[str, int]:
    return {split: len(workload.split(split)) for split in CAPTURED_SPLITS} | {"test": len(workload.questions)}


def memory_on(settings: Settings, workload: Workload, training: Training, on_gpu: bool) -> dict[str, Any]:
    """Peaks by part of every phase, at the precision that a device of this kind gets."""
    here = torch.cuda.is_available() == on_gpu
    bf16 = cuda_has_bf16() if here else on_gpu
    width = configuration_of(settings.student).get_text_config().hidden_size
    precision = resolve(settings.train.precision, on_gpu, bf16, cpu_has_bf16(), width)
    teacher = teacher_of(settings, workload, on_gpu)
    phases: dict[str, Peak] = {}
    unknown: dict[str, str] = {}
    with _counting("the teacher", unknown):
        phases["capture"] = capture_peak(settings, workload, teacher)
        phases["verify"] = teacher_evaluation_peak(settings, workload, teacher)
    with _counting("the student", unknown):
        hardest = hardest_batch(settings, teacher, training.candidates, precision, on_gpu)
        evaluation = evaluation_peak(settings, workload, teacher, precision)
        for group in settings.groups:
            weights = settings.distill[group]
            phases[f"train {group}"] = training_peak(settings, weights, teacher, hardest, precision, on_gpu)
            phases[f"evaluate {group}"] = beside(evaluation, phases[f"train {group}"])
    free = None
    if here:
        free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    device = torch.cuda.get_device_name() if here and on_gpu else "a GPU" if on_gpu else "this machine's CPU"
    return {
        "device": device,
        "precision": precision,
        "teacher_dtype": str(teacher.dtype).removeprefix("torch."),
        "free": free,
        "phases": phases,
        "unknown": unknown,
    }


@contextmanager
def _counting(whose: str, unknown: dict[str, str]) -> Iterator[None]:
    """Notes in `unknown` why a model's memory cannot be counted: its code needs numbers, and tensors here have none."""
    try:
        yield
    except (GlassboxError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:160]
        unknown[whose] = f"{type(error).__name__}: {reason}"


def refused_samples(settings: Settings, workload: Workload, teacher: Teacher) -> list[str]:
    """Samples whose attention rows one cell of the snapshot cannot hold."""
    sizes = [(length.sample_id, length.n_tokens, length.n_attention) for length in workload.lengths]
    return refused_cells(sizes, teacher.heads, settings.snapshot)


def refused_drives(needs: list[Need], drives: list[Drive]) -> Iterator[str]:
    """Drives with less free space than is written to them and a tenth more."""
    for drive, mine in drives_with_needs(needs, drives):
        if not drive.fits:
            largest = max(mine, key=lambda need: need.size)
            yield (
                f"The drive of {drive.folder} has {in_units(drive.free)} free, and the study writes "
                f"{in_units(drive.needed)} there (a tenth is kept in reserve), most of it {largest.what} "
                f"({in_units(largest.size)}): change {largest.setting}, or free some space."
            )


def drives_with_needs(needs: list[Need], drives: list[Drive]) -> Iterator[tuple[Drive, list[Need]]]:
    for drive in drives:
        yield drive, [need for need in needs if need.drive == drive.number]


def refused_memory(settings: Settings, memory: Mapping[str, Any]) -> Iterator[str]:
    """Phases whose peak and a tenth more is not free on the device."""
    for phase, peak in memory["phases"].items():
        if memory["free"] is not None and total(peak) * RESERVE > memory["free"]:
            largest = max(peak, key=lambda part: peak[part])
            yield (
                f"{phase} needs {in_units(total(peak))} on {memory['device']}, which has {in_units(memory['free'])} "
                f"free (a tenth is kept in reserve), most of it {largest} ({in_units(peak[largest])}): "
                f"{_remedy(settings, phase.split()[0], peak, memory['free'])}."
            )


def _remedy(settings: Settings, phase: str, peak: Peak, free: int) -> str:
    """The setting to change: another model where what does not shrink with the batch is already too much."""
    fixed = sum(size for part, size in peak.items() if part in STATE)
    role = "teacher" if phase in ("capture", "verify") else "student"
    audited = peak.get("gradients", 0) - peak.get("weights", 0)
    if phase == "train" and audited > 0 and fixed * RESERVE > free >= (fixed - audited) * RESERVE:
        return "set train.liveness_steps=0, which leaves out the audit of the first steps and its gradients"
    if fixed * RESERVE > free:
        half = "teacher.dtype=bfloat16, or a smaller " if role == "teacher" else "a smaller "
        return f"no batch is small enough; choose {half}{role}.model"
    if phase == "capture":
        return f"lower snapshot.batch_size (now {settings.snapshot.batch_size})"
    if phase == "train":
        return (
            f"lower train.micro_batch_size (now {settings.train.micro_batch_size}), which changes no result, or set "
            "train.gradient_checkpointing=true"
        )
    evaluation = settings.evaluation
    return f"lower evaluation.batch_size (now {evaluation.batch_size}) or evaluation.max_new_tokens"
