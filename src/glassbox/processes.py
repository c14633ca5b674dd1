"""Several processes for one trial or one capture: who does what, and what all of them agree on.

Whole batches are handed out in turn. What a process decides by, it has from all of them: sums are formed in the order
of the processes, so that each gets the same bits. One process, the usual case, communicates nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.utils import (
    DistributedType,
    DynamoBackend,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    TorchDynamoPlugin,
)
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from glassbox.command import is_launched
from glassbox.errors import GlassboxError

Item = TypeVar("Item")

# The others wait while the main process writes a checkpoint or logs to MLflow; the launcher ends them if it dies.
LONGEST_WAIT = timedelta(hours=6)
# Each would have Accelerate train in a way that no setting names and no trial's key holds
REFUSED_VARIABLES = (
    "ACCELERATE_DOWNCAST_BF16",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_USE_SAGEMAKER",
)


@cache
def machine() -> str:
    """What computes here: the GPU's name, else the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class Processes:
    """This process among those that were started together."""

    def __init__(self, device: torch.device) -> None:
        joined = distributed.is_available() and distributed.is_initialized()
        self.count = distributed.get_world_size() if joined else 1
        self.index = distributed.get_rank() if joined else 0
        self.device = device

    @property
    def is_main(self) -> bool:
        """The main process alone writes and prints."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's items; `in_order` puts the shares of all processes together again."""
        return items[self.index :: self.count]

    def in_order(self, shares: Sequence[Sequence[Item]]) -> list[Item]:
        return [shares[at % self.count][at // self.count] for at in range(sum(map(len, shares)))]

    def turns(self, items: Sequence[Item]) -> list[tuple[Item, bool]]:
        """This process's item in each round, and whether it counts.

        Every process takes part in every round, for gradients and sharded weights meet in each. Where items run out,
        the first one is taken again and must not count.
        """
        places = range(self.index, -(-len(items) // self.count) * self.count, self.count)
        return [(items[place], True) if place < len(items) else (items[0], False) for place in places]

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.count == 1:
            return number
        found = torch.tensor(number, device=self.device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def totals(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Sums over processes; each must bring the same names."""
        mine = {name: float(value) for name, value in values.items()}
        if self.count == 1:
            return mine
        row = torch.tensor(list(mine.values()), dtype=torch.float64, device=self.device)
        rows = [torch.empty_like(row) for _ in range(self.count)]
        distributed.all_gather(rows, row)
        return dict(zip(mine, torch.stack(rows).sum(dim=0).tolist(), strict=True))

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over processes."""
        if self.count == 1:
            return tensor
        rows = [torch.empty_like(tensor) for _ in range(self.count)]
        distributed.all_gather(rows, tensor.contiguous())
        return torch.stack(rows).sum(dim=0)

    def gather(self, value: Item) -> list[Item]:
        """What each process brings, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            distributed.barrier()


def start_accelerator(precision: str, *, cpu: bool, uses_every_weight: bool = True) -> Accelerator:
    """Accelerate as the launcher's environment asks for it: one process, DDP or FSDP.

    Nothing else in the environment changes the training: accumulation steps (each would divide the loss) and the
    compiler are fixed here. Raises GlassboxError for variables that would.

    Without `uses_every_weight`, DDP looks for weights that no loss reaches. FSDP keeps weights, sums and outputs in
    float32; mixed precision is autocast's, as in one process.
    """
    _refuse_other_trainers()
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
    if sharded and precision == "fp16":
        raise GlassboxError(
            "Mixed precision fp16 scales its losses, and shards of the gradient may overflow in one process alone. Use "
            "`-S train.precision=bf16` or `no` with FSDP, or share the trial out by `-S train.parallelism=ddp`."
        )
    plugin = FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy()) if sharded else None
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=cpu,
        fsdp_plugin=plugin,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        dynamo_plugin=TorchDynamoPlugin(backend=DynamoBackend.NO),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
            DistributedDataParallelKwargs(find_unused_parameters=not uses_every_weight),
        ],
    )
    if sharded and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate shards on accelerators only; torch does so on CPUs too
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def _refuse_other_trainers() -> None:
    found = [name for name in REFUSED_VARIABLES if os.environ.get(name, "").lower() not in ("", "0", "false", "no")]
    if found:
        raise GlassboxError(
            f"The environment sets {', '.join(found)}: Accelerate would train another way than the settings say, under "
            f"the same key. `unset {' '.join(found)}`, then the same command again; `train.precision` and "
            "`train.parallelism` are the settings for it."
        )


def join_processes() -> Processes:
    """The processes of one capture, on the device that belongs to this one."""
    cuda = torch.cuda.is_available()
    if not is_launched():
        return Processes(torch.device("cuda" if cuda else "cpu"))
    device = PartialState(cpu=not cuda, timeout=LONGEST_WAIT).device
    assert device is not None
    return Processes(device)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is sharded over processes put together on the CPU, by all of them at once; others as they are."""
    return tensor.full_tensor().detach().cpu() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that lies on this process; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Names and whole weights; weights that share memory still do."""
    found: dict[int, Tensor] = {}
    state = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in found:
            found[id(tensor)] = whole(tensor).detach()
        state[name] = found[id(tensor)]
    return state


def laid_out_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, which every process holds, on the device and sharded as `reference` is."""
    placed = tensor.to(reference.device)
    if isinstance(reference, DTensor):
        return distribute_tensor(placed, reference.device_mesh, reference.placements, src_data_rank=None)
    return placed


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Sharded weights lie whole on every process, so that each may run parts of the module as often as it likes."""
    if isinstance(module, FSDPModule):
        module._get_fsdp_state()._lazy_init()  # else a part that runs before the whole module is taken for the root
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in sharded:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in sharded:
            part.reshard()
            part.set_reshard_after_forward(part is not module, recurse=False)
