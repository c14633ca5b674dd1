"""Reading: by sample id, in any order, with only the signals asked for."""

import json
import shutil
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from snapshots import make_study

import glassbox.snapshot.reader as reader_module
from glassbox.config.settings import CapturedPositions
from glassbox.errors import GlassboxError
from glassbox.models.loading import load_model
from glassbox.models.signals import position_signals
from glassbox.snapshot.reader import Snapshot
from glassbox.snapshot.storage import part_rows, write_part

SIGNALS = frozenset({"hidden", "attention", "topk"})


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return Snapshot(make_study(tmp_path_factory.mktemp("reader")).capture())


def train_ids(snapshot):
    return [info.sample_id for info in snapshot.samples("train")]


def test_a_batch_is_its_samples_packed_in_the_order_asked_for(snapshot):
    ids = train_ids(snapshot)[6:1:-1]
    batch = snapshot.read(ids, SIGNALS)
    assert batch.sample_ids == tuple(ids)
    assert batch.attention_mask.sum(1).tolist() == [
        next(info.n_tokens for info in snapshot.samples("train") if info.sample_id == sample_id) for sample_id in ids
    ]
    start = 0
    for row, sample_id in enumerate(ids):
        alone = snapshot.read([sample_id], SIGNALS)
        size = int(alone.count[0])
        here = slice(start, start + size)
        start += size
        assert (batch.sample_index[here] == row).all()
        length = alone.input_ids.shape[1]
        assert torch.equal(batch.input_ids[row, :length], alone.input_ids[0])
        assert (batch.input_ids[row, length:] == 0).all()
        for name in ("labels", "hidden", "topk_ids", "topk_logits", "log_tail"):
            assert torch.equal(getattr(batch, name)[here], getattr(alone, name)), name
        torch.testing.assert_close(batch.attention[here, :, :length], alone.attention)
        assert (batch.attention[here, :, length:] == 0).all()
    assert start == len(batch.labels)


def test_types_and_shapes_are_those_of_the_objective(snapshot):
    batch = snapshot.read(train_ids(snapshot)[:3], SIGNALS)
    positions, length = len(batch.labels), batch.input_ids.shape[1]
    assert batch.hidden.shape == (positions, 32) and batch.hidden.dtype == torch.float32
    assert batch.attention.shape == (positions, 4, length) and batch.attention.dtype == torch.float32
    assert batch.topk_ids.shape == (positions, 64) and batch.topk_ids.dtype == torch.int64
    assert batch.log_tail.shape == (positions, len(snapshot.temperatures))
    torch.testing.assert_close(batch.attention.sum(-1), torch.ones(positions, 4))
    weight, bias = snapshot.head()
    assert weight.shape == (snapshot.vocabulary, 32) and bias is None


def test_signals_that_are_not_asked_for_are_not_read(snapshot):
    batch = snapshot.read(train_ids(snapshot)[:2], frozenset({"hidden"}))
    assert batch.attention is None and batch.topk_ids is None and batch.log_tail is None
    assert snapshot.read(train_ids(snapshot)[:2], frozenset()).hidden is None


def test_planned_batches_come_in_order_and_the_thread_ends(snapshot):
    ids = train_ids(snapshot)
    plan = [ids[start : start + 4] for start in range(0, len(ids), 4)]
    assert [batch.sample_ids for batch in snapshot.batches(plan, SIGNALS)] == [tuple(chosen) for chosen in plan]
    unfinished = snapshot.batches(plan * 5, SIGNALS)
    next(unfinished)
    assert [thread for thread in threading.enumerate() if thread.name.startswith(reader_module.THREAD_NAME)]
    unfinished.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(reader_module.THREAD_NAME)]


def test_an_error_while_reading_ahead_reaches_the_trial(snapshot):
    batches = snapshot.batches([train_ids(snapshot)[:2], ["sst2/train/unknown"]], SIGNALS)
    next(batches)
    with pytest.raises(GlassboxError, match="has no sample sst2/train/unknown"):
        next(batches)


@pytest.fixture
def reads(monkeypatch):
    """The row groups that are read from a file, as they come."""
    found, read = [], reader_module.read_row_group

    def counted(file, path, group, columns):
        found.append((path.name, group, tuple(columns)))
        return read(file, path, group, columns)

    monkeypatch.setattr(reader_module, "read_row_group", counted)
    return found


def test_a_row_group_is_read_once_however_many_samples_share_it(snapshot, reads):
    opened = Snapshot(snapshot.folder)
    reads.clear()
    opened.read(train_ids(opened), SIGNALS)
    assert len(reads) == len(set(reads)) == sum(file.checking.num_row_groups for file in opened._files)
    opened.read(train_ids(opened), SIGNALS)
    assert len(reads) == sum(file.checking.num_row_groups for file in opened._files)


