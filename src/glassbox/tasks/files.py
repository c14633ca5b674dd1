"""Tasks from local files: SST-2 in GLUE's TSV, MMLU's headerless CSV, GSM8K's JSONL, and a JSONL for any new task."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from glassbox.config.problems import Problem
from glassbox.config.settings import SPLITS, TaskFields, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.lines import CORRECT, brief, text_lines, unreadable
from glassbox.tasks.mapping import mapped
from glassbox.tasks.pools import Pool, refuse_unlike
from glassbox.tasks.records import QUOTE, csv_records
from glassbox.tasks.rows import UNASSIGNED, Render, no_template, refuse_unwritable, sample_of, text_of
from glassbox.tasks.sample import Sample

GLUE_LABELS = {"0": False, "1": True}


class Found(NamedTuple):
    """A sample, its file and the line that it begins on."""

    file: Path
    line: int
    sample: Sample


def pools(task: str, settings: TaskSettings, render: Render = no_template) -> dict[str, Pool]:
    """One pool per split; splits that name the same path share one.

    Raises GlassboxError, naming file and line, for whatever cannot be read, for test or validation samples without an
    answer, which are scored, and for splits of unlike kinds.
    """
    assert settings.files is not None
    read: dict[Path, Pool] = {}
    places = {split: locate(getattr(settings.files, split), f"prepare.tasks.{task}.files.{split}") for split in SPLITS}
    for split, path in places.items():
        key = f"prepare.tasks.{task}.files.{split}"
        if path not in read:
            read[path] = _pool(path, settings, render)
        samples = read[path].samples
        if not samples:
            raise GlassboxError(f"{path} holds no sample. Correct {key}.")
        if split != "train" and not samples[0].answer:
            raise GlassboxError(
                f"{path} holds prompts without answers, and {split} samples are scored by theirs. Name a file with "
                f"`answer` in {key}; prompts alone can be training samples."
            )
    found = {split: read[path] for split, path in places.items()}
    refuse_unlike(task, found, "files")
    return found


def _pool(path: Path, settings: TaskSettings, render: Render) -> Pool:
    """The samples of a path, and what is odd about them."""
    read = read_jsonl(path, render, settings.fields) if settings.source == "jsonl" else READERS[settings.source](path)
    found = list(read)
    return Pool(str(path), tuple(each.sample for each in found), notes=tuple(contradictions(found)))


def contradictions(found: Iterable[Found], unit: str = "line") -> Iterator[str]:
    """One sentence for the questions that are answered in more than one way: only the first of them is used."""
    first: dict[tuple[str, frozenset[str]], Found] = {}
    unlike: list[tuple[Found, Found]] = []
    for each in found:
        known = first.setdefault((each.sample.prompt, frozenset(each.sample.choices)), each)
        if known.sample.gold != each.sample.gold:
            unlike.append((known, each))
    if unlike:
        known, each = unlike[0]
        there = f"{unit} {known.line}" if known.file == each.file else f"{known.file}, {unit} {known.line},"
        more = "" if len(unlike) == 1 else f" {len(unlike)} samples contradict an earlier one."
        yield (
            f"{each.file}, {unit} {each.line}: the prompt of {there} has another answer here "
            f"({brief(known.sample.gold.strip(), 30)} there, {brief(each.sample.gold.strip(), 30)} here).{more} "
            "The first is used and the later ones are dropped. Keep the right one of each."
        )


def scarce(tasks: Mapping[str, TaskSettings]) -> Iterator[Problem]:
    """Files with fewer lines than samples are asked of them, so that no sample needs to be read to say so.

    Raises GlassboxError for a file that is not there.
    """
    for name, task in tasks.items():
        asked: dict[Path, dict[str, int]] = {}
        for split in SPLITS if task.files else ():
            path = locate(getattr(task.files, split), f"prepare.tasks.{name}.files.{split}")
            asked.setdefault(path, {})[split] = getattr(task, split) or 1
        for path, counts in asked.items():
            lines = _count(path)
            if sum(counts.values()) > lines:
                split = max(counts, key=lambda each: counts[each])
                wanted = " and ".join(f"{count} for {each}" for each, count in counts.items())
                why = f"{path} has {lines} lines, and {wanted} are asked of it"
                next_step = "ask for fewer samples, or name a larger file"
                yield Problem(f"prepare.tasks.{name}.{split}", why, next_step, counts[split])


def _count(path: Path) -> int:
    """Lines of a file, or of a folder's CSV files: no sample takes less than one."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    return sum(1 for file in files for _ in text_lines(file))


def locate(path: str, key: str) -> Path:
    """Relative paths start at the working directory or, in DVC's temporary runs, at the repository in DVC_ROOT."""
    roots = [Path.cwd(), Path(os.environ.get("DVC_ROOT", "."))]
    for root in roots:
        candidate = root / Path(path).expanduser()
        if candidate.exists():
            return candidate.resolve()
    raise GlassboxError(f"{key} names {path}, which does not exist under {roots[0]}. Correct the path in the settings.")


