"""The teacher's states that a step's positions are told apart from: of other samples, the same for every group."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from glassbox.errors import GlassboxError
from glassbox.objective.contrastive import Negatives
from glassbox.randomness import derived_seed
from glassbox.snapshot.codec import hidden_array, hidden_tensor
from glassbox.snapshot.reader import Snapshot


class Bank:
    """The positions of a trial's training texts, from which every step draws; only what is drawn is read.

    `texts` are the ids that stand in the snapshot; of each its answer's positions count, or all where `reach` says so.
    """

    def __init__(self, snapshot: Snapshot, texts: Sequence[str], count: int, seed: int, reach: str) -> None:
        self._snapshot, self._count, self._seed = snapshot, count, seed
        self._texts = sorted(texts)
        samples = snapshot.stored(self._texts, ())
        counts = [each.n_tokens - 1 if reach == "all" else each.n_answer for each in samples]
        self._ends = np.cumsum(counts)

    def drawn(self, moment: str, without: Collection[str] = ()) -> Negatives:
        """As many positions as are wanted, each at most once, none of the texts in `without`.

        `moment` names the step. Raises GlassboxError where every text is among those that are left out.
        """
        generator = np.random.Generator(np.random.PCG64(derived_seed(self._seed, f"negatives/{moment}")))
        order = generator.permutation(int(self._ends[-1]))
        owner = np.searchsorted(self._ends, order, side="right")
        left_out = np.array([text in without for text in self._texts])
        kept = np.flatnonzero(~left_out[owner])[: self._count]
        if not len(kept):
            raise GlassboxError(
                f"The contrastive component has no sample to draw negatives from: all {len(self._texts)} of the trial "
                "are in this step. Use a smaller train.batch_size, or more training samples."
            )
        return self._read(owner[kept], self._ends[owner[kept]] - order[kept])

    def _read(self, owner: np.ndarray, from_the_end: np.ndarray) -> Negatives:
        """States and next tokens at places counted from the end of their texts' positions."""
        layout, texts = self._snapshot.format, sorted(set(owner.tolist()))
        samples = self._snapshot.stored([self._texts[each] for each in texts], ("hidden",))
        found = dict(zip(texts, samples, strict=True))
        pairs = list(zip(owner.tolist(), from_the_end.tolist(), strict=True))
        states = np.stack([hidden_array(found[text].cells["hidden"], layout)[-place] for text, place in pairs])
        ids = torch.tensor([int(found[text].input_ids[-place]) for text, place in pairs])
        return Negatives(hidden_tensor(states, layout).float(), ids)
