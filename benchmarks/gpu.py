"""What Glassbox costs on one GPU, at the paper's shapes with random weights; on a CPU, the same rows at small shapes.

    python benchmarks/gpu.py [--seconds 480] [--only capture step-bf16] [--out benchmarks/gpu]

Needs torch, transformers and accelerate alone, and downloads nothing. Writes OUT.json and OUT.md after every row and
ends with the table. Every part is a process of its own with its share of the time: one that fails, hangs or runs out of
memory says so in its rows, and the others go on. All are forks of one that has imported the libraries and has not
touched the GPU. Exit code 1 means that no row was measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "benchmarks")]
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking whether there is a GPU must not spoil it for forks

# Every part and its share of the time, in seconds of 480; what one leaves over goes to those behind it
PARTS = {"memory": 70, "waiting": 30, "step-fp16": 80, "capture": 110, "step-bf16": 110, "compile": 70}
MARGIN = 10  # seconds for starting and ending within --seconds
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pyarrow", "pydantic", "jaxtyping")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480, help="when all of it has ended (default: 480)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "gpu", help="without its ending")
    arguments = parser.parse_args()
    started = time.monotonic()
    import_libraries()
    method = starting_method()
    result: dict[str, Any] = {"machine": {}, "parts": {}}
    for place, part in enumerate(arguments.only):
        remaining = arguments.seconds - MARGIN - (time.monotonic() - started)
        share = PARTS[part] / sum(PARTS[each] for each in arguments.only[place:])
        for rows in run_part(part, max(1.0, share * remaining), method):
            result["machine"] |= rows.pop("machine", {})
            result["parts"][part] = rows
            write(arguments.out, result)
    print(table(result))
    measured = [row for part in result["parts"].values() for row in part["rows"] if row["value"] is not None]
    return 0 if measured else 1


def import_libraries() -> None:
    """Once, for all parts. Where that fails, each part's rows say why."""
    from suite.gpu import stand_ins

    from glassbox.command import loading

    stand_ins.install()
    try:
        with loading():
            import suite.gpu.parts  # noqa: F401
    except Exception:
        traceback.print_exc()


def starting_method() -> str:
    """Forks where they can use the device; where something touched the GPU before, each part imports by itself."""
    probe = multiprocessing.get_context("fork").Process(target=touch_device)
    probe.start()
    probe.join(60)
    works = probe.exitcode == 0
    probe.kill()
    return "fork" if works else "spawn"


def touch_device() -> None:
    import torch

    torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu")


def run_part(part: str, limit: float, method: str = "fork") -> Iterator[dict[str, Any]]:
    """What is known of a part after each of its rows, and at its end, when rows that are missing say why."""
    with TemporaryDirectory(prefix="glassbox-gpu-") as name:
        rows, seen = Path(name) / "rows", 0
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=measure_part, args=(part, limit, rows))
        started = time.monotonic()
        process.start()
        try:
            while process.is_alive() and time.monotonic() - started < limit:
                process.join(0.1)
                found = read_rows(rows)
                if len(found["rows"]) > seen:
                    seen = len(found["rows"])
                    yield found | {"seconds": time.monotonic() - started}
        finally:
            stopped = process.is_alive()
            process.kill()
            process.join()
        reason = f"stopped at its limit of {limit:.0f} s" if stopped else ""
        if process.exitcode and not stopped:
            reason = f"its process ended with code {process.exitcode}"
        yield finished(read_rows(rows), reason) | {"seconds": time.monotonic() - started}


def read_rows(path: Path) -> dict[str, Any]:
    """The lines that a part has written so far: first the machine and the names of its rows, then its rows."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    first, *rest = [json.loads(line) for line in lines if line.endswith("}")] or [{"machine": {}, "names": []}]
    return first | {"rows": rest}


def finished(found: dict[str, Any], reason: str) -> dict[str, Any]:
    """With a row that says why for every name that has none; `reason` is empty where the part ended by itself."""
    have = {row["name"] for row in found["rows"]}
    names = found["names"] or ["all rows"]
    missing = [name for name in names if name not in have] if reason or not found["rows"] else []
    rows = [{"name": name, "value": None, "unit": "", "note": reason or "no rows"} for name in missing]
    return found | {"rows": [*found["rows"], *rows]}


def write(out: Path, result: Mapping[str, Any]) -> None:
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(result) + "\n", encoding="utf-8")


def table(result: Mapping[str, Any]) -> str:
    """All rows in Markdown, and what they were measured on."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = [
        f"Measured on: {machine}.",
        "",
        "| part | row | figure | range | note |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part, found in result["parts"].items():
        for row in found["rows"]:
            cells = (part, row["name"], shown(row), spread(row), row.get("note", ""))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def shown(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "not measured"
    if row["unit"] == "1: all":
        return "yes" if row["value"] == 1 else "**no**"
    return f"{row['value']:.1%}" if row["unit"] == "share" else f"{row['value']:.2f}"


def spread(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.2f} to {row['high']:.2f}" if row.get("low") is not None else ""


def measure_part(part: str, seconds: float, path: Path) -> None:
    """In the part's own process: append what is measured to `path`, a line a row."""
    import_libraries()
    import torch
    from suite.gpu import stand_ins
    from suite.gpu.measuring import guarded
    from suite.gpu.parts import parts_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    names, work = parts_of(device, seconds, stand_ins.missing())[part]
    with path.open("a", encoding="utf-8") as file:
        print(json.dumps({"machine": machine(device), "names": names}), file=file, flush=True)
        for figure in guarded(names, work):
            print(json.dumps(asdict(figure)), file=file, flush=True)


def machine(device: Any) -> dict[str, str]:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU with {os.cpu_count()} cores"
    return {"device": name, "Python": platform.python_version()} | {each: _version(each) for each in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    sys.exit(main())
