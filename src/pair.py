"""Stage `pair`: do teacher and student cut text into the same tokens? -> data/pair.json.

Refuses groups that compare them token by token where they do not, before a sample is made or the teacher is asked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from glassbox.command import run
from glassbox.config.settings import load_settings

OUTPUT = Path("data/pair.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)

    from glassbox.models.tokenizers import tokens_are_shared

    shared = tokens_are_shared(settings)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps({"shared_tokens": shared}) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run(main)
