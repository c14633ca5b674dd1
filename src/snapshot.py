"""Stage `snapshot`: the teacher's signals for every training and validation sample -> data/snapshot."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from glassbox.command import is_launched, is_main, launch, run
from glassbox.config.settings import Settings, load_settings

TASKS = Path("data/tasks")
FOLDER = Path("data/snapshot")


def scratch_folder(settings: Settings) -> Path:
    """Where unfinished work survives DVC's clearing of outputs: storage.scratch, or .glassbox at the root."""
    named = settings.storage.scratch
    return Path(named) if named else Path(os.environ.get("DVC_ROOT", ".")) / ".glassbox"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)
    if settings.snapshot.processes > 1 and not is_launched():
        sys.exit(launch(settings.snapshot.processes))

    import torch

    from glassbox.models.tokenizers import tokens_are_shared
    from glassbox.snapshot.capture import capture, capture_nothing
    from glassbox.snapshot.reader import read_manifest

    if not tokens_are_shared(settings):
        if is_main():
            capture_nothing(FOLDER)
        print(f"{FOLDER}: teacher and student cut text into other tokens, so nothing was captured")
        return
    torch.set_num_threads(settings.train.threads)
    capture(settings, TASKS, FOLDER, scratch_folder(settings))
    if not is_main():
        return
    manifest = read_manifest(FOLDER)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{FOLDER}: {manifest['rows']} samples, {manifest['positions']} positions, {size / 1e6:.1f} MB")
    for split, tasks in manifest["counts"].items():
        for task, count in tasks.items():
            print(
                f"  {split} {task}: {count['rows']} samples, {count['positions']} positions, {count['truncated']} "
                f"prompts shortened, {count['retokenised']} answers tokenized by themselves"
            )
    print(f"logical digest {manifest['logical_digest']}")


if __name__ == "__main__":
    run(main)
