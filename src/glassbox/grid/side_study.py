"""A study beside the one of this repository: its own settings and folder, the same stages, resumed by the same command.

Tuning and label curves train many groups that no report compares; they must not touch runs/ or the study's MLflow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glassbox.config.analysis_plan import PLAN
from glassbox.config.inputs import absolute
from glassbox.config.settings import Settings, StorageSettings
from glassbox.config.storage import root, scratch_folder
from glassbox.errors import GlassboxError
from glassbox.files import read_json, write_synced
from glassbox.tracking.manifest import TrialRecord, read_manifest

SCRIPTS = Path(__file__).resolve().parents[2]
STAGES = ("prepare", "answers", "snapshot", "train")
OWN_STORE = StorageSettings(cache=None, scratch=".glassbox", artifacts=None, remote=None, keep_students="none")


@dataclass(frozen=True)
class SideStudy:
    """The folder of a study, and how its settings differ from those of the repository."""

    folder: Path

    def run(self, settings: Settings, stages: Sequence[str] = STAGES, *, planned: bool = True) -> None:
        """Every stage that trains these settings; what the folder holds of them already is not made again.

        `planned`: whether the repository's plan of the analysis holds there too.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        here = absolute(settings).model_copy(update={"storage": OWN_STORE})
        content = yaml.safe_dump(here.model_dump(mode="json"), sort_keys=False)
        (self.folder / "params.yaml").write_text(content, encoding="utf-8")
        left_out = None if planned else shutil.ignore_patterns(PLAN)
        shutil.copytree(root() / "conf", self.folder / "conf", ignore=left_out, dirs_exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"DVC_ROOT": str(self.folder.resolve()), "MLFLOW_DISABLE_TELEMETRY": "true"}
        for stage in stages:
            command = [sys.executable, str(SCRIPTS / f"{stage}.py")]
            if code := subprocess.run(command, cwd=self.folder, env=environment, check=False).returncode:
                raise GlassboxError(f"Stage {stage} in {self.folder} ended with exit code {code}; its reason is above.")

    def trials(self, groups: Sequence[str], seeds: Sequence[int]) -> Mapping[tuple[str, int], TrialRecord]:
        """The trials by group and seed."""
        cells = [(group, seed) for group in groups for seed in seeds]
        return {cell: read_manifest(self.folder / "runs" / cell[0] / f"{cell[1]}.json") for cell in cells}


def is_side_study(settings: Settings) -> bool:
    """Whether these are the settings of a study beside the repository's."""
    return settings.storage == OWN_STORE


def side_study(settings: Settings, name: str) -> SideStudy:
    """The side study of this name, in the scratch folder of the repository."""
    return SideStudy(scratch_folder(settings.storage) / name / settings.scale)


def written_table(path: Path, make: Callable[[], dict[str, Any]] | None) -> dict[str, Any]:
    """The table of a side study, made first unless `make` is None; GlassboxError where there is none at `path`."""
    if make is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, (json.dumps(make(), indent=1) + "\n").encode())
    table = read_json(path)
    if not table:
        raise GlassboxError(f"There is no table in {path}. The same command without --figure-only makes it.")
    return table
