"""Fixtures that several test files share. The tests of a file run in one process (`--dist loadfile`).

They import what they need themselves: xdist's own process reads this file too, and runs no test.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sections

if TYPE_CHECKING:
    from glassbox.comparison.study import Comparison


@pytest.fixture(autouse=True)
def environment_of_its_own() -> Iterator[None]:
    """No test sees what another one, or the shell, lets the names of runs be, nor any variable that one leaves set."""
    before = dict(os.environ)
    for name in ("GLASSBOX_LABEL", "DVC_EXP_NAME"):
        os.environ.pop(name, None)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def initialised_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One empty store for all tests: MLflow takes a second or two to make its tables."""
    from glassbox import tracking

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.ensure_store(sections.storage())
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, initialised_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the repository's root, with an empty MLflow store of its own."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    (tmp_path / "mlflow.db").write_bytes(initialised_store.read_bytes())
    return tmp_path


@pytest.fixture(scope="session")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with its tasks and its snapshot."""
    from projects import make_project

    folder = tmp_path_factory.mktemp("captured")
    make_project(folder)
    return folder


@pytest.fixture
def project(captured: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the captured project that is the working directory and has an MLflow store."""
    for name in ("models", "data"):
        shutil.copytree(captured / name, store / name)
    monkeypatch.chdir(store)
    return store


@pytest.fixture(scope="session")
def compared(initialised_store: Path) -> Comparison:
    """The comparison of five groups with three seeds, written once for all tests that only read it."""
    import studies

    from glassbox.comparison.study import compare_study

    with studies.own_store(initialised_store, "compared") as folder:
        shutil.copytree(studies.CONF, folder / "conf")
        studies.write_study(folder)
        return compare_study(studies.settings(), studies.key_of, folder=folder)


@pytest.fixture
def in_compared_folder(compared: Comparison, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of that comparison, whose store is the one in use."""
    folder = compared.page.parents[1]
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def results(compared: Comparison) -> dict[str, Any]:
    """results.json of that comparison, each time a new copy."""
    return copy.deepcopy(compared.results)
