"""Print a batch as it is trained on: tokens, mask, shift and the teacher's top choices, from data/snapshot."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from glassbox.command import run
from glassbox.config.settings import load_settings
from glassbox.errors import GlassboxError

FOLDER = Path("data/snapshot")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--sample", action="append", metavar="ID", help="a sample's id; may be repeated")
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="(default: %(default)s)")
    parser.add_argument("--rows", type=int, default=3, help="samples to show, one of each task (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="all of the prompt, not just its end")
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)

    from glassbox.models.tokenizers import load_tokenizer
    from glassbox.snapshot.batch_view import lines_of, teacher_choices
    from glassbox.snapshot.reader import open_snapshot
    from glassbox.tasks.sample import spread

    snapshot = open_snapshot(FOLDER)
    if snapshot is None:
        raise GlassboxError(
            f"{FOLDER} holds no signals, for teacher and student share no tokens. There is nothing to show."
        )
    chosen = spread(snapshot.samples(arguments.split), arguments.rows)
    sample_ids = arguments.sample or [info.sample_id for info in chosen]
    if not sample_ids:
        raise GlassboxError(f"--rows {arguments.rows} shows nothing: ask for at least one sample.")
    batch, ids, probabilities = teacher_choices(snapshot, sample_ids)
    tokenizer = load_tokenizer(settings.teacher)
    width = shutil.get_terminal_size((120, 24)).columns
    for row in range(len(sample_ids)):
        lines = lines_of(tokenizer, batch, row, ids, probabilities, width=width, whole=arguments.whole)
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    run(main)
