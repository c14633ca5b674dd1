"""Which trials of groups x seeds are due."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from glassbox.config.settings import Settings
from glassbox.config.yaml_files import read_yaml
from glassbox.report.notation import in_time
from glassbox.tracking.key import recorded_answers, trial_key

SHARED_STAGES = {"prepare": "data/tasks", "snapshot": "data/snapshot", "verify": "data/verified.json"}


PLAN = "reports/plan.json"


# Of a trial beside the seconds of its manifest, which are those of training: start-up, final evaluation, DVC's dvc.lock
SECONDS_BESIDE = 10.0


def outlook(settings: Settings, params: Mapping[str, Any], root: Path) -> str:
    """One line or two. params: the content of params.yaml, as DVC compares it with dvc.lock."""
    cells = [(group, seed) for group in settings.groups for seed in settings.seeds]
    lock = read_yaml(root / "dvc.lock")[0]["stages"] if (root / "dvc.lock").is_file() else {}
    stale = [name for name in SHARED_STAGES if not _is_current(name, lock, params, root)]
    answers = recorded_answers(root / "data/answers")
    waiting = [cell for cell in cells if not _is_done(settings, *cell, answers, root)]
    shape = f"{len(cells)} trials ({len(settings.groups)} groups x {len(settings.seeds)} seeds)"
    if not stale and not waiting:
        return f"Nothing to train: all {shape} stand here. DVC checks that and compares them, in seconds."
    first = f"{', '.join(stale)} first, then " if stale else ""
    rest = " (all, if the snapshot comes out another)" if stale and len(waiting) < len(cells) else ""
    begin = f"To come: {first}{len(waiting)} of {shape}{rest}"
    seconds = _seconds_by_group(settings, root)
    if not all(group in seconds for group, _ in waiting):
        return f"{begin}.\nHow long a trial takes here is not known yet; `make plan` measures it in a minute."
    total = sum(seconds[group] for group, _ in waiting)
    return f"{begin}, about {in_time(total)} of training by what is known here; Ctrl-C loses nothing."


def _is_done(settings: Settings, group: str, seed: int, answers: str | None, root: Path) -> bool:
    manifest = _json(root / f"runs/{group}/{seed}.json")
    if manifest is None:
        return False
    digests = manifest["digests"]
    return manifest["key"] == trial_key(settings, group, seed, digests["snapshot"], digests["tasks"], answers)


def _is_current(stage: str, lock: Mapping[str, Any], params: Mapping[str, Any], root: Path) -> bool:
    """Whether dvc.lock has the stage under these settings and with this code, and its output is here."""
    recorded = lock.get(stage)
    if recorded is None or not (root / SHARED_STAGES[stage]).exists():
        return False
    of_code = (each for each in recorded["deps"] if each["path"].startswith("src/") and each["path"].endswith(".py"))
    return all(_at(params, path) == value for path, value in recorded["params"]["params.yaml"].items()) and all(
        (root / each["path"]).is_file() and _md5(root / each["path"]) == each["md5"] for each in of_code
    )


def _seconds_by_group(settings: Settings, root: Path) -> dict[str, float]:
    """Of a whole trial: as trials of these groups took here; else as `make plan` found for this scale."""
    plan = _json(root / PLAN) or {}
    planned = plan.get("time", {}).get("trial_seconds", {}) if plan.get("scale") == settings.scale else {}
    taken = {group: list(_seconds_of_trials(settings, group, root)) for group in settings.groups}
    return planned | {group: median(seconds) + SECONDS_BESIDE for group, seconds in taken.items() if seconds}


def _seconds_of_trials(settings: Settings, group: str, root: Path) -> Iterator[float]:
    for path in sorted((root / "runs" / group).glob("*.json")):
        manifest = _json(path) or {}
        if manifest.get("tags", {}).get("scale") == settings.scale and manifest.get("seconds"):
            yield manifest["seconds"]


def _at(tree: Mapping[str, Any], path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part, {})
    return tree


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
