"""The precision that is in force is the one that was asked for, or training does not begin."""

import pytest
import torch
from torch import nn

from glassbox.errors import GlassboxError
from glassbox.models.precision import PrecisionProbe, resolve


def test_fp16_without_cuda_is_refused_and_never_downgraded() -> None:
    with pytest.raises(GlassboxError, match="needs a CUDA device"):
        resolve("fp16", has_cuda=False, cuda_has_bf16=False)


@pytest.mark.parametrize(
    ("cuda", "bf16", "expected"), [(False, False, "no"), (True, True, "bf16"), (True, False, "fp16")]
)
def test_auto_takes_the_best_that_the_device_has(cuda: bool, bf16: bool, expected: str) -> None:
    assert resolve("auto", cuda, bf16) == expected


@pytest.mark.parametrize(
    ("bf16", "width", "expected"), [(True, 96, "no"), (True, 255, "no"), (True, 256, "bf16"), (False, 2048, "no")]
)
def test_auto_takes_bf16_on_a_cpu_that_has_it_where_the_student_is_wide_enough(
    bf16: bool, width: int, expected: str
) -> None:
    assert resolve("auto", False, False, bf16, width) == expected
    assert resolve("no", False, False, bf16, width) == "no"


def test_the_probe_sees_the_format_in_which_a_layer_really_computed() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    probe = PrecisionProbe(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.ones(1, 4))
    assert probe.require("bf16") == "bf16"


def test_mixed_precision_that_is_not_in_force_stops_the_trial() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    probe = PrecisionProbe(model)
    model(torch.ones(1, 4))
    with pytest.raises(GlassboxError, match="not in force: 'bf16' was asked for, but the student computes in 'no'"):
        probe.require("bf16")
