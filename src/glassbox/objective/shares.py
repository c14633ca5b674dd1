"""How much of each component every task contributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from glassbox.snapshot.reader import Batch


def parts_by_task(
    components: Sequence[str],
    weighted: Float[Tensor, "components positions"],
    batch: Batch,
    task_names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """`part_<component>/<task>`: a component's values times their position weights, summed over a task's positions.

    The parts of one component add up to it, and parts add up over micro-batches. `task_names` defaults to the batch's.
    """
    names = list(task_names) if task_names is not None else sorted(set(batch.tasks))
    row = {name: i for i, name in enumerate(names)}
    task_of_sample = torch.tensor([row[task] for task in batch.tasks], dtype=torch.long, device=weighted.device)
    task_of_position = task_of_sample.index_select(0, batch.sample_index.long())
    sums = weighted.new_zeros(len(components), len(names)).index_add_(1, task_of_position, weighted)
    return {
        f"part_{component}/{task}": sums[i, j] for i, component in enumerate(components) for j, task in enumerate(names)
    }


def shares(values: Mapping[str, float]) -> dict[str, float]:
    """`share_<component>/<task>`: each part in `Objective.values`, summed over a step, divided by its component.

    A component that is exactly 0 has no shares.
    """
    result = {}
    for name, value in values.items():
        if name.startswith("part_"):
            component, task = name.removeprefix("part_").split("/", 1)
            whole = values[f"loss_{component}"]
            if whole != 0:
                result[f"share_{component}/{task}"] = value / whole
    return result
