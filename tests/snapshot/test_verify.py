"""The gate: a good snapshot passes with its figures, and every kind of bad one is refused and named."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from snapshots import make_study, rewrite

from glassbox.config.settings import CapturedPositions
from glassbox.errors import GlassboxError
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.capture import build_manifest, capture_nothing, write_manifest
from glassbox.snapshot.composition import compose_items
from glassbox.snapshot.reader import Snapshot, open_snapshot, read_manifest
from glassbox.snapshot.recapture import recapture, recapture_fault
from glassbox.snapshot.schema import Format
from glassbox.snapshot.storage import part_rows, read_audit, write_audit, write_part
from glassbox.snapshot.verify import verify, verify_nothing
from glassbox.tasks.splits import read_split, write_splits

PART = "part-00000.parquet"


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("verify"))
    study.capture()
    return study


@pytest.fixture
def study(captured, tmp_path):
    """The captured study with a snapshot folder of its own, to be damaged."""
    shutil.copytree(captured.folder, tmp_path / "snapshot")
    return replace(captured, folder=tmp_path / "snapshot")


def refusal(study, settings=None) -> str:
    with pytest.raises(GlassboxError) as error:
        verify(settings or study.settings, study.folder, study.tasks)
    return str(error.value)


def test_a_good_snapshot_passes_with_its_figures(captured):
    report = verify(captured.settings, captured.folder, captured.tasks)
    assert report["logical_digest"] == read_manifest(captured.folder)["logical_digest"]
    assert report["rows"] == 24 and report["bytes"] > 0
    assert report["head"]["top_k_agreement"] == 1.0
    assert report["audit"]["hidden_cosine_min"] >= 0.99999
    assert report["audit"]["attention_kl_per_column_mean"] <= 3e-6
    assert {"temperature_1", "temperature_2", "temperature_4"} <= report["audit"].keys()
    assert report["recapture"] == {"samples": 24, "same_bits": 24}
    json.dumps(report, allow_nan=False)


def test_nothing_captured_is_no_snapshot_and_something_captured_is_not_nothing(captured, tmp_path):
    capture_nothing(tmp_path / "snapshot")
    assert open_snapshot(tmp_path / "snapshot") is None
    report = verify_nothing(tmp_path / "snapshot")
    assert (report["logical_digest"], report["rows"], report["bytes"]) == ("none", 0, 0)
    assert "Nothing was captured" in report["banner"]
    for read in (Snapshot, lambda folder: verify(captured.settings, folder, captured.tasks)):
        with pytest.raises(GlassboxError, match="holds no signal"):
            read(tmp_path / "snapshot")
    with pytest.raises(GlassboxError, match="captured for another pair"):
        verify_nothing(captured.folder)


def test_truncation_costs_what_the_dense_target_does_not(captured):
    objective = captured.settings.objective.model_copy(update={"logits_target": "topk", "temperature": 4.0})
    report = verify(captured.settings.model_copy(update={"objective": objective}), captured.folder, captured.tasks)
    figures = report["audit"]["temperature_4"]
    assert figures["dense_gradient_error"] < 0.01 < figures["topk_gradient_error"]
    assert "logits_target 'topk' at temperature 4" in report["banner"]
    assert verify(captured.settings, captured.folder, captured.tasks)["banner"] is None


@pytest.mark.parametrize("column", ["hidden", "attention", "topk_logits", "input_ids", "sample_id"])
def test_a_flipped_byte_in_a_page_names_file_and_row_group(study, column):
    path = study.folder / PART
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = next(
        group.column(index)
        for index in range(group.num_columns)
        if group.column(index).path_in_schema.split(".")[0] == column
    )
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size * 3 // 4] ^= 4
    path.write_bytes(content)
    message = refusal(study)
    assert PART in message and "row group 0" in message and "dvc checkout" in message
    assert column == "sample_id" or re.search(r"samples gsm8k/\S+", message)


def test_the_reader_itself_refuses_a_damaged_page(study):
    path = study.folder / PART
    snapshot = Snapshot(study.folder)
    chosen = [info.sample_id for info in snapshot.samples("train")]
    group = pq.ParquetFile(path).metadata.row_group(0)
    hidden = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "hidden")
    content = bytearray(path.read_bytes())
    content[hidden.data_page_offset + hidden.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(GlassboxError, match="row group 0"):
        Snapshot(study.folder).read(chosen, frozenset({"hidden"}))


def test_a_cut_file_is_refused(study):
    path = study.folder / PART
    path.write_bytes(path.read_bytes()[:-100])
    assert "footer" in refusal(study)


def test_a_missing_part_is_named(study):
    (study.folder / PART).unlink()
    assert PART in refusal(study)


def test_a_file_written_anew_is_refused(study):
    path = study.folder / PART
    write_part(path, [row for _, row in part_rows(path)], row_group_bytes=1000)
    assert "sha256 differs" in refusal(study)


def test_repacking_keeps_the_logical_digest(study):
    manifest = read_manifest(study.folder)
    rows = [row for _, row in part_rows(study.folder / PART)]
    write_part(study.folder / "part-00001.parquet", rows[::2], row_group_bytes=1000)
    write_part(study.folder / PART, rows[1::2], row_group_bytes=3000)
    layout = Format.from_json(manifest["format"])
    parts = [PART, "part-00001.parquet"]
    repacked = build_manifest(study.folder, parts, layout, manifest["provenance"], manifest["counts"])
    assert repacked["logical_digest"] == manifest["logical_digest"]
    write_manifest(study.folder, repacked)
    assert verify(study.settings, study.folder, study.tasks)["parts"] == 2


def changed_cell(column, dtype, index, value):
    """Set one entry of a column's cell in every row's place 0."""

    def change(rows):
        cell = np.frombuffer(getattr(rows[0], column), dtype).copy()
        cell[index] = value
        return [replace(rows[0], **{column: cell.tobytes()}), *rows[1:]]

    return change


@pytest.mark.parametrize(
    ("column", "dtype", "index", "value", "phrase"),
    [
        ("hidden", "<f2", 3, np.nan, "hidden states are not finite"),
        ("hidden", "<f2", slice(0, 32), 0, "all equal"),
        ("topk_logits", "<f2", 5, np.nan, "top-k logits are not finite"),
        ("topk_logits", "<f2", slice(0, 64), 0, "top-k logits is all equal"),
        ("topk_logits", "<f2", 9, 0, "do not descend"),
        ("topk_ids", "<u2", 0, 320, "outside the vocabulary"),
        ("log_tail", "<f4", 0, np.inf, "log-tails are not finite"),
        ("log_tail", "<f4", 0, 3.0, "log-probabilities differ"),
        ("label_logp", "<f4", 0, np.nan, "label log-probabilities"),
        ("label_logp", "<f4", 0, -40, "log-probabilities differ"),
        ("attention", "u1", slice(0, 40), 250, "sums to 1 only within"),
    ],
)
def test_a_bad_value_is_refused_with_file_row_group_and_sample(study, column, dtype, index, value, phrase):
    first = min(sample.sample_id for split in ("train", "validation") for sample in read_split(study.tasks, split))
    rewrite(study.folder, changed_cell(column, dtype, index, value))
    message = refusal(study)
    assert phrase in message
    assert f"{PART}, row group 0, sample {first}" in message and "dvc repro --force snapshot" in message


def test_an_input_that_does_not_match_its_digest_is_refused(study):
    rewrite(study.folder, lambda rows: [replace(rows[0], input_ids=rows[0].input_ids[::-1]), *rows[1:]])
    assert "input_sha256" in refusal(study)


def test_hidden_states_of_another_sample_are_refused(study):
    def swap(rows):
        first, second = [row for row in rows if row.task == "mmlu"][:2]
        swapped = {first.sample_id: second.hidden, second.sample_id: first.hidden}
        return [replace(row, hidden=swapped.get(row.sample_id, row.hidden)) for row in rows]

    rewrite(study.folder, swap)
    assert "from head x hidden" in refusal(study)


SIGNALS = ("topk_ids", "topk_logits", "log_tail", "label_logp", "hidden", "attention")


def exchanged(task, columns):
    """Two samples of a task with as many tokens exchange these cells."""

    def change(rows):
        pairs = [
            (one, other)
            for one in rows
            for other in rows
            if one.task == other.task == task
            and one.sample_id < other.sample_id
            and (len(one.input_ids), one.n_positions) == (len(other.input_ids), other.n_positions)
            and (task != "mmlu" or one.input_ids[-2] == other.input_ids[-2])
        ]
        one, other = pairs[0]
        lent = {one.sample_id: other, other.sample_id: one}
        return [
            replace(row, **{name: getattr(lent[row.sample_id], name) for name in columns})
            if row.sample_id in lent
            else row
            for row in rows
        ]

    return change


def refusal_of_recapture(study) -> str:
    """What the last check says by itself: in so small a study the audit, which comes first, sees every position."""
    tokenizer = load_tokenizer(study.settings.teacher)
    items = compose_items(study.settings, tokenizer, study.tasks)
    with pytest.raises(GlassboxError) as error:
        recapture(study.settings, study.folder, read_manifest(study.folder), items, tokenizer)
    return str(error.value)


def test_attention_of_another_sample_is_refused(study):
    rewrite(study.folder, exchanged("gsm8k", ["attention"]))
    assert refusal(study)
    assert "captured again differs, its attention by" in refusal_of_recapture(study)


def test_all_signals_of_another_sample_with_the_same_label_are_refused(study):
    rewrite(study.folder, exchanged("mmlu", SIGNALS))
    assert refusal(study)
    assert "captured again differs" in refusal_of_recapture(study)


@pytest.mark.parametrize("column", ["task", "split", "byte_spans"])
def test_a_row_that_is_not_its_samples_is_refused(study, column):
    other = {"task": "gsm8k", "split": "train", "byte_spans": None}[column]

    def change(rows):
        index = next(i for i, row in enumerate(rows) if row.task == "mmlu" and row.split == "validation")
        value = bytes(len(rows[index].byte_spans)) if other is None else other
        return [replace(row, **{column: value}) if i == index else row for i, row in enumerate(rows)]

    rewrite(study.folder, change)
    assert f"its {column} is not that of the sample with this id" in refusal(study)


def test_two_rows_that_exchange_their_ids_are_refused(study):
    def change(rows):
        one, other = [row for row in rows if row.task == "sst2"][:2]
        ids = {one.sample_id: other.sample_id, other.sample_id: one.sample_id}
        return [replace(row, sample_id=ids.get(row.sample_id, row.sample_id)) for row in rows]

    rewrite(study.folder, change)
    assert "input" in refusal(study) and "is not that of the sample with this id" in refusal(study)


@pytest.mark.parametrize("change", ["nan", "shifted", "tenfold"])
def test_statistics_that_are_not_those_of_the_states_are_refused(study, change):
    tensors = load_file(study.folder / "channels.safetensors")
    name = "mean_answer" if change == "shifted" else "deviation_answer"
    tensors[name] = {"nan": tensors[name] * np.nan, "shifted": tensors[name].roll(1), "tenfold": tensors[name] * 10}[
        change
    ]
    save_file(tensors, study.folder / "channels.safetensors")
    rewrite(study.folder, lambda rows: rows)
    assert f"channels.safetensors: the channels' {name} is not that of the stored states" in refusal(study)


def test_a_shortened_audit_is_refused(study):
    write_audit(study.folder / "audit.parquet", read_audit(study.folder / "audit.parquet")[:10])
    rewrite(study.folder, lambda rows: rows)
    assert "audit.parquet holds 10 positions, which are not the" in refusal(study)


@pytest.mark.parametrize("column", ["logits", "hidden", "attention"])
def test_an_audit_of_nan_is_refused(study, column):
    audit = read_audit(study.folder / "audit.parquet")
    cells = [np.frombuffer(getattr(row, column), "<f4") * np.float32(np.nan) for row in audit]
    changed = [replace(row, **{column: cell.tobytes()}) for row, cell in zip(audit, cells, strict=True)]
    write_audit(study.folder / "audit.parquet", changed)
    rewrite(study.folder, lambda rows: rows)
    assert "audit.parquet" in refusal(study)


def test_a_missing_sample_is_refused(study):
    rewrite(study.folder, lambda rows: rows[1:])
    assert "holds 23 samples, and its manifest 24" in refusal(study)


def test_a_repeated_sample_is_refused(study):
    path = study.folder / PART
    rows = [row for _, row in part_rows(path)]
    write_part(path, [rows[0], *rows])
    manifest = read_manifest(study.folder)
    from glassbox.files import sha256_of

    manifest["files"][PART]["sha256"] = sha256_of(path)
    write_manifest(study.folder, manifest)
    assert "repeat a sample" in refusal(study)


def test_a_changed_manifest_is_refused(study):
    manifest = read_manifest(study.folder)
    manifest["logical_digest"] = "0" * 64
    write_manifest(study.folder, manifest)
    assert "logical digest" in refusal(study)


def test_other_settings_are_refused_and_named(study):
    snapshot = study.settings.snapshot.model_copy(update={"top_k": 32})
    message = refusal(study, study.settings.model_copy(update={"snapshot": snapshot}))
    assert "settings.top_k" in message and "dvc repro snapshot" in message


def test_another_teacher_is_refused(study, tmp_path):
    from miniatures import save_model_folder, tiny_tokenizer

    folder = save_model_folder(tmp_path / "other", tiny_tokenizer(), seed=5)
    teacher = study.settings.teacher.model_copy(update={"model": str(folder)})
    assert "teacher.files.model.safetensors" in refusal(study, study.settings.model_copy(update={"teacher": teacher}))


def test_the_same_teacher_in_another_folder_is_accepted(study, tmp_path):
    shutil.copytree(study.settings.teacher.model, tmp_path / "moved")
    teacher = study.settings.teacher.model_copy(update={"model": str(tmp_path / "moved")})
    verify(study.settings.model_copy(update={"teacher": teacher}), study.folder, study.tasks)


def test_other_tasks_are_refused(study, tmp_path):
    splits = {split: read_split(study.tasks, split) for split in ("train", "validation", "test")}
    write_splits(tmp_path / "tasks", {**splits, "train": splits["train"][1:]})
    assert "tasks changed" in refusal(replace(study, tasks=tmp_path / "tasks"))


def test_a_row_captured_again_must_be_the_stored_one(captured):
    rows = [row for _, row in part_rows(captured.folder / PART)]
    layout = Format.from_json(read_manifest(captured.folder)["format"])
    assert recapture_fault(rows[0], rows[0], layout) is None
    hidden = np.frombuffer(rows[0].hidden, "<f2").copy()
    hidden[:4] += 1
    assert "cosine" in recapture_fault(rows[0], replace(rows[0], hidden=hidden.tobytes()), layout)
    attention = np.frombuffer(rows[0].attention, "u1").copy()
    attention[0] ^= 128
    assert "attention" in recapture_fault(rows[0], replace(rows[0], attention=attention.tobytes()), layout)
    label = np.frombuffer(rows[0].label_logp, "<f4") - np.float32(0.1)
    assert "log-probabilities" in recapture_fault(rows[0], replace(rows[0], label_logp=label.tobytes()), layout)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": CapturedPositions(hidden="all", attention="all")},
        {"positions": CapturedPositions(hidden="all", attention="answer")},
        {"attention_codec": "float16", "hidden_dtype": "bfloat16"},
        {"top_k": 1000, "temperatures": (1.0, 3.0)},
    ],
)
def test_every_kind_of_snapshot_passes(captured, tmp_path, changes):
    other = replace(captured, folder=tmp_path / "snapshot", scratch=tmp_path / "scratch").with_snapshot(**changes)
    other.capture()
    assert verify(other.settings, other.folder, other.tasks)["recapture"]["same_bits"] == 24
