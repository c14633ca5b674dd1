"""One line of a table: what was compared on which shapes, what came out, and what was aimed at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from suite.measuring import Ratio


@dataclass(frozen=True)
class Row:
    """`value` is a ratio or a share, between `low` and `high` over the rounds; None where it was not measured.

    `number` is the row's own, such as "2b", and may repeat with another `name`. `goal` is a ceiling unless `at_least`;
    `limit` is what physics allows, in words. `cpu` is the same ratio of processor time. `note` says why a goal is
    missed or a row not measured; `details` are figures for the JSON alone.
    """

    number: str
    name: str
    shapes: str
    value: float | None
    goal: float | None = None
    low: float | None = None
    high: float | None = None
    cpu: float | None = None
    at_least: bool = False
    limit: str = ""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, number: str, name: str, shapes: str, found: Ratio, goal: float | None = None, **more: Any) -> Row:
        return cls(number, name, shapes, found.value, goal, found.low, found.high, found.cpu, **more)

    @property
    def is_met(self) -> bool | None:
        """None where there is no goal or no value."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.is_met}


@dataclass(frozen=True)
class Line:
    """A line of a table without goals: named cells, in the order of the columns."""

    cells: dict[str, str | float]

    def as_json(self) -> dict[str, Any]:
        return {"cells": self.cells}
