"""The closed world behind the embedded miniature of MMLU: homes, trades, animals and what follows from them.

The world is a constant of the project, drawn once from a fixed seed, because the embedded teacher and student are
pretrained on it. A relation path such as ("home", "region") is walked one fact at a time; questions need one to three.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

PEOPLE = (
    "Ada Bela Carl Dora Emil Fay Gus Hana Igor Jana Kai Lena Milo Nora Omar Pia Quin Rosa Sami Tara Udo Vera Walt Yara "
    "Zeno Anton Berta Clara David Erika Franz Greta"
).split()
TOWNS = "Alden Brock Corin Dalby Elmet Farne Garth Hythe Irwell Jarrow Keld Luton".split()
REGIONS = "Northmark Eastvale Southmoor Westfell Highdown Lowmere".split()
TRADES = "baker weaver miner sailor tailor potter farmer mason painter glazier smith miller".split()
TOOLS = "oven loom pickaxe rope needle wheel plough trowel brush cutter hammer sieve".split()
ANIMALS = "dog cat goat hen owl hare pony duck".split()
FOODS = "meat fish hay corn mice clover oats bread".split()
COLOURS = "red blue green gold white black".split()


@dataclass(frozen=True)
class Path:
    """One kind of question: the facts to walk, its wording, and what the answer is drawn from."""

    relations: tuple[str, ...]
    question: str
    statement: str
    options: tuple[str, ...]


PATHS = (
    Path(("home",), "Where does {who} live?", "{who} lives in {answer}.", tuple(TOWNS)),
    Path(("trade",), "What is the trade of {who}?", "{who} works as a {answer}.", tuple(TRADES)),
    Path(("animal",), "Which animal does {who} keep?", "{who} keeps a {answer}.", tuple(ANIMALS)),
    Path(("home", "region"), "In which region does {who} live?", "{who} lives in {answer}.", tuple(REGIONS)),
    Path(("trade", "tool"), "Which tool does {who} use at work?", "At work {who} uses a {answer}.", tuple(TOOLS)),
    Path(("animal", "food"), "What does the animal of {who} eat?", "The animal of {who} eats {answer}.", tuple(FOODS)),
    Path(
        ("home", "region", "flag"),
        "Which colour is the flag of the region where {who} lives?",
        "The flag over the home of {who} is {answer}.",
        tuple(COLOURS),
    ),
)


def _draw_facts() -> dict[str, dict[str, str]]:
    generator = random.Random("glassbox world 1")

    def evenly(keys: Sequence[str], values: Sequence[str]) -> dict[str, str]:
        repeated = (list(values) * (len(keys) // len(values) + 1))[: len(keys)]
        generator.shuffle(repeated)
        return dict(zip(keys, repeated, strict=True))

    return {
        "home": evenly(PEOPLE, TOWNS),
        "trade": evenly(PEOPLE, TRADES),
        "animal": evenly(PEOPLE, ANIMALS),
        "region": evenly(TOWNS, REGIONS),
        "tool": evenly(TRADES, TOOLS),
        "food": evenly(ANIMALS, FOODS),
        "flag": evenly(REGIONS, COLOURS),
    }


FACTS = _draw_facts()


def answer(who: str, path: Path) -> str:
    """Walk `path` from a person to the fact it asks for."""
    place = who
    for relation in path.relations:
        place = FACTS[relation][place]
    return place
