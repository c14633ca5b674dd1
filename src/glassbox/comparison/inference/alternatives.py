"""The same evidence told otherwise: on log-odds, with a seed left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.contrasts import Contrast

CEILING = 0.99


def on_logits(evidence: Evidence) -> Evidence:
    """Scores as log-odds. With N questions, log((k + 1/2) / (N - k + 1/2)) for k right (Haldane 1955; Anscombe 1956).

    Without item results N is unknown: log(p / (1 - p)), and NaN for a score of 0 or 1, which has no log-odds.
    """
    scores = np.stack([_log_odds(evidence, task, evidence.scores[:, i]) for i, task in enumerate(evidence.tasks)], 1)
    teacher = {task: float(_log_odds(evidence, task, np.asarray(score))) for task, score in evidence.teacher.items()}
    known = {task: score for task, score in teacher.items() if np.isfinite(score)}
    return replace(evidence, scores=scores, items={}, teacher=known, start={})


def _log_odds(evidence: Evidence, task: str, shares: np.ndarray) -> np.ndarray:
    if task in evidence.nats:
        return np.full_like(shares, np.nan)
    half = 0.5 / len(evidence.items[task].ids) if task in evidence.items else 0.0
    right, wrong = shares + half, 1 - shares + half
    inside = (right > 0) & (wrong > 0)
    return np.where(inside, np.log(np.where(inside, right, 1.0)) - np.log(np.where(inside, wrong, 1.0)), np.nan)


def at_the_end(contrast: Contrast, evidence: Evidence) -> str | None:
    """Why a contrast has no meaning on log-odds: a score within 1 % of an end, where the half count makes them up."""
    for group in contrast.groups:
        for task in contrast.tasks:
            if task in evidence.nats:
                return f"{task} is a perplexity, which has no log-odds"
            if group in evidence.groups and task in evidence.tasks:
                scores = evidence.scores[evidence.groups.index(group), evidence.tasks.index(task)]
                known = scores[np.isfinite(scores)]
                if known.size and not 1 - CEILING < known.mean() < CEILING:
                    return f"{group} is at an end of the scale on {task}, where log-odds are made by the half count"
    return None


def without_seed(evidence: Evidence, seed: int) -> Evidence:
    kept = np.asarray([each != seed for each in evidence.seeds])
    return replace(
        evidence,
        seeds=tuple(each for each in evidence.seeds if each != seed),
        scores=evidence.scores[..., kept],
        diverged=evidence.diverged[..., kept],
        items={task: replace(each, correct=each.correct[:, kept]) for task, each in evidence.items.items()},
    )
