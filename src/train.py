"""One trial: `python src/train.py --group combined --seed 7`. `dvc repro` runs it for every group and seed."""

import argparse
import sys

from glassbox.command import is_launched, is_main, launch, loading, run
from glassbox.config.settings import load_settings
from glassbox.errors import GlassboxError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", required=True, help="a group of params.yaml, such as black_box or combined")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: params.yaml)")
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    if arguments.group not in settings.distill:
        raise GlassboxError(
            f"--group {arguments.group}: the settings hold no group of that name, but {', '.join(settings.distill)}. "
            "A group is a file in conf/distill, selected by `dvc exp run -S distill=<name>`."
        )

    if arguments.seed not in settings.seeds:
        planned, wanted = ", ".join(map(str, settings.seeds)), f"'seeds=[{arguments.seed}]'"
        raise GlassboxError(
            f"--seed {arguments.seed}: the settings' seeds are {planned}, and no comparison would know this trial. "
            f"`dvc exp run -S {wanted}` trains it; or write it into params.yaml by `python src/params.py {wanted}`."
        )

    if settings.train.processes > 1 and not is_launched():
        sys.exit(launch(settings.train.processes, settings.train.parallelism))

    with loading():
        from glassbox.tracking import readable_client
        from glassbox.training.trial import run_trial

        if is_main():
            readable_client()  # MLflow's modules, which the trial's run would load later

    run_trial(settings, arguments.group, arguments.seed)


if __name__ == "__main__":
    run(main)
