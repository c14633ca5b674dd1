"""The grid as a whole: what is due, who runs it, and what is said of it before, meanwhile and after."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing

from glassbox.command import Interruption
from glassbox.config.settings import Settings
from glassbox.config.storage import REPORTS_FOLDER, RUNS_FOLDER
from glassbox.errors import GlassboxError
from glassbox.files import read_json
from glassbox.grid import kept
from glassbox.grid.attempt import Outcome, adopt_kept
from glassbox.grid.board import Board
from glassbox.grid.cells import Cell, current
from glassbox.grid.local import LocalEngine
from glassbox.grid.parents import dvc_above, follow
from glassbox.grid.ray import RayEngine

PLAN = REPORTS_FOLDER / "plan.json"
SECONDS_BESIDE_TRAINING = 2.0  # start-up and final evaluation, which a manifest's seconds leave out


def run_grid(settings: Settings, cells: Sequence[Cell], params: str) -> None:
    """Train every cell that is due. Raises GlassboxError with a table where trials are missing in the end, and
    SystemExit where a signal stopped it."""
    there = current(cells)
    due = [cell for cell in cells if cell not in there]
    if not due:
        print(f"Nothing to train: all {_count(cells)} are there.")
        return
    for cell in due:
        kept.keep(cell.manifest, settings)  # the trial of other settings, which this one replaces
    adopted = {cell for cell in due if _adopted(settings, cell)}
    due = [cell for cell in due if cell not in adopted]
    if not due:
        print(f"Nothing to train: all {_count(cells)} are there.")
        return
    engine = RayEngine(settings, params) if settings.engine.kind == "ray" else LocalEngine(settings, params)
    workers = min(len(due), engine.places)
    with Interruption() as interruption, Board(len(due), len(cells), workers, seconds_by_group(settings)) as board:
        board.announce(due)
        if (number := dvc_above()) is not None:
            follow(number)
        with closing(engine):
            outcomes = engine.run(due, board, interruption)
        if interruption.received is not None:
            _say_stopped(board, interruption.received, interruption.again)
        board.conclude()
    interruption.leave()
    missing = {cell: outcome for cell, outcome in outcomes.items() if not outcome.is_there}
    if missing:
        raise GlassboxError(table_of(missing, len(cells)))


def _adopted(settings: Settings, cell: Cell) -> bool:
    how = adopt_kept(settings, cell)
    if how:
        print(f"{cell.name}: {how}, under this very key", flush=True)
    return bool(how)


def _count(cells: Sequence[Cell]) -> str:
    groups, seeds = len({cell.group for cell in cells}), len({cell.seed for cell in cells})
    return f"{len(cells)} trials ({groups} groups x {seeds} seeds)"


def _say_stopped(board: Board, number: int, at_once: bool) -> None:
    under_way = board.under_way()
    did = "lost what came after their last checkpoints" if at_once else "wrote checkpoints"
    what = f"{', '.join(under_way)} {did}" if under_way else "no trial was under way"
    board.say(f"Stopped by {signal.Signals(number).name}: {what}. The same command resumes.")


def table_of(missing: Mapping[Cell, Outcome], planned: int) -> str:
    """What is missing and why, and where its log lies."""
    lines = [
        f"{len(missing)} of {planned} trials are missing, the others are there. The same command trains only these.",
        "",
        f"{'trial':<24} {'tries':>5}  why",
    ]
    for cell, outcome in sorted(missing.items()):
        lines.append(f"{cell.name:<24} {outcome.tries:>5}  {outcome.reason or outcome.status}")
        lines += [f"{'':<24} {'':>5}  log: {outcome.log}"] if outcome.log else []
    return "\n".join(lines)


def seconds_by_group(settings: Settings) -> dict[str, float]:
    """Of a whole trial, as trials of these groups took here; else as `make plan` found for this scale."""
    plan = read_json(PLAN)
    known = plan.get("time", {}).get("trial_seconds", {}) if plan.get("scale") == settings.scale else {}
    taken: dict[str, list[float]] = {}
    for path in [*RUNS_FOLDER.glob("*/*.json"), *kept.folder_of(settings).glob(f"*/{kept.MANIFEST}")]:
        manifest = read_json(path)
        if manifest.get("tags", {}).get("scale") == settings.scale and manifest.get("seconds"):
            taken.setdefault(manifest["group"], []).append(manifest["seconds"])
    found = {group: statistics.median(each) + SECONDS_BESIDE_TRAINING for group, each in taken.items()}
    return {group: seconds for group, seconds in (known | found).items() if group in settings.groups}
