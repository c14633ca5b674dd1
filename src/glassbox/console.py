"""What code prints, wherever it prints it: Python's streams, loggers bound to them earlier, and native code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from tempfile import TemporaryFile


class Output:
    """Filled when the capture ends. A progress bar's redrawing counts as lines too."""

    text = ""

    @property
    def lines(self) -> list[str]:
        return [line for line in re.split(r"[\r\n]+", self.text) if line.strip()]


@contextmanager
def captured_output() -> Iterator[Output]:
    output = Output()
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        streams = (sys.stdout, sys.stderr)
        for stream in streams:
            stream.flush()
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            with redirect_stdout(file), redirect_stderr(file):
                yield output
        finally:
            file.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            output.text = file.read()
