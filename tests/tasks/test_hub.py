"""The hub's data sets out of a folder in the same layout: the study's splits, what is dropped, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sections
import yaml
from hubs import save_datasets
from projects import ROOT, merged

from glassbox.config.settings import ModelSettings, TaskSettings, TextSettings
from glassbox.errors import GlassboxError
from glassbox.models.running import block_of
from glassbox.tasks import hub, text
from glassbox.tasks.splits import read_split


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return save_datasets(tmp_path / "mirror")


def hub_task(**counts: int | None) -> TaskSettings:
    return TaskSettings(source="hub", **counts)  # type: ignore[arg-type]


def test_every_split_comes_from_the_hub_split_that_the_paper_scale_names(mirror: Path) -> None:
    places = {
        task: {split: pool.place for split, pool in hub.pools(task, hub_task(), str(mirror)).items()}
        for task in hub.HUB_TASKS
    }
    glue, mmlu, gsm8k = "nyu-mll/glue/sst2", "cais/mmlu/all", "openai/gsm8k/main"
    assert places == {
        "sst2": {"train": f"{glue}/train", "validation": f"{glue}/train", "test": f"{glue}/validation"},
        "mmlu": {"train": f"{mmlu}/auxiliary_train", "validation": f"{mmlu}/validation", "test": f"{mmlu}/test"},
        "gsm8k": {"train": f"{gsm8k}/train", "validation": f"{gsm8k}/train", "test": f"{gsm8k}/test"},
    }


def test_a_split_that_serves_two_is_read_once(mirror: Path) -> None:
    pools = hub.pools("gsm8k", hub_task(), str(mirror))
    assert pools["train"] is pools["validation"] and len(pools["train"].samples) == 30


def test_the_subject_of_a_question_is_its_cluster(mirror: Path) -> None:
    pools = hub.pools("mmlu", hub_task(), str(mirror))
    assert {sample.cluster for sample in pools["test"].samples} == {"subject_0", "subject_1"}


def test_the_stage_draws_the_splits_and_reports_what_it_dropped(mirror: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    counts = {"sst2": (20, 5, None), "mmlu": (10, None, None), "gsm8k": (12, 6, None)}
    tasks = {
        name: {"source": "hub", "revision": None, "files": None, "train": train, "validation": validation, "test": test}
        for name, (train, validation, test) in counts.items()
    }
    values = merged(values, {"prepare": {"hub": str(mirror), "tasks": tasks}})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    script = [sys.executable, str(ROOT / "src/prepare.py")]
    environment = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dropped = "nyu-mll/glue/sst2/train: 2 samples dropped (for 'sst2' train are in another split)."
    assert dropped in done.stdout
    origins = json.loads((tmp_path / "reports/tasks.json").read_text(encoding="utf-8"))
    assert origins["sst2"]["train"] == {
        "place": "nyu-mll/glue/sst2/train",
        "revision": None,
        "commit": None,
        "offered": 40,
        "repeated": 0,
        "in_another_split": 2,
        "taken": 20,
        "notes": [],
    }
    taken = {name: tuple(origins[name][split]["taken"] for split in ("train", "validation", "test")) for name in counts}
    assert taken == {"sst2": (20, 5, 3), "mmlu": (10, 6, 8), "gsm8k": (12, 6, 9)}
    splits = {split: read_split(tmp_path / "data/tasks", split) for split in ("train", "validation", "test")}
    prompts = [sample.prompt for samples in splits.values() for sample in samples]
    assert len(set(prompts)) == len(prompts) == 20 + 5 + 3 + 10 + 6 + 8 + 12 + 6 + 9


def test_another_seed_draws_another_subset_and_the_same_test(mirror: Path) -> None:
    from glassbox.tasks.sources import load_samples

    tasks = {"gsm8k": hub_task(train=12, validation=6)}
    first, second = (load_samples(sections.prepare(seed=seed, hub=str(mirror), tasks=tasks)) for seed in (0, 1))
    assert first["test"] == second["test"]
    assert first["train"] != second["train"]
    assert first == load_samples(sections.prepare(seed=0, hub=str(mirror), tasks=tasks))


def test_a_folder_without_the_data_set_says_which_setting_names_it(mirror: Path) -> None:
    with pytest.raises(GlassboxError, match=r"prepare\.hub names .*nowhere/cais/mmlu, which does not exist"):
        hub.pools("mmlu", hub_task(), str(mirror / "nowhere"))


@pytest.mark.parametrize("missing", ["README.md", "all/auxiliary_train-00000-of-00001.parquet"])
def test_a_folder_without_a_file_says_what_leaves_it_whole(mirror: Path, missing: str) -> None:
    (mirror / "cais/mmlu" / missing).unlink()
    with pytest.raises(GlassboxError) as refusal:
        hub.pools("mmlu", hub_task(), str(mirror))
    assert "lacks a file that is needed" in str(refusal.value)
    assert "hf download cais/mmlu --repo-type dataset --local-dir FOLDER/cais/mmlu" in str(refusal.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"sentence": ["good"], "label": [-1]}, r"sst2/train, row 0: ValueError\('a label is 0 or 1, not -1'\)"),
        ({"text": ["good"], "label": [1]}, r"KeyError\('sentence'\); the columns are text, label"),
    ],
)
def test_a_row_that_is_no_sample_is_named(mirror: Path, columns: dict[str, list[object]], said: str) -> None:
    place = mirror / "nyu-mll/glue/sst2"
    for split in ("validation", "test"):
        (place / f"{split}-00000-of-00001.parquet").unlink()
    for split in ("train", "validation", "test"):
        pq.write_table(pa.table(columns), place / f"{split}-00000-of-00001.parquet")
    with pytest.raises(GlassboxError, match=said):
        hub.pools("sst2", hub_task(), str(mirror))


ARC = {
    "dataset": {
        "name": "own/arc",
        "configuration": "challenge",
        "splits": {"train": "train", "validation": "train", "test": "test"},
    },
    "fields": {
        "prompt": "Question: {question}\nAnswer:",
        "choices": "choices.text",
        "answer": "answerKey",
        "labels": "choices.label",
    },
}


def save_arc(folder: Path, key: str = "2") -> Path:
    place = folder / "own/arc"
    (place / "challenge").mkdir(parents=True)
    for split, count in (("train", 12), ("test", 5)):
        rows = {
            "question": [f"{split} {number}?" for number in range(count)],
            "choices": [{"text": ["salt", "sugar"], "label": ["1", "2"]}] * count,
            "answerKey": [key] * count,
        }
        pq.write_table(pa.table(rows), place / f"challenge/{split}-00000-of-00001.parquet")
    files = [{"split": split, "path": f"challenge/{split}-*"} for split in ("train", "test")]
    card = {"configs": [{"config_name": "challenge", "data_files": files}]}
    (place / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n", encoding="utf-8")
    return folder


def test_any_data_set_is_read_with_its_columns_mapped(mirror: Path) -> None:
    task = TaskSettings.model_validate({"source": "hub", **ARC})
    pools = hub.pools("science", task, str(save_arc(mirror)))
    assert pools["train"] is pools["validation"] and len(pools["train"].samples) == 12
    sample = pools["test"].samples[0]
    assert (sample.prompt, sample.gold) == ("Question: test 0?\nAnswer:", " sugar")
    assert (sample.choices, pools["test"].place) == ((" salt", " sugar"), "own/arc/challenge/test")


def test_a_row_that_the_mapping_does_not_fit_is_named(mirror: Path) -> None:
    task = TaskSettings.model_validate({"source": "hub", **ARC})
    with pytest.raises(GlassboxError, match=r"own/arc/challenge/\w+, row 0: the answer '3' is none of the choices"):
        hub.pools("science", task, str(save_arc(mirror, key="3")))


def test_rows_of_a_data_set_are_one_text_whose_lines_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured: Path
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "mirror/someone/prose"
    folder.mkdir(parents=True)
    lines = ["", " = Lobsters = ", "", "They are never dull , and end a good film .", ""] * 3
    for split in ("train", "validation", "test"):
        pq.write_table(pa.table({"passage": lines}), folder / f"{split}.parquet")
    splits = {split: split for split in ("train", "validation", "test")}
    settings = TaskSettings.model_validate(
        {
            "source": "text",
            "dataset": {"name": "someone/prose", "splits": splits},
            "text": {"block_size": 12, "column": "passage"},
        }
    )
    teacher = ModelSettings(model=str(captured / "models/teacher"))
    pools = text.pools("prose", settings, teacher, str(tmp_path / "mirror"))
    found = [block_of(sample.prompt, sample.answer).scored for sample in pools["test"].samples]
    assert "".join(found) == "".join(f"{line}\n" for line in lines)
    assert {sample.cluster for sample in pools["test"].samples} == {"", "Lobsters"}
    assert pools["train"].place == "someone/prose/train"
    unknown = settings.model_copy(update={"text": TextSettings(block_size=12)})
    with pytest.raises(GlassboxError, match="no column `text`; there are passage"):
        text.pools("prose", unknown, teacher, str(tmp_path / "mirror"))
