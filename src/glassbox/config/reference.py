"""Every setting with its default, values, meaning and readers, and every file of conf/ that one selects.

Read off the models, conf/ and dvc.yaml, for docs/settings.md and `python src/settings.py --list`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glassbox.config.problems import nearest
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError

# Who reads what dvc.yaml does not name under a stage's params, because it changes no result or reaches it otherwise
OTHER_READERS = {
    "engine": "train",
    "storage": "settings, train",
    "storage.remote": "src/archive.py",
    "tuning": "src/tune.py",
    "tuning.key": "train, compare",
    "weights": "conf/distill, compare",
}
MEMBERS = {"prepare.tasks": "TASK", "distill": "GROUP"}
EXAMPLE = "learning_rate"
_HEAD = re.compile(r"^# Select with: dvc exp run -S .*?\((?P<what>.*)\)$", re.MULTILINE)
_BOUNDS = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
_KINDS = {"string": "text", "boolean": "true, false", "null": "null", "object": "a section"}

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A setting, or a file of conf/ that one selects (`train.epochs`, `scale=paper`).

    `default` is JSON, or None where there is none. `values`: what it may be or, of a file, what it holds.
    """

    key: str
    default: str | None
    values: str
    meaning: str
    readers: str = ""

    def __str__(self) -> str:
        shown = self.key if self.default is None else f"{self.key} = {self.default}"
        read_by = f" Read by: {self.readers}." if self.readers else ""
        return f"{shown}\n    {self.values}. {self.meaning}{read_by}"


def settings_entries(composed: Schema, dvc: Path) -> list[Entry]:
    """Every key in the order of the models; `composed` is what conf/ gives without any override."""
    schema = Settings.model_json_schema()
    readers = _readers(dvc)
    return [
        Entry(key, _default(key, node, composed), _values(node), node.get("description", ""), _read_by(key, readers))
        for key, node in _keys(schema, schema["$defs"], "")
    ]


def _keys(section: Schema, sections: Mapping[str, Schema], prefix: str) -> Iterator[tuple[str, Schema]]:
    """Dotted path and schema of every key below a section; TASK and GROUP stand for names of one's own."""
    for name, node in section["properties"].items():
        key = prefix + name
        yield key, node
        for place in (node, *node.get("anyOf", ()), node.get("items"), *node.get("patternProperties", {}).values()):
            if place and "$ref" in place:
                below = f"{key}.{MEMBERS[key]}." if key in MEMBERS else f"{key}."
                yield from _keys(sections[place["$ref"].rpartition("/")[2]], sections, below)


def _default(key: str, node: Schema, composed: Schema) -> str | None:
    """What conf/ gives a key; of sections with names of one's own, what the model gives."""
    value: Any = composed
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return json.dumps(node["default"]) if "default" in node else None
        value = value[part]
    return None if isinstance(value, Mapping) else json.dumps(value)


def _values(node: Schema) -> str:
    """What a key may hold, in words."""
    if "anyOf" in node:
        return " or ".join(_values(part) for part in node["anyOf"])
    if "enum" in node or "const" in node:
        return ", ".join(map(str, node.get("enum", [node.get("const")])))
    if "$ref" in node or "patternProperties" in node:
        return _KINDS["object"]
    if "propertyNames" in node:
        return f"{_values(node['additionalProperties'])} for each of: {_values(node['propertyNames'])}"
    kind = node.get("type", "number or curve")
    if "prefixItems" in node:
        return f"[{', '.join(_values(place) for place in node['prefixItems'])}]"
    if kind == "array":
        return f"a list of: {_values(node['items'])}"
    kind, bounds = str(kind), [f"{word} {node[sign]:g}" for sign, word in _BOUNDS.items() if sign in node]
    return " ".join(["whole number" if kind == "integer" else _KINDS.get(kind, kind), *bounds])


def _readers(dvc: Path) -> dict[str, list[str]]:
    """The params that every stage of dvc.yaml names."""
    stages = yaml.safe_load(dvc.read_text(encoding="utf-8"))["stages"]
    return {stage: content.get("params", []) for stage, content in stages.items()}


