"""Planted secrets: a trial whose store, hub and bucket want a password writes none of them, wherever it writes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from projects import shrunk_settings

from glassbox.tracking.check import check_store
from glassbox.tracking.faults import explained, without_secrets
from glassbox.tracking.store import shown, store_name
from glassbox.training.trial import run_trial

PASSWORD = "pass-word-of-the-store"
PLANTED = {
    "HF_TOKEN": "hf_tokenOfTheHub",
    "AWS_ACCESS_KEY_ID": "AKIAkeyOfTheBucket",
    "AWS_SECRET_ACCESS_KEY": "secret/key+ofTheBucket",
    "MLFLOW_TRACKING_PASSWORD": "pass-word-of-the-server",
    "MLFLOW_TRACKING_TOKEN": "token-of-the-server",
    "PGPASSWORD": "pass-word-of-postgres",
}
URIS = (
    f"postgresql://user:{PASSWORD}@127.0.0.1:9/mlflow",
    f"postgresql://127.0.0.1:9/mlflow?user=user&password={PASSWORD}",
    f"postgresql://user:with@and/{PASSWORD}@127.0.0.1:9/mlflow",
    f"http://user:{PASSWORD}@127.0.0.1:9",
)


def secrets() -> list[str]:
    return [PASSWORD, *PLANTED.values()]


def found_in(folder: Path) -> list[tuple[str, str]]:
    """Every file that holds a secret, and the secret."""
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [(str(path), each) for path, content in contents.items() for each in secrets() if each.encode() in content]


@pytest.mark.parametrize("uri", URIS)
def test_no_form_of_a_stores_address_shows_its_password(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    told = (shown(uri), store_name(), without_secrets(f"cannot reach {uri} now"), str(explained(OSError(uri))))
    assert not [text for text in told if PASSWORD in text]
    assert all("127.0.0.1:9" in text for text in told)


def test_a_driver_that_repeats_the_password_by_itself_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:p%40ss-of-the-store@127.0.0.1:9/mlflow")
    assert without_secrets("FATAL: 'p@ss-of-the-store' is wrong, as is p%40ss-of-the-store") == (
        "FATAL: '***' is wrong, as is ***"
    )


@pytest.mark.parametrize("uri", [URIS[1], URIS[3]])
def test_a_trial_writes_no_secret_anywhere(
    project: Path,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in (PLANTED | {"MLFLOW_TRACKING_URI": uri}).items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    remote = f"s3://{PLANTED['AWS_ACCESS_KEY_ID']}:{PASSWORD}@bucket/archive"
    settings = shrunk_settings(project, storage={"remote": remote})
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9") as refused:
        check_store(settings.storage)
    assert run_trial(settings, "sft", 0) == "finished"
    told = "".join(capfd.readouterr()) + caplog.text + str(refused.value)
    assert "127.0.0.1:9" in told
    assert [each for each in secrets() if each in told] == []
    assert (project / ".glassbox/journals").is_dir() and (project / "runs/sft/0.json").is_file()
    assert found_in(project) == []
