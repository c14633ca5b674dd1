"""Refill a lost or another mlflow.db from runs/: every trial's params, tags, metric history and per-item results."""

from __future__ import annotations

import argparse
from pathlib import Path

from glassbox.command import run
from glassbox.config.settings import load_settings
from glassbox.tracking.restoration import restore_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)
    done = restore_runs(Path("runs"), settings.storage)
    if not done.restored and not done.present:
        print("runs/ holds no trial, so there is nothing to restore: `dvc repro` trains, `dvc pull` fetches.")
        return
    print(f"Restored {len(done.restored)} runs; {len(done.present)} were still in the store.")


if __name__ == "__main__":
    run(main)
