"""The project's own code run on tensors without data: what it would hold in memory, at any size, in seconds.

Floating-point tensors are torch's fake tensors (shape, format and storage, but no numbers); integers and masks are
real, because positions and lengths decide shapes. What a kernel allocates inside itself is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Abstraction(TorchDispatchMode):
    """While active, computes with fake tensors and keeps count of the bytes that live, by part.

    `part_of` names the part that a new tensor of some shape belongs to, None for the part of the current phase.
    """

    def __init__(self, part_of: Callable[[torch.Size], str | None]) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.part_of = part_of
        self.phase = "activations"
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self._known: dict[int, _Storage] = {}

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """New tensors of no part of their own are counted under `phase`."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def empty(self, *shape: int, dtype: torch.dtype, part: str) -> Tensor:
        """A fake tensor that is already there when the code starts, such as a weight."""
        with self.fake:
            tensor = torch.empty(*shape, dtype=dtype)
        self.assign([tensor], part)
        return tensor

    def assign(self, tensors: Iterable[Tensor], part: str) -> None:
        """Count these tensors under `part`, whatever they were before."""
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                self._count(tensor, part)

    def forget_peak(self) -> None:
        self.peak = dict(self.live)

    def _count(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        known = self._known.get(id(storage))
        if known is not None:
            self.live[known.part] -= known.size
            known.part = part
            self.live[part] += known.size
            return
        key = id(storage)
        entry = _Storage(part, storage.nbytes())
        entry.reference = weakref.ref(storage, lambda _: self._release(key))
        self._known[key] = entry
        self.live[part] += entry.size
        if sum(self.live.values()) > sum(self.peak.values()):
            self.peak = dict(self.live)

    def _release(self, key: int) -> None:
        entry = self._known.pop(key)
        self.live[entry.part] -= entry.size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0
        if func is aten.equal.default:
            return False
        if func is aten.index.Tensor:
            args = (args[0], _positions_of_masks(args[1]))
        with self.fake:
            result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, FakeTensor) and id(tensor.untyped_storage()) not in self._known:
                self._count(tensor, self.part_of(tensor.shape) or self.phase)
        return result


class _Storage:
    def __init__(self, part: str, size: int) -> None:
        self.part, self.size = part, size
        self.reference: weakref.ref[Any] | None = None


def _positions_of_masks(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Real masks as the positions they select: a fake tensor cannot be cut to a size that only data knows."""
    result: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            result += index.nonzero().unbind(1)
        else:
            result.append(index)
    return result
