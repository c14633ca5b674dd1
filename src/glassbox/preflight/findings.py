"""Checks one after another: what each found, in how many seconds, and what could not be reached because of it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from glassbox.errors import GlassboxError


@dataclass(frozen=True)
class Check:
    """`work` raises where something is wrong and may return a remark. It needs the checks named in `after` to hold."""

    name: str
    work: Callable[[], str | None]
    after: Sequence[str] = ()


@dataclass(frozen=True)
class Finding:
    """`sentence` says what is wrong, or remarks on what is right; `trace` is empty for a fault that has a sentence."""

    check: str
    result: Literal["ok", "failed", "not reached"]
    seconds: float
    sentence: str = ""
    trace: str = ""


class Findings:
    def __init__(self, show: Callable[[Finding], None]) -> None:
        self.all: list[Finding] = []
        self._show = show

    @property
    def failed(self) -> list[Finding]:
        return [finding for finding in self.all if finding.result == "failed"]

    def add(self, check: Check) -> None:
        """Run a check, unless one that it needs did not hold."""
        held = {finding.check for finding in self.all if finding.result == "ok"}
        missing = [name for name in check.after if name not in held]
        finding = _not_reached(check, missing[0]) if missing else _found(check)
        self.all.append(finding)
        self._show(finding)

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": not self.failed,
            "seconds": sum(finding.seconds for finding in self.all),
            "checks": [asdict(finding) for finding in self.all],
        }


def _not_reached(check: Check, missing: str) -> Finding:
    return Finding(check.name, "not reached", 0.0, f"it needs '{missing}' to hold")


def _found(check: Check) -> Finding:
    started = time.monotonic()
    try:
        remark = check.work() or ""
    except GlassboxError as error:
        return Finding(check.name, "failed", time.monotonic() - started, str(error))
    except (Exception, SystemExit) as error:
        reason = next(iter(str(error).strip().splitlines()), "no message").rstrip(".")
        sentence = (
            f"{type(error).__name__}: {reason}. No setting is named because nothing expected this; the traceback is in "
            "reports/preflight.json."
        )
        return Finding(check.name, "failed", time.monotonic() - started, sentence, traceback.format_exc())
    return Finding(check.name, "ok", time.monotonic() - started, remark)
