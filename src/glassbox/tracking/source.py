"""Where a run comes from: git's commit, the user, the script, and what its settings have of their own."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache

from glassbox.config.storage import root

LABEL = "GLASSBOX_LABEL"
DVC_NAME = "DVC_EXP_NAME"


def label() -> str:
    """What tells this study's runs from those of other settings: what differs from conf/, else DVC's name for it."""
    return os.environ.get(LABEL) or os.environ.get(DVC_NAME) or ""


def name_runs(name: str) -> None:
    """Let this process's runs and those of its workers carry a name; see `label`."""
    if name:
        os.environ[LABEL] = name


def source_tags() -> dict[str, str]:
    """The tags that MLflow shows as source, version and user; and the experiment's name in DVC, where it has one."""
    tags = {"mlflow.source.name": os.path.basename(sys.argv[0]) or "python", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError, ImportError):  # a user without a name, in a container
        tags["mlflow.user"] = getpass.getuser()
    if commit := _commit():
        tags["mlflow.source.git.commit"] = commit
    named = {"experiment": os.environ.get(DVC_NAME), "differs": os.environ.get(LABEL)}
    return tags | {key: value for key, value in named.items() if value}


@cache
def _commit() -> str:
    """Of the repository's root; empty outside git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root(), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
