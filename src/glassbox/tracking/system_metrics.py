"""Load of the machine while a trial runs, read by MLflow's own monitors and written as any other metric."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

PREFIX = "system/"
SECONDS_BETWEEN_SAMPLES = 5.0


class Sampler(threading.Thread):
    """Calls `record(metrics, step)` every few seconds. MLflow's own thread would ask the store before every sample."""

    def __init__(self, record: Callable[[Mapping[str, float], int], None], first_step: int) -> None:
        super().__init__(name="system metrics", daemon=True)
        self._record, self._step = record, first_step
        self._finished = threading.Event()

    def run(self) -> None:
        monitors = _monitors()
        while not self._finished.wait(SECONDS_BETWEEN_SAMPLES):
            for monitor in monitors:
                monitor.collect_metrics()
            metrics = {PREFIX + key: value for each in monitors for key, value in each.aggregate_metrics().items()}
            self._record(metrics, self._step)
            self._step += 1
            for monitor in monitors:
                monitor.clear_metrics()

    def finish(self) -> None:
        self._finished.set()
        self.join()


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(Exception):  # MLflow's way to say that there is no GPU, or nothing that could read it
        monitors.append(GPUMonitor())
    return monitors
