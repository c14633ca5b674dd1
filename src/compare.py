"""Stage `compare`: the trials' manifests and MLflow runs -> reports/. With --plan-power: what the plan can detect."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from glassbox import tracking
from glassbox.command import run
from glassbox.comparison.plan import read_plan
from glassbox.comparison.power import power_rows, power_table, study_deviations
from glassbox.comparison.selection import KeyOf
from glassbox.comparison.study import compare_study, results_of
from glassbox.config.composition import kept_differences, name_of
from glassbox.config.settings import Settings, load_settings
from glassbox.errors import GlassboxError
from glassbox.grid.side_study import is_side_study
from glassbox.report.answer import MOST_LIMITS, answer, limits
from glassbox.report.tables import console_table, table_title
from glassbox.tracking.key import recorded_answers, study_key, trial_key
from glassbox.tracking.source import name_runs

ANSWERS = Path("data/answers")
CONF = Path("conf")
RESULTS = Path("reports/results.json")
DIFFERENCE = 1.0
WIDTH = 110
MOST_ROWS = 11
EXIT_CODES = (
    "exit codes: 0 compared; 1 refused, the message says why; 2 the runs cannot be compared, no report; "
    "3 trials are missing, no report (see --allow-incomplete)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--allow-incomplete", action="store_true", help="compare what there is, under a banner")
    parser.add_argument(
        "--use",
        action="append",
        default=[],
        metavar="GROUP/SEED=RUN",
        help="the run to take where the store holds several that differ; may be repeated",
    )
    parser.add_argument("--details", action="store_true", help="every question, note and banner, in sentences")
    parser.add_argument("--plan-power", action="store_true", help="what the plan's seeds can detect; writes nothing")
    parser.add_argument(
        "--difference", type=float, metavar="POINTS", help=f"for --plan-power (default: {DIFFERENCE:g})"
    )
    parser.add_argument(
        "--deviation",
        type=float,
        metavar="POINTS",
        help="for --plan-power: of every contrast over seeds (default: those of the finished study)",
    )
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    if arguments.plan_power:
        difference = DIFFERENCE if arguments.difference is None else arguments.difference
        print(plan_power(settings, difference, arguments.deviation))
        return
    for name in ("difference", "deviation"):
        if getattr(arguments, name) is not None:
            raise GlassboxError(f"--{name} has no effect on a comparison: write --plan-power with it, or omit it.")
    name_runs(name_of(kept_differences(CONF, Path(arguments.params))))
    use = dict(_cell_and_run(choice) for choice in arguments.use)
    comparison = compare_study(settings, keys(), allow_incomplete=arguments.allow_incomplete, use=use)
    print("\n".join(answer_lines(comparison.results)))
    if arguments.details:
        print("\n".join(["", *details(comparison.results)]))
    if comparison.results["plan_lines"]:
        print("\nA conf/analysis.yaml of these lines would make this a plan, for seeds that have not been run:\n")
        print("\n".join(comparison.results["plan_lines"]))
    print(f"\nThe page:  {comparison.page.resolve()}{'' if arguments.details else '   (or --details here)'}")
    if not is_side_study(settings):
        print(f"All runs:  {tracking.runs_page()}   (after `make ui`)")


def keys() -> KeyOf:
    """What gives a trial's key, the teacher's answers included: those in data/answers, else in the store."""
    return partial(_key, recorded_answers(ANSWERS))


def _key(answers: str | None, settings: Settings, group: str, seed: int, snapshot: str, tasks: str) -> str:
    if answers is None and settings.reads_answers(group):
        answers = _stored_answers(study_key(settings, snapshot, tasks))
    return trial_key(settings, group, seed, snapshot, tasks, answers)


@cache
def _stored_answers(study: str) -> str | None:
    """The one digest of the teacher's answers that a study's runs name; None where there is none, or a choice.

    data/answers holds those of the selected groups only, so that the runs of a group that is not selected now
    (`seqkd`) would not be found without it.
    """
    runs = tracking.find_by_key(study, tag="study_key")
    named = {run.tags["answers_digest"] for run in runs if run.tags.get("answers_digest")}
    return named.pop() if len(named) == 1 else None


def plan_power(settings: Settings, difference: float, deviation: float | None) -> str:
    """The table of what the plan's seeds can detect, from one deviation in points or from the finished study's own."""
    plan = read_plan(CONF, settings.scale)
    deviations = study_deviations(_study(settings)["contrasts"]) if deviation is None else deviation / 100
    return power_table(power_rows(plan, deviations, difference / 100), plan)


def _study(settings: Settings) -> Mapping[str, Any]:
    """The results of the finished study: those that were written, else computed now."""
    written = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if written.get("scale") == settings.scale and "contrasts" in written:
        return written
    try:
        return results_of(settings, keys())
    except GlassboxError as error:
        raise GlassboxError(
            "--plan-power needs a finished study to learn from, and there is none at this scale. "
            f"Give a standard deviation over seeds in points instead: --deviation 2. ({error})"
        ) from error


def answer_lines(results: Mapping[str, Any]) -> list[str]:
    """The sentence, the table of means and three limits; with the two addresses under them at most 25 lines."""
    return [
        *textwrap.wrap(answer(results), WIDTH),
        "",
        table_title(results),
        console_table(results, MOST_ROWS),
        "",
        *(f"- {line}" for line in limits(results)[:MOST_LIMITS]),
    ]


def details(results: Mapping[str, Any]) -> list[str]:
    """Banners and notes, the hypothesis' verdict with its legs, and an answer per question."""
    hypothesis = results["hypothesis"]
    lines = [results["assay"]["text"]] if results["assay"]["text"] else []
    lines += [*results["banners"], *results["notes"], *results["guard_notes"], *results["sensitivity_changes"], ""]
    lines += [hypothesis["text"]]
    lines += ["", results["multiplicity"]["text"]] if results["multiplicity"]["text"] else []
    for asked in results["answers"]:
        lines += [
            "",
            f"{asked['id']} ({asked['role']}): {asked['question']}",
            *(f"  {each}" for each in asked["sentences"]),
        ]
    return [*lines, "", results["not_run"]] if results["not_run"] else lines


def _cell_and_run(choice: str) -> tuple[str, str]:
    cell, separator, run = choice.partition("=")
    if not separator or "/" not in cell:
        raise GlassboxError(f"--use {choice} is not understood: write --use group/seed=<run id>.")
    return cell, run


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    run(main)
