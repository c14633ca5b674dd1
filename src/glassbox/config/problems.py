"""What is wrong with a settings file, a sentence each: dotted path, value, why, nearest known key, next."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_LONGEST_VALUE = 60
_SIMILAR_ENOUGH = 0.6
_KEY = "[key]"


@dataclass(frozen=True)
class Problem:
    """One thing that cannot stay as it is. `path` is dotted; `next_step` is what to type or change."""

    path: str
    why: str
    next_step: str
    value: Any = None
    has_value: bool = True

    def sentence(self) -> str:
        shown = f"`{self.path}` = {short(self.value)}" if self.has_value else f"`{self.path}`"
        return f"{shown}: {self.why}. Next: {self.next_step}."


def short(value: Any) -> str:
    """A value as JSON on one line, cut where it is long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like this one, or None where nothing is like it."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=_SIMILAR_ENOUGH)
    return found[0] if found else None


def dotted(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location)


def known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that the section at a location accepts; empty where it names no section."""
    annotation: Any = model
    for part in location:
        annotation = _step(annotation, str(part))
    section = _section(annotation)
    return list(section.model_fields) if section else []


def every_key(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted path of every setting that has a fixed name."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_key(field.annotation, f"{prefix}{name}.")


def problem_of(error: ErrorDetails, model: type[BaseModel]) -> Problem:
    """The sentence's parts for one of pydantic's errors."""
    location, value = error["loc"], error["input"]
    path = dotted(location)
    if error["type"] == "extra_forbidden":
        return _unknown_key(location, value, model)
    if error["type"] == "missing":
        return Problem(
            path, "is missing", f"put it into conf/ and run `make params`, or add -S +{path}=...", None, False
        )
    if location[-1] == _KEY:
        why = "a name begins with a letter and holds letters, digits and underscores only"
        return Problem(dotted(location[:-1]), why, "choose another name in conf/", None, False)
    if error["type"] in ("tuple_type", "list_type") and not isinstance(value, Mapping | list):
        entries = str(value).strip().removeprefix("[").removesuffix("]")
        return Problem(path, "a list was expected", f"-S '{path}=[{entries}]', or correct it in conf/", value)
    if error["type"] == "too_short":
        one = f"-S '{path}=[<a value>]'" if isinstance(value, list) else "name one in conf/"
        return Problem(path, "it is empty, and at least one is needed", f"{one}, or leave it as conf/ has it", value)
    return Problem(path, _lower_first(error["msg"]), f"-S {path}=<another value>, or correct it in conf/", value)


def _unknown_key(location: Sequence[str | int], value: Any, model: type[BaseModel]) -> Problem:
    *section, name = location
    known = known_keys(model, section)
    here = f"`{dotted(section)}`" if section else "the settings"
    near = nearest(str(name), known)
    suggestion = dotted([*section, near]) if near else _nearest_elsewhere(str(name), model)
    if suggestion:
        why = f"{here} has no such key; the nearest known key is `{suggestion}`"
        shown = "..." if isinstance(value, Mapping) else short(value)
        return Problem(dotted(location), why, f"-S {suggestion}={shown}, or take the key out of conf/", value)
    why = f"{here} has no such key, only {', '.join(known)}"
    return Problem(dotted(location), why, "omit it, or remove it from conf/", value)


def _nearest_elsewhere(name: str, model: type[BaseModel]) -> str | None:
    """The path in any section whose last part is most like a name; of several, the first."""
    paths = {path.rpartition(".")[2]: path for path in reversed(list(every_key(model)))}
    near = nearest(name, list(paths))
    return paths[near] if near else None


def _step(annotation: Any, part: str) -> Any:
    """The annotation of one member of an annotation: a section's field, a dict's value, a tuple's element."""
    section = _section(annotation)
    if section:
        field = section.model_fields.get(part)
        return field.annotation if field else None
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


def _section(annotation: Any) -> type[BaseModel] | None:
    candidates = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    sections = [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]
    return sections[0] if sections else None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
