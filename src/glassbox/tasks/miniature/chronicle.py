"""Running text about the closed world: articles of the statements that the embedded models know one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator

from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.tasks.miniature import world
from glassbox.tasks.miniature.generators import DEFAULT_COUNTS, bucket_of
from glassbox.tasks.pools import Pool
from glassbox.tasks.sample import Sample
from glassbox.tasks.text import Cutter

SENTENCES = 12


def article(generator: random.Random) -> str:
    """A title and statements in a random order: all about one person, the rest about others."""
    who = generator.choice(world.PEOPLE)
    others = [person for person in world.PEOPLE if person != who]
    about = [(who, path) for path in world.PATHS]
    about += [(generator.choice(others), generator.choice(world.PATHS)) for _ in range(SENTENCES - len(about))]
    generator.shuffle(about)
    told = [path.statement.format(who=person, answer=world.answer(person, path)) for person, path in about]
    return f" = {who} = \n" + "\n".join(told) + "\n"


def articles(split: str, seed: int) -> Iterator[str]:
    """Endless articles of one split: none is in another."""
    generator = random.Random(f"chronicle/{split}/{seed}")
    while True:
        text = article(generator)
        if bucket_of(text) == split:
            yield text


def pools(task: str, settings: TaskSettings, cutter: Cutter, seed: int) -> dict[str, Pool]:
    """As many blocks of every split as the settings ask for, each article a text of its own."""
    return {
        split: Pool(f"the embedded {task} {split} generator", tuple(_blocks(split, settings, cutter, seed)))
        for split in SPLITS
    }


def _blocks(split: str, settings: TaskSettings, cutter: Cutter, seed: int) -> Iterator[Sample]:
    wanted, found = getattr(settings, split) or DEFAULT_COUNTS[split], set()
    for number, text in enumerate(articles(split, seed)):
        for sample in cutter.samples([(f"{split} {number}", text)], split):
            if len(found) == wanted:
                return
            if sample.identity not in found:
                found.add(sample.identity)
                yield sample
