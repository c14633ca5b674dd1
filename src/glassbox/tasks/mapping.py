"""Rows with any columns -> rows with `prompt` or `messages`, `answer` and `choices`, as the settings map them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from glassbox.config.settings import TaskFields
from glassbox.tasks.lines import brief

_COLUMN = re.compile(r"\{([^{}]+)\}")


def mapped(row: Mapping[str, Any], fields: TaskFields) -> dict[str, Any]:
    """Raises ValueError where a column is missing, or the answer cannot be found among the choices."""
    result: dict[str, Any] = {}
    if fields.prompt is not None:
        result["prompt"] = filled(fields.prompt, row)
    if fields.messages is not None:
        result["messages"] = column(row, fields.messages)
    if fields.cluster is not None:
        result["cluster"] = str(column(row, fields.cluster))
    if isinstance(fields.choices, str):
        result["choices"] = [str(each) for each in _list(row, fields.choices, "choices")]
    elif fields.choices is not None:
        result["choices"] = [filled(choice, row, literal=True) for choice in fields.choices]
    if fields.answer is not None:
        answer = filled(fields.answer, row)
        labels = None if fields.labels is None else _list(row, fields.labels, "labels")
        result["answer"] = _chosen(answer, result["choices"], labels) if "choices" in result else _text(answer, fields)
    return result


def filled(template: str, row: Mapping[str, Any], *, literal: bool = False) -> Any:
    """A text with each {column} replaced; without braces, the value of that column, or with `literal` the text."""
    if not _COLUMN.search(template):
        return template if literal else column(row, template)
    return _COLUMN.sub(lambda match: str(column(row, match[1])), template)


def column(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column; a dot leads into a column of objects. Raises ValueError naming the columns there are."""
    value: Any = row
    for part in [path] if path in row else path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            there = brief(sorted(value), 200) if isinstance(value, Mapping) else brief(value)
            raise ValueError(f"there is no column `{path}`; there are {there}")
        value = value[part]
    return value


def _list(row: Mapping[str, Any], path: str, role: str) -> list[Any]:
    value = column(row, path)
    if not isinstance(value, list | tuple):
        raise ValueError(f"the column `{path}` serves as {role} and holds no list, but {brief(value)}")
    return list(value)


def _text(answer: Any, fields: TaskFields) -> Any:
    if isinstance(answer, bool | int | float):
        raise ValueError(
            f"the column `{fields.answer}` holds the number {brief(answer)}; answer: '{{{fields.answer}}}' in `fields` "
            "reads it as a text"
        )
    return answer


def _chosen(answer: Any, choices: list[str], labels: list[Any] | None) -> str:
    """The choice that an answer names: by its label, its place from 0, its text or its letter."""
    if labels is not None:
        place = labels.index(answer) if answer in labels else -1
    elif isinstance(answer, int) and not isinstance(answer, bool):
        place = answer
    elif answer in choices:
        place = choices.index(answer)
    else:
        letter = str(answer).strip()
        place = ord(letter) - ord("A") if len(letter) == 1 and letter.isascii() and letter.isupper() else -1
    if not 0 <= place < len(choices):
        raise ValueError(f"the answer {brief(answer)} is none of the choices {brief(choices, 200)}")
    return choices[place]
