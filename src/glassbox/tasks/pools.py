"""What a source offers for each split, and how the study's samples are drawn from it without overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks.sample import ANSWER_MARK, FIELD_SEPARATOR, Sample, assign, has_number_answer, make_sample

DRAW_ORDER = tuple(reversed(SPLITS))


@dataclass(frozen=True, eq=False)
class Pool:
    """The items of one file (or hub split); splits that name the same file hold the same Pool.

    Of a hub split: the revision that was asked for and the commit that it named. `notes` are sentences on samples that
    contradict each other.
    """

    place: str
    samples: tuple[Sample, ...]
    revision: str | None = None
    commit: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """How many samples one split of one task wants from a pool; None: all that are left."""

    task: str
    split: str
    pool: Pool
    count: int | None


@dataclass(frozen=True)
class Drawn:
    """One split of one task: how many samples its place offered, which of them were dropped and why, what was taken."""

    task: str
    split: str
    place: str
    revision: str | None
    commit: str | None
    offered: int
    repeated: int
    in_another_split: int
    taken: int
    notes: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """A line for each reason why samples were dropped, and for what is odd about those of the place."""
        reasons = {
            "repeat another prompt there": self.repeated,
            f"for '{self.task}' {self.split} are in another split": self.in_another_split,
        }
        return [
            f"{self.place}: {count} sample{'s' if count > 1 else ''} dropped ({why})."
            for why, count in reasons.items()
            if count
        ] + [f"WARNING: {note}" for note in self.notes]


def of_several_questions(samples: Iterable[Sample]) -> set[str]:
    """The prompts that stand with more than one set of choices; prompts alone have none."""
    known: dict[str, set[frozenset[str]]] = {}
    for sample in samples:
        if sample.choices:
            known.setdefault(sample.prompt, set()).add(frozenset(sample.choices))
    return {prompt for prompt, found in known.items() if len(found) > 1}


def question(sample: Sample, several: Set[str]) -> str:
    """What no two samples of a study share: the identity, and where a prompt is one of `several` its choices too."""
    return FIELD_SEPARATOR.join((sample.identity, *(sorted(sample.choices) if sample.prompt in several else ())))


def refuse_unlike(task: str, pools: Mapping[str, Pool], setting: str) -> None:
    """Raise GlassboxError where two splits have no kind of sample in common: one teaches what the other does not ask.

    Prompts without answers are of no kind, for they are not scored.
    """
    kinds = {split: _kinds(pool) for split, pool in pools.items()}
    for first, second in combinations(kinds, 2):
        if kinds[first] and kinds[second] and not kinds[first] & kinds[second]:
            held = [f"{pools[split].place} ({split}) holds {_listed(kinds[split])}" for split in (first, second)]
            raise GlassboxError(
                f"Task '{task}': {' and '.join(held)}, and the splits of a task are of one kind. Write the lines of "
                "one as those of the other (docs/own_data.md shows a line of each kind), or correct "
                f"prepare.tasks.{task}.{setting}."
            )


def _kinds(pool: Pool) -> set[str]:
    return {_kind(sample) for sample in pool.samples if sample.answer}


def _kind(sample: Sample) -> str:
    if sample.is_text:
        return "running text"
    if sample.choices:
        return "questions with choices"
    return f"answers with a number after '{ANSWER_MARK}'" if has_number_answer(sample) else "free answers"


def _listed(kinds: set[str]) -> str:
    return " and ".join(sorted(kinds))


def requests(task: str, pools: Mapping[str, Pool], settings: TaskSettings) -> list[Request]:
    """One request per split; refuses two splits that both want all of the same pool."""
    wanted = [Request(task, split, pools[split], getattr(settings, split)) for split in DRAW_ORDER]
    unlimited = [request for request in wanted if request.count is None]
    for first, second in combinations(unlimited, 2):
        if first.pool is second.pool:
            raise GlassboxError(
                f"Task '{task}': {first.split} and {second.split} both take every sample of {first.pool.place}, and "
                f"splits share no item. Give prepare.tasks.{task}.{first.split} a number of samples."
            )
    return wanted


def draw(wanted: list[Request], seed: int, note: Callable[[Drawn], None] | None = None) -> dict[str, list[Sample]]:
    """Disjoint splits by question: test is drawn first, then validation, then train from what neither has.

    Each draw has a generator of its own, seeded by `seed`, the task and the split, so that one task's settings do not
    move another's samples. Questions that occur twice in a pool, or in another pool's split drawn earlier, are dropped,
    and `note` is told how many. Raises GlassboxError where too few samples are left.
    """
    several = _of_several_questions(wanted)
    taken: set[str] = set()
    taken_here: dict[Pool, set[str]] = {}
    unique: dict[Pool, list[Sample]] = {}
    drawn: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for request in _limited_before_unlimited(wanted):
        pool = request.pool
        offered = unique.setdefault(pool, _first_of_each_question(pool.samples, several))
        available = [sample for sample in offered if question(sample, several) not in taken]
        chosen = _choose(request, available, seed)
        if note:
            others = taken - taken_here.get(pool, set())
            elsewhere = sum(question(sample, several) in others for sample in offered)
            origin = (request.task, request.split, pool.place, pool.revision, pool.commit)
            note(
                Drawn(*origin, len(pool.samples), len(pool.samples) - len(offered), elsewhere, len(chosen), pool.notes)
            )
        asked = {question(sample, several) for sample in chosen}
        taken |= asked
        taken_here[pool] = taken_here.get(pool, set()) | asked
        drawn[request.split] += [_assigned(sample, request, several) for sample in chosen]
    return drawn


def _limited_before_unlimited(wanted: list[Request]) -> list[Request]:
    """A split that takes 'all' of a shared pool takes what the others have left."""
    users: dict[Pool, int] = {}
    for request in wanted:
        users[request.pool] = users.get(request.pool, 0) + 1
    return sorted(
        wanted,
        key=lambda request: (
            request.count is None and users[request.pool] > 1,
            DRAW_ORDER.index(request.split),
        ),
    )


def _first_of_each_question(samples: tuple[Sample, ...], several: Set[str]) -> list[Sample]:
    unique: dict[str, Sample] = {}
    for sample in samples:
        unique.setdefault(question(sample, several), sample)
    return list(unique.values())


def _of_several_questions(wanted: Iterable[Request]) -> set[str]:
    by_task: dict[str, dict[Pool, None]] = {}
    for request in wanted:
        by_task.setdefault(request.task, {})[request.pool] = None
    found = (of_several_questions(sample for pool in pools for sample in pool.samples) for pools in by_task.values())
    return set().union(*found)


def _assigned(sample: Sample, request: Request, several: Set[str]) -> Sample:
    """As a member of its split; the id of one of several questions of a prompt is made of its choices too."""
    mine = assign(sample, request.task, request.split)
    if sample.prompt not in several:
        return mine
    asked = make_sample(mine.task, request.split, question(sample, several), mine.answer, mine.choices, mine.gold)
    return replace(mine, sample_id=asked.sample_id)


def _choose(request: Request, available: list[Sample], seed: int) -> list[Sample]:
    count = len(available) if request.count is None else request.count
    if len(available) < max(count, 1):
        raise GlassboxError(
            f"Task '{request.task}' wants {max(count, 1)} {request.split} samples and {request.pool.place} has "
            f"{len(available)} left that no other split holds. Lower prepare.tasks.{request.task}.{request.split}, or "
            f"name a larger file."
        )
    if count == len(available):
        return available
    if available[0].is_text:  # blocks that follow each other: beside each other two splits would share their articles
        return available[:count]
    place = hashlib.sha256(f"{request.task}/{request.split}".encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(place[:8], "little")])
    return [available[index] for index in generator.permutation(len(available))[:count]]
