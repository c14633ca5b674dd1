"""Text files line by line, and the sentence for a line that cannot be read: file, line, reason, next step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glassbox.errors import GlassboxError
from glassbox.models.marks import RENDERED

LONGEST_LINE = 500_000
CORRECT = "Correct the line, or name another file in the settings"
BYTE_ORDER_MARK = "\ufeff"
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_NO_TEXT = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"SQLite": "SQLite",
}


def unreadable(path: Path, number: int, why: str, next_step: str = CORRECT) -> GlassboxError:
    return GlassboxError(f"{path}, line {number}: {why}. {next_step}.")


def brief(text: object, longest: int = 60) -> str:
    """A value as it is written in Python, on one line, cut where it is long."""
    shown = repr(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def text_lines(path: Path, *, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Number and text of every line of a UTF-8 file, with or without a byte-order mark; any line end counts.

    The mark may begin any line, where files were joined. Raises GlassboxError for what cannot be opened, another
    encoding or format, a NUL, a noncharacter of ours and a line beyond LONGEST_LINE.
    """
    try:
        with path.open("rb") as file:
            _refuse_other_formats(path, file.read(8))
        with path.open(encoding="utf-8", errors="surrogateescape", newline=newline) as lines:
            for number, line in enumerate(lines, start=1):
                _refuse_bytes(path, number, line)
                yield number, line.lstrip(BYTE_ORDER_MARK)
    except OSError as error:
        raise GlassboxError(f"{path} cannot be read ({error.strerror}). Name a text file in the settings.") from error


def _refuse_other_formats(path: Path, beginning: bytes) -> None:
    found = next((name for mark, name in _BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), None)
    if found:
        raise unreadable(path, 1, f"the file is {found} and not UTF-8", _conversion(path, found))
    found = next((name for mark, name in _NO_TEXT.items() if beginning.startswith(mark)), None)
    if found:
        next_step = "Unpack or convert it to a text file with one sample on each line, and name that file"
        raise unreadable(path, 1, f"the file is {found} and no text", next_step)
    unmarked = _without_mark(beginning)
    if unmarked:
        why = f"it holds a NUL byte at the places where {unmarked} without its mark has them"
        raise unreadable(path, 1, why, _conversion(path, unmarked))


def _without_mark(beginning: bytes) -> str | None:
    """The encoding whose first character, an ASCII one, these bytes are."""
    nul = [byte == 0 for byte in beginning[:4]]
    places = {"UTF-32BE": [True] * 3 + [False], "UTF-32LE": [False] + [True] * 3}
    places |= {"UTF-16BE": [True, False], "UTF-16LE": [False, True]}
    return next((name for name, expected in places.items() if nul[: len(expected)] == expected), None)


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
        raise unreadable(path, number, "it holds a NUL byte, which no text may hold", "Remove it, or the line")
    if RENDERED in line:
        raise unreadable(path, number, "it holds the noncharacter U+FDD0, which no text may hold", "Remove it")


def _conversion(path: Path, encoding: str) -> str:
    return (
        f'Save the file as UTF-8, for example by `iconv -f {encoding} -t UTF-8 "{path}" > NEW` with the encoding that '
        "it has, and name the new file"
    )
