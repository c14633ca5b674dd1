"""Sections of settings for tests: the committed ones, with changes that are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from glassbox.config.composition import composition
from glassbox.config.settings import (
    EvaluationSettings,
    ObjectiveSettings,
    PrepareSettings,
    StorageSettings,
    load_settings,
)

PARAMS = Path(__file__).parents[1] / "params.yaml"
COMMITTED = load_settings(PARAMS)
# As params.yaml would be at `scale=faithful`: all samples have labels, five groups. What tests shrink and change
FAITHFUL: dict[str, Any] = yaml.safe_load(composition(PARAMS.parent / "conf", ["scale=faithful"]))
STORAGE = COMMITTED.storage
# The first lines of a program in another process: the same section, named `storage`
OPEN_STORAGE = f"from glassbox.config.settings import load_settings; storage = load_settings({str(PARAMS)!r}).storage;"


def storage(**changes: Any) -> StorageSettings:
    return StorageSettings(**(COMMITTED.storage.model_dump() | changes))


def objective(**changes: Any) -> ObjectiveSettings:
    return ObjectiveSettings(**(COMMITTED.objective.model_dump() | changes))


def evaluation(**changes: Any) -> EvaluationSettings:
    return EvaluationSettings(**(COMMITTED.evaluation.model_dump() | changes))


def prepare(**changes: Any) -> PrepareSettings:
    return PrepareSettings(**(COMMITTED.prepare.model_dump() | changes))
