"""What every kind of run needs written: a start with params and tags, and metrics in batches."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glassbox.tracking.store import experiment_id

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Scalar = str | int | float | bool | None
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
DATASET_DIGEST_CHARACTERS = 36


def start_run(client: MlflowClient, name: str, params: Mapping[str, Scalar], tags: Mapping[str, str]) -> str:
    from mlflow.entities import Param

    run = client.create_run(experiment_id(client), run_name=name, tags=dict(tags))
    every = [Param(key, "null" if value is None else str(value)) for key, value in params.items()]
    for first in range(0, len(every), PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=every[first : first + PARAMS_PER_BATCH])
    return run.info.run_id


def log_snapshot_input(client: MlflowClient, run_id: str, snapshot: Mapping[str, str]) -> None:
    """The snapshot as a dataset input under our own digest, cut to the characters that MLflow allows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=snapshot["name"],
        digest=snapshot["digest"][:DATASET_DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": snapshot["source"]}),
        profile=json.dumps({"logical_digest": snapshot["digest"]}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def write_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Any]) -> None:
    for first in range(0, len(metrics), METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=list(metrics[first : first + METRICS_PER_BATCH]))


def write_values(client: MlflowClient, run_id: str, values: Mapping[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    write_metrics(client, run_id, [Metric(key, float(value), now, step) for key, value in values.items()])
