"""Three miniature tasks from seeded generators, named for what they imitate: sst2, mmlu and gsm8k.

Every item belongs to exactly one bucket - train, validation, test or pretraining - decided by the hash of its text, so
the splits of any study, of any size and seed, share no item with each other or with what the embedded models were
pretrained on.
"""

import hashlib
import random
from collections.abc import Callable, Iterator

from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.miniature import world
from glassbox.tasks.sample import Sample

BUCKET_SHARES = {"test": 2, "validation": 1, "train": 3, "pretraining": 10}
DEFAULT_COUNTS = {"train": 340, "validation": 40, "test": 500}
ATTEMPTS_PER_ITEM = 400

NOUNS = "film plot cast script music ending acting story scene dialogue pacing camera".split()
PRAISE = (
    "wonderful funny moving clever bright warm fresh superb charming gripping honest elegant lively thrilling tender "
    "rich"
).split()
BLAME = (
    "dull clumsy bleak boring stale shallow tedious awful bland messy hollow lazy dreary grating forced weak"
).split()
INTENSIFIERS = "very truly quite deeply rather utterly".split()
NEGATIONS = ("is not", "is never", "is anything but", "fails to be", "is hardly")

NAMES = "Ann Ben Cleo Dan Eva Finn Gwen Hugo Ivy Jack Kim Leo Mia Ned Olga Paul".split()
THINGS = "apples books coins eggs pens shells stamps cards nuts beads".split()


def bucket_of(prompt: str) -> str:
    """The only bucket an item with this prompt may be used in."""
    place = int.from_bytes(hashlib.sha256(prompt.encode("utf-8")).digest()[:4], "big") % sum(BUCKET_SHARES.values())
    for bucket, share in BUCKET_SHARES.items():
        if place < share:
            return bucket
        place -= share
    raise AssertionError("the shares cover every place")


def _clause(generator: random.Random, positive: bool) -> str:
    negated = generator.random() < 0.4
    adjective = generator.choice(PRAISE if positive != negated else BLAME)
    intensifier = generator.choice(INTENSIFIERS) + " " if generator.random() < 0.4 else ""
    verb = generator.choice(NEGATIONS) if negated else "is"
    return f"the {generator.choice(NOUNS)} {verb} {intensifier}{adjective}"


def sentiment(generator: random.Random, split: str) -> Sample:
    """One review of one or two clauses; in a contrast the main clause decides."""
    positive = generator.random() < 0.5
    main, other = _clause(generator, positive), _clause(generator, not positive)
    sentence = generator.choice(
        (
            main,
            f"{main} and {_clause(generator, positive)}",
            f"{other} but {main}",
            f"although {other} , {main}",
            f"{main} , even though {other}",
            f"you may say that {other} , yet {main}",
        )
    )
    return sst2.sample(split, sentence + " .", positive)


def question(generator: random.Random, split: str) -> Sample:
    """A four-choice question about the closed world: one to three facts from a person to the answer.

    Options stand in alphabetical order, as exams print them, so that the place of an answer is a rank among the four.
    """
    path = generator.choice(world.PATHS)
    who = generator.choice(world.PEOPLE)
    answer = world.answer(who, path)
    options = sorted([answer, *generator.sample([option for option in path.options if option != answer], 3)])
    return mmlu.sample(split, path.question.format(who=who), options, options.index(answer), "-".join(path.relations))


def _story_step(generator: random.Random, name: str, thing: str, amount: int) -> tuple[str, str, int]:
    """One sentence that changes `amount`, its worked line, and the new amount."""
    kinds = [kind for kind, fits in (("gain", amount <= 90), ("loss", amount >= 8), ("times", amount <= 24)) if fits]
    kind = generator.choice(kinds)
    if kind == "gain":
        change = generator.randint(2, 9) if generator.random() < 0.5 else generator.randint(10, 25)
        verb = generator.choice(("buys", "finds", "wins"))
        return f"{name} {verb} {change} more {thing}.", f"{amount} + {change} = {amount + change}", amount + change
    if kind == "loss":
        change = generator.randint(2, min(amount - 1, 30))
        verb = generator.choice(("loses", "sells", "gives away"))
        return f"{name} {verb} {change} {thing}.", f"{amount} - {change} = {amount - change}", amount - change
    factor = generator.randint(2, 4)
    wording = f"{name} then has {factor} times as many."
    return wording, f"{amount} * {factor} = {amount * factor}", amount * factor


def word_problem(generator: random.Random, split: str) -> Sample:
    """A story of two to four arithmetic steps about one person, sometimes ended by a comparison with a second one."""
    name, other = generator.sample(NAMES, 2)
    thing, unused = generator.sample(THINGS, 2)
    amount = generator.randint(3, 30)
    sentences = [f"{name} has {amount} {thing}."]
    lines: list[str] = []
    together = generator.random() < 0.35
    for _ in range(generator.randint(2, 4) - together):
        sentence, line, amount = _story_step(generator, name, thing, amount)
        sentences.append(sentence)
        lines.append(line)
    if generator.random() < 0.3:
        sentences.insert(generator.randint(1, len(sentences)), f"{other} has {generator.randint(2, 30)} {unused}.")
    if together:
        more = generator.randint(2, 20)
        sentences.append(f"{other} has {more} {thing}. How many {thing} do they have together?")
        lines.append(f"{amount} + {more} = {amount + more}")
        amount += more
    else:
        sentences.append(f"How many {thing} does {name} have?")
    return gsm8k.sample(split, " ".join(sentences), " ; ".join(lines) + f"\n#### {amount}")


GENERATORS: dict[str, Callable[[random.Random, str], Sample]] = {
    "sst2": sentiment,
    "mmlu": question,
    "gsm8k": word_problem,
}


def stream(task: str, bucket: str, seed: str) -> Iterator[Sample]:
    """Endless samples of one task that belong to `bucket`; repeats are possible."""
    generator = random.Random(f"{task}/{bucket}/{seed}")
    while True:
        sample = GENERATORS[task](generator, bucket)
        if bucket_of(sample.prompt) == bucket:
            yield sample


def load(task: str, settings: TaskSettings, seed: int) -> dict[str, list[Sample]]:
    """The splits of one miniature task: distinct items, as many as the settings ask for."""
    if task not in GENERATORS:
        raise GlassboxError(
            f"prepare.tasks.{task}: there is no embedded task of that name; the embedded tasks are "
            f"{', '.join(GENERATORS)}. For your own samples set source to jsonl and name its files."
        )
    return {split: _distinct(task, split, getattr(settings, split) or DEFAULT_COUNTS[split], seed) for split in SPLITS}


def _distinct(task: str, split: str, count: int, seed: int) -> list[Sample]:
    found: dict[str, Sample] = {}
    for attempt, sample in enumerate(stream(task, split, str(seed))):
        if len(found) == count:
            break
        if attempt > ATTEMPTS_PER_ITEM * count:
            raise GlassboxError(
                f"prepare.tasks.{task}.{split}: {count} distinct items were asked for, but the generator gave only "
                f"{len(found)}. Ask for fewer."
            )
        found.setdefault(sample.prompt, sample)
    return list(found.values())
