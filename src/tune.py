"""Try weights of every component, and learning rates and epochs of the control -> docs/tuning/<scale>.json and .png.

`tuning` in conf/scale/<scale>.yaml names the candidates, as many of each, and the seeds and items that no study uses.
The best by the mean of chance-corrected validation scores are printed as the lines to write into that file. Not part of
`make study`; the same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from glassbox.command import run
from glassbox.comparison.plan import plan_or_derived
from glassbox.config.settings import load_settings
from glassbox.config.storage import CONF_FOLDER

FOLDER = Path("docs/tuning")


def lines_of(table: dict[str, Any]) -> list[str]:
    """Means over seeds, a line each candidate, and what to write into the scale's file."""
    lines = [f"{'component':<10} {'candidate':<24} {'score':>6} {'share':>6}"]
    for name in dict.fromkeys((point["component"], point["candidate"]) for point in table["points"]):
        same = [point for point in table["points"] if (point["component"], point["candidate"]) == name]
        score = 100 * sum(point["score"] for point in same) / len(same)
        share = "" if same[0]["share"] is None else f"{100 * sum(point['share'] for point in same) / len(same):.1f}"
        lines.append(f"{name[0]:<10} {name[1]:<24} {score:>6.1f} {share:>6}")
    chosen = table["chosen"]
    rate = chosen["control"].split(" x ")[0]
    weights = ", ".join(f"{name}: {chosen[name]:g}" for name in ("logits", "hidden", "attention"))
    return [
        *lines,
        "",
        f"For conf/scale/{table['scale']}.yaml (the control did best at {chosen['control']}):",
        f"weights: {{{weights}}}",
        f"tuning: {{key: {table['key']}, matched_logits: {chosen['matched_logits']:g}, control_learning_rate: {rate}}}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--figure-only", action="store_true", help="draw the curve of the written table again")
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    path = FOLDER / f"{settings.scale}.json"

    from glassbox.grid.side_study import written_table
    from glassbox.grid.tuning import tune

    planned = plan_or_derived(CONF_FOLDER, settings).tasks
    chance = {task: planned[task].chance or 0.0 for task in settings.prepare.tasks if task in planned}
    table = written_table(path, None if arguments.figure_only else lambda: tune(settings, chance))

    from glassbox.report.figures.dose import dose_response
    from glassbox.report.figures.style import write_png

    write_png(dose_response(table), path.with_suffix(".png"))
    print("\n".join(lines_of(table)))


if __name__ == "__main__":
    run(main)
