"""The peers' distillation losses of logits, all as functions of final hidden states and output layers.

Each is its library's own definition with its own reduction, over packed answer positions. `temperature` is passed in as
the library means it.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A model at the answer positions: final hidden states, after the norm, and the output layer."""

    hidden: Float[Tensor, "positions width"]
    weight: Float[Tensor, "vocabulary width"]

    @property
    def logits(self) -> Float[Tensor, "positions vocabulary"]:
        return self.hidden @ self.weight.T

    def to(self, dtype: torch.dtype) -> Rows:
        return Rows(self.hidden.to(dtype), self.weight.to(dtype))


Loss = Callable[[Rows, Rows, float], Tensor]


def textbrewer_loss(student: Rows, teacher: Rows, temperature: float) -> Tensor:
    from textbrewer.losses import kd_ce_loss

    return kd_ce_loss(student.logits, teacher.logits, temperature)  # pyright: ignore[reportArgumentType]


def trl_loss(student: Rows, teacher: Rows, temperature: float) -> Tensor:
    """Of its generalized Jensen-Shannon divergence the end at beta = 0, which is the forward KL."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer

    labels = torch.zeros(1, len(student.hidden), dtype=torch.int64)
    return GKDTrainer.generalized_jsd_loss(
        student.logits[None], teacher.logits[None], labels=labels, beta=0.0, temperature=temperature
    )


def liger_loss(student: Rows, teacher: Rows, temperature: float) -> Tensor:
    """Fused with both output layers; beta = 0 is the forward KL here too."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, temperature=temperature, compiled=False
    )
    labels = torch.zeros(len(student.hidden), dtype=torch.int64)
    return loss(student.hidden, student.weight, teacher.hidden, teacher.weight, labels)


def modelopt_loss(student: Rows, teacher: Rows, temperature: float) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of untested versions of transformers, and of its own mean
        from modelopt.torch.distill.losses import LogitsDistillationLoss

        return LogitsDistillationLoss(temperature)(student.logits, teacher.logits)
