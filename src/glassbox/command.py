"""How every script ends: a fault that the user can mend is a sentence on stderr and an exit code, not a traceback."""

import sys
from collections.abc import Callable
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
