"""Stage `train`: the trials of groups x seeds that are due -> runs/<group>/<seed>.json and the folder beside it.

`--group combined --seed 41` trains that one alone. What runs/ holds under its current key is skipped, and what was
trained under that key before is taken from `.glassbox/trials`; `engine` of the settings says who runs the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glassbox.command import is_launched, run
from glassbox.config.composition import kept_differences, name_of
from glassbox.config.settings import Settings, load_settings
from glassbox.config.storage import CONF_FOLDER
from glassbox.errors import GlassboxError
from glassbox.grid import kept
from glassbox.grid.cells import cells_of
from glassbox.grid.study import run_grid
from glassbox.tracking.source import name_runs


def chosen(settings: Settings, group: str | None, seed: int | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The groups and seeds that the command line asks for. Raises GlassboxError for those that no study knows."""
    if group is not None and group not in settings.distill:
        raise GlassboxError(
            f"--group {group}: the settings hold no group of that name, but {', '.join(settings.distill)}. "
            "A group is a file in conf/distill, selected by `dvc exp run -S distill=<name>`."
        )
    if seed is not None and seed not in settings.seeds:
        planned, wanted = ", ".join(map(str, settings.seeds)), f"'seeds=[{seed}]'"
        raise GlassboxError(
            f"--seed {seed}: the settings' seeds are {planned}, and no comparison would know this trial. "
            f"`dvc exp run -S {wanted}` trains it; or write it into params.yaml by `python src/params.py {wanted}`."
        )
    return ((group,) if group else settings.groups), ((seed,) if seed is not None else settings.seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", help="train this group alone, such as black_box or combined")
    parser.add_argument("--seed", type=int, help="train this seed alone")
    parser.add_argument("--params", default="params.yaml", help="the settings (default: params.yaml)")
    parser.add_argument("--clear-kept", action="store_true", help="remove the kept trials, and train nothing")
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    if arguments.clear_kept:
        print(kept.clear(settings))
        return
    groups, seeds = chosen(settings, arguments.group, arguments.seed)
    if is_launched():
        from glassbox.grid.attempt import train_as_one_of_several

        train_as_one_of_several(settings, groups[0], seeds[0])
        return
    name_runs(name_of(kept_differences(CONF_FOLDER, Path(arguments.params))))
    run_grid(settings, cells_of(settings, groups, seeds), arguments.params)


if __name__ == "__main__":
    run(main)
