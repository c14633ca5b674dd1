"""Text files line by line, and the sentence for a line that cannot be read: file, line, reason, next step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glassbox.errors import GlassboxError
from glassbox.models.marks import RENDERED

LONGEST_LINE = 500_000
CORRECT = "Correct the line, or name another file in the settings"
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def unreadable(path: Path, number: int, why: str, next_step: str = CORRECT) -> GlassboxError:
    return GlassboxError(f"{path}, line {number}: {why}. {next_step}.")


def brief(text: object, longest: int = 60) -> str:
    """A value as it is written in Python, on one line, cut where it is long."""
    shown = repr(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def text_lines(path: Path, *, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Number and text of every line of a UTF-8 file, with or without a byte-order mark; any line end counts.

    Raises GlassboxError for another encoding, a NUL, a noncharacter of ours and a line beyond LONGEST_LINE.
    """
    _refuse_other_unicode(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
        for number, line in enumerate(lines, start=1):
            _refuse_bytes(path, number, line)
            yield number, line


def _refuse_other_unicode(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(4)
    found = next((name for mark, name in _BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), None)
    if found:
        raise unreadable(path, 1, f"the file is {found} and not UTF-8", _conversion(path, found))


def _refuse_bytes(path: Path, number: int, line: str) -> None:
    if len(line) > LONGEST_LINE:
        why = f"it has {len(line):,} characters, and a line is one sample of at most {LONGEST_LINE:,}"
        raise unreadable(path, number, why, "Put one sample on each line, and shorten or remove this one")
    stray = next((letter for letter in line if "\udc80" <= letter <= "\udcff"), None) if not line.isascii() else None
    if stray is not None:
        column = line.index(stray) + 1
        why = f"the byte 0x{ord(stray) - 0xDC00:02x} at character {column} is not UTF-8"
        raise unreadable(path, number, why, _conversion(path, "WINDOWS-1252"))
    if "\x00" in line:
        why = "it holds a NUL byte: this is no text, or UTF-16 without its mark"
        raise unreadable(path, number, why, _conversion(path, "UTF-16LE"))
    if RENDERED in line:
        raise unreadable(path, number, "it holds the noncharacter U+FDD0, which no text may hold", "Remove it")


def _conversion(path: Path, encoding: str) -> str:
    return (
        f'Save the file as UTF-8, for example by `iconv -f {encoding} -t UTF-8 "{path}" > NEW` with the encoding that '
        "it has, and name the new file"
    )
