"""How items are put, judged, drawn into splits and stored."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from glassbox.config.settings import TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import gsm8k, mmlu, sst2
from glassbox.tasks.pools import Drawn, Pool, draw, requests
from glassbox.tasks.sample import (
    Sample,
    assign,
    chance_levels,
    extract_number,
    is_correct_generation,
    make_sample,
    metric_name,
)
from glassbox.tasks.splits import read_split, tasks_digest, write_splits

WORKED = "She buys 2*3=<<2*3=6>>6 eggs.\nThat costs 6*200=$<<6*200=1200>>1,200.\n#### 1,200"


def text_sample(number: int, answer: str = "yes") -> Sample:
    return make_sample("toy", "unassigned", f"Question {number}:", f" {answer}", (), answer)


def test_guessing_is_right_as_often_as_there_are_choices() -> None:
    two, four = ((" a", " b"), (" a", " b", " c", " d"))
    samples = [make_sample("m", "test", f"{len(choices)}", " a", choices, " a") for choices in (two, four)]
    assert chance_levels([*samples, make_sample("g", "test", "p", " a", (), "a")]) == {"m": 0.375, "g": 0.0}


def test_a_review_ends_in_the_label_word() -> None:
    sample = sst2.sample("train", "a warm , funny film ", True)
    assert sample.prompt == "Review: a warm , funny film\nSentiment:"
    assert (sample.answer, sample.gold, sample.choices) == (" positive", " positive", (" negative", " positive"))


def test_a_question_lists_four_options_and_is_answered_by_a_letter() -> None:
    sample = mmlu.sample("test", "Which?", ["one", "two", "three", "four"], 1)
    assert sample.prompt == "Question: Which?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    assert (sample.answer, sample.gold, sample.choices) == (" B", " B", (" A", " B", " C", " D"))


@pytest.mark.parametrize(("options", "index"), [(["one", "two", "three"], 0), (["a", "b", "c", "d"], 4)])
def test_a_question_without_four_options_or_an_answer_among_them_is_refused(options: list[str], index: int) -> None:
    with pytest.raises(ValueError, match="four options"):
        mmlu.sample("test", "Which?", options, index)


def test_a_worked_answer_keeps_its_steps_and_loses_its_annotations() -> None:
    sample = gsm8k.sample("train", "How much?", WORKED)
    assert sample.prompt == "Question: How much?\nAnswer:"
    assert sample.answer == " She buys 2*3=6 eggs.\nThat costs 6*200=$1,200.\n#### 1,200"
    assert (sample.gold, sample.choices) == ("1200", ())


def test_a_worked_answer_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="ends in '#### number'"):
        gsm8k.sample("train", "How much?", "Nobody knows.")


def test_every_continuation_begins_with_a_space() -> None:
    for sample in (
        sst2.sample("train", "good", True),
        mmlu.sample("train", "Which?", list("wxyz"), 0),
        gsm8k.sample("train", "How much?", WORKED),
    ):
        assert all(text.startswith(" ") and text[1] != " " for text in (sample.answer, *sample.choices))


def test_an_id_depends_on_task_split_prompt_and_answer_only() -> None:
    sample = sst2.sample("train", "good", True)
    assert sample.sample_id == sst2.sample("train", " good ", True).sample_id == "sst2/train/ddf8aa73422cad3a"
    others = [sst2.sample("test", "good", True), sst2.sample("train", "good", False), sst2.sample("train", "bad", True)]
    assert len({sample.sample_id, *(other.sample_id for other in others)}) == 4
    assert assign(sample, "reviews", "test").sample_id == "reviews/test/ddf8aa73422cad3a"
    assert assign(sample, "sst2", "train") == sample


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so\n#### 72", "72"),
        ("####72", "72"),
        ("#### 1,234,567", "1234567"),
        ("#### -5", "-5"),
        ("#### \u22125", "-5"),
        ("#### +5", "5"),
        ("#### 3.50", "3.5"),
        ("#### 3.0", "3"),
        ("#### .5", "0.5"),
        ("#### 100", "100"),
        ("#### 007", "7"),
        ("#### -0", "0"),
        ("#### $1,200", "1200"),
        ("#### -$3", "-3"),
        ("#### $-3.25", "-3.25"),
        ("#### € 40", "40"),
        ("#### 18.", "18"),
        ("#### 18.\n", "18"),
        ("#### 18, of course", "18"),
        ("#### 18%", "18"),
        ("#### 18 eggs", "18"),
        ("#### **18**", "18"),
        ("#### 18\n- 3 of them", "18"),
        ("#### 5\n\nQuestion: next?\n#### 7", "5"),
        ("#### Step 1\n3 + 4 = 7\n\n#### 7", "7"),
        ("#### Solution:\n12 * 2 = 24\n#### 24", "24"),
        ("#### none\n#### 7", "7"),
        ("#### 1 000", "1000"),
        ("#### 50\u2009000 eggs", "50000"),
        ("#### 1\u202f000\u202f000.5", "1000000.5"),
        ("#### 10,00,000", "1000000"),
        ("#### 18 months", "18"),
    ],
)
def test_the_number_after_the_mark_is_read_however_it_is_written(text: str, number: str) -> None:
    assert extract_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", "72", "the answer is 72", "####", "#### none", "#### 5/2", "#### 12 - 4", "#### 1e3", "#### --5"),
        *("#### 5 1/2", "#### 3 1/2", "#### 5½", "#### 5\\frac{1}{2}", "#### 1_000", "#### 1.5.2", "#### 1.000,50"),
        *("#### 1,5", "#### 1000,000", "#### 12 3", "#### 1 00", "#### 1'000", "#### 10:30", "#### 5–7"),
        *("#### 5 million", "#### 5 thousand eggs", "#### 5/2\n#### 7"),
    ],
)
def test_a_text_without_a_plain_number_after_the_mark_has_no_number(text: str) -> None:
    assert extract_number(text) is None


def test_a_generated_number_counts_by_value_and_a_generated_text_by_its_letters() -> None:
    number, text = gsm8k.sample("test", "How much?", WORKED), text_sample(1)
    assert is_correct_generation(number, " Other steps.\n#### $1200.00")
    assert not is_correct_generation(number, " 1200")
    assert not is_correct_generation(number, " #### 120")
    assert is_correct_generation(text, "\n yes ")
    assert not is_correct_generation(text, "yes, it is")


def test_a_metric_is_named_for_its_task_and_its_kind() -> None:
    assert metric_name("mmlu", True) == "accuracy_mmlu"
    assert metric_name("gsm8k", False) == "exact_match_gsm8k"


def shared_pool(size: int) -> dict[str, Pool]:
    pool = Pool("one file", tuple(text_sample(number) for number in range(size)))
    return {"train": pool, "validation": pool, "test": pool}


def counts(train: int | None, validation: int | None, test: int | None) -> TaskSettings:
    return TaskSettings(source="embedded", train=train, validation=validation, test=test)


def test_splits_of_one_file_are_disjoint_and_repeat_with_the_seed() -> None:
    drawn: list[Drawn] = []
    wanted = requests("toy", shared_pool(50), counts(20, 5, 10))
    splits = draw(wanted, 3, drawn.append)
    prompts = [sample.prompt for samples in splits.values() for sample in samples]
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [20, 5, 10]
    assert len(set(prompts)) == 35 and not any(each.sentences() for each in drawn)
    assert draw(wanted, 3) == splits
    assert draw(wanted, 4) != splits
    assert all(sample.sample_id.startswith("toy/test/") for sample in splits["test"])


def test_a_split_without_a_number_takes_what_the_others_leave() -> None:
    splits = draw(requests("toy", shared_pool(50), counts(20, 5, None)), 0)
    assert [len(samples) for samples in splits.values()] == [20, 5, 25]


def test_two_splits_cannot_both_take_all_of_one_file() -> None:
    with pytest.raises(GlassboxError, match=r"test and train both take every sample of one file.*prepare\.tasks\.toy"):
        requests("toy", shared_pool(50), counts(None, 5, None))


def test_too_few_samples_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(GlassboxError, match="wants 40 train samples and one file has 35 left"):
        draw(requests("toy", shared_pool(50), counts(40, 5, 10)), 0)


def test_duplicates_are_dropped_counted_and_reported() -> None:
    drawn: list[Drawn] = []
    pools = {
        "train": Pool("train.jsonl", tuple(text_sample(number) for number in (1, 2, 3, 3, 4))),
        "validation": Pool("validation.jsonl", (text_sample(5, "no"), text_sample(2, "no"))),
        "test": Pool("test.jsonl", (text_sample(1), text_sample(5))),
    }
    splits = draw(requests("toy", pools, counts(None, None, None)), 0, drawn.append)
    assert [sample.prompt for sample in splits["test"]] == ["Question 1:", "Question 5:"]
    assert [sample.prompt for sample in splits["validation"]] == ["Question 2:"]
    assert [sample.prompt for sample in splits["train"]] == ["Question 3:", "Question 4:"]
    assert [sentence for each in drawn for sentence in each.sentences()] == [
        "validation.jsonl: 1 sample dropped (for 'toy' validation are in another split).",
        "train.jsonl: 1 sample dropped (repeat another prompt there).",
        "train.jsonl: 2 samples dropped (for 'toy' train are in another split).",
    ]


def test_a_test_text_in_the_file_of_train_and_validation_is_dropped_from_both_and_counted_for_both() -> None:
    drawn: list[Drawn] = []
    shared = Pool("train.jsonl", tuple(text_sample(number) for number in range(10)))
    test = Pool("test.jsonl", (text_sample(3), text_sample(7), text_sample(99)))
    splits = draw(
        requests("toy", {"train": shared, "validation": shared, "test": test}, counts(4, 4, None)), 0, drawn.append
    )
    assert len(splits["test"]) == 3
    assert not {"Question 3:", "Question 7:"} & {s.prompt for split in ("train", "validation") for s in splits[split]}
    assert {each.split: each.in_another_split for each in drawn} == {"test": 0, "validation": 2, "train": 2}


def test_one_tasks_size_does_not_move_anothers_samples() -> None:
    both = requests("toy", shared_pool(50), counts(20, 5, 10))
    letters = Pool("letters", tuple(replace(text_sample(n), prompt=f"Letter {n}") for n in range(50)))
    others = dict.fromkeys(("train", "validation", "test"), letters)
    few = draw(both + requests("letters", others, counts(5, 5, 5)), 0)
    many = draw(both + requests("letters", others, counts(20, 10, 20)), 0)
    for split in few:
        assert [s for s in few[split] if s.task == "toy"] == [s for s in many[split] if s.task == "toy"]


@pytest.fixture
def splits() -> dict[str, list[Sample]]:
    return {
        "train": [sst2.sample("train", "good – naïve 中", True), gsm8k.sample("train", "How much?", WORKED)],
        "validation": [mmlu.sample("validation", "Which?", list("wxyz"), 3)],
        "test": [sst2.sample("test", "bad", False)],
    }


def test_stored_splits_are_read_back_as_they_were(tmp_path: Path, splits: dict[str, list[Sample]]) -> None:
    write_splits(tmp_path / "tasks", splits)
    assert {split: read_split(tmp_path / "tasks", split) for split in splits} == splits
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "tasks",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


def test_the_digest_names_content_not_order(tmp_path: Path, splits: dict[str, list[Sample]]) -> None:
    folder = tmp_path / "tasks"
    write_splits(folder, splits)
    digest = tasks_digest(folder)
    write_splits(folder, {**splits, "train": splits["train"][::-1]})
    assert tasks_digest(folder) == digest
    write_splits(folder, {**splits, "test": [replace(splits["test"][0], gold=" positive")]})
    assert tasks_digest(folder) != digest


def test_writing_that_fails_leaves_the_published_splits_alone(tmp_path: Path, splits: dict[str, list[Sample]]) -> None:
    folder = tmp_path / "tasks"
    write_splits(folder, splits)
    digest = tasks_digest(folder)
    with pytest.raises(KeyError):
        write_splits(folder, {"train": splits["train"][:1], "validation": []})
    assert tasks_digest(folder) == digest


def test_missing_splits_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(GlassboxError, match="dvc repro prepare"):
        read_split(tmp_path, "test")


def test_importing_tasks_loads_neither_torch_nor_datasets() -> None:
    code = "import sys, glassbox.tasks; print({'torch', 'datasets', 'mlflow'} & set(sys.modules))"
    source = Path(__file__).parents[2] / "src"
    run = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_split_with_other_rows_than_were_written_is_refused(tmp_path: Path) -> None:
    sample = make_sample(
        "sst2", "train", "Review: good\nSentiment:", " positive", (" negative", " positive"), " positive"
    )
    write_splits(tmp_path / "tasks", {"train": [sample], "validation": [], "test": []})
    assert read_split(tmp_path / "tasks", "train") == [sample]
    path = tmp_path / "tasks/train.parquet"
    table = parquet.read_table(path)
    other = table.set_column(3, table.schema.field(3), [pa.array([" negative"])])
    parquet.write_table(other, path)
    with pytest.raises(GlassboxError, match=r"train\.parquet is damaged \(its rows are not those that were written"):
        read_split(tmp_path / "tasks", "train")