def test_only_the_columns_that_are_not_in_memory_are_read(snapshot, reads):
    opened = Snapshot(snapshot.folder)
    opened.read(train_ids(opened)[:1], frozenset({"hidden"}))
    reads.clear()
    opened.read(train_ids(opened)[:1], frozenset({"hidden", "attention"}))
    assert [columns for _, _, columns in reads] == [("attention",)]


def test_row_groups_of_few_samples_take_no_room_in_the_cache(snapshot, reads, monkeypatch):
    monkeypatch.setattr(reader_module, "SHARED_BY", 1000)
    opened = Snapshot(snapshot.folder)
    reads.clear()
    for _ in range(2):
        opened.read(train_ids(opened), SIGNALS)
    assert not opened._cache and len(reads) == 2 * sum(file.checking.num_row_groups for file in opened._files)


@pytest.fixture
def own(snapshot, tmp_path):
    """The folder of a copy, which no test has read yet and which may be damaged."""
    return Path(shutil.copytree(snapshot.folder, tmp_path / "snapshot"))


def flip_a_bit(path, column, group=0):
    chunks = pq.read_metadata(path).row_group(group)
    chunk = next(chunks.column(i) for i in range(chunks.num_columns) if chunks.column(i).path_in_schema == column)
    with path.open("r+b") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size * 3 // 4)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


def test_a_page_is_checked_when_a_process_first_reads_it_and_not_again(own, monkeypatch):
    monkeypatch.setattr(reader_module, "CACHED_BYTES", 1)
    checked, read = [], reader_module.read_row_group

    def noted(file, path, group, columns):
        checked.append(file in [each.checking for each in opened._files])
        return read(file, path, group, columns)

    opened = Snapshot(own)
    monkeypatch.setattr(reader_module, "read_row_group", noted)
    first = opened.read(train_ids(opened), SIGNALS)
    assert checked and all(checked)
    checked.clear()
    opened = Snapshot(own)
    second = opened.read(train_ids(opened), SIGNALS)
    assert checked and not any(checked)
    assert torch.equal(first.hidden, second.hidden) and torch.equal(first.attention, second.attention)


@pytest.mark.parametrize("column", ["hidden", "attention", "topk_ids", "topk_logits", "log_tail"])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_bit_that_flips_after_its_page_was_read_is_found(own, column, reopened, monkeypatch):
    monkeypatch.setattr(reader_module, "SHARED_BY", 1000)
    opened = Snapshot(own)
    opened.read(train_ids(opened), SIGNALS)
    flip_a_bit(own / "part-00000.parquet", column)
    opened = Snapshot(own) if reopened else opened
    with pytest.raises(GlassboxError, match="row group 0"):
        opened.read(train_ids(opened), SIGNALS)


def test_a_small_cache_changes_nothing_but_the_time(snapshot, monkeypatch):
    monkeypatch.setattr(reader_module, "CACHED_BYTES", 1)
    uncached = Snapshot(snapshot.folder)
    ids = train_ids(snapshot)
    for chosen in (ids[:4], ids[4:8], ids[:4]):
        assert torch.equal(uncached.read(chosen, SIGNALS).attention, snapshot.read(chosen, SIGNALS).attention)


def test_a_missing_signal_is_named(snapshot):
    without = Snapshot(snapshot.folder)
    without.manifest["signals"] = ["topk"]
    with pytest.raises(GlassboxError, match="no attention and no hidden"):
        without.read(train_ids(snapshot)[:1], frozenset({"hidden", "attention"}))


def test_a_missing_snapshot_is_a_sentence(tmp_path):
    with pytest.raises(GlassboxError, match="run `dvc repro snapshot`"):
        Snapshot(tmp_path)


@pytest.fixture
def copied(snapshot, tmp_path):
    shutil.copytree(snapshot.folder, tmp_path / "snapshot")
    return tmp_path / "snapshot"


@pytest.mark.parametrize("name", ["head", "channels"])
def test_a_flipped_bit_in_head_or_channels_never_reaches_a_trial(copied, name):
    path = copied / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(GlassboxError, match=rf"{name}.safetensors is missing or damaged.*dvc checkout"):
        getattr(Snapshot(copied), name)()
    path.write_bytes(content[:-50])
    with pytest.raises(GlassboxError, match="missing or damaged"):
        getattr(Snapshot(copied), name)()


def test_a_part_that_is_not_the_captured_one_is_refused_when_it_is_opened(copied):
    rows = [row for _, row in part_rows(copied / "part-00000.parquet")]
    write_part(copied / "part-00000.parquet", rows[3:])
    with pytest.raises(GlassboxError, match="holds 21 samples, and its manifest 24"):
        Snapshot(copied)


