"""The hub: what is fetched from it and recorded, and what is said for each way in which it can refuse.

The hub is a real server on this machine that answers like it; the connection that is refused is refused by the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hubs import TOKEN, UNGRANTED_TOKEN, commit, save_datasets, served
from miniatures import save_model_folder, tiny_tokenizer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
WRONG_TOKEN = "hf_wrongwrongwrongwrongwrongwrongwrong"
NO_COMMIT = "0" * 40
UNREACHABLE = "http://127.0.0.1:9"

CASES: dict[str, dict[str, Any]] = {
    "model": {"model": "gated/tiny", "token": TOKEN},
    "sharded model": {"model": "open/sharded"},
    "tokenizer": {"model": "gated/tiny", "token": TOKEN, "tokenizer": True},
    "sst2": {"task": "sst2"},
    "mmlu": {"task": "mmlu", "revision": "main"},
    "model, gated": {"model": "gated/other"},
    "tokenizer, gated": {"model": "gated/other", "tokenizer": True},
    "model, not granted": {"model": "gated/other", "token": UNGRANTED_TOKEN},
    "tokenizer, not granted": {"model": "gated/other", "token": UNGRANTED_TOKEN, "tokenizer": True},
    "model, bad token": {"model": "gated/other", "token": WRONG_TOKEN},
    "tokenizer, bad token": {"model": "gated/other", "token": WRONG_TOKEN, "tokenizer": True},
    "dataset, bad token": {"task": "gsm8k", "token": WRONG_TOKEN},
    "model, no such revision": {"model": "open/whole", "revision": NO_COMMIT},
    "tokenizer, no such revision": {"model": "open/whole", "revision": NO_COMMIT, "tokenizer": True},
    "dataset, no such revision": {"task": "gsm8k", "revision": NO_COMMIT},
    "model, no weights": {"model": "open/weightless"},
    "model, no configuration": {"model": "open/empty"},
    "tokenizer, no file": {"model": "open/empty", "tokenizer": True},
    "dataset, no file": {"task": "gsm8k"},
    "model, no such repository": {"model": "nobody/nothing"},
}
UNREACHABLE_CASES: dict[str, dict[str, Any]] = {
    "model": {"model": "open/whole"},
    "tokenizer": {"model": "open/whole", "tokenizer": True},
    "dataset": {"task": "sst2"},
}


def asked(folder: Path, endpoint: str, cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What became of every case, asked of `endpoint` with an empty cache."""
    hidden = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT / "src")}
    script = [sys.executable, str(Path(__file__).parents[1] / "hub_client.py"), str(folder / "outcomes.json")]
    done = subprocess.run(script, env=environment, input=json.dumps([*cases.values()]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not any(token in done.stdout + done.stderr for token in (TOKEN, UNGRANTED_TOKEN, WRONG_TOKEN))
    return dict(zip(cases, json.loads((folder / "outcomes.json").read_text(encoding="utf-8")), strict=True))


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repositories")
    save_datasets(folder / "datasets")
    (folder / "datasets/openai/gsm8k/main/test-00000-of-00001.parquet").unlink()
    tokenizer = tiny_tokenizer()
    for name in ("gated/tiny", "gated/other", "open/whole", "open/weightless"):
        save_model_folder(folder / "models" / name, tokenizer)
    (folder / "models/open/weightless/model.safetensors").unlink()
    (folder / "models/open/empty").mkdir()
    save_model_folder(folder / "models/open/sharded", tokenizer, max_shard_size="20KB")
    return folder


@pytest.fixture(scope="module")
def outcomes(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    with served(repositories) as endpoint:
        return asked(tmp_path_factory.mktemp("client"), endpoint, CASES)


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return asked(tmp_path_factory.mktemp("unconnected"), UNREACHABLE, UNREACHABLE_CASES)


def test_what_the_hub_has_is_fetched_with_the_commit_that_a_branch_names(
    outcomes: dict[str, dict[str, Any]], repositories: Path
) -> None:
    parameters, files, at = outcomes["model"]["found"]
    assert files == ["config.json", "model.safetensors"]
    assert parameters > 0 and at == commit(repositories / "models/gated/tiny")
    assert outcomes["tokenizer"] == {"found": 320}
    glue = commit(repositories / "datasets/nyu-mll/glue")
    assert outcomes["sst2"] == {"found": {"train": [40, glue], "validation": [40, glue], "test": [3, glue]}}
    mmlu = commit(repositories / "datasets/cais/mmlu")
    assert outcomes["mmlu"] == {"found": {"train": [25, mmlu], "validation": [6, mmlu], "test": [8, mmlu]}}


def test_every_shard_is_fetched_before_the_weights_are_named(outcomes: dict[str, dict[str, Any]]) -> None:
    parameters, files, _ = outcomes["sharded model"]["found"]
    assert parameters == outcomes["model"]["found"][0]
    assert len(files) > 2 and all(name.startswith("model-") for name in files[1:])


@pytest.mark.parametrize(
    ("ending", "kinds", "said"),
    [
        ("gated", ("model", "tokenizer"), "is gated, and no token was sent. Accept its terms at"),
        ("not granted", ("model", "tokenizer"), "the account of the token in use (HF_TOKEN) has no access to it"),
        ("bad token", ("model", "tokenizer", "dataset"), "the hub refused the token from HF_TOKEN (HTTP 401)"),
        ("no such revision", ("model", "tokenizer", "dataset"), f"has no revision '{NO_COMMIT}'. Take a commit from"),
        ("no weights", ("model",), "lacks a file that is needed (open/weightless does not appear to have"),
        ("no configuration", ("model",), "lacks a file that is needed"),
        ("no file", ("tokenizer", "dataset"), "lacks a file that is needed"),
        ("no such repository", ("model",), "is not on the hub at http://127.0.0.1"),
    ],
)
def test_a_refusal_is_told_by_its_cause(
    outcomes: dict[str, dict[str, Any]], ending: str, kinds: tuple[str, ...], said: str
) -> None:
    for kind in kinds:
        message = outcomes[f"{kind}, {ending}"]["said"]
        assert said in message, message
        assert "hf_" not in message


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_to_do_without(
    unreachable: dict[str, dict[str, Any]],
) -> None:
    for kind, found in unreachable.items():
        assert f"the hub at {UNREACHABLE} cannot be reached from this machine" in found["said"], found
        assert "hf download" in found["said"]
        assert ("-S prepare.hub=FOLDER" if kind == "dataset" else "name FOLDER as teacher.model") in found["said"]
