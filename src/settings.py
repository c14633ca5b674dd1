"""Stage `settings`: check all of params.yaml before anything runs -> data/settings.json, equal for all good settings,
and data/groups.json, which says of every selected group whose labels and whether signals it uses, and no weight.

Every stage depends on that constant, so that bad settings stop a study before an output is removed, and good ones
invalidate nothing. MLflow's store is made here, once, before trials could open it side by side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from glassbox.command import run
from glassbox.config.settings import Settings, load_settings, refusal
from glassbox.config.storage import require_cache
from glassbox.errors import GlassboxError
from glassbox.tracking import ensure_store, root

OUTPUT = Path("data/settings.json")
CONTENT = '{"settings": "valid"}\n'
GROUPS = Path("data/groups.json")


def refuse_scarce_files(settings: Settings, path: str) -> None:
    """Sample counts that no file of the tasks can hold, told before anything is read."""
    if not any(task.files for task in settings.prepare.tasks.values()):
        return
    from glassbox.tasks.files import scarce

    problems = list(scarce(settings.prepare.tasks))
    if problems:
        raise GlassboxError(refusal(path, problems))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    path = parser.parse_args().params
    settings = load_settings(path)
    refuse_scarce_files(settings, path)
    require_cache(settings.storage, root())
    ensure_store(settings.storage)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(CONTENT, encoding="utf-8", newline="\n")
    groups = {
        name: {"labels": group.labels, "uses_signals": group.uses_signals} for name, group in settings.distill.items()
    }
    GROUPS.write_text(json.dumps(groups, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run(main)