def read_sst2_tsv(path: Path) -> Iterator[Found]:
    """GLUE's layout: a header with `sentence` and `label`, tabs, no quoting, labels 0 and 1."""
    lines = ((number, line.rstrip("\n").split("\t")) for number, line in text_lines(path))
    _, header = next(lines, (1, [""]))
    if not {"sentence", "label"} <= set(header):
        raise GlassboxError(
            f"{path} begins with the columns {brief(header)}, and SST-2 in GLUE's layout has `sentence` and `label`. "
            "GLUE's test.tsv has no labels: name dev.tsv or train.tsv instead."
        )
    for number, fields in lines:
        if fields == [""]:
            continue
        row = dict(zip(header, fields, strict=False))
        if len(fields) != len(header) or row["label"] not in GLUE_LABELS or not row["sentence"].strip():
            raise unreadable(path, number, f"a sentence and a label 0 or 1 were expected, not {brief(fields)}")
        yield Found(path, number, sst2.sample(UNASSIGNED, row["sentence"], GLUE_LABELS[row["label"]]))


def read_mmlu_csv(path: Path) -> Iterator[Found]:
    """One headerless CSV file `question,A,B,C,D,letter`, or a folder of them (read in the order of their names)."""
    for file in sorted(path.glob("*.csv")) if path.is_dir() else [path]:
        for number, fields in csv_records(file):
            if not _is_question(fields):
                raise unreadable(file, number, f"question,A,B,C,D,letter was expected, not {brief(fields)}", _QUOTED)
            if not all(field.strip() for field in fields):
                raise unreadable(file, number, f"the question or an option is empty: {brief(fields)}")
            for field in fields:
                _refuse_swallowed(file, number, field)
            index = mmlu.LETTERS.index(fields[-1].strip())
            yield Found(file, number, mmlu.sample(UNASSIGNED, fields[0], fields[1:5], index, _subject(file)))


_QUOTED = f"{CORRECT}; where the record is longer than its line, a quotation mark opens there: double or remove it"


def _is_question(fields: Sequence[str]) -> bool:
    return len(fields) == 6 and fields[-1].strip() in tuple(mmlu.LETTERS)


def _refuse_swallowed(path: Path, number: int, field: str) -> None:
    """A field whose lines are questions themselves was quoted by accident."""
    for line in field.splitlines()[1:]:
        fields = next(csv.reader([line]), [])
        if _is_question(fields) or (len(fields) == 5 and _is_question(["", *fields])):
            why = f"a quotation mark opens in this record and the next question stands inside it: {brief(line)}"
            raise unreadable(path, number, why, QUOTE)


_SPLIT_OF_A_SUBJECT = re.compile(r"_(test|val|dev)$")


def _subject(file: Path) -> str:
    """anatomy_test.csv -> anatomy: the data set's own files name their subject."""
    return _SPLIT_OF_A_SUBJECT.sub("", file.stem)


def read_gsm8k_jsonl(path: Path) -> Iterator[Found]:
    """The data set's own files: an object with `question` and `answer` per line."""
    for number, row in json_lines(path):
        with _naming(path, number):
            refuse_unwritable(row)
            sample = gsm8k.sample(UNASSIGNED, text_of(row, "question"), text_of(row, "answer"))
        yield Found(path, number, sample)


def read_jsonl(path: Path, render: Render = no_template, fields: TaskFields | None = None) -> Iterator[Found]:
    """Any task, a row per line as `sample_of` reads it, or with other keys that `fields` maps.

    All lines have choices or none has, and all have an answer or none has.
    """
    first: Sample | None = None
    for number, row in json_lines(path):
        with _naming(path, number):
            sample = sample_of(row if fields is None else mapped(row, fields), render)
            first = first or sample
            for what, attribute in (("choices", "choices"), ("an answer", "answer")):
                if bool(getattr(sample, attribute)) != bool(getattr(first, attribute)):
                    raise ValueError(f"either every line has {what} or none has")
        yield Found(path, number, sample)


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    """Turns the reason why a row is no sample into the sentence with its file and line."""
    try:
        yield
    except ValueError as error:
        raise unreadable(path, number, str(error)) from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line that is not blank."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip("\n"), object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            why = f"it is not JSON ({error.msg} at character {error.pos + 1})"
            raise unreadable(path, number, why, _remedy(line)) from error
        except ValueError as error:  # a key twice, or a number of more digits than Python reads
            raise unreadable(path, number, str(error).partition(";")[0]) from error
        except RecursionError as error:
            raise unreadable(path, number, "it is not JSON that can be read, for it is nested too deeply") from error
        if not isinstance(row, dict):
            raise unreadable(path, number, "one JSON object per line was expected", _remedy(line))
        yield number, row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand in it once: of two values JSON says nothing, and Python takes the last."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for position, (key, _) in enumerate(pairs) if key in dict(pairs[:position]))
        raise ValueError(f"the key {brief(twice)} stands there twice")
    return row


def _remedy(line: str) -> str:
    """An array or an object over several lines is one call away from JSON lines."""
    if line.strip() in ("[", "{") or line.lstrip().startswith("["):
        return "Write one object on each line, for example by `jq -c '.[]' FILE > NEW.jsonl` where the file is an array"
    return CORRECT


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    "sst2_tsv": read_sst2_tsv,
    "mmlu_csv": read_mmlu_csv,
    "gsm8k_jsonl": read_gsm8k_jsonl,
}
