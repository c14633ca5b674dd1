"""Stage `settings`: check all of params.yaml and conf/analysis.yaml before anything runs -> data/inputs.

data/inputs holds the digests of the local models and data files that the settings name, so that DVC notices when one
changes under the same name; it is why this stage always runs. Bad settings stop a study before an output is removed.
MLflow's store is made here, once, before trials could open it side by side, and tried as trials will use it: a wrong
password, a server that is away or a full bucket is told now.

`--list [WORD]` prints the settings, groups, tasks and scales instead, or those that have WORD in name or description.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from glassbox.command import run
from glassbox.comparison.plan import check_plan
from glassbox.config.composition import composition, kept_differences, notice
from glassbox.config.inputs import local_inputs
from glassbox.config.settings import Settings, load_settings, refusal
from glassbox.config.storage import INPUTS_FOLDER, require_cache, root
from glassbox.errors import GlassboxError
from glassbox.grid.side_study import is_side_study
from glassbox.tracking import check_store
from glassbox.tracking.source import DVC_NAME

CONF = Path("conf")


def refuse_scarce_files(settings: Settings, path: str) -> None:
    """Sample counts that no file of the tasks can hold, told before anything is read."""
    if not any(task.files for task in settings.prepare.tasks.values()):
        return
    from glassbox.tasks.files import scarce

    problems = list(scarce(settings.prepare.tasks))
    if problems:
        raise GlassboxError(refusal(path, problems))


def entries() -> dict[str, list[Any]]:
    """What there is to set, by its kind."""
    import yaml

    from glassbox.config.reference import file_entries, settings_entries, task_entries
    from glassbox.tasks import gsm8k, mmlu, sst2

    composed = yaml.safe_load(composition(CONF, []))
    meanings = {module.TASK: str(module.__doc__).partition(": ")[2] for module in (sst2, mmlu, gsm8k)}
    return {
        "settings": settings_entries(composed, Path("dvc.yaml")),
        "tasks": task_entries(composed, meanings),
        "groups": file_entries(CONF, "distill"),
        "scales": file_entries(CONF, "scale"),
    }


def tell_experiment(params: Path) -> None:
    """Say that params.yaml holds an experiment, which `dvc exp run` leaves there, and how to return to the study."""
    told = notice(kept_differences(CONF, params))
    if told:
        print(told, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--list", nargs="?", const="", metavar="WORD", help="print what there is to set, and end")
    parser.add_argument("--markdown", action="store_true", help="print docs/settings.md, and end")
    arguments = parser.parse_args()
    if arguments.markdown or arguments.list is not None:
        from glassbox.config.reference import listing, page

        found = entries()
        print(page(**found), end="") if arguments.markdown else print(listing(sum(found.values(), []), arguments.list))
        return
    path = arguments.params
    settings = load_settings(path)
    refuse_scarce_files(settings, path)
    check_plan(CONF, settings)
    if not (os.environ.get(DVC_NAME) or is_side_study(settings)):  # they differ on purpose
        tell_experiment(Path(path))
    require_cache(settings.storage, root())
    check_store(settings.storage)
    INPUTS_FOLDER.mkdir(parents=True, exist_ok=True)
    for name, digests in local_inputs(settings).items():
        text = json.dumps(digests, indent=2, sort_keys=True) + "\n"
        (INPUTS_FOLDER / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run(main)
