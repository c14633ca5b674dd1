"""YAML read by the safe loader, with the numbers of YAML 1.2 (as DVC reads them) and without duplicate keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader  # libyaml's: the same, in a thirtieth of the time
except ImportError:
    from yaml import SafeLoader

from glassbox.config.problems import Problem
from glassbox.errors import GlassboxError

_DECIMAL = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(SafeLoader):  # type: ignore[misc]
    """The safe loader, to which 1e-4 is a number and not a text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _DECIMAL, list("-+.0123456789"))


def read_yaml(path: str | Path) -> tuple[dict[str, Any], list[Problem]]:
    """A file's mapping and its duplicate keys. Raises GlassboxError where there is no mapping to speak of."""
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise GlassboxError(
            f"There is no {path}: run this in the repository's root, or write the file by `make params`."
        ) from None
    except UnicodeDecodeError as error:
        raise _not_yaml(path, error) from error


def parse_yaml(text: str, path: str | Path) -> tuple[dict[str, Any], list[Problem]]:
    """The same for the text of the file at `path`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        raise _not_yaml(path, error) from error
    if not isinstance(values, dict):
        raise GlassboxError(f"{path} holds no settings. Next: `git restore {path}`, or `make params`.")
    return values, list(_duplicates(node))


def _not_yaml(path: str | Path, error: Exception) -> GlassboxError:
    where = " ".join(str(error).split())
    return GlassboxError(f"{path} is not YAML ({where}). Next: `git restore {path}`, or `make params`.")


def _duplicates(node: yaml.Node | None, prefix: str = "") -> Iterator[Problem]:
    if isinstance(node, yaml.SequenceNode):
        for position, entry in enumerate(node.value):
            yield from _duplicates(entry, f"{prefix}{position}.")
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            why = f"is written twice, on line {lines[name]} and on line {line}"
            yield Problem(f"{prefix}{name}", why, "keep one of them", None, False)
        lines[name] = line
        yield from _duplicates(value, f"{prefix}{name}.")
