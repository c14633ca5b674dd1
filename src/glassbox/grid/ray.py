"""The engine of a Ray cluster, or of a Ray that starts here: each trial is a task of Ray Core, which schedules, retries
and handles nodes. Ray Tune is not used: its search, storage and restore are what keys, checkpoints and manifests do."""

from __future__ import annotations

import importlib
import io
import os
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glassbox.command import Interruption, loading
from glassbox.config.settings import Settings
from glassbox.config.storage import scratch_folder
from glassbox.errors import GlassboxError
from glassbox.files import SOURCE
from glassbox.grid import kept
from glassbox.grid.attempt import Outcome
from glassbox.grid.board import Board
from glassbox.grid.cells import Cell, cells_of
from glassbox.grid.locks import core_count, cores_of_a_trial, visible_gpus

LOOPBACK = "127.0.0.1"
NODE_FOLDER = "GLASSBOX_FOLDER"
PASSED_ON = ("MLFLOW_", "AWS_", "HF_", "DVC_ROOT", "GLASSBOX_")
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_WRITE_CHECKPOINTS = 600


def start_ray(settings: Settings) -> Any:
    """Ray itself, connected to the cluster of `engine.address` or to one that starts here, on loopback."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = settings.engine.address
    own = {"num_cpus": core_count(), "num_gpus": len(visible_gpus()), "_node_ip_address": LOOPBACK}
    if address and address.startswith((LOOPBACK, "localhost")):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray asks the machine's outer address in its place
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise GlassboxError(
            "`engine.kind` = ray: Ray is not installed. Next: `pip install -r requirements-ray.txt`, or "
            "`-S engine.kind=local`."
        ) from error
    try:
        ray.init(
            **({"address": address} if address else own | {"include_dashboard": False}),
            runtime_env={"env_vars": _environment(settings)},
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise GlassboxError(
            f"`engine.address` = {address}: no Ray cluster answers there ({error}). Next: `ray status` there, or "
            "`-S engine.address=null`, which starts one here."
        ) from error
    _refuse_what_no_node_has(ray, settings)
    return ray


def _environment(settings: Settings) -> dict[str, str]:
    """What a task's process gets: the threads before it imports torch, and where code, store and folders are."""
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) and name != NODE_FOLDER}
    return passed | {
        "OMP_NUM_THREADS": str(settings.train.threads),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE.parent), os.environ.get("PYTHONPATH")))),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def request_of(ray: Any, settings: Settings) -> dict[str, float]:
    """Cores and GPUs that one trial asks of a node."""
    some = any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"])
    gpus = settings.engine.gpus if settings.engine.gpus is not None else (settings.train.processes if some else 0)
    return {"num_cpus": cores_of_a_trial(settings), "num_gpus": gpus}


def _refuse_what_no_node_has(ray: Any, settings: Settings) -> None:
    wanted = request_of(ray, settings)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(n.get("CPU", 0) >= wanted["num_cpus"] and n.get("GPU", 0) >= wanted["num_gpus"] for n in nodes):
        return
    there = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
    ray.shutdown()
    raise GlassboxError(
        f"A trial asks for {wanted['num_cpus']:g} CPUs and {wanted['num_gpus']:g} GPUs, which no node of the Ray "
        f"cluster has ({there}); nothing was started. Next: smaller `-S engine.cpus=...`, `-S engine.gpus=...`."
    )


def places(ray: Any, settings: Settings) -> int:
    """How many trials the cluster has room for at once."""
    wanted, count = request_of(ray, settings), 0
    for node in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        by_cores = node.get("CPU", 0) // wanted["num_cpus"]
        by_gpus = node.get("GPU", 0) // wanted["num_gpus"] if wanted["num_gpus"] else by_cores
        count += int(min(by_cores, by_gpus))
    return max(1, min(count, settings.engine.workers or count))


