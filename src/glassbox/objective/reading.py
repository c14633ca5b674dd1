"""What a component is computed from: the student at some positions, the teacher's signals there, and what belongs to
neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glassbox.config.components import COMPONENTS
from glassbox.config.settings import ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.objective.roots import Vocabularies
from glassbox.objective.term import Term

if TYPE_CHECKING:
    from glassbox.models.signals import PositionSignals
    from glassbox.objective.head import Head
    from glassbox.objective.mixture import Experts
    from glassbox.snapshot.reader import Batch

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ingredients:
    """What components need beside the batch; each is there where a component of the group asks for it.

    head: the teacher's (weight, bias or None). channels: the mean and deviation of its hidden channels. temperatures:
    those at which the snapshot holds log-tails. projectors: the student's own, by component. layer_pairs: of the layer
    map; teacher_layers: those that are stored, with layer_channels; student_layers: those that are read, the last one
    not among them. initial_layer_losses: in units of which each layer's counts in `layer_router`. relation_widths: the
    teacher's queries', keys' and values'. negatives: those of the moment. experts: how the teacher's are mixed.
    vocabularies: the pieces of both in order.
    """

    head: tuple[Tensor, Tensor | None] | None = None
    channels: tuple[Tensor, Tensor] | None = None
    temperatures: tuple[float, ...] = ()
    projectors: Mapping[str, nn.Module] = field(default_factory=dict)
    layer_pairs: tuple[tuple[int, int], ...] = ()
    student_layers: tuple[int, ...] = ()
    teacher_layers: tuple[int, ...] = ()
    layer_channels: tuple[Tensor, Tensor] | None = None
    initial_layer_losses: Tensor | None = None
    student_relations_layer: int | None = None
    relation_widths: tuple[int, ...] = ()
    relation_heads: int = 0
    negatives: Any = None
    experts: Experts | None = None
    vocabularies: Vocabularies | None = None

    def to(self, device: torch.device | str) -> Ingredients:
        """On a device; projectors belong to the student and move with it, and negatives are drawn there."""
        fixed = {name: value for name, value in vars(self).items() if name not in ("projectors", "negatives")}
        return replace(self, **{name: _moved(value, device) for name, value in fixed.items()})


def _moved(value: Any, device: torch.device | str) -> Any:
    """Tensors and experts on the device, also within tuples; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_moved(each, device) for each in value)
    return value.to(device) if hasattr(value, "to") else value


class Target(Protocol):
    """What a component of the student's logits compares them with."""

    def divergence(
        self, student_logits: Float[Tensor, "chunk vocabulary"], chunk: slice, temperature: float, squared: bool
    ) -> Term:
        """Value and gradient at the rows of `chunk`."""
        ...


@dataclass(frozen=True)
class Reading:
    """What one component reads at the packed positions that `rows` marks (None: at all of them).

    student and head are the student's signals and output layer. source carries the teacher's signals: the batch itself
    or its teacher's side, or the partner of that where the component is shuffled. reach: "answer" or "all". temperature
    and progress are those of the moment.
    """

    name: str
    student: PositionSignals
    head: Head
    batch: Batch
    source: Batch
    rows: Bool[Tensor, " positions"] | None
    reach: str
    settings: ObjectiveSettings
    temperature: float
    progress: float
    ingredients: Ingredients

    def stored(self, signal: str) -> Float[Tensor, "rows ..."]:
        """A signal of the teacher at these positions, by its name in a batch."""
        found = self.source.further.get(signal, getattr(self.source, signal, None))
        return at(present(found, signal), self.rows)

    @property
    def projector(self) -> nn.Module:
        """The component's own."""
        return present(self.ingredients.projectors.get(self.name), "projector")


def rows_of(batch: Batch, name: str, reach: str) -> Bool[Tensor, " positions"] | None:
    """The packed positions at which a component has values; None for every one of them."""
    return batch.rows(reach, COMPONENTS[name].by_chunk)


def at(values: Tensor, rows: Bool[Tensor, " positions"] | None) -> Tensor:
    """The values at the packed positions that `rows` marks (None: at all); those of just these stay as they are."""
    return values if rows is None or len(values) != len(rows) else values[rows]


def spread(values: Float[Tensor, " rows"], rows: Bool[Tensor, " positions"] | None) -> Float[Tensor, " positions"]:
    """Values of the marked positions in their places among all packed positions, 0 elsewhere."""
    if rows is None:
        return values
    return values.new_zeros(len(rows)).masked_scatter_(rows, values)


def present(value: Value | None, name: str) -> Value:
    """The value. Raises GlassboxError where a batch was read without it."""
    if value is None:
        raise GlassboxError(
            f"The objective needs '{name}' and this batch carries none. Read the snapshot with the objective's own "
            "`signals`; if the snapshot lacks them, capture it again with `dvc repro snapshot`."
        )
    return value
