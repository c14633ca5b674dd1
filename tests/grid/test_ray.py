"""The Ray engine on two raylets of this machine: the bits of a trial alone, also where a node, a worker or the driver
is killed. Every process that is killed was started by the test."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grids
import psutil
import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

LONG = {"train": {"epochs": 12}}


@pytest.fixture(scope="module")
def undisturbed(captured: Path, initialised_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Student and answers of each trial, by a local worker."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("models", "data"):
        shutil.copytree(captured / name, folder / name)
    shutil.copy(initialised_store, folder)
    grids.write_params(folder, **LONG, engine={"workers": 1})
    grids.train(folder)
    return grids.digests(folder)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores beside the driver; tests add nodes to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    )
    yield cluster
    cluster.shutdown()


def write_params(project: Path, address: str | None) -> None:
    grids.write_params(project, **LONG, engine={"kind": "ray", "address": address})


def test_a_ray_that_starts_here_trains_the_bits_of_each_trial_alone(project: Path, undisturbed: dict) -> None:
    grids.write_params(project, **LONG, engine={"kind": "ray", "workers": 2})
    said = grids.train(project)
    assert said.count("finished in") == 4
    assert grids.digests(project) == undisturbed


def test_a_request_that_no_node_can_meet_is_refused_before_anything_starts(project: Path) -> None:
    grids.write_params(project, engine={"kind": "ray", "cpus": 1000})
    said = grids.train(project, expect=1)
    assert "A trial asks for 1000 CPUs and 0 GPUs, which no node of the Ray cluster has" in said
    assert not (project / "runs").exists()


@pytest.mark.long
def test_a_killed_node_and_a_killed_worker_change_no_bit(project: Path, cluster: Any, undisturbed: dict) -> None:
    nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(2)]
    write_params(project, cluster.address)
    process = grids.start(project)
    first = grids.owner(project, grids.wait_for_checkpoint(project).parent.name)
    raylet = first.parent()
    assert raylet is not None and "raylet" in raylet.name()
    lost = next(node for node in nodes if node.all_processes["raylet"][0].process.pid == raylet.pid)
    for each in [raylet, *raylet.children(recursive=True)]:
        each.kill()
    cluster.remove_node(lost, allow_graceful=False)
    running = [key for key in keys_of_running(project) if grids.owner(project, key).pid != first.pid]
    if running:
        grids.owner(project, running[0]).kill()
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert grids.digests(project) == undisturbed


def keys_of_running(project: Path) -> list[str]:
    return [
        path.parent.name
        for path in (project / ".glassbox/running").glob("*/step-*")
        if psutil.pid_exists(int((project / f".glassbox/locks/{path.parent.name}.owner").read_text(encoding="utf-8")))
    ]


@pytest.mark.long
def test_after_the_driver_is_killed_the_same_command_does_the_rest(
    project: Path, cluster: Any, undisturbed: dict
) -> None:
    cluster.add_node(num_cpus=2, node_ip_address="127.0.0.1")
    write_params(project, cluster.address)
    process = grids.start(project)
    grids.wait_for_checkpoint(project)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    grids.train(project)
    assert grids.digests(project) == undisturbed


@pytest.mark.long
def test_nodes_with_folders_of_their_own_send_their_trials_back(
    project: Path, cluster: Any, undisturbed: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        for part in ("models", "data"):
            shutil.copytree(project / part, folder / part)
        shutil.copy(project / "mlflow.db", folder)
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1", env_vars={"GLASSBOX_FOLDER": str(folder)})
    write_params(project, cluster.address)
    grids.train(project)
    assert grids.digests(project) == undisturbed
    assert len(list((project / ".glassbox/trials").iterdir())) == 4
