"""A row of any data set - a mapping with `prompt` or `messages`, `answer` and `choices` - as a sample.

A row without an answer is a prompt alone: a training sample whose labels are the teacher's answers, or none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from glassbox.config.problems import nearest
from glassbox.models.marks import RENDERED
from glassbox.tasks.lines import brief
from glassbox.tasks.sample import ANSWER_MARK, Sample, extract_number, make_sample

KEYS = ("prompt", "messages", "answer", "choices", "cluster")
UNASSIGNED = "unassigned"


class Chat(NamedTuple):
    """A conversation as the model reads it: up to its answer, and the blanks with which the answer follows."""

    prompt: str
    lead: str


Render = Callable[[Sequence[Mapping[str, str]]], Chat]


def no_template(messages: Sequence[Mapping[str, str]]) -> Chat:
    """Where no teacher is named whose chat template could put them."""
    raise ValueError(f"`messages` need the teacher's chat template, and no teacher is named: {brief(messages)}")


def sample_of(row: Mapping[str, Any], render: Render) -> Sample:
    """Raises ValueError with the reason where a row is no sample; `render` puts `messages` into a chat template."""
    refuse_unwritable(row)
    _refuse_misspelt_keys(row)
    prompt, lead, last = _prompt(row, render)
    answer = last if last is not None else text_of(row, "answer") if "answer" in row else None
    cluster = text_of(row, "cluster") if row.get("cluster") is not None else ""
    if answer is None:
        if row.get("choices"):
            raise ValueError("it has choices and no `answer`")
        return make_sample("", UNASSIGNED, prompt, "", (), "", cluster)
    asked = prompt if "messages" not in row else _last_question(row["messages"])
    if answer.strip() == asked.strip():
        raise ValueError(f"prompt and answer are the same text, {brief(answer)}")
    answer = f"{lead}{answer.strip()}"
    choices = _choices(row.get("choices"), lead)
    if choices and answer not in choices:
        raise ValueError(f"choices hold the answer {brief(answer.strip())}, not {brief(row['choices'])}")
    gold = answer if choices else extract_number(answer) if ANSWER_MARK in answer else answer.strip()
    if gold is None:
        raise ValueError(f"a number was expected after '{ANSWER_MARK}', not {brief(answer.partition(ANSWER_MARK)[2])}")
    return make_sample("", UNASSIGNED, prompt, answer, choices, gold, cluster)


def text_of(row: Mapping[str, Any], key: str) -> str:
    """The text under a key. Raises ValueError where there is none, saying what stands there instead."""
    value = row.get(key)
    if isinstance(value, bool | int | float | list | dict):
        hint = f"; write {json.dumps(json.dumps(value))}" if isinstance(value, bool | int | float) else ""
        raise ValueError(f"`{key}` is {_kind(value)}, and a text in quotes was expected{hint}")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` is missing or no text; the keys are {brief(sorted(row), 200)}")
    return value


def _kind(value: Any) -> str:
    names = {bool: "the truth value", int: "the number", float: "the number", list: "the list", dict: "the object"}
    return f"{names[type(value)]} {brief(json.dumps(value, ensure_ascii=False)).strip(chr(39))}"


def _prompt(row: Mapping[str, Any], render: Render) -> tuple[str, str, str | None]:
    """Prompt, the blanks before the answer, and the answer where the conversation ends with it."""
    if "messages" not in row:
        return text_of(row, "prompt").rstrip(), " ", None
    if row.get("prompt") is not None:
        raise ValueError("it has `prompt` and `messages`, and one of them is the prompt")
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"`messages` is a list of objects with `role` and `content`, not {brief(messages)}")
    for position, message in enumerate(messages, start=1):
        texts = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not texts:
            raise ValueError(f"message {position} has no texts `role` and `content`: {brief(message)}")
    last = None
    if messages[-1]["role"] == "assistant":
        if "answer" in row:
            raise ValueError("`messages` end with the assistant's answer, and `answer` gives a second one")
        last, messages = text_of(messages[-1], "content"), messages[:-1]
    if not messages:
        raise ValueError("`messages` hold an answer and nothing before it")
    chat = render(messages)
    return RENDERED + chat.prompt, chat.lead, last


def _last_question(messages: Sequence[Mapping[str, str]]) -> str:
    """What stands before the answer in a conversation that ends with it, or not."""
    before = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return before[-1]["content"]


def _choices(value: Any, lead: str) -> tuple[str, ...]:
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise ValueError(f"choices is a list of texts, not {brief(value)}")
    if len(value) == 1:
        raise ValueError(f"choices has one entry, {brief(value[0])}, which leaves nothing to choose")
    choices = tuple(f"{lead}{choice.strip()}" for choice in value)
    if len(set(choices)) != len(choices):
        raise ValueError(f"choices differ from each other, and these do not: {brief(value)}")
    return choices


def refuse_unwritable(row: Mapping[str, Any]) -> None:
    """Raises ValueError for half a surrogate pair, a NUL or our own noncharacter in any value."""
    for key, value in row.items():
        text = json.dumps(value, ensure_ascii=False, default=str)
        if not text.isascii():
            half = next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None)
            if half is not None:
                raise ValueError(
                    f"`{key}` holds half a surrogate pair, \\u{ord(half):04x}, which is no character (a text cut in "
                    "the middle of an emoji)"
                )
        if "\\u0000" in text or RENDERED in text:
            raise ValueError(f"`{key}` holds a NUL or the noncharacter U+FDD0, which no text may hold")


def _refuse_misspelt_keys(row: Mapping[str, Any]) -> None:
    absent = [key for key in KEYS if key not in row]
    for key in row:
        near = nearest(str(key), absent) if key not in KEYS else None
        if near:
            raise ValueError(f"`{key}` is not read, and the nearest key that is read is `{near}`")
