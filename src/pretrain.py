"""Stage `pretrain` (frozen): the embedded teachers and student -> data/embedded/. Run on purpose, with
`dvc repro --single-item pretrain` after `dvc unfreeze pretrain`; an interrupted run goes on where it was."""

import argparse
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from glassbox.command import run
from glassbox.config.settings import load_settings
from glassbox.tasks.miniature import pretraining, text_pretraining
from glassbox.tracking import root

FOLDER = Path("data/embedded")
ROLES = ("teacher", "student", "text_teacher", "moe_teacher", pretraining.METASPACE_STUDENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--only", choices=ROLES, help="make one of them (default: all, one after the other)")
    arguments = parser.parse_args()
    every = load_settings(arguments.params)
    settings = every.pretrain
    torch.set_num_threads(every.train.threads)
    for role in [arguments.only] if arguments.only else ROLES:
        model_settings = getattr(settings, role)
        tokenizer = pretraining.train_tokenizer(role, settings)
        if role == "text_teacher":
            model = text_pretraining.pretrain(model_settings, tokenizer)
        else:
            model = pretraining.pretrain(role, model_settings, settings, tokenizer, root() / ".glassbox" / "pretrain")
        provenance = {
            "made_by": f"python src/pretrain.py --only {role}",
            "made_on": datetime.now(UTC).date().isoformat(),
            "settings": model_settings.model_dump(),
            "batch_size": getattr(model_settings, "batch_size", settings.batch_size),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "samples": "pretraining bucket of the miniature tasks and facts of their world; no item of any study",
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")}
            | {"python": platform.python_version()},
        }
        pretraining.publish(FOLDER / role, model, tokenizer, provenance)
        print(f"{FOLDER / role}: {provenance['parameters']:,} parameters, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    run(main)
