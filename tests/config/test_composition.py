"""What a params.yaml has that conf/ does not give: it names runs, and is said to who runs the study after it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import settings as stage
from glassbox.config import composition as module
from glassbox.config.composition import composition, differences, name_of, notice

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def composed() -> str:
    return composition(CONF)


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_conf_gives_differs_in_nothing_and_nothing_is_said(composed: str, tmp_path: Path) -> None:
    found = differences(CONF, written(tmp_path, composed))
    assert found == {} and name_of(found) == "" and notice(found) == ""


def test_an_experiment_is_named_by_what_it_changed_and_said_with_the_way_back(composed: str, tmp_path: Path) -> None:
    values = yaml.safe_load(composed)
    hidden, seeds = values["weights"]["hidden"], values["seeds"]
    values["weights"]["hidden"] = values["distill"]["combined"]["hidden"] = 0.3
    values["seeds"] = [1, 2]
    found = differences(CONF, written(tmp_path, yaml.safe_dump(values)))
    assert found == {"weights.hidden": (0.3, hidden), "seeds": ([1, 2], seeds)}
    assert name_of(found) == "weights.hidden=0.3"
    told = notice(found)
    assert f"weights.hidden 0.3 (conf/: {hidden})" in told and "seeds [1, 2] (conf/: [" in told
    assert "`make params` returns to the study" in told


def test_a_group_that_differs_by_itself_is_named_and_many_changes_are_counted(composed: str, tmp_path: Path) -> None:
    values = yaml.safe_load(composed)
    values["distill"]["combined"]["hidden"] = 7.0
    found = differences(CONF, written(tmp_path, yaml.safe_dump(values)))
    assert name_of(found) == "distill.combined.hidden=7.0"
    for key in ("epochs", "batch_size", "learning_rate", "clip_norm"):
        values["train"][key] = 9
    assert name_of(differences(CONF, written(tmp_path, yaml.safe_dump(values)))).endswith("and 2 more")


def test_another_scale_is_a_study_of_its_own_and_no_experiment(tmp_path: Path) -> None:
    path = written(tmp_path, composition(CONF, ["scale=faithful"]))
    found = differences(CONF, path)
    assert name_of(found) == "scale=faithful" and notice(found) == ""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["seeds"] = [7, 8]
    assert notice(differences(CONF, written(tmp_path, yaml.safe_dump(values)))) == ""
    values["train"]["epochs"] = 99
    assert "`python src/params.py scale=faithful` returns" in notice(
        differences(CONF, written(tmp_path, yaml.safe_dump(values)))
    )


def test_without_conf_or_params_nothing_is_said(tmp_path: Path) -> None:
    assert differences(tmp_path, CONF.parent / "params.yaml") == differences(CONF, tmp_path / "params.yaml") == {}


def test_an_experiment_is_looked_for_anew_only_where_what_it_is_found_in_has_changed(
    composed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    looked: list[Path] = []
    monkeypatch.setattr(stage, "CONF", CONF)
    monkeypatch.setattr(
        module, "differences", lambda conf, params: (looked.append(params), differences(conf, params))[1]
    )
    values = yaml.safe_load(composed) | {"seeds": [1, 2]}
    params = written(tmp_path, yaml.safe_dump(values))
    for _ in range(2):
        stage.tell_experiment(params)
        assert "seeds [1, 2] (conf/: [" in capsys.readouterr().out
    assert len(looked) == 1
    stage.tell_experiment(written(tmp_path, composed))
    assert len(looked) == 2 and capsys.readouterr().out == ""
