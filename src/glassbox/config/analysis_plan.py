"""The digest of the analysis plan, which a trial carries as a tag: evidence that the plan was there before the data."""

import hashlib
import json
from pathlib import Path

from glassbox.config.yaml_files import read_yaml

PLAN = "analysis.yaml"


def plan_digest(conf: Path) -> str:
    """sha256 in hex of what conf/analysis.yaml says, as JSON with sorted keys: comments and layout do not count.

    Empty where there is no plan. Raises GlassboxError for a file that is not YAML.
    """
    path = conf / PLAN
    if not path.is_file():
        return ""
    content, _ = read_yaml(path)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
