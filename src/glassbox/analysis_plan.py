"""The digest of the analysis plan, which a trial carries as a tag: evidence that the plan was there before the data."""

import hashlib
from pathlib import Path

PLAN = "analysis.yaml"


def plan_digest(conf: Path) -> str:
    """sha256 in hex of conf/analysis.yaml; line ends do not count. Empty where there is no plan."""
    path = conf / PLAN
    if not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
