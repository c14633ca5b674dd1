"""Further columns: stored where a selected group reads them, read back as they are, checked and captured again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from snapshots import Study, make_study, rewrite

from glassbox.config.settings import Group, Settings
from glassbox.errors import GlassboxError
from glassbox.models.loading import load_model
from glassbox.models.signals import position_signals
from glassbox.snapshot.further import further_facts, stored_layers
from glassbox.snapshot.partners import with_signals_of
from glassbox.snapshot.reader import Snapshot
from glassbox.snapshot.schema import Row
from glassbox.snapshot.verify import verify

ALL = frozenset({"hidden", "layers", "relations"})


def with_group(settings: Settings, *components: str) -> Settings:
    """The settings of a study whose only group uses these components beside the task's."""
    group = Group.model_validate({"task": 1.0, **dict.fromkeys(components, 1.0)})
    return settings.model_copy(update={"groups": ("own",), "distill": {"own": group}})


def study_of(root: Path, *components: str) -> Study:
    study = make_study(root, samples=9)
    return replace(study, settings=with_group(study.settings, *components))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = study_of(tmp_path_factory.mktemp("further"), "layers", "relations")
    found.capture()
    return found


def test_a_study_whose_groups_read_nothing_more_stores_nothing_more(tmp_path: Path, study: Study) -> None:
    plain = Snapshot(study_of(tmp_path, "hidden").capture())
    assert plain.format.further == {} and {"layers", "relations"}.isdisjoint(plain.manifest["signals"])
    assert {"layers", "relations", "n_layers", "relations_layer"}.isdisjoint(plain.manifest["format"])
    more = Snapshot(study.folder)
    assert more.manifest["signals"] == ["attention", "hidden", "label_logp", "layers", "relations", "topk"]
    ids = [info.sample_id for info in plain.samples("train")]
    mine, theirs = (each.read(ids, frozenset({"hidden", "topk", "attention"})) for each in (plain, more))
    assert torch.equal(mine.hidden, theirs.hidden) and torch.equal(mine.attention, theirs.attention)  # type: ignore[arg-type]


def test_what_is_read_is_what_the_teacher_computes(study: Study) -> None:
    snapshot, teacher = Snapshot(study.folder), load_model(study.settings.teacher)
    layout = snapshot.format
    assert layout.layers == (1,) and layout.relations_layer == layout.n_layers == 2
    batch = snapshot.read([info.sample_id for info in snapshot.samples("train")], ALL)
    with torch.no_grad():
        plain = teacher(batch.input_ids, output_hidden_states=True)
        own = position_signals(
            teacher,
            batch.input_ids,
            batch.attention_mask,
            batch.first,
            batch.count,
            want_attention=False,
            layers=(1,),
            relations_layer=2,
        )
    columns = torch.cat([torch.arange(int(f), int(f + n)) for f, n in zip(batch.first, batch.count, strict=True)])
    states = plain.hidden_states[1][batch.sample_index, columns]
    assert torch.allclose(batch.further["layers"][:, 0], states, atol=2e-3)
    assert own.layers is not None and torch.equal(own.layers[:, 0], states)
    assert own.relations is not None and tuple(each.shape[-1] for each in own.relations) == layout.relations
    inside = torch.arange(batch.input_ids.shape[1]) < (batch.attention_mask.sum(1) - 1)[:, None]
    expected = torch.cat(own.relations, -1)[inside]
    assert torch.allclose(batch.further["relations"], expected, atol=4e-3)


def test_relations_are_those_that_attention_itself_is_made_of(study: Study) -> None:
    snapshot = Snapshot(study.folder)
    ids = [info.sample_id for info in snapshot.samples("train")][:1]
    batch = snapshot.read(ids, ALL | {"attention"})
    heads, depth = snapshot.format.heads, snapshot.format.relations[0] // snapshot.format.heads
    query, key, _ = batch.further["relations"].split(list(snapshot.format.relations), dim=-1)
    shared = heads // (snapshot.format.relations[1] // depth)
    last = query[-1].reshape(heads, depth)
    keys = key.reshape(len(key), -1, depth).repeat_interleave(shared, dim=1)
    rows = torch.softmax(torch.einsum("hd,chd->hc", last, keys) / depth**0.5, -1)
    assert batch.attention is not None
    assert torch.allclose(rows, batch.attention[-1, :, : len(key)], atol=0.02)


def test_layers_have_statistics_of_their_own(study: Study) -> None:
    snapshot = Snapshot(study.folder)
    mean, deviation = snapshot.layer_channels()
    states = snapshot.read([info.sample_id for info in snapshot.samples("train")], ALL).further["layers"][:, 0]
    assert torch.allclose(mean[0], states.mean(0), atol=1e-4)
    assert torch.allclose(deviation[0], states.std(0, correction=0), atol=1e-4)


def test_a_partners_further_signals_lie_on_the_own_positions(study: Study) -> None:
    snapshot = Snapshot(study.folder)
    mine, theirs = (info.sample_id for info in snapshot.samples("train")[:2])
    own, other = (snapshot.read([each], ALL) for each in (mine, theirs))
    lent = with_signals_of(own, other).further
    assert lent["layers"].shape == own.further["layers"].shape
    assert lent["relations"].shape == own.further["relations"].shape
    read = [min(place, len(other.further["relations"]) - 1) for place in range(len(own.further["relations"]))]
    assert torch.equal(lent["relations"], other.further["relations"][read])


def test_the_gate_passes_a_sound_snapshot_and_captures_its_columns_again(study: Study) -> None:
    figures = verify(study.settings, study.folder, study.tasks)
    assert figures["recapture"]["samples"] == figures["recapture"]["same_bits"] == 15
    assert {"layers", "relations"} <= set(figures["signal_bytes"])


@pytest.mark.parametrize(
    ("column", "spoiled", "said"),
    [
        ("layers", lambda cell: cell[:-2], "layers has .* bytes instead of"),
        ("relations", lambda cell: b"\x00\x7e" + cell[2:], "relations are not finite"),
        ("relations", lambda cell: bytes(reversed(cell)), "its relations have a cosine|relations are not finite"),
    ],
)
def test_the_gate_names_a_row_whose_further_cell_is_wrong(tmp_path: Path, column: str, spoiled, said: str) -> None:
    study = study_of(tmp_path, "layers", "relations")

    def change(rows: list[Row]) -> list[Row]:
        cells = {name: bytes(cell) for name, cell in rows[0].further.items()}
        return [replace(rows[0], further=cells | {column: spoiled(cells[column])}), *rows[1:]]

    rewrite(study.capture(), change)
    with pytest.raises(GlassboxError, match=said):
        verify(study.settings, study.folder, study.tasks)


def test_layers_that_the_map_needs_and_the_settings_leave_out_are_refused(study: Study) -> None:
    assert further_facts(study.settings) == {"layers": [1], "relations_layer": 2}
    assert further_facts(with_group(study.settings, "hidden")) == {}
    for given, said in (((2,), "does not hold layers \\[1\\]"), ((1, 9), "the teacher has 2")):
        with pytest.raises(GlassboxError, match=said):
            stored_layers(study.with_snapshot(layers=given).settings)
    only_last = study.settings.objective.model_copy(update={"layer_map": ((2, 2),)})
    with pytest.raises(GlassboxError, match="distill=hidden_state"):
        stored_layers(study.settings.model_copy(update={"objective": only_last}))
