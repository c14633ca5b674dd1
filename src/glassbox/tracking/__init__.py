"""What happened in a run, kept in MLflow. The only package that imports mlflow, and only when a store is opened.

Importing mlflow and opening its sqlite file costs about 1.5 seconds, so that nothing here does it at import time, and
`ensure_store` on an existing store never does. What a run says is on disk before it is in MLflow (journal.py).
"""

from glassbox.config.storage import root
from glassbox.tracking.check import check_store
from glassbox.tracking.other_runs import artifact_address, log_comparison, log_snapshot, restore_run
from glassbox.tracking.queries import (
    RESTORED_FROM,
    RunRecord,
    artifact,
    find_by_key,
    find_comparisons,
    find_runs,
    history,
)
from glassbox.tracking.store import (
    COMPARISONS,
    EXPERIMENT,
    ensure_store,
    readable_client,
    runs_page,
    sqlite_uri,
    store_uri,
)
from glassbox.tracking.trial_run import TrialRun, UnrecordedRun

__all__ = [
    "COMPARISONS",
    "EXPERIMENT",
    "RESTORED_FROM",
    "RunRecord",
    "TrialRun",
    "UnrecordedRun",
    "artifact",
    "artifact_address",
    "check_store",
    "ensure_store",
    "find_by_key",
    "find_comparisons",
    "find_runs",
    "history",
    "log_comparison",
    "log_snapshot",
    "readable_client",
    "restore_run",
    "root",
    "runs_page",
    "sqlite_uri",
    "store_uri",
]
