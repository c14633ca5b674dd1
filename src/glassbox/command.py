"""How every script ends: a fault that the user can mend is a sentence on stderr and an exit code, not a traceback."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from glassbox.errors import GlassboxError
from glassbox.launcher import leaving_at_once


def run(main: Callable[[], None]) -> None:
    """Call a script's `main`; exits with the error's code where it raises a GlassboxError."""
    with leaving_at_once():
        try:
            main()
        except GlassboxError as error:
            print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
            sys.exit(error.exit_code)


@contextmanager
def loading() -> Iterator[None]:
    """Import large libraries without looking for garbage among what they make, for all of it stays.

    Nor is it looked through later (`gc.freeze`), at the end of the process above all.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
