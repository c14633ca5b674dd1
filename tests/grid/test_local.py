"""Workers of one machine: the bits of a trial alone, and nothing lost where one is killed, stopped or interrupted."""

from __future__ import annotations

from pathlib import Path

import grids
import pytest


@pytest.mark.slow
def test_two_workers_train_the_bits_of_each_trial_alone(project: Path) -> None:
    grids.write_params(project, engine={"workers": 2})
    said = grids.train(project)
    print(said)
    assert said.startswith("4 trials due of 4")
    together = grids.digests(project)
    assert len(together) == 4
    assert "Nothing to train: all 4 trials (2 groups x 2 seeds) are there." in grids.train(project)
