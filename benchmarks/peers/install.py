"""Make benchmarks/peers/.venv: the project's own packages by reference, and beside them those that it is held against.

    .venv/bin/python benchmarks/peers/install.py

A .pth file names the site-packages of the interpreter that runs this, so that both live in one process and torch is not
installed twice. Peers come without their dependencies, so nothing of ours is replaced. A second run changes nothing.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ENVIRONMENT = FOLDER / ".venv"


def interpreter(environment: Path) -> Path:
    folder = "Scripts" if sys.platform == "win32" else "bin"
    return environment / folder / Path(sys.executable).name


def refer_to(packages: Path, environment: Path) -> None:
    """Let the interpreter of `environment` find what is installed in `packages`, after what is its own."""
    own = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (own / "project.pth").write_text(f"{packages}\n", encoding="utf-8")


def main() -> None:
    if not (ENVIRONMENT / "pyvenv.cfg").exists():
        venv.create(ENVIRONMENT, with_pip=True, symlinks=sys.platform != "win32")
    refer_to(Path(sysconfig.get_path("purelib")), ENVIRONMENT)
    options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--requirement", str(FOLDER / "requirements.txt")]
    subprocess.run([str(interpreter(ENVIRONMENT)), "-m", "pip", "install", *options], check=True)


if __name__ == "__main__":
    main()
