"""What the evidence allows to be said under the plan: contrasts, their verdicts, the hypothesis, the answers."""

from glassbox.comparison.inference.inference import infer

__all__ = ["infer"]
