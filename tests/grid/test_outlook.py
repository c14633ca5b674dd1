"""What `make study` says before it begins: which trials are missing, and about how long they take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import foresee
from glassbox.config.settings import Settings, load_settings
from glassbox.config.yaml_files import read_yaml
from glassbox.grid.cells import _md5, outlook
from glassbox.tracking.key import trial_key

ROOT = Path(__file__).parents[2]
CODE = "src/snapshot.py"


@pytest.fixture
def params() -> dict[str, Any]:
    return read_yaml(ROOT / "params.yaml")[0]


@pytest.fixture
def settings() -> Settings:
    return load_settings(ROOT / "params.yaml")


@pytest.fixture
def finished(tmp_path: Path, settings: Settings, params: dict[str, Any]) -> Path:
    """A folder in which every trial of the committed settings stands, 20 s each."""
    stage = {"deps": [{"path": CODE, "md5": _md5(ROOT / CODE)}], "params": {"params.yaml": {}}}
    stages = dict.fromkeys(("prepare", "verify"), stage)
    stages["snapshot"] = stage | {"params": {"params.yaml": {"snapshot": params["snapshot"]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for folder in ("data/tasks", "data/snapshot", "src"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/verified.json").touch()
    (tmp_path / CODE).write_bytes((ROOT / CODE).read_bytes())
    for group in settings.groups:
        (tmp_path / "runs" / group).mkdir(parents=True)
        for seed in settings.seeds:
            key = trial_key(settings, group, seed, "s", "t")
            content = {"key": key, "seconds": 20.0, "tags": {"scale": "embedded"}}
            content["digests"] = {"snapshot": "s", "tasks": "t"}
            (tmp_path / f"runs/{group}/{seed}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_a_finished_study_has_nothing_to_train(finished: Path, settings: Settings, params: dict[str, Any]):
    assert outlook(settings, params, finished).startswith("Nothing to train: all 35 trials (5 groups x 7 seeds)")


def test_a_changed_group_is_trained_again_and_its_time_is_known(
    finished: Path, settings: Settings, params: dict[str, Any]
):
    weaker = settings.distill["combined"].model_copy(update={"hidden": 0.05})
    changed = settings.model_copy(update={"distill": settings.distill | {"combined": weaker}})
    assert outlook(changed, params, finished).startswith("To come: 7 of 35 trials (5 groups x 7 seeds), about 4 min")


def test_another_snapshot_comes_first_and_may_change_every_trial(
    finished: Path, settings: Settings, params: dict[str, Any]
):
    params["snapshot"]["top_k"] = 32
    said = outlook(settings, params, finished)
    assert said.startswith("To come: snapshot first, then 0 of 35 trials")
    assert "all, if the snapshot comes out another" in said
    (finished / CODE).write_text("another", encoding="utf-8")
    assert outlook(settings, params, finished).startswith("To come: prepare, snapshot, verify first")


def test_where_nothing_ran_the_plan_knows_or_is_named(tmp_path: Path, settings: Settings, params: dict[str, Any]):
    said = outlook(settings, params, tmp_path)
    assert said.startswith("To come: prepare, snapshot, verify first, then 35 of 35 trials")
    assert "`make plan` measures it" in said
    plan = {"scale": "embedded", "time": {"trial_seconds": dict.fromkeys(settings.groups, 24.0)}}
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert "about 14 min of training" in outlook(settings, params, tmp_path)
    (tmp_path / "reports/plan.json").write_text(json.dumps(plan | {"scale": "paper"}), encoding="utf-8")
    assert "not known yet" in outlook(settings, params, tmp_path)


def test_the_script_never_fails_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["foresee.py"])
    foresee.main()
    assert "What is to come cannot be told" in capsys.readouterr().out
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "dvc.lock").write_text("stages: [broken]", encoding="utf-8")
    foresee.main()
    assert "What is to come cannot be told" in capsys.readouterr().out


def test_the_script_costs_two_seconds_at_most_and_imports_nothing_heavy():
    code = (
        "import sys; sys.path.insert(0, 'src'); import time, foresee; sys.argv[1:] = []; foresee.main(); "
        "print(time.process_time(), sorted({'torch', 'mlflow', 'transformers', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, imported = done.stdout.splitlines()[-1].split(" ", 1)
    assert float(seconds) < 2.0 and imported == "[]"
