"""How every script ends: a fault that the user can fix is a sentence on stderr and an exit code, not a traceback."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from glassbox.errors import GlassboxError
from glassbox.files import drive_fault


def run(main: Callable[[], None]) -> None:
    """Call a script's `main`; exits with the error's code where it raises a GlassboxError, or a drive is full."""
    with leaving_at_once():
        try:
            main()
        except GlassboxError as error:
            print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except Exception as error:
            if not (sentence := drive_fault(error)):
                raise
            print(f"{Path(sys.argv[0]).stem}: {sentence}", file=sys.stderr)
            sys.exit(GlassboxError.exit_code)


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


HANDLED = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Remembers a signal until the training loop asks; where no step is under way (`immediate`), exits at once.

    `again`: another one came after the first, from somebody who will not wait.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.again = False
        self.immediate = False

    def __enter__(self) -> Interruption:
        self._previous = {number: signal.signal(number, self._handle) for number in HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.again = self.received is not None
        self.received = number
        if self.immediate:
            self.leave()

    def leave(self) -> None:
        """Exit with the shell's code for the signal, if one came."""
        if self.received is not None:
            raise SystemExit(128 + self.received)


CONFIGURATIONS = Path(__file__).resolve().parents[2] / "conf" / "accelerate"


SECONDS_TO_WRITE_A_CHECKPOINT = 3600


SECONDS_BETWEEN_LOOKS = 0.1


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def is_main() -> bool:
    """Whether this process is the only one or the main one of several, which alone prints."""
    return os.environ.get("RANK", "0") == "0"


def configuration(parallelism: str) -> Path:
    """The file of conf/accelerate that says how a student is spread over processes."""
    path = CONFIGURATIONS / f"{parallelism}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in CONFIGURATIONS.glob("*.yaml")))
        raise GlassboxError(
            f"train.parallelism is '{parallelism}', but {path} does not exist. Choose one of {known} by "
            "`-S train.parallelism=...`, or write that file (`accelerate config --config_file ...` asks what it needs)."
        )
    return path


def launch(processes: int, parallelism: str = "ddp") -> int:
    """Run this very command in several processes; the exit code is 1 where one of them failed.

    SIGINT and SIGTERM are passed on once, and the exit code is then 128 + the signal's number. The processes have a
    session of their own (where the system knows sessions), so that a terminal's Ctrl-C does not reach them twice.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration(parallelism))]
    command += ["--num_processes", str(processes), "--main_process_port", "0", *sys.argv]
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_TO_WRITE_A_CHECKPOINT)}
    with Interruption() as interruption:
        child = subprocess.Popen(command, env=patience | os.environ, start_new_session=True)
        passed_on = False
        while True:
            try:
                code = child.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                if interruption.received is not None and not passed_on and os.name != "nt":
                    child.send_signal(interruption.received)
                    passed_on = True
            else:
                interruption.leave()
                if code:
                    print(
                        f"One of {processes} processes failed; why is said above the launcher's own lines.",
                        file=sys.stderr,
                    )
                return min(abs(code), 1)


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """End a launched process without Python's clean-up; any other one goes on.

    torch's gloo group, when its last owner lets go of it, can wait with the interpreter's lock for a thread that needs
    that lock: such a process would never end.
    """
    if not is_launched():
        yield
        return
    code = 0
    try:
        yield
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
