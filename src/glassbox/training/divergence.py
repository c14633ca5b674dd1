"""A loss, gradient or logit that is not finite: what is known about it, as a dump and as a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from glassbox.files import write_synced
from glassbox.snapshot.reader import Batch

if TYPE_CHECKING:
    pass


DUMP = "diverged.json"


def describe(step: int, batches: Sequence[Batch], components: Mapping[str, Tensor], what: str) -> dict[str, Any]:
    """What one process knows about a non-finite loss or gradient."""
    return {
        "step": step,
        "what": what,
        "sample_ids": [sample_id for batch in batches for sample_id in batch.sample_ids],
        "components_of_the_last_micro_batch": {
            name: [repr(value) for value in values.detach().float().cpu().tolist()]
            for name, values in components.items()
        },
        "not_finite": [name for name, values in components.items() if not bool(values.isfinite().all())],
    }


def dump(folder: Path, found: Mapping[str, Any]) -> None:
    write_synced(folder / DUMP, json.dumps(found, indent=2).encode())


def sentence(found: Mapping[str, Any]) -> str:
    """Why the trial diverged, for people."""
    bad = found["not_finite"]
    where = f"in {', '.join(bad)}" if bad else "although every component was finite"
    return (
        f"the {found['what']} of step {found['step']} is not finite {where}; the update was not made, "
        f"{DUMP} lists samples and values"
    )
