"""Name the current snapshot and push it to the DVC remote; list the named ones; bring one back."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from glassbox.command import run
from glassbox.config.settings import load_settings
from glassbox.snapshot.archive import INDEX, SNAPSHOT, archive_snapshot, read_index, restore_snapshot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="show the archived snapshots")
    parser.add_argument("--restore", metavar="NAME", help=f"bring the snapshot of this name back into {SNAPSHOT}")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="with --restore: into this folder instead")
    arguments = parser.parse_args()
    root = Path.cwd()
    if arguments.list:
        entries = read_index(root)
        if not entries:
            print(f"No snapshot is archived here ({INDEX}). `make archive` names the verified one and pushes it.")
        for entry in entries:
            print(f"{entry.name}  {entry.size / 1e6:.1f} MB in {entry.nfiles} files  archived {entry.archived}")
        return
    remote = load_settings(arguments.params).storage.remote
    if arguments.restore:
        folder = restore_snapshot(root, remote, arguments.restore, arguments.to)
        print(f"{arguments.restore} is back in {folder}. `dvc status` says whether the current settings would use it.")
    else:
        entry = archive_snapshot(root, remote, datetime.datetime.now().astimezone())
        print(f"{entry.name}: pushed. `python src/archive.py --restore {entry.name}` brings it back.")


if __name__ == "__main__":
    run(main)
