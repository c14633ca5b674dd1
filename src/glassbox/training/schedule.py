"""What a trial does at which step: its batches and its learning rate."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from glassbox.config.settings import TrainSettings
from glassbox.randomness import data_order


@dataclass(frozen=True)
class Schedule:
    """Every optimizer step of a trial, as the micro-batches of sample ids it is made of."""

    steps: tuple[tuple[tuple[str, ...], ...], ...]
    steps_per_epoch: int

    @property
    def epoch_ends(self) -> frozenset[int]:
        ends = range(self.steps_per_epoch, len(self.steps), self.steps_per_epoch)
        return frozenset([*ends, len(self.steps)])

    def digest(self) -> str:
        """sha256 in hex over every step's sample ids, steps in the order they are trained.

        The loss is a mean over the whole step, so the order within a step, which follows the lengths, does not count:
        groups whose labels have other lengths share the order of the data.
        """
        digest = hashlib.sha256()
        for step in self.steps:
            digest.update(("\x1f".join(sorted(sample_id for batch in step for sample_id in batch)) + "\x1e").encode())
        return digest.hexdigest()


def make_schedule(lengths: Mapping[str, int], settings: TrainSettings, seed: int) -> Schedule:
    """Epochs of shuffled samples cut into batches, and each batch, sorted by length, into micro-batches.

    `lengths` are tokens by sample id. Sorting within a step saves padding and changes no gradient: the loss is a mean
    over the whole step.
    """
    steps = []
    for epoch in range(settings.epochs):
        order = data_order(list(lengths), seed, epoch)
        for at in range(0, len(order), settings.batch_size):
            batch = sorted(order[at : at + settings.batch_size], key=lambda sample_id: (lengths[sample_id], sample_id))
            size = settings.micro_batch_size
            steps.append(tuple(tuple(batch[start : start + size]) for start in range(0, len(batch), size)))
    per_epoch = -(-len(lengths) // settings.batch_size)
    return Schedule(tuple(steps[: settings.max_steps]), per_epoch)


def learning_rate(update: int, updates: int, settings: TrainSettings) -> float:
    """Warm-up to the full rate, then the schedule's way down to 0 at the last update."""
    warmup = math.ceil(settings.warmup * updates)
    if update < warmup:
        return settings.learning_rate * (update + 1) / warmup
    progress = (update - warmup) / max(1, updates - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return settings.learning_rate * factor[settings.schedule]
