"""Errors a user can act on: each message says what happened, where, why, and what to run next."""


class GlassboxError(Exception):
    """A fault that the user can fix; scripts print its message without a traceback and exit with `exit_code`."""

    exit_code = 1


class DivergedError(GlassboxError):
    """A non-finite loss, gradient or logit: an outcome of the trial, not a fault of the machine."""


class IncomparableRunsError(GlassboxError):
    """The selected runs do not belong to one study; no comparison is made of them."""

    exit_code = 2


class MissingTrialsError(GlassboxError):
    """The planned grid has cells without a finished or diverged trial."""

    exit_code = 3
