"""How far the tokenizers of teacher and student meet on the texts of a study, before anything trains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.models.chunks import Spans, align, boundaries
from glassbox.models.encoding import byte_spans, encode_sample
from glassbox.models.tokenizers import load_tokenizer

DIGITS = re.compile(rb"[0-9]+")
FEW = 0.9
"""Under this share of numeral bytes in chunks of one token each, numerals count as cut otherwise."""
MOST_TEXTS = 200
ALL = "all"


@dataclass
class Meeting:
    """How far two tokenizations of some texts meet, counted in bytes and tokens of the parts that are compared."""

    boundaries: int = 0
    common: int = 0
    chunks: int = 0
    bytes: int = 0
    student_tokens: int = 0
    teacher_tokens: int = 0
    longest: int = 0
    bytes_one_to_one: int = 0
    numeral_bytes: int = 0
    numeral_bytes_one_to_one: int = 0

    def add(self, text: bytes, student: Spans, teacher: Spans, start: int) -> None:
        """Count one text from byte `start` on, where its answer begins."""
        chunks, (mine, _), (theirs, _) = align(student, teacher), boundaries(student), boundaries(teacher)
        inside = [{int(each) for each in found if start < each < len(text)} for found in (mine, theirs)]
        self.boundaries += len(inside[0] | inside[1])
        self.common += len(inside[0] & inside[1])
        numerals = np.zeros(len(text), dtype=bool)
        for match in DIGITS.finditer(text, start):
            numerals[match.start() : match.end()] = True
        ends = np.maximum.accumulate(np.asarray(student, dtype=np.int64)[:, 1])
        for at in range(len(chunks)):
            sizes = [int(side[at + 1] - side[at]) for side in (chunks.student, chunks.teacher)]
            end, first = int(ends[chunks.student[at + 1] - 1]), int(chunks.student[at])
            begin = int(ends[first - 1]) if first else 0
            if begin < start or begin == end:
                continue
            single = sizes == [1, 1]
            self.chunks += 1
            self.bytes += end - begin
            self.student_tokens += sizes[0]
            self.teacher_tokens += sizes[1]
            self.longest = max(self.longest, end - begin)
            self.bytes_one_to_one += single * (end - begin)
            self.numeral_bytes += int(numerals[begin:end].sum())
            self.numeral_bytes_one_to_one += single * int(numerals[begin:end].sum())

    def facts(self) -> dict[str, Any]:
        """Shares and lengths for a report; of nothing, None."""
        return {
            "common_boundaries": _share(self.common, self.boundaries),
            "bytes_one_to_one": _share(self.bytes_one_to_one, self.bytes),
            "numeral_bytes_one_to_one": _share(self.numeral_bytes_one_to_one, self.numeral_bytes),
            "chunks": self.chunks,
            "bytes_per_chunk": _share(self.bytes, self.chunks),
            "longest_chunk_bytes": self.longest,
            "student_tokens_per_chunk": _share(self.student_tokens, self.chunks),
            "teacher_tokens_per_chunk": _share(self.teacher_tokens, self.chunks),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def meetings(settings: Settings, texts: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, Any]]:
    """Facts by task, and of all together, from (task, prompt, answer): at most 200 of each task. Answers count."""
    teacher, student = load_tokenizer(settings.teacher), load_tokenizer(settings.student)
    found: dict[str, Meeting] = {ALL: Meeting()}
    counted: dict[str, int] = {}
    for task, prompt, answer in texts:
        counted[task] = counted.get(task, 0) + 1
        if counted[task] > MOST_TEXTS:
            continue
        mine, theirs = (_spans(settings, tokenizer, prompt, answer) for tokenizer in (student, teacher))
        text, start = (prompt + answer).encode(errors="surrogatepass"), len(prompt.encode(errors="surrogatepass"))
        for each in (found[ALL], found.setdefault(task, Meeting())):
            each.add(text, mine, theirs, start)
    return {task: meeting.facts() for task, meeting in found.items()}


def _spans(settings: Settings, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Spans:
    limits = settings.snapshot
    encoded = encode_sample(tokenizer, prompt, answer, max_length=limits.max_length, overflow=limits.overflow)
    return byte_spans(prompt + answer, encoded)


def lines_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The facts as a table, one line a task; tokens per chunk are the student's and the teacher's."""
    lines = ["answers of    boundaries  bytes 1:1  numerals 1:1  bytes/chunk  longest  tokens/chunk"]
    for task, facts in found.items():
        tokens = f"{_number(facts['student_tokens_per_chunk'])} / {_number(facts['teacher_tokens_per_chunk'])}"
        lines.append(
            f"{task:<12}{_percent(facts['common_boundaries']):>12}{_percent(facts['bytes_one_to_one']):>11}"
            f"{_percent(facts['numeral_bytes_one_to_one']):>14}{_number(facts['bytes_per_chunk']):>13}"
            f"{facts['longest_chunk_bytes']:>9}{tokens:>14}"
        )
    return lines


def in_brief(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Of all answers, on one line; numerals that are cut otherwise as a warning."""
    facts = found[ALL]
    said = (
        f"two tokenizers, which meet at {_percent(facts['common_boundaries'])} of the boundaries of answers; "
        f"{_percent(facts['numeral_bytes_one_to_one'])} of the bytes of numerals are one token in both"
    )
    return f"WARNING: {said}. {' '.join(warnings_of(found))}" if warnings_of(found) else said


def warnings_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence where numerals are cut otherwise: next-token distributions then say little about them."""
    shares = {task: facts["numeral_bytes_one_to_one"] for task, facts in found.items() if task != ALL}
    low = {task: share for task, share in shares.items() if share is not None and share < FEW}
    if not low:
        return []
    said = ", ".join(f"{share:.0%} of {task}" for task, share in low.items())
    return [
        f"Teacher and student cut numerals otherwise: of the bytes of numerals in answers only {said} lie in one token "
        "of each. `aligned_logits` compares next tokens, so it pulls the student towards digits that it never reads as "
        "tokens; `alm`, which compares whole numerals, does not."
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
