"""The digest of the analysis plan, which a trial carries as a tag: evidence that the plan was there before the data."""

import hashlib
import json
from pathlib import Path
from typing import Any

from glassbox.config.yaml_files import read_yaml

PLAN = "analysis.yaml"
BY_SCALE = ("seeds", "seen_seeds", "margins")
OF_ONE_SCALE = "own_tasks"


def plan_digest(conf: Path, scale: str) -> str:
    """sha256 in hex of what conf/analysis.yaml says of a scale, as JSON with sorted keys.

    Comments, layout and other scales do not count. Empty where there is no plan. Raises GlassboxError for a file that
    is not YAML.
    """
    path = conf / PLAN
    if not path.is_file():
        return ""
    content, _ = read_yaml(path)
    content = plan_of_scale(content, scale)
    of_scale = {
        name: {key: each for key, each in content[name].items() if key in ("default", scale)}
        for name in BY_SCALE
        if isinstance(content.get(name), dict)
    }
    own = (content.get(OF_ONE_SCALE) or {}).get(scale)
    content = {name: value for name, value in content.items() if name != OF_ONE_SCALE}
    of_scale |= {OF_ONE_SCALE: own} if own else {}
    return hashlib.sha256(json.dumps({**content, **of_scale}, sort_keys=True).encode()).hexdigest()


def plan_of_scale(content: dict[str, Any], scale: str) -> dict[str, Any]:
    """The plan's entries, with those in `scales` of this scale in place of the ones of the same name."""
    common = {name: each for name, each in content.items() if name != "scales"}
    every = content.get("scales")
    own = every.get(scale) if isinstance(every, dict) else None
    return {**common, **own} if isinstance(own, dict) else common
