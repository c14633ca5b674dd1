"""What a person reads of a study: before, meanwhile, after."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grids
import pytest
from projects import shrunk_settings

from glassbox.grid import kept
from glassbox.grid import ray as ray_engine
from glassbox.grid.attempt import Outcome
from glassbox.grid.board import Board, Running
from glassbox.grid.cells import Cell, cells_of
from glassbox.grid.study import seconds_by_group, table_of

CELLS = [Cell("sft", seed, f"key-{seed}") for seed in range(3)]


def test_the_table_says_what_is_missing_why_and_where_its_log_is() -> None:
    missing = {
        CELLS[1]: Outcome("failed", "its worker was killed by signal 9", tries=3, log="logs/sft-1.log"),
        CELLS[0]: Outcome("refused", "the student has another tokenizer"),
    }
    assert table_of(missing, 35).splitlines() == [
        "2 of 35 trials are missing, the others are there. The same command trains only these.",
        "",
        "trial                    tries  why",
        "sft/0                        1  the student has another tokenizer",
        "sft/1                        3  its worker was killed by signal 9",
        "                                log: logs/sft-1.log",
    ]


def test_an_estimate_comes_before_the_first_trial_and_what_was_measured_after_the_last(capsys) -> None:
    with Board(due=3, planned=35, workers=2, known={"sft": 120.0}) as board:
        board.announce(CELLS)
        for cell in CELLS:
            board.started(cell)
            board.step(cell, 1, 100, 0.5, 10.0, 0.25)
            board.ended(cell, Outcome("finished", seconds=40.0))
        board.conclude()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "3 trials due of 35, about 3 min with 2 workers; Ctrl-C loses nothing."
    assert said[1] == "sft/0 finished in 40 s (1 of 3, about 40 s left)"
    assert said[3] == "sft/2 finished in 40 s (3 of 3)"
    assert said[4].endswith("with 2 workers: 40.0 s for a trial, 0.2 s of them before the first step.")


def test_trials_that_had_no_step_left_are_measured_without_a_start_up(capsys) -> None:
    with Board(due=1, planned=1, workers=1, known={}) as board:
        board.started(CELLS[0])
        board.ended(CELLS[0], Outcome("finished", seconds=1.0))
        board.conclude()
    assert capsys.readouterr().out.splitlines()[-1].endswith("with 1 worker: 1.0 s for a trial.")


def test_without_earlier_trials_the_first_steps_give_the_estimate(capsys) -> None:
    with Board(due=3, planned=3, workers=1, known={}) as board:
        board.announce(CELLS)
        board.started(CELLS[0])
        board.step(CELLS[0], 6, 206, None, 10.0, 0.25)
        running = board._running[CELLS[0]]
        running.since, running.even = running.since - 10.0, (running.since - 10.0, 6)
        board.step(CELLS[0], 16, 206, None, 10.0, 0.25)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "3 trials due of 3, its time is told after the first steps with 1 worker; Ctrl-C loses nothing."
    assert said[1] == "About 10 min, by the first steps of sft/0."


def test_the_time_of_a_trial_comes_from_trials_of_its_group_or_from_the_plan(project: Path) -> None:
    settings = grids.write_params(project)
    assert seconds_by_group(settings) == {}
    (project / "reports").mkdir()
    plan = {"scale": settings.scale, "time": {"trial_seconds": {"sft": 30.0, "combined": 60.0, "other": 1.0}}}
    (project / "reports/plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert seconds_by_group(settings) == {"sft": 30.0, "combined": 60.0}
    grids.publish(cells_of(settings, ["sft"], [0])[0], seconds=10.0)
    assert seconds_by_group(settings) == {"sft": 12.0, "combined": 60.0}


def test_a_trial_comes_back_from_another_node_whole(project: Path) -> None:
    settings = grids.write_params(project)
    cell = cells_of(settings, ["sft"], [0])[0]
    grids.publish(cell, seconds=10.0)
    deeper = cell.manifest.with_suffix("") / "student"
    deeper.mkdir(parents=True, exist_ok=True)
    (deeper / "config.json").write_text("{}", encoding="utf-8")
    ray_engine.unpack(ray_engine.pack(cell), cell, settings)
    back = kept.folder_of(settings) / cell.key
    assert (back / kept.MANIFEST).read_bytes() == cell.manifest.read_bytes()
    assert (back / kept.FILES / "student/config.json").read_text(encoding="utf-8") == "{}"


def test_ray_is_refused_with_the_install_line_where_it_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ray_engine.GlassboxError, match=r"`pip install -r requirements-ray\.txt`"):
        ray_engine.start_ray(shrunk_settings(tmp_path, engine={"kind": "ray"}))


def test_the_pace_of_a_trial_leaves_out_its_slow_first_steps() -> None:
    running = Running(since=0.0, step=25, steps=105, even=(10.0, 5))
    assert running.seconds(now=12.0) == pytest.approx(20.0)
    assert Running(since=0.0, step=5, steps=105, even=(10.0, 5)).seconds(now=10.0) is None
