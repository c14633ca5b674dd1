"""What became of every injected fault, and the table of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["survived", "caught", "no effect", "silent", "lost", "skipped"]
GOOD = ("survived", "caught", "no effect")
BAD = ("silent", "lost")


@dataclass(frozen=True)
class Injection:
    """One fault. survived: the same command ended in the undisturbed study's digests. caught: whoever reads what was
    damaged refused it or made it again. no effect: what is read of the file is what it was. silent: a result is another
    one and nobody said so. lost: anything else - a traceback, work that is gone, a command that does not go on.
    skipped: this machine cannot have the fault; `note` says why."""

    part: str
    case: str
    verdict: Verdict
    note: str = ""

    @property
    def is_bad(self) -> bool:
        return self.verdict in BAD


def remembered(path: Path) -> list[Injection]:
    """The injections that earlier calls kept in a file, one a line."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Injection(**json.loads(line)) for line in lines]


def remember(path: Path, injection: Injection) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(injection)) + "\n")


def table(injections: Iterable[Injection]) -> str:
    """One row a case, in the order in which the cases came, and a row of totals."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for each in injections:
        rows.setdefault((each.part, each.case), Counter())[each.verdict] += 1
    columns = (*GOOD, *BAD)
    lines = [f"| part | fault | injected | {' | '.join(columns)} |", f"|---|---|{'---:|' * (len(columns) + 1)}"]
    for (part, case), counts in rows.items():
        lines.append(_line(part, case, counts))
    lines.append(_line("all", "", sum(rows.values(), Counter())))
    return "\n".join(lines)


def _line(part: str, case: str, counts: Mapping[str, int]) -> str:
    tried = sum(counts.get(name, 0) for name in (*GOOD, *BAD))
    cells = [str(tried) if tried else "skipped", *(str(counts.get(name, 0)) for name in (*GOOD, *BAD))]
    return f"| {part} | {case} | {' | '.join(cells)} |"


def notes(injections: Sequence[Injection]) -> list[str]:
    """A line for every fault that was not met well, and for what this machine could not try."""
    told = [each for each in injections if each.is_bad or each.verdict == "skipped"]
    return list(dict.fromkeys(f"- {each.part}, {each.case}: {each.verdict}. {each.note}" for each in told))


def between_marks(text: str, content: str, mark: str) -> str:
    """The text with `content` between its two lines `<!-- {mark} ... -->` and `<!-- Until here. -->`."""
    before, found, rest = text.partition(f"<!-- {mark}")
    head, _, rest = rest.partition("-->\n")
    _, end, after = rest.partition("<!-- Until here. -->")
    if not (found and end):
        raise ValueError(f"the page has no block that begins with '<!-- {mark}' and ends with '<!-- Until here. -->'")
    return f"{before}{found}{head}-->\n{content}\n{end}{after}"
