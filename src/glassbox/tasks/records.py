"""Records of a CSV file with the line that each begins on, and the line of the quotation mark that spoils one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from glassbox.tasks.lines import LONGEST_LINE, text_lines, unreadable

QUOTE = 'Double the quotation mark ("") inside a quoted field, or remove it'


def csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line and fields of every record that is not empty.

    Raises GlassboxError where quotation marks do not pair.
    """
    lines: list[str] = []

    def remembered() -> Iterator[str]:
        for _, line in text_lines(path, newline=""):
            lines.append(line)
            yield line

    csv.field_size_limit(LONGEST_LINE)  # Python's own limit is below what one line may hold
    reader = csv.reader(remembered(), strict=True)
    while True:
        lines.clear()
        first = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            opened = first + opening_line("".join(lines))
            why = f"a quotation mark opens here and the record that begins on line {first} does not fit it ({error})"
            raise unreadable(path, opened, why, QUOTE) from error
        if fields is None:
            return
        if fields:
            yield first, fields


def opening_line(record: str) -> int:
    """How many lines below a record's first one the last quoted field opens, in which reading it went wrong."""
    opened, quoted, begins, place = 0, False, True, 0
    while place < len(record):
        letter = record[place]
        if quoted and letter == '"':
            following = record[place + 1 : place + 2]
            if following == '"':
                place += 1
            elif following in ("", ",", "\r", "\n"):
                quoted = False
            else:
                return opened
        elif not quoted and begins and letter == '"':
            quoted, opened = True, record.count("\n", 0, place)
        begins = not quoted and letter in ",\r\n"
        place += 1
    return opened
