"""Stage `trial_code`: the digests of the code that a trial runs -> data/trial_code.json.

One small file for `train` to depend on: with the modules themselves in each of a study's lock entries, reading and
writing dvc.lock cost seconds at every trial.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from glassbox.command import run
from glassbox.files import code_digest
from glassbox.tracking.key import CODE

OUTPUT = Path("data/trial_code.json")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    digests = {"results": code_digest(CODE)}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run(main)
