"""Stage `snapshot`: the teacher's signals for every training and validation sample -> data/snapshot.

Ends at once where the snapshot here has the key that settings, models, tasks and code give now.
"""

from __future__ import annotations

import argparse
import sys

from glassbox.command import is_launched, is_main, launch, run
from glassbox.config.settings import load_settings
from glassbox.config.storage import SNAPSHOT_FOLDER, TASKS_FOLDER, scratch_folder
from glassbox.files import read_json
from glassbox.snapshot.keys import MANIFEST, is_whole, snapshot_key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)
    uses_signals = any(settings.distill[name].uses_signals for name in settings.groups)
    key, found = snapshot_key(settings, TASKS_FOLDER), read_json(SNAPSHOT_FOLDER / MANIFEST)
    if (
        found.get("key") == key
        and (found["signals"] or not uses_signals)
        and settings.signals_read <= {*found["signals"]}
        and is_whole(SNAPSHOT_FOLDER, found)
    ):
        print(f"{SNAPSHOT_FOLDER}: nothing that it depends on has changed")
        return
    if settings.snapshot.processes > 1 and not is_launched():
        sys.exit(launch(settings.snapshot.processes))

    import torch

    from glassbox.models.tokenizers import captures_signals
    from glassbox.snapshot.capture import capture, capture_nothing
    from glassbox.snapshot.reader import read_manifest

    if not captures_signals(settings):
        if is_main():
            capture_nothing(SNAPSHOT_FOLDER, key)
        print(f"{SNAPSHOT_FOLDER}: the tokenizers of teacher and student differ, so nothing was captured")
        return
    torch.set_num_threads(settings.train.threads)
    capture(settings, TASKS_FOLDER, SNAPSHOT_FOLDER, scratch_folder(settings.storage), key)
    if not is_main():
        return
    manifest = read_manifest(SNAPSHOT_FOLDER)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{SNAPSHOT_FOLDER}: {manifest['rows']} samples, {manifest['positions']} positions, {size / 1e6:.1f} MB")
    for split, tasks in manifest["counts"].items():
        for task, count in tasks.items():
            print(
                f"  {split} {task}: {count['rows']} samples, {count['positions']} positions, {count['truncated']} "
                f"prompts shortened, {count['retokenised']} answers tokenized by themselves"
            )
    print(f"logical digest {manifest['logical_digest']}")


if __name__ == "__main__":
    run(main)
