"""How numbers are written: scores in percent, perplexities, differences in signed points, p-values; a dash for none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MINUS, MISSING = "\u2212", "\u2013"
COINCIDES = "="
COINCIDENCE = (
    f"{COINCIDES} after the wider interval: both are one, because the questions' own variance was estimated at 0 "
    "(V_I < V_E, cut) or, with few seeds, because the seeds alone say less."
)


def percent(share: float | None) -> str:
    """0.5714 -> 57.1."""
    return MISSING if share is None else _signed(f"{100 * share:.1f}")


def score(value: float | None, unit: str = "share") -> str:
    """A share of 1 in percent, a perplexity (`nats`) with four digits. 0.5714 -> 57.1, 12.3456 -> 12.35."""
    if value is None or unit == "share":
        return percent(value)
    return f"{value:.4g}" if value < 1e4 else f"{value:.3g}"


def score_interval(row: Mapping[str, Any] | None, unit: str = "share") -> str:
    """[56.1, 58.0], or a dash where there is none."""
    if row is None or row.get("lower") is None or row.get("upper") is None:
        return MISSING
    return f"[{score(row['lower'], unit)}, {score(row['upper'], unit)}]"


def metric_label(task: Mapping[str, Any]) -> str:
    """'accuracy, %', or 'perplexity, less is better'."""
    name = task["metric"].replace("_", " ")
    return f"{name}, %" if task["unit"] == "share" else f"{name}, less is better"


def difference(value: float | None, scale: str = "points") -> str:
    """A signed difference: shares of 1 as percentage points, logits and nats as they are. 0.0041 -> +0.41."""
    return MISSING if value is None else _signed(f"{_scaled(value, scale):+.{_digits(scale)}f}")


def width(value: float | None, scale: str = "points") -> str:
    """A difference that has no sign: a margin, a minimum detectable effect. 0.01 -> 1.00."""
    return MISSING if value is None else f"{_scaled(value, scale):.{_digits(scale)}f}"


def difference_interval(row: Mapping[str, Any] | None, scale: str = "points") -> str:
    """[-0.20, +1.02], or a dash where there is none."""
    if row is None or row.get("lower") is None or row.get("upper") is None:
        return MISSING
    return f"[{difference(row['lower'], scale)}, {difference(row['upper'], scale)}]"


def coincidence_mark(items: Mapping[str, Any] | None) -> str:
    """= where the interval over seeds and questions is the one over seeds."""
    return COINCIDES if items and items["coincides"] else ""


def p_value(p: float | None) -> str:
    """Three decimals, and no smaller than < 0.001."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else _signed(f"{value:.{digits}f}")


def significant_digits(value: float | None) -> str:
    """Three of them: 0.00213, 12.3, 4.1e-06."""
    return MISSING if value is None else f"{value:.3g}".replace("-", MINUS)


def precision(name: str | None) -> str:
    """Accelerate's `no` in words."""
    return MISSING if name is None else {"no": "no mixed precision"}.get(name, name)


def size(count: float | None) -> str:
    """Bytes in decimal units: 30400000 -> 30.4 MB."""
    if count is None:
        return MISSING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """1234 -> 20 min 34 s; under two minutes in seconds."""
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def task_label(tasks: Mapping[str, float]) -> str:
    """{"mmlu": 1, "sst2": -1} -> mmlu - sst2."""
    ordered = sorted(tasks.items(), key=lambda entry: -entry[1])
    parts = [f"{MINUS if weight < 0 else '+'} {task}" for task, weight in ordered]
    return " ".join(parts).removeprefix("+ ")


def formula_label(formula: str) -> str:
    """A contrast's formula with minus signs in the place of hyphens."""
    return formula.replace(" - ", f" {MINUS} ")


def prose(sentence: str) -> str:
    """A sentence with minus signs before numbers and between terms, and no break between a p and its value."""
    sentence = re.sub(r"(?<![\w.)])-(?=\d)| - ", lambda found: found[0].replace("-", MINUS), sentence)
    return re.sub(r"\b(p|n) ([=<]) ", "\\1\u00a0\\2\u00a0", sentence)


def significant(row: Mapping[str, Any], alpha: float) -> bool:
    """Whether Holm's adjusted p of a contrast is under alpha: the only thing that the reports set in bold."""
    return row.get("p_adjusted") is not None and row["p_adjusted"] < alpha


def _scaled(value: float, scale: str) -> float:
    return 100 * value if scale == "points" else value


def _digits(scale: str) -> int:
    """Decimals of a difference: a nat is about a hundred points of likelihood."""
    return 4 if scale == "nats" else 2


def task_scale(task: Mapping[str, Any]) -> str:
    """The scale of a difference between two scores of a task: 'nats' of a perplexity, otherwise 'points'."""
    return "nats" if task["unit"] == "nats" else "points"


def scale_unit(scale: str) -> str:
    """What a difference on this scale is counted in."""
    return {"points": "points", "nats": "nats per token"}.get(scale, "logits")


def _signed(text: str) -> str:
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def in_units(size: float) -> str:
    """1,234,567 -> '1.2 MB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def in_time(seconds: float) -> str:
    """3,700 -> '62 min', 7,300 -> '2 h 2 min'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
