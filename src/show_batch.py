"""Print a batch as it is trained on: tokens, mask, shift and the teacher's top choices, from data/snapshot.

Each sample says whether it has a label for a seed's trial of a group; without one its text is the teacher's own. Under
`counts` stand the components that a position counts in, each by its letter:
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from glassbox.command import run
from glassbox.config.components import COMPONENTS
from glassbox.config.settings import Settings, load_settings
from glassbox.errors import GlassboxError

FOLDER = Path("data/snapshot")


def main() -> None:
    letters = ", ".join(f"{component.letter} {name}" for name, component in COMPONENTS.items())
    parser = argparse.ArgumentParser(description=f"{__doc__}{letters}.")
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--sample", action="append", metavar="ID", help="a sample's id; may be repeated")
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="(default: %(default)s)")
    parser.add_argument("--rows", type=int, default=3, help="samples to show, one of each task (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="whose draw of samples and labels (default: the first of `seeds`)")
    parser.add_argument("--group", metavar="NAME", help="whose components (default: the first group with signals)")
    parser.add_argument("--whole", action="store_true", help="all of the prompt, not just its end")
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    group = _group(settings, arguments.group)
    seed = settings.seeds[0] if arguments.seed is None else arguments.seed

    import torch

    from glassbox.models.tokenizers import load_tokenizer
    from glassbox.snapshot.batch_view import lines_of, teacher_choices
    from glassbox.snapshot.reader import open_snapshot
    from glassbox.snapshot.schema import ANSWERED, answered_id
    from glassbox.tasks.sample import spread
    from glassbox.training.chunk_view import views
    from glassbox.training.draws import draw

    snapshot = open_snapshot(FOLDER)
    if snapshot is None:
        raise GlassboxError(
            f"{FOLDER} holds no signals, for teacher and student share no tokens. There is nothing to show."
        )
    train = snapshot.samples("train")
    drawn = draw({info.sample_id: info.task for info in train}, settings.train.samples, settings.labelled(group), seed)
    mine = {*drawn.samples, *(info.sample_id for info in snapshot.samples("validation"))}
    chosen = spread([info for info in snapshot.samples(arguments.split) if info.sample_id in mine], arguments.rows)
    sample_ids = arguments.sample or [info.sample_id for info in chosen]
    if not sample_ids:
        raise GlassboxError(f"--rows {arguments.rows} shows nothing: ask for at least one sample.")
    unlabelled = {*drawn.samples} - drawn.labelled
    answered = {info.sample_id for info in snapshot.samples(ANSWERED)}
    texts = [text if each in unlabelled and (text := answered_id(each)) in answered else each for each in sample_ids]
    without = [each in unlabelled or each in answered for each in sample_ids]
    active = settings.distill[group].active
    positions = {name: reach for name, reach in settings.positions(group).items() if name in active}
    width = shutil.get_terminal_size((120, 24)).columns
    labels = [
        _label(settings, group, seed, has_label=not lacks, is_drawn=each in mine or each in answered)[:width]
        for each, lacks in zip(sample_ids, without, strict=True)
    ]
    if settings.distill[group].aligns:
        for label, lines in zip(labels, views(settings, snapshot, group, texts, positions, width), strict=True):
            print("\n".join([lines[0], label, *lines[1:]]), end="\n\n")
        return
    batch, ids, probabilities = teacher_choices(snapshot, texts, everywhere="all" in positions.values())
    batch = replace(batch, labelled=~torch.tensor(without))
    tokenizer = load_tokenizer(settings.teacher)
    for row, label in enumerate(labels):
        lines = lines_of(tokenizer, batch, row, ids, probabilities, positions, width=width, whole=arguments.whole)
        lines.insert(1, label)
        print("\n".join(lines), end="\n\n")


def _label(settings: Settings, group: str, seed: int, *, has_label: bool, is_drawn: bool) -> str:
    """Whether a sample has a label, as a sentence of one line."""
    whose = f"{group}, seed {seed}"
    if not is_drawn:
        return f"      {whose}: not among the samples that this seed draws"
    if has_label:
        return f"      {whose}: has its label"
    if not settings.distill[group].uses_signals:
        return f"      {whose}: no label, so it is not trained on"
    return f"      {whose}: no label; the text is the teacher's own answer"


def _group(settings: Settings, name: str | None) -> str:
    """The group that was asked for, or the first with signals. Raises GlassboxError for one that reads no snapshot."""
    if name is None:
        return next((each for each in settings.groups if settings.distill[each].uses_signals), settings.groups[0])
    if name not in settings.groups:
        near = difflib.get_close_matches(name, settings.groups, 1) or settings.groups
        raise GlassboxError(f"--group {name}: the settings select no such group; the nearest is `{near[0]}`.")
    if settings.distill[name].labels == "teacher":
        raise GlassboxError(f"--group {name}: its texts are the teacher's answers in data/answers, not the snapshot's.")
    return name


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    run(main)
