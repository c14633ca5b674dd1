"""The whole path in two minutes: two groups and two seeds of embedded models, with a report of their own.

Works in .glassbox/demo, with a store and settings of its own (conf/scale/demo.yaml): the study of this repository, its
params.yaml, runs/, reports/ and MLflow are not touched. Run again, it trains nothing and compares again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from glassbox.command import run
from glassbox.config.composition import composition
from glassbox.config.settings import Settings
from glassbox.config.storage import root
from glassbox.grid.side_study import SideStudy
from glassbox.tracking import sqlite_uri

STAGES = ("settings", "prepare", "answers", "snapshot", "verify", "train", "compare")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    settings = Settings.model_validate(yaml.safe_load(composition(Path("conf"), ["scale=demo"])))
    folder = root() / ".glassbox" / "demo"
    SideStudy(folder).run(settings, STAGES, planned=False)
    print(f'The demo\'s runs: mlflow ui --backend-store-uri "{sqlite_uri(folder / "mlflow.db")}"')


if __name__ == "__main__":
    run(main)