def _read_by(key: str, readers: Mapping[str, Sequence[str]]) -> str:
    """The stages whose params name a key; else what OTHER_READERS says, or the stages that name a part or the whole."""
    parts = key.split(".")
    holders = [".".join(parts[:size]) for size in range(len(parts), 0, -1)]
    other = next((OTHER_READERS[holder] for holder in holders if holder in OTHER_READERS), None)
    if other and not any(key in named for named in readers.values()):
        return other
    found = [
        stage
        for stage, named in readers.items()
        if any(each in holders or each.startswith(f"{key}.") for each in named)
    ]
    return ", ".join(found)


def file_entries(conf: Path, folder: str) -> list[Entry]:
    """The files of conf/distill or conf/scale: what their first line says, and what they set."""
    found = []
    for path in sorted((conf / folder).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        head = _HEAD.search(text)
        what = head["what"] if head else ""
        found.append(Entry(f"{folder}={path.stem}", None, _content(yaml.safe_load(text)), f"{what}."))
    return found


def _content(values: Schema) -> str:
    """The components that a group uses, the groups that a list names, or the sections that a scale sets."""
    listed = [each for each in values.get("defaults", ()) if isinstance(each, str) and each != "_self_"]
    own = {key: value for key, value in values.items() if key not in ("defaults", "scale")}
    if len(own) == 1 and isinstance(group := next(iter(own.values())), dict):
        return ", ".join(group)
    return ", ".join([*listed, *own])


def task_entries(composed: Schema, meanings: Mapping[str, str]) -> list[Entry]:
    """The tasks that conf/ gives without any override, and how each is scored."""
    return [
        Entry(
            f"prepare.tasks.{name}",
            None,
            f"source {task['source']}: "
            + ", ".join(f"{task[split]} {split}" for split in ("train", "validation", "test")),
            meanings.get(name, ""),
        )
        for name, task in composed["prepare"]["tasks"].items()
    ]


def listing(entries: Sequence[Entry], word: str = "") -> str:
    """The entries whose key or meaning holds a word; all without one. Raises GlassboxError where there is none."""
    found = [entry for entry in entries if word.lower() in f"{entry.key} {entry.meaning}".lower()]
    if not found:
        near = nearest(word, [part for entry in entries for part in (entry.key, entry.key.rpartition(".")[2])])
        hint = f"the nearest is `{near}`" if near else "`python src/settings.py --list` prints all"
        raise GlassboxError(f"No setting, group, task or scale has '{word}' in its name or description; {hint}.")
    return "\n".join(map(str, found))


def page(settings: Sequence[Entry], tasks: Sequence[Entry], groups: Sequence[Entry], scales: Sequence[Entry]) -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Written by `make docs` from src/glassbox/config/settings.py, conf/ and dvc.yaml; edit those. -->",
        "",
        "```",
        f"$ python src/settings.py --list {EXAMPLE}",
        listing(settings, EXAMPLE),
        "```",
        "",
        "Set a key by `-S key=value` after `dvc exp run` or, without the `-S`, after `python src/params.py`; or edit",
        "conf/ and run `make params`. The default is what conf/ gives. TASK and GROUP stand for names of your own. A",
        "curve is a text such as `0:0, 0.3:0.5` ([groups.md](groups.md)). A stage that reads a key runs again when it",
        "changes, as far as its result depends on it; the stage `settings` checks all of them.",
        "",
    ]
    for section in dict.fromkeys(entry.key.partition(".")[0] for entry in settings):
        own = [entry for entry in settings if entry.key.partition(".")[0] == section]
        lines += [f"## {section}", ""]
        if len(own) > 1:
            lines += [own.pop(0).meaning, ""]
        lines += _table(own, ("key", "default", "values", "what it does", "read by"))
    lines += ["## Tasks", "", *_table(tasks, ("task", "", "samples", "what it asks", ""))]
    lines += ["## Groups", "", *_table(groups, ("select with -S", "", "components, or groups", "what it is", ""))]
    lines += ["## Scales", "", *_table(scales, ("select with -S", "", "sections that it sets", "what it is", ""))]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(entries: Sequence[Entry], heads: Sequence[str]) -> list[str]:
    """Lines of a Markdown table; a column without a head is left out."""
    rows = [(f"`{each.key}`", _code(each.default), each.values, each.meaning, each.readers) for each in entries]
    shown = [place for place, head in enumerate(heads) if head]
    lines = [[heads[place] for place in shown], ["---"] * len(shown)]
    lines += [[row[place].replace("|", "\\|") for place in shown] for row in rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _code(text: str | None) -> str:
    return "" if text is None else f"`{text}`"
