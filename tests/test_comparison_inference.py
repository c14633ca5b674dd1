"""From made-up evidence to verdicts: each branch of what the comparison may say, on data where the truth is known."""

from __future__ import annotations

import json

import evidences

from glassbox.comparison.inference import infer


def test_the_hypothesis_is_supported_where_it_is_true() -> None:
    results = infer(evidences.plan(), evidences.evidence(evidences.everyone_gains(), noise=0.002, questions=1000))
    assert results["hypothesis"]["verdict"] == "supported"
    assert results["hypothesis"]["p"] == max(leg["p"] for leg in results["hypothesis"]["legs"])
    assert len(results["hypothesis"]["legs"]) == 10


def test_two_calls_give_the_same_bytes() -> None:
    texts = [json.dumps(infer(evidences.plan(), evidences.evidence(clusters=20)), allow_nan=False) for _ in range(2)]
    assert texts[0] == texts[1]
