"""Stand-ins for packages that a bare GPU machine may lack, so that the product's own modules can be imported there.

They take the place of jaxtyping's annotations, of pydantic's checks (settings are as they are given) and of the names
that PyArrow's schemas are made of. Whatever needs the real package, such as writing Parquet, is not measured without
it.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

STOOD_IN = ("jaxtyping", "pydantic", "pydantic_core", "pyarrow")


class _Inert:
    """Can be called, subscripted, subclassed and joined with `|`, and does nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __class_getitem__(cls, item: Any) -> type:
        return cls


class _InertModule(ModuleType):
    """Every name that is asked for is an inert class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Inert,), {})


class _Model:
    """pydantic.BaseModel without checks: named values over the class's defaults."""

    def __init__(self, **values: Any) -> None:
        names = {name for cls in type(self).__mro__ for name in vars(cls).get("__annotations__", {})}
        for name in names:
            setattr(self, name, values.get(name, getattr(type(self), name, None)))

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        return type(self)(**{**vars(self), **update})


def _field(default: Any = None, **_: Any) -> Any:
    return default


def _untouched(*_: Any, **__: Any) -> Any:
    return lambda function: function


def missing() -> list[str]:
    """The packages that are not installed, or are stood in for."""
    return [name for name in STOOD_IN if isinstance(sys.modules.get(name), _InertModule) or _is_absent(name)]


def _is_absent(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name) is None


def install() -> None:
    """Put stand-ins where a package is missing."""
    absent = [name for name in STOOD_IN if _is_absent(name)]
    for name in absent:
        sys.modules[name] = _InertModule(name)
    if "pydantic" in absent:
        vars(sys.modules["pydantic"]).update(BaseModel=_Model, Field=_field, model_validator=_untouched)
    if "pyarrow" in absent:
        arrow = sys.modules["pyarrow"]
        arrow.ArrowException = type("ArrowException", (Exception,), {})  # type: ignore[attr-defined]
        arrow.parquet = sys.modules["pyarrow.parquet"] = _InertModule("pyarrow.parquet")  # type: ignore[attr-defined]