def test_a_manifest_without_one_of_its_keys_is_a_sentence(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest["files"], manifest["seal"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GlassboxError, match="lacks files: it is damaged"):
        Snapshot(copied)


def test_a_manifest_with_another_digit_is_a_sentence(copied):
    path = copied / "manifest.json"
    path.write_text(path.read_text().replace('"top_k": ', '"top_k": 1'))
    with pytest.raises(GlassboxError, match=r"manifest\.json cannot be read \(its seal is that of another content"):
        Snapshot(copied)


@pytest.fixture(scope="module", params=["answer", "all"])
def wide(request, tmp_path_factory):
    """A study with hidden states of all positions, and attention rows of the answer's or of all; and its snapshot."""
    positions = CapturedPositions(hidden="all", attention=request.param)
    study = make_study(tmp_path_factory.mktemp("wide"), positions=positions)
    return study, Snapshot(study.capture())


def true_signals(study, batch, attention_count):
    """What the teacher says at all positions of the batch's texts, attention rows of the last ones."""
    with torch.no_grad():
        return position_signals(
            load_model(study.settings.teacher),
            batch.input_ids,
            batch.attention_mask,
            torch.zeros_like(batch.count),
            batch.attention_mask.sum(1) - 1,
            want_attention=True,
            attention_count=attention_count,
        )


def test_signals_of_all_positions_are_the_teachers_at_each_and_attention_may_be_the_answers_alone(wide):
    study, snapshot = wide
    reach = snapshot.format.attention_positions
    whole = frozenset({"tokens", "hidden", "topk"} | ({"attention"} if reach == "all" else set()))
    batch = snapshot.read(train_ids(snapshot)[:6], SIGNALS, whole=whole)
    tokens = batch.attention_mask.sum(1)
    assert batch.count.tolist() == (tokens - 1).tolist() and not batch.first.any()
    column = torch.cat([torch.arange(n - 1) for n in tokens.tolist()])
    assert torch.equal(batch.labels, batch.input_ids[batch.sample_index, column + 1])
    assert torch.equal(batch.answer, column >= (tokens - 1 - batch.answer_count)[batch.sample_index])
    true = true_signals(study, batch, batch.counts(reach))
    torch.testing.assert_close(batch.hidden, true.hidden, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(batch.attention, true.attention, atol=6e-3, rtol=0)
    assert len(batch.topk_ids) == len(batch.labels)
    first, count = batch.span(batch.reach_of(batch.attention))
    assert torch.equal(first + count, tokens - 1) and torch.equal(count, batch.counts(reach))


def test_the_answers_positions_are_read_off_the_end_whatever_was_captured(wide):
    _, snapshot = wide
    ids = train_ids(snapshot)[:6]
    narrow = snapshot.read(ids, SIGNALS)
    mixed = snapshot.read(ids, SIGNALS, whole=frozenset({"tokens", "hidden"}))
    assert narrow.answer is None and torch.equal(narrow.count, narrow.answer_count)
    assert torch.equal(narrow.hidden, mixed.hidden[mixed.answer])
    assert torch.equal(narrow.labels, mixed.labels[mixed.answer])
    for name in ("attention", "topk_ids", "log_tail"):
        assert torch.equal(getattr(narrow, name), getattr(mixed, name)), name


def test_channels_have_moments_for_either_reach(wide):
    _, snapshot = wide
    hidden = snapshot.read(train_ids(snapshot), frozenset({"hidden"}), whole=frozenset({"tokens", "hidden"}))
    for reach, states in (("all", hidden.hidden), ("answer", hidden.hidden[hidden.answer])):
        mean, deviation = snapshot.channels(reach)
        torch.testing.assert_close(mean, states.mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(deviation, states.std(0, correction=0), atol=1e-4, rtol=1e-4)
    assert not torch.equal(snapshot.channels("all")[0], snapshot.channels("answer")[0])


@pytest.mark.parametrize(("signal", "setting"), [("hidden", "hidden"), ("topk", "hidden"), ("attention", "attention")])
def test_positions_that_were_not_captured_are_refused_with_the_setting_that_captures_them(snapshot, signal, setting):
    ids = train_ids(snapshot)[:2]
    said = rf"holds {signal} at answer positions only.*-S snapshot\.positions\.{setting}=all"
    with pytest.raises(GlassboxError, match=said):
        snapshot.read(ids, SIGNALS, whole=frozenset({"tokens", signal}))
    whole = snapshot.read(ids, SIGNALS, whole=frozenset({"tokens"}))
    assert len(whole.hidden) == int(whole.answer_count.sum()) < len(whole.labels)
    with pytest.raises(GlassboxError, match="holds hidden at answer positions only"):
        snapshot.channels("all")
