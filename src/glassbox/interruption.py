"""SIGINT and SIGTERM: finish the step, write a checkpoint, exit 130 or 143."""

import signal
from types import FrameType, TracebackType

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Remembers a signal until the training loop asks; where no step is under way (`immediate`), exits at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.immediate = False

    def __enter__(self) -> "Interruption":
        self._previous = {number: signal.signal(number, self._handle) for number in HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.immediate:
            self.leave()

    def leave(self) -> None:
        """Exit with the shell's code for the signal, if one came."""
        if self.received is not None:
            raise SystemExit(128 + self.received)
