"""Say in a line or two what `dvc repro` is about to train, and for how long; `make study` begins with it.

It measures nothing (`make plan` does) and refuses nothing (the stage `settings` does): it always ends with 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glassbox.config.settings import load_settings
from glassbox.config.yaml_files import read_yaml
from glassbox.errors import GlassboxError
from glassbox.grid.cells import outlook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    path = parser.parse_args().params
    try:
        print(outlook(load_settings(path), read_yaml(path)[0], Path()), flush=True)
    except (GlassboxError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        print(f"What is to come cannot be told ({type(error).__name__}); DVC will say what is wrong.", flush=True)


if __name__ == "__main__":
    main()
