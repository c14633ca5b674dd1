"""Tasks from local files: SST-2 in GLUE's TSV, MMLU's headerless CSV, GSM8K's JSONL, and a JSONL for any new task."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from glassbox.config.problems import Problem
from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.pools import Pool
from glassbox.tasks.sample import ANSWER_MARK, Sample, extract_number, make_sample

UNASSIGNED = "unassigned"
GLUE_LABELS = {"0": False, "1": True}


def pools(task: str, settings: TaskSettings) -> dict[str, Pool]:
    """One pool per split; splits that name the same path share one.

    Raises GlassboxError, naming file and line, for whatever cannot be read.
    """
    assert settings.files is not None
    read: dict[Path, Pool] = {}
    for split in SPLITS:
        path = locate(getattr(settings.files, split), f"prepare.tasks.{task}.files.{split}")
        if path not in read:
            read[path] = Pool(str(path), tuple(READERS[settings.source](path)))
        if not read[path].samples:
            raise GlassboxError(f"{path} holds no sample. Correct prepare.tasks.{task}.files.{split}.")
    return {split: read[locate(getattr(settings.files, split), split)] for split in SPLITS}


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
            lines = _lines(path)
            if sum(counts.values()) > lines:
                split = max(counts, key=lambda each: counts[each])
                wanted = " and ".join(f"{count} for {each}" for each, count in counts.items())
                why = f"{path} has {lines} lines, and {wanted} are asked of it"
                next_step = "ask for fewer samples, or name a larger file"
                yield Problem(f"prepare.tasks.{name}.{split}", why, next_step, counts[split])


def _lines(path: Path) -> int:
    """Lines of a file, or of a folder's CSV files: no sample takes less than one."""
    total = 0
    for file in sorted(path.glob("*.csv")) if path.is_dir() else [path]:
        with file.open(encoding="latin-1") as lines:
            total += sum(1 for _ in lines)
    return total


def locate(path: str, key: str) -> Path:
    """Relative paths start at the working directory or, in DVC's temporary runs, at the repository in DVC_ROOT."""
    roots = [Path.cwd(), Path(os.environ.get("DVC_ROOT", "."))]
    for root in roots:
        candidate = root / Path(path).expanduser()
        if candidate.exists():
            return candidate.resolve()
    raise GlassboxError(f"{key} names {path}, which does not exist under {roots[0]}. Correct the path in the settings.")


def read_sst2_tsv(path: Path) -> Iterator[Sample]:
    """GLUE's layout: a header with `sentence` and `label`, tabs, no quoting, labels 0 and 1."""
    with path.open(encoding="utf-8-sig") as lines:
        header = next(lines, "").rstrip("\r\n").split("\t")
        if not {"sentence", "label"} <= set(header):
            raise GlassboxError(
                f"{path} begins with the columns {header}, and SST-2 in GLUE's layout has `sentence` and `label`. "
                "GLUE's test.tsv has no labels: name dev.tsv or train.tsv instead."
            )
        for number, line in enumerate(lines, start=2):
            fields = line.rstrip("\r\n").split("\t")
            if fields == [""]:
                continue
            row = dict(zip(header, fields, strict=False))
            if len(fields) != len(header) or row["label"] not in GLUE_LABELS or not row["sentence"].strip():
                raise _unreadable(path, number, f"a sentence and a label 0 or 1 were expected, not {fields}")
            yield sst2.sample(UNASSIGNED, row["sentence"], GLUE_LABELS[row["label"]])


def read_mmlu_csv(path: Path) -> Iterator[Sample]:
    """One headerless CSV file `question,A,B,C,D,letter`, or a folder of them (read in the order of their names)."""
    for file in sorted(path.glob("*.csv")) if path.is_dir() else [path]:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            for fields in reader:
                if not fields:
                    continue
                letter = fields[-1].strip()
                if len(fields) != 6 or len(letter) != 1 or letter not in mmlu.LETTERS:
                    raise _unreadable(file, reader.line_num, f"question,A,B,C,D,letter was expected, not {fields}")
                yield mmlu.sample(UNASSIGNED, fields[0], fields[1:5], mmlu.LETTERS.index(letter), _subject(file))


_SPLIT_OF_A_SUBJECT = re.compile(r"_(test|val|dev)$")


def _subject(file: Path) -> str:
    """anatomy_test.csv -> anatomy: the data set's own files name their subject."""
    return _SPLIT_OF_A_SUBJECT.sub("", file.stem)


def read_gsm8k_jsonl(path: Path) -> Iterator[Sample]:
    """The data set's own files: an object with `question` and `answer` per line."""
    for number, row in _json_lines(path):
        question, answer = _text(row, "question", path, number), _text(row, "answer", path, number)
        try:
            yield gsm8k.sample(UNASSIGNED, question, answer)
        except ValueError as error:
            raise _unreadable(path, number, str(error)) from error


def read_jsonl(path: Path) -> Iterator[Sample]:
    """Any task: `prompt`, `answer` and, for scoring by likelihood, `choices`; all lines have choices or none has."""
    with_choices: bool | None = None
    for number, row in _json_lines(path):
        prompt, answer = _text(row, "prompt", path, number), _continuation(_text(row, "answer", path, number))
        choices = row.get("choices") or ()
        if with_choices is None:
            with_choices = bool(choices)
        if with_choices != bool(choices):
            raise _unreadable(path, number, "either every line has choices or none has")
        if choices and not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
            raise _unreadable(path, number, f"choices is a list of texts, not {choices!r}")
        continuations = tuple(map(_continuation, choices))
        if choices and (answer not in continuations or len(set(continuations)) != len(continuations)):
            raise _unreadable(path, number, f"choices differ and hold the answer {answer.strip()!r}, not {choices!r}")
        gold = answer if choices else extract_number(answer) if ANSWER_MARK in answer else answer.strip()
        if gold is None:
            raise _unreadable(path, number, f"a number was expected after '{ANSWER_MARK}'")
        yield make_sample("", UNASSIGNED, prompt.rstrip(), answer, continuations, gold)


READERS: dict[str, Callable[[Path], Iterator[Sample]]] = {
    "sst2_tsv": read_sst2_tsv,
    "mmlu_csv": read_mmlu_csv,
    "gsm8k_jsonl": read_gsm8k_jsonl,
    "jsonl": read_jsonl,
}


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise _unreadable(path, number, f"it is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise _unreadable(path, number, "one JSON object per line was expected")
            yield number, row


def _text(row: dict[str, Any], key: str, path: Path, number: int) -> str:
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        raise _unreadable(path, number, f"`{key}` is missing or no text; the keys are {sorted(row)}")
    return text


def _continuation(text: str) -> str:
    return f" {text.strip()}"


def _unreadable(path: Path, number: int, why: str) -> GlassboxError:
    return GlassboxError(f"{path}, line {number}: {why}. Correct the line, or name another file in the settings.")
