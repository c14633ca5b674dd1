"""One generator per purpose, all derived from a trial's seed, so that no use of randomness disturbs another."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose: "data_order/0", "student", "projector", "dropout"."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


def data_order(sample_ids: Sequence[str], seed: int, epoch: str) -> list[str]:
    """The samples of one epoch in the order of this seed: the same for every group, on every machine."""
    shuffler = np.random.Generator(np.random.PCG64(derived_seed(seed, f"data_order/{epoch}")))
    ordered = sorted(sample_ids)
    return [ordered[index] for index in shuffler.permutation(len(ordered))]
