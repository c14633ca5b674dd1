"""Compose conf/ into params.yaml, exactly as `dvc exp run` does: python src/params.py [override ...].

Settings that the stage `settings` would refuse are refused here, and params.yaml is left as it was.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from glassbox.command import run
from glassbox.config.composition import composition
from glassbox.config.problems import every_key, nearest
from glassbox.config.settings import Settings, settings_of
from glassbox.config.yaml_files import parse_yaml
from glassbox.errors import GlassboxError

CONF = Path("conf")
PARAMS = Path("params.yaml")


def refusal(error: Exception) -> str:
    """One sentence for what cannot be composed: the name that is not there, and the nearest that is."""
    reason = str(error).strip().splitlines()[0]
    if "Key not found: 'distill'" in reason:
        return "`distill` names no group; name one or more, as in `distill=[sft,black_box]`."
    if "Config group override" in reason:
        return "A file of conf/ is chosen by its name: `scale=embedded`, `distill=[sft,black_box]`."
    missing = re.search(r"'(distill|scale|pretrain)/([^']+)'", reason)
    unknown = re.search(r"Could not override '([^']+)'", reason)
    if missing:
        folder, name = missing.groups()
        near = nearest(name, known := sorted(path.stem for path in (CONF / folder).glob("*.yaml")))
        hint = f"the nearest is `{near}`" if near else f"there are {', '.join(known)}"
        return (
            f"{CONF}/{folder}/{name}.yaml does not exist; {hint}. `python src/settings.py --list {folder}=` says more."
        )
    if unknown:
        near = nearest(unknown[1], list(every_key(Settings)))
        hint = f"the nearest is `{near}`" if near else "`python src/settings.py --list` prints all"
        return f"there is no setting `{unknown[1]}`; {hint}."
    return f"{reason}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "overrides", nargs="*", help="as after -S of `dvc exp run`: scale=paper, weights.hidden=0.3, ..."
    )
    overrides = parser.parse_args().overrides
    try:
        text = composition(CONF, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise GlassboxError(
            f"conf/ cannot be composed with {' '.join(overrides)}; {PARAMS} is as it was. {refusal(error)}"
        ) from error
    settings_of(*parse_yaml(text, PARAMS), " ".join([f"{CONF}/", *overrides]), f"{PARAMS} is as it was.")
    PARAMS.write_text(text, encoding="utf-8", newline="\n")
    print(f"{PARAMS}: composed of {CONF}/{''.join(f' {each}' for each in overrides)}")


if __name__ == "__main__":
    run(main)
