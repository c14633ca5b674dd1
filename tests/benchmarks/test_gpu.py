"""benchmarks/gpu.py: its tables, parts that fail or hang, and all of it on a CPU, as a bare machine would run it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu  # noqa: E402
from suite.gpu import measuring, parts, shapes, stand_ins  # noqa: E402
from suite.gpu.measuring import Figure, guarded  # noqa: E402

ABSENT = (*stand_ins.STOOD_IN, "mlflow", "datasets", "dvc", "scipy", "pandas", "hydra", "omegaconf", "matplotlib")
BARE = f"""
import importlib.machinery, runpy, sys
class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else super().find_spec(name, path, target)
sys.meta_path[:] = [Bare if each is importlib.machinery.PathFinder else each for each in sys.meta_path]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def line(content: dict[str, Any]) -> str:
    return json.dumps(content) + "\n"


def writing(text: str, then: Callable[[], None]) -> Callable[[str, float, Path], None]:
    def part(name: str, seconds: float, path: Path) -> None:
        path.write_text(text, encoding="utf-8")
        then()

    return part


def test_a_table_says_what_was_measured_what_was_not_and_on_what() -> None:
    rows = [
        {"name": "a / b", "value": 1.234, "unit": "ratio", "low": 1.0, "high": 2.0, "note": "x | y"},
        {"name": "waiting", "value": 0.0123, "unit": "share", "note": ""},
        {"name": "finite", "value": 0.0, "unit": "1: all", "note": "not: hidden"},
        {"name": "lost", "value": None, "unit": "", "note": "out of memory"},
    ]
    text = gpu.table({"machine": {"device": "H100"}, "parts": {"step": {"rows": rows}}})
    assert text.splitlines()[0] == "Measured on: device H100."
    assert "| step | a / b | 1.23 | 1.00 to 2.00 | x \\| y |" in text
    assert "| step | waiting | 1.2% |  |  |" in text
    assert "| step | finite | **no** |  | not: hidden |" in text
    assert "| step | lost | not measured |  | out of memory |" in text


def test_rows_before_a_failure_stay_and_those_after_it_say_why() -> None:
    def work() -> Iterator[Figure]:
        yield Figure("first", 1.0)
        raise RuntimeError("CUDA out of memory. Tried to allocate\nmore")

    found = list(guarded(("first", "second", "third"), work))
    assert [(each.name, each.value) for each in found] == [("first", 1.0), ("second", None), ("third", None)]
    assert found[1].note == "RuntimeError: CUDA out of memory. Tried to allocate"


@pytest.mark.parametrize(
    ("then", "limit", "reason"),
    [
        (lambda: time.sleep(60), 0.5, "stopped at its limit of 0 s"),
        (lambda: sys.exit(7), 30.0, "its process ended with code 7"),
    ],
)
def test_a_part_that_hangs_or_dies_keeps_its_rows_and_names_the_others(
    monkeypatch: pytest.MonkeyPatch, then: Callable[[], None], limit: float, reason: str
) -> None:
    text = line({"machine": {"device": "here"}, "names": ["one", "two"]}) + line({"name": "one", "value": 2.0})
    monkeypatch.setattr(gpu, "measure_part", writing(text, then))
    *_, last = gpu.run_part("capture", limit)
    assert [(row["name"], row["value"]) for row in last["rows"]] == [("one", 2.0), ("two", None)]
    assert last["rows"][1]["note"] == reason


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text(line({"machine": {}, "names": ["one"]}) + '{"name": "on', encoding="utf-8")
    assert gpu.read_rows(path)["rows"] == []
    assert gpu.read_rows(tmp_path / "nothing") == {"machine": {}, "names": [], "rows": []}


def test_every_part_is_planned_and_all_of_them_end_within_eight_minutes() -> None:
    assert list(parts.parts_of(torch.device("cpu"), 1.0, [])) == list(gpu.PARTS)
    assert sum(gpu.PARTS.values()) + gpu.MARGIN <= 8 * 60


def test_the_pair_has_the_papers_size_and_a_forward_pass_its_operations() -> None:
    with torch.device("meta"):
        from transformers import AutoModelForCausalLM

        student = AutoModelForCausalLM.from_config(shapes.PAPER.student)
    assert sum(weight.numel() for weight in student.parameters()) == pytest.approx(1.1e9, rel=0.001)
    weights = 22 * (2_048 * 2_048 * 2 + 2 * 2_048 * 256 + 3 * 2_048 * 5_632)
    assert shapes.linear_weights(student) == weights
    operations = shapes.forward_operations(student, [2], 1)
    assert operations == 2 * weights * 2 + 4 * 22 * 2_048 * 3 + 2 * 32_000 * 2_048


def test_as_many_rounds_as_fit_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    found = measuring.in_turns({"a": lambda: calls.append(1)}, torch.device("cpu"), seconds=9)
    assert len(found["a"].wall) == 5 and len(calls) == 2 + 5


def test_settings_without_pydantic_keep_their_defaults() -> None:
    class Section(stand_ins._Model):
        size: int
        share: float = stand_ins._field(0.5, ge=0.0)

    section = Section(size=3)
    assert (section.size, section.share, section.model_copy(update={"size": 4}).size) == (3, 0.5, 4)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="takes 8 minutes at the paper's shapes")
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.long
def test_all_of_it_runs_on_a_cpu(tmp_path: Path, bare: bool) -> None:
    script = [str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path / "gpu"), "--seconds", "240"]
    command = [sys.executable, *(["-c", BARE] if bare else []), *script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for part in result["parts"].values() for row in part["rows"]}
    assert set(rows) == {name for names, _ in parts.parts_of(torch.device("cpu"), 1.0, []).values() for name in names}
    unmeasured = {name: row["note"] for name, row in rows.items() if row["value"] is None}
    expected = ("a CPU does not count the bytes", "GlassboxError: train.precision is fp16", "whole layers are compiled")
    assert all(note.startswith(expected) for note in unmeasured.values()), unmeasured
    finite = [row["value"] for row in rows.values() if row["unit"] == "1: all"]
    assert finite == [1.0, 1.0]
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8").strip() in done.stdout
    assert ("PyArrow is not installed" in done.stdout) == bare
