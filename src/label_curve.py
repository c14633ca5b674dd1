"""Score against the share of samples that have labels, for four groups -> docs/label_curve/<scale>.json and .png.

Trains sft, seqkd, black_box and combined at shares of 0.03, 0.1, 0.3 and 1.0: with all seeds of the settings at 0.1
and 1.0, with the first three elsewhere. Says how many of the control's labels each group is worth. Not part of
`make study`; the same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from glassbox.command import run
from glassbox.config.settings import Settings, load_settings
from glassbox.errors import GlassboxError

FOLDER = Path("docs/label_curve")
GROUPS = ("sft", "seqkd", "black_box", "combined")
SHARES = {0.03: 3, 0.1: None, 0.3: 3, 1.0: None}
"""Label share -> how many of the seeds (None: all)."""


def train(settings: Settings) -> dict[str, Any]:
    """Group -> share -> task -> seed -> test score, with what they were trained on."""
    from glassbox.grid.side_study import side_study
    from glassbox.grid.tuning import scores_of

    missing = [group for group in GROUPS if group not in settings.distill]
    if missing:
        raise GlassboxError(
            f"The label curve needs {', '.join(missing)}, and the settings have other groups. "
            "Compose them: `python src/params.py distill=scarce`."
        )
    study = side_study(settings, "label-curve")
    found: dict[str, Any] = {group: {} for group in GROUPS}
    for share, count in SHARES.items():
        named = {f"{group}_{share:g}".replace(".", "p"): group for group in GROUPS}
        groups = {name: settings.distill[group].model_copy(update={"labelled": share}) for name, group in named.items()}
        seeds = settings.seeds[:count]
        study.run(settings.model_copy(update={"groups": tuple(groups), "distill": groups, "seeds": seeds}))
        for (name, seed), trial in study.trials(list(groups), seeds).items():
            scores = scores_of(trial, settings, "test")
            for task, score in scores.items():
                found[named[name]].setdefault(f"{share:g}", {}).setdefault(task, {})[str(seed)] = score
    samples = {name: task.train for name, task in settings.prepare.tasks.items()}
    return {"scale": settings.scale, "samples": samples, "scores": found}


def lines_of(table: dict[str, Any]) -> list[str]:
    """Means over seeds, a line for each task, group and share, and what each group's score at 0.1 is worth."""
    from glassbox.comparison.label_curve import worth

    lines = []
    for task, samples in table["samples"].items():
        control = _scores(table, "sft", task)
        lines.append(f"{task:<12}" + "".join(f"{100 * share:>8g} %" for share in control))
        for group in GROUPS:
            own = _scores(table, group, task)
            means = "".join(f"{100 * sum(seeds.values()) / len(seeds):>10.1f}" for seeds in own.values())
            told = ""
            if group != "sft":
                told = f"   at 10 %, {round(0.1 * samples)} labels, worth {worth(control, own[0.1]).labels(samples)}"
            lines.append(f"{group:<12}{means}{told}")
        lines.append("")
    return lines


def _scores(table: dict[str, Any], group: str, task: str) -> dict[float, dict[int, float]]:
    of_group = table["scores"][group]
    return {float(share): {int(s): v for s, v in tasks[task].items()} for share, tasks in of_group.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--figure-only", action="store_true", help="draw the curve of the written table again")
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    path = FOLDER / f"{settings.scale}.json"

    from glassbox.grid.side_study import written_table

    table = written_table(path, None if arguments.figure_only else lambda: train(settings))

    from glassbox.report.figures.labels import label_curve
    from glassbox.report.figures.style import write_png

    write_png(label_curve(table), path.with_suffix(".png"))
    print("\n".join(lines_of(table)))


if __name__ == "__main__":
    run(main)
