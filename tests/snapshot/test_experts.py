"""What the snapshot keeps of a mixture of experts: written, read back, checked, refused where it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mixtures import save_mixture
from snapshots import Study, make_study, rewrite

from glassbox.errors import GlassboxError
from glassbox.models.experts import NoMixture
from glassbox.snapshot.codec import expert_arrays
from glassbox.snapshot.reader import Snapshot
from glassbox.snapshot.schema import EXPERTS_FILE, Row
from glassbox.snapshot.verify import verify

HIDDEN = frozenset({"hidden", "experts"})


def mixture_study(root: Path, family: str = "mixtral", **snapshot: object) -> Study:
    study = make_study(root, samples=6, **{"experts": "last", "audit_positions": 8, **snapshot})
    save_mixture(root / "teacher", family)
    return study


def error_of(snapshot: Snapshot) -> float:
    """The worst position's relative error of the last state formed from the model's own choice."""
    ids = [info.sample_id for info in snapshot.samples("train")]
    batch, mixture = snapshot.read(ids, HIDDEN), snapshot.mixture()
    assert batch.router_logits is not None and batch.expert_ids is not None and batch.residual is not None
    assert batch.expert_outputs is not None and batch.hidden is not None and batch.router_input is not None
    torch.testing.assert_close(mixture.logits(batch.router_input), batch.router_logits, rtol=5e-3, atol=5e-2)
    weights = mixture.own_weights(batch.router_logits).gather(1, batch.expert_ids)
    formed = mixture.states(batch.residual, batch.expert_outputs, weights)
    return float(((formed - batch.hidden).norm(dim=1) / batch.hidden.norm(dim=1)).max())


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = mixture_study(tmp_path_factory.mktemp("mixture"))
    study.capture()
    return study


def test_the_snapshot_forms_the_last_layer_and_passes_its_gate(captured: Study) -> None:
    snapshot = Snapshot(captured.folder)
    assert (snapshot.format.experts, snapshot.format.experts_kept) == (6, 6)
    assert error_of(snapshot) < 2e-3
    figures = verify(captured.settings, captured.folder, captured.tasks)
    positions = sum(entry["positions"] for tasks in snapshot.manifest["counts"].values() for entry in tasks.values())
    assert figures["recapture"]["same_bits"] == figures["recapture"]["samples"] > 0
    record = (6 + 2) * 32 * 2 + 4 * 6 + 2 * 6
    assert figures["signal_bytes"]["experts"] == pytest.approx(positions * record, rel=0.1)


@pytest.mark.parametrize("cells", ["float32", "bfloat16"])
def test_cells_of_other_formats_and_fewer_experts(tmp_path: Path, cells: str) -> None:
    study = mixture_study(tmp_path, "granitemoe", experts_dtype=cells, experts_kept=3)
    snapshot = Snapshot(study.capture())
    assert error_of(snapshot) < (1e-3 if cells == "float32" else 2e-2)  # the hidden state itself is float16
    verify(study.settings, study.folder, study.tasks)


def test_the_gate_finds_an_experts_cell_that_is_not_the_teachers(captured: Study, tmp_path: Path) -> None:
    study = mixture_study(tmp_path)
    study.capture()

    def louder(row: Row) -> Row:
        records = np.frombuffer(row.further["experts"], Snapshot(study.folder).format.expert_dtype).copy()
        records["residual"] *= 2
        return replace(row, further={"experts": records.tobytes()})

    rewrite(study.folder, lambda rows: [louder(rows[0]), *rows[1:]])
    with pytest.raises(GlassboxError, match="formed from the experts differs by"):
        verify(study.settings, study.folder, study.tasks)
    (study.folder / EXPERTS_FILE).write_bytes((study.folder / EXPERTS_FILE).read_bytes()[:-1] + b"x")
    with pytest.raises(GlassboxError, match="sha256"):
        Snapshot(study.folder).mixture()


def test_a_dense_teacher_is_refused_with_the_reason(tmp_path: Path) -> None:
    study = make_study(tmp_path, samples=3, experts="last")
    with pytest.raises(NoMixture, match="returns no router logits"):
        study.capture()
    plain = Snapshot(study.with_snapshot(experts="none").capture())
    with pytest.raises(GlassboxError, match="snapshot.experts=last"):
        plain.mixture()
    assert "experts" not in plain.manifest["signals"] and EXPERTS_FILE not in plain.manifest["files"]


def test_records_come_back_as_they_were_written(captured: Study) -> None:
    snapshot = Snapshot(captured.folder)
    (stored,) = snapshot.stored([snapshot.samples("train")[0].sample_id], ["experts"])
    arrays = expert_arrays([stored.cells["experts"]], snapshot.format)
    assert arrays["expert_ids"].tolist() == [list(range(6))] * stored.n_answer
    assert {name: value.dtype for name, value in arrays.items()} == {
        "router_logits": np.float32,
        "expert_ids": np.int64,
        "router_input": np.float32,
        "residual": np.float32,
        "expert_outputs": np.float32,
    }
