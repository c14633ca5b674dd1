"""The estimate as a person reads it: lines no wider than a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassbox.preflight.memory import total
from glassbox.report.notation import in_time, in_units

PARTS = {
    "weights": "weights",
    "gradients": "grads",
    "optimizer": "optim.",
    "teacher's head": "head",
    "activations": "activ.",
    "logits": "logits",
    "attention maps": "maps",
    "cache": "cache",
}
STAGES = {"between": "short stages and DVC"}


def table_of(estimate: Mapping[str, Any]) -> str:
    return "\n".join([*_work(estimate), "", *_disk(estimate), "", *_memory(estimate), "", *_time(estimate)])


def _work(estimate: Mapping[str, Any]) -> list[str]:
    samples, parameters = estimate["samples"], estimate["parameters"]
    trials, steps, tokens = estimate["trials"], estimate["steps_per_trial"], estimate["tokens_per_trial"]
    most = "" if estimate["counted"]["exact"] else "at most "
    return [
        f"Lengths: {estimate['counted']['how']}.",
        "",
        f"samples   {samples['train']:,} to train on, {samples['validation']:,} to validate, {samples['test']:,} to "
        "test",
        f"models    teacher {parameters['teacher']:,} parameters, student {parameters['student']:,}",
        f"trials    {trials} = {len(estimate['groups'])} groups x {len(estimate['seeds'])} seeds",
        f"steps     {steps:,} a trial, {trials * steps:,} in all",
        f"tokens    {most}{tokens:,} a trial, {trials * tokens:,} in all; the teacher reads "
        f"{most}{estimate['captured_tokens']:,}",
    ]


def _disk(estimate: Mapping[str, Any]) -> list[str]:
    signals = estimate["snapshot_bytes"]
    lines = ["snapshot" + " " * 34 + f"{in_units(sum(signals.values())):>10}"]
    lines += [f"  {name:<40}{in_units(size):>10}" for name, size in signals.items()]
    lines += [f"{need['what']:<42}{in_units(need['bytes']):>10}" for need in estimate["disk"][1:]]
    for drive in estimate["drives"]:
        lines.append(
            f"in all on the drive of {drive['folder']}: {in_units(drive['bytes'])}; {in_units(drive['free'])} free"
        )
    return lines


def _memory(estimate: Mapping[str, Any]) -> list[str]:
    lines = _memory_table(estimate["memory"])
    if estimate["memory_on_a_gpu"]["device"] != estimate["memory"]["device"]:
        lines += ["", *_memory_table(estimate["memory_on_a_gpu"])]
    return lines


def _memory_table(memory: Mapping[str, Any]) -> list[str]:
    used = [part for part in PARTS if any(part in peak for peak in memory["phases"].values())]
    free = "" if memory["free"] is None else f", {in_units(memory['free'])} free"
    name = max(map(len, memory["phases"]), default=0)
    lines = [
        f"Peak memory of tensors on {memory['device']} in MB (precision {memory['precision']}, teacher "
        f"{memory['teacher_dtype']}{free})",
        " " * name + f"{'all':>9}" + "".join(f"{PARTS[part]:>9}" for part in used),
    ]
    for phase, peak in memory["phases"].items():
        cells = "".join(f"{_megabytes(peak.get(part, 0)):>9}" for part in used)
        lines.append(f"{phase:<{name}}{_megabytes(total(peak)):>9}{cells}")
    lines += [f"not counted for {whose} ({reason})" for whose, reason in memory.get("unknown", {}).items()]
    return lines


def _megabytes(size: int) -> str:
    return "-" if size == 0 else f"{size / 1e6:,.0f}" if size >= 1e8 else f"{size / 1e6:,.1f}"


def _time(estimate: Mapping[str, Any]) -> list[str]:
    time = estimate["time"]
    if "reason" in time:
        return [f"Time: not measured, {time['reason']}."]
    lines = [
        f"Time, from a probe of {time['probe_seconds']:.0f} s on {time['device']} (DVC's own share is assumed, not "
        "measured)"
    ]
    lines += [f"  a trial of {group:<13}{in_time(seconds)}" for group, seconds in time["trial_seconds"].items()]
    stages = {STAGES.get(name, name): seconds for name, seconds in time["stage_seconds"].items() if seconds}
    lines += [f"  {name:<24}{in_time(seconds)}" for name, seconds in stages.items()]
    return [*lines, f"  {'the whole study':<24}{in_time(time['study_seconds'])}"]
