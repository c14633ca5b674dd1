"""What a trial does at which step: its batches and its learning rate."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from glassbox.config.settings import TrainSettings
from glassbox.randomness import data_order

Batch = tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """Every optimizer step of a trial: its sample ids, and the micro-batches of those that its group learns from."""

    order: tuple[Batch, ...]
    steps: tuple[tuple[Batch, ...], ...]
    steps_per_epoch: int

    @property
    def epoch_ends(self) -> frozenset[int]:
        ends = range(self.steps_per_epoch, len(self.steps), self.steps_per_epoch)
        return frozenset([*ends, len(self.steps)])

    def digest(self) -> str:
        """sha256 in hex over every step's sample ids, steps in the order they are trained.

        The loss is a mean over the whole step, so the order within a step, which follows the lengths, does not count:
        groups whose labels have other lengths, or that learn from labelled samples alone, share the order of the data.
        """
        digest = hashlib.sha256()
        for step in self.order:
            digest.update(("\x1f".join(sorted(step)) + "\x1e").encode())
        return digest.hexdigest()


def make_schedule(
    lengths: Mapping[str, int],
    settings: TrainSettings,
    seed: int,
    labelled: Collection[str] | None = None,
    *,
    labels_alone: bool = False,
) -> Schedule:
    """Epochs of shuffled samples cut into steps, and each step, sorted by length, into micro-batches.

    `lengths` are tokens by sample id. Where only some samples are `labelled`, every step takes labelled_per_step of
    them and fills up with others; either kind comes round and round in an order that is drawn anew each time, and an
    epoch is still as many steps as hold all samples once. `labels_alone` leaves the others out of the micro-batches.
    Sorting within a step saves padding and changes no gradient: the loss is a mean over the whole step.
    """
    per_epoch = -(-len(lengths) // settings.batch_size)
    if labelled is None or len(labelled) == len(lengths):
        order = _epochs(list(lengths), settings, seed)
    else:
        order = _stratified(lengths, labelled, settings, seed, per_epoch)
    order = order[: settings.max_steps]
    steps = []
    for step in order:
        used = [sample_id for sample_id in step if not labels_alone or labelled is None or sample_id in labelled]
        batch, size = sorted(used, key=lambda each: (lengths[each], each)), settings.micro_batch_size
        steps.append(tuple(tuple(batch[start : start + size]) for start in range(0, len(batch), size)))
    return Schedule(tuple(order), tuple(steps), per_epoch)


def _epochs(sample_ids: Sequence[str], settings: TrainSettings, seed: int) -> list[Batch]:
    steps = []
    for epoch in range(settings.epochs):
        order = data_order(sample_ids, seed, f"{epoch}")
        steps += [tuple(order[at : at + settings.batch_size]) for at in range(0, len(order), settings.batch_size)]
    return steps


def _stratified(
    lengths: Mapping[str, int], labelled: Collection[str], settings: TrainSettings, seed: int, per_epoch: int
) -> list[Batch]:
    assert settings.labelled_per_step is not None  # config/rules.py asks for it
    first = _rounds([each for each in lengths if each in labelled], seed, "labelled")
    others = _rounds([each for each in lengths if each not in labelled], seed, "unlabelled")
    counts = settings.labelled_per_step, settings.batch_size - settings.labelled_per_step
    return [
        tuple(next(kind) for kind, count in zip((first, others), counts, strict=True) for _ in range(count))
        for _ in range(settings.epochs * per_epoch)
    ]


def _rounds(sample_ids: Sequence[str], seed: int, purpose: str) -> Iterator[str]:
    """The samples again and again, each round in an order of its own."""
    turn = 0
    while True:
        yield from data_order(sample_ids, seed, f"{purpose}/{turn}")
        turn += 1


def learning_rate_factor(update: int, updates: int, settings: TrainSettings) -> float:
    """Of the full rate: a warm-up to 1, then the schedule's way down to 0 at the last update."""
    warmup = math.ceil(settings.warmup * updates)
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, updates - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return factor[settings.schedule]
