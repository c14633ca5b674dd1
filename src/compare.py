"""Stage `compare`: the trials' manifests and MLflow runs -> reports/."""

from __future__ import annotations

import argparse
import sys

from glassbox.command import run
from glassbox.comparison import compare_study
from glassbox.config import load_settings
from glassbox.errors import GlassboxError
from glassbox.trial_key import trial_key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--allow-incomplete", action="store_true", help="compare what there is, under a banner")
    parser.add_argument(
        "--use",
        action="append",
        default=[],
        metavar="GROUP/SEED=RUN",
        help="the run to take where the store holds several that differ; may be repeated",
    )
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    use = dict(_cell_and_run(choice) for choice in arguments.use)
    comparison = compare_study(settings, trial_key, allow_incomplete=arguments.allow_incomplete, use=use)
    for line in (*comparison.results["banners"], *comparison.results["notes"]):
        print(line)
    print(f"\n{_title(comparison.results)}\n\n{comparison.table}\n")
    print(f"The page:  {comparison.page.resolve()}")
    print("All runs:  mlflow ui   (in the repository's root, then http://127.0.0.1:5000)")


def _title(results: dict) -> str:
    embedded = " on embedded miniature tasks" if any(task["embedded"] for task in results["tasks"]) else ""
    return f"Mean test score in percent with its 95 % t interval over seeds{embedded}"


def _cell_and_run(choice: str) -> tuple[str, str]:
    cell, separator, run = choice.partition("=")
    if not separator or "/" not in cell:
        raise GlassboxError(f"--use {choice} is not understood: write --use group/seed=<run id>.")
    return cell, run


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    run(main)
