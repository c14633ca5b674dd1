"""Settings that are a number or a curve over a trial's progress: `0.5`, or the text `0:0, 0.3:0, 0.5:0.1`.

A curve is written as progress:value points and is linear between them; before the first and after the last point it
keeps their values. Progress is 0 before the first update and 1 after the last.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

Points = tuple[tuple[float, float], ...]

EXAMPLE = "0:0, 0.3:0, 0.5:0.1"


def points_of(value: float | str) -> Points:
    """(progress, value) in ascending order; a number is one point. Raises ValueError with the reason as a sentence."""
    if not isinstance(value, str):
        return ((0.0, float(value)),)
    points = tuple(_point(part) for part in value.split(","))
    places = [place for place, _ in points]
    if len(points) < 2:
        raise ValueError(f"a curve has at least two points, like '{EXAMPLE}'; a constant is a number without quotes")
    if not all(0.0 <= place <= 1.0 for place in places):
        raise ValueError("the progress of each point lies between 0 and 1")
    if any(later <= earlier for earlier, later in zip(places, places[1:], strict=False)):
        raise ValueError("the progress of its points ascends, and no two points share one")
    return points


def _point(text: str) -> tuple[float, float]:
    place, colon, value = text.partition(":")
    try:
        if colon:
            return float(place), float(value)
    except ValueError:
        pass
    raise ValueError(f"'{text.strip()}' is no point of a curve; points are progress:value, like '{EXAMPLE}'")


def value_at(points: Points, progress: float) -> float:
    """The value at a progress between 0 and 1; a curve's own points are met exactly."""
    before = [point for point in points if point[0] <= progress]
    after = [point for point in points if point[0] > progress]
    if not before or not after:
        return (before or after)[-1 if before else 0][1]
    (start, low), (end, high) = before[-1], after[0]
    return low + (high - low) * (progress - start) / (end - start)


def highest(value: float | str) -> float:
    """The largest value that a setting ever takes."""
    return max(value for _, value in points_of(value))


def is_constant(value: float | str) -> bool:
    return len({value for _, value in points_of(value)}) == 1


def _checked(value: Any, lowest: float, allowed: str) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        expected = "input should be a number, or a curve like '{example}'"
        raise PydanticCustomError("curve", expected, {"example": EXAMPLE})
    try:
        values = [each for _, each in points_of(value)]
    except ValueError as error:
        raise PydanticCustomError("curve", "{why}", {"why": str(error)}) from None
    if not all(math.isfinite(each) and each >= lowest for each in values):
        raise PydanticCustomError("curve", "{allowed}", {"allowed": allowed})
    return value if isinstance(value, str) else float(value)


def _weight(value: Any) -> float | str:
    return _checked(value, 0.0, "input should be finite and at least 0, at every point of a curve")


def _temperature(value: Any) -> float | str:
    return _checked(value, math.nextafter(0.0, 1.0), "input should be finite and above 0, at every point of a curve")


WeightCurve = Annotated[float | str, PlainValidator(_weight)]
TemperatureCurve = Annotated[float | str, PlainValidator(_temperature)]
