"""The digest of the analysis plan, which a trial carries as a tag: evidence that the plan was there before the data."""

import hashlib
import json
from pathlib import Path

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
    of_scale = {
        name: {key: each for key, each in content[name].items() if key in ("default", scale)}
        for name in BY_SCALE
        if isinstance(content.get(name), dict)
    }
    own = (content.get(OF_ONE_SCALE) or {}).get(scale)
    content = {name: value for name, value in content.items() if name != OF_ONE_SCALE}
    of_scale |= {OF_ONE_SCALE: own} if own else {}
    return hashlib.sha256(json.dumps({**content, **of_scale}, sort_keys=True).encode()).hexdigest()
