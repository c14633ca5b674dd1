"""A process that outlives whoever started it must not go on writing: it stops as it does on SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil

SECONDS_BETWEEN_LOOKS = 1.0


def follow(number: int) -> None:
    """Raise SIGTERM in this process once process `number` is gone; its handler runs in the main thread."""
    try:
        leader = psutil.Process(number)
    except psutil.NoSuchProcess:
        signal.raise_signal(signal.SIGTERM)
        return

    def watch() -> None:
        while leader.is_running() and leader.status() != psutil.STATUS_ZOMBIE:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def dvc_above() -> int | None:
    """The DVC that runs this stage, with a shell between as may be; None where no DVC does."""
    if "DVC_ROOT" not in os.environ:
        return None
    try:
        for process in psutil.Process().parents():
            if any(Path(part).name.startswith("dvc") for part in process.cmdline()[:2]):
                return process.pid
    except psutil.Error:
        pass
    return None