class Reports:
    """An actor beside the driver that tasks tell where they stand, the last report of each."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, ...]] = {}

    def tell(self, name: str, report: tuple[Any, ...]) -> None:
        self._last[name] = report

    def take(self) -> dict[str, tuple[Any, ...]]:
        last, self._last = self._last, {}
        return last


class RayEngine:
    """Hands every cell to the cluster, as many at once as it has room for; `run` returns what became of each."""

    def __init__(self, settings: Settings, params: str) -> None:
        self._settings, self._params = settings, params
        self._ray = ray = start_ray(settings)
        self.places = places(ray, settings)
        self._reports = ray.remote(num_cpus=0)(Reports).remote()
        options = request_of(ray, settings) | {"max_retries": settings.engine.retries, "retry_exceptions": False}
        self._task = ray.remote(**options)(run_on_a_node)

    def run(self, cells: Sequence[Cell], board: Board, interruption: Interruption) -> dict[Cell, Outcome]:
        waiting, running, outcomes = list(cells), {}, {}
        stopping: float | None = None
        while waiting or running:
            while waiting and len(running) < self.places and stopping is None:
                cell = waiting.pop(0)
                board.started(cell)
                running[self._submit(cell)] = cell
            done, _ = self._ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS) if running else ([], [])
            for reference in done:
                cell = running.pop(reference)
                outcome = self._outcome(cell, reference, stopping is not None)
                if outcome.status == "busy":
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                    waiting.append(cell)
                    continue
                outcomes[cell] = outcome
                if outcome.status != "stopped":
                    board.ended(cell, outcome)
            self._show(running.values(), board)
            if interruption.received is not None and stopping is None:
                stopping = time.monotonic()
                for reference in running:
                    self._ray.cancel(reference, force=False)
            if stopping is not None and (not running or time.monotonic() - stopping > SECONDS_TO_WRITE_CHECKPOINTS):
                break
        for cell in [*waiting, *running.values()]:
            outcomes[cell] = Outcome("stopped")
        return outcomes

    def close(self) -> None:
        self._ray.shutdown()

    def _submit(self, cell: Cell) -> Any:
        driver = {"folder": str(Path.cwd()), "proof": str(_proof(self._settings))}
        return self._task.remote(
            self._settings.model_dump(mode="json"), asdict(cell), self._params, driver, self._reports
        )

    def _outcome(self, cell: Cell, reference: Any, is_stopping: bool) -> Outcome:
        try:
            values, packed = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if is_stopping:
                return Outcome("stopped", "was stopped")
            retries = self._settings.engine.retries
            return Outcome("failed", f"{type(error).__name__}: {error}".splitlines()[0], tries=retries + 1)
        outcome = Outcome(**values)
        if packed is not None:
            unpack(packed, cell, self._settings)
            if not kept.adopt(cell, self._settings):
                return Outcome("failed", "what came back from its node is damaged")
        return outcome

    def _show(self, running: Any, board: Board) -> None:
        with suppress(self._ray.exceptions.RayError):
            last = self._ray.get(self._reports.take.remote())
            for cell in running:
                if cell.name in last:
                    board.step(cell, *last[cell.name])


def _proof(settings: Settings) -> Path:
    """A file that a node sees where it shares the driver's folders."""
    path = scratch_folder(settings.storage).resolve() / "locks" / f"driver-{os.getpid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def run_on_a_node(
    values: dict[str, Any], cell_values: dict[str, Any], params: str, driver: dict[str, str], reports: Any
) -> tuple[dict[str, Any], bytes | None]:
    """One trial in a process of Ray: what became of it, and its files where the driver does not see this folder."""
    is_shared = Path(driver["proof"]).is_file() and NODE_FOLDER not in os.environ
    if is_shared:
        os.chdir(driver["folder"])
    elif NODE_FOLDER in os.environ:
        os.chdir(os.environ[NODE_FOLDER])
        os.environ["DVC_ROOT"] = os.environ[NODE_FOLDER]
    with loading():
        from glassbox.grid.attempt import attempt, log_of
        from glassbox.grid.worker import write_to
        from glassbox.training import trial  # noqa: F401

    settings, cell = Settings.model_validate(values), Cell(**cell_values)
    log = log_of(settings, cell)
    write_to(str(log))
    began, last = time.monotonic(), 0.0

    def step(step: int, steps: int, loss: float | None, samples_per_second: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > 1.0:
            reports.tell.remote(cell.name, (step, steps, loss, samples_per_second, now - began))
            last = now

    (own,) = cells_of(settings, [cell.group], [cell.seed])
    if own.key != cell.key:
        where = f"{os.uname().nodename}:{os.getcwd()}" if hasattr(os, "uname") else os.getcwd()
        reason = f"{where} holds other data or code than the driver: `git pull` and `dvc pull` there"
        return asdict(Outcome("refused", reason)), None
    outcome = attempt(settings, cell, params, step)
    values = asdict(outcome) | {"seconds": time.monotonic() - began, "log": str(log)}
    if not outcome.is_there or is_shared:
        return values, None
    return values, pack(cell)


def pack(cell: Cell) -> bytes:
    """A published trial as one archive."""
    buffer, files = io.BytesIO(), cell.manifest.with_suffix("")
    with zipfile.ZipFile(buffer, "w", strict_timestamps=False) as archive:
        archive.write(cell.manifest, kept.MANIFEST)
        for path in sorted(path for path in files.rglob("*") if path.is_file()):
            archive.write(path, Path(kept.FILES) / path.relative_to(files))
    return buffer.getvalue()


def unpack(packed: bytes, cell: Cell, settings: Settings) -> None:
    """Put an archive among the kept trials, from where it is adopted like any other."""
    target = kept.folder_of(settings) / cell.key
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(target)
