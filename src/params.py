"""Compose conf/ into params.yaml, exactly as `dvc exp run` does: python src/params.py [override ...]."""

from __future__ import annotations

import argparse
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from glassbox.command import run
from glassbox.errors import GlassboxError

CONF = Path("conf")
PARAMS = Path("params.yaml")


def composition(conf: Path, overrides: list[str]) -> str:
    """The text of params.yaml that a configuration folder gives under Hydra overrides."""
    with initialize_config_dir(str(conf.resolve()), version_base=None):
        configuration = compose(config_name="config", overrides=overrides)
    OmegaConf.resolve(configuration)
    return OmegaConf.to_yaml(configuration)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "overrides", nargs="*", help="as after -S of `dvc exp run`: scale=paper, weights.hidden=0.3, ..."
    )
    overrides = parser.parse_args().overrides
    try:
        text = composition(CONF, overrides)
    except HydraException as error:
        raise GlassboxError(
            f"conf/ cannot be composed with {' '.join(overrides)}; {PARAMS} is as it was. {error}"
        ) from error
    PARAMS.write_text(text, encoding="utf-8", newline="\n")
    print(f"{PARAMS}: composed of {CONF}/{''.join(f' {each}' for each in overrides)}")


if __name__ == "__main__":
    run(main)
