"""Compose conf/ into params.yaml, exactly as `dvc exp run` does: python src/params.py [override ...]."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path("conf")
PARAMS = Path("params.yaml")


def composition(conf: Path, overrides: list[str]) -> str:
    """The text of params.yaml that a configuration folder gives under Hydra overrides."""
    with initialize_config_dir(str(conf.resolve()), version_base=None):
        configuration = compose(config_name="config", overrides=overrides)
    OmegaConf.resolve(configuration)
    return OmegaConf.to_yaml(configuration)


if __name__ == "__main__":
    PARAMS.write_text(composition(CONF, sys.argv[1:]), encoding="utf-8", newline="\n")
