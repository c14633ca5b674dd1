"""Tasks read from local files, as their owners publish them."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterable
from itertools import permutations
from pathlib import Path

import pytest
import sections

from glassbox.config.settings import TaskFields, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import hub
from glassbox.tasks.files import (
    Found,
    contradictions,
    pools,
    read_gsm8k_jsonl,
    read_jsonl,
    read_mmlu_csv,
    read_sst2_tsv,
    scarce,
)
from glassbox.tasks.mapping import mapped
from glassbox.tasks.pools import Drawn
from glassbox.tasks.rows import no_template, sample_of
from glassbox.tasks.sample import Sample, make_sample
from glassbox.tasks.sources import load_samples

WriteText = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteText:
    def write_text(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
        return path

    return write_text


def same_file(source: str, path: Path | str, **counts: int) -> TaskSettings:
    files = {"train": str(path), "validation": str(path), "test": str(path)}
    return TaskSettings.model_validate({"source": source, "files": files, **counts})


def samples_of(found: Iterable[Found]) -> list[Sample]:
    return [each.sample for each in found]


def json_lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_counts_beyond_a_files_lines_are_found_before_it_is_read(write: WriteText) -> None:
    path = write("folder/one.csv", "1\n2\n3\n")
    write("folder/two.csv", "1\n2")
    assert not list(scarce({"fits": same_file("mmlu_csv", path.parent, train=3, validation=1, test=1)}))
    (problem,) = scarce({"many": same_file("mmlu_csv", path.parent, train=4, validation=1)})
    assert problem.path == "prepare.tasks.many.train"
    assert "has 5 lines, and 4 for train and 1 for validation and 1 for test" in problem.why


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_glue_reviews_are_read_without_regard_to_quotes(write: WriteText, line_end: str) -> None:
    lines = ["sentence\tlabel", 'a "warm" film \t1', '"unclosed quote\t0', "it 's dull\t0", ""]
    samples = samples_of(read_sst2_tsv(write("dev.tsv", line_end.join(lines))))
    assert [sample.prompt for sample in samples] == [
        'Review: a "warm" film\nSentiment:',
        'Review: "unclosed quote\nSentiment:',
        "Review: it 's dull\nSentiment:",
    ]
    assert [sample.gold for sample in samples] == [" positive", " negative", " negative"]


def test_glues_unlabelled_test_file_is_refused_with_the_file_to_use(write: WriteText) -> None:
    with pytest.raises(GlassboxError, match=r"test\.tsv begins with .*no labels: name dev\.tsv"):
        samples_of(read_sst2_tsv(write("test.tsv", "index\tsentence\n0\tfine\n")))


@pytest.mark.parametrize("line", ["no label", "good\t2", "\t1", "good\t1\textra"])
def test_an_unreadable_review_names_its_line(write: WriteText, line: str) -> None:
    with pytest.raises(GlassboxError, match=r"dev\.tsv, line 3: a sentence and a label 0 or 1"):
        samples_of(read_sst2_tsv(write("dev.tsv", f"sentence\tlabel\nfine\t1\n{line}\n")))


def test_mmlu_is_read_from_a_folder_in_the_order_of_names(write: WriteText, tmp_path: Path) -> None:
    write("val/b_val.csv", '"Two\nlines, ""quoted""?",None,NA,"1,000",d,C\n')
    write("val/a_val.csv", "First?,w,x,y,z,A\n")
    first, second = samples_of(read_mmlu_csv(tmp_path / "val"))
    assert first.prompt == "Question: First?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert second.prompt == 'Question: Two\nlines, "quoted"?\nA. None\nB. NA\nC. 1,000\nD. d\nAnswer:'
    assert (first.gold, second.gold) == (" A", " C")
    assert (first.cluster, second.cluster) == ("a", "b")
    assert samples_of(read_mmlu_csv(tmp_path / "val" / "a_val.csv")) == [first]


@pytest.mark.parametrize("line", ["Which?,w,x,y,A", "Which?,w,x,y,z,E", "question,A,B,C,D,answer"])
def test_an_unreadable_question_names_its_file_and_line(write: WriteText, line: str) -> None:
    path = write("val.csv", f"First?,w,x,y,z,A\n{line}\n")
    with pytest.raises(GlassboxError, match=r"val\.csv, line 2: question,A,B,C,D,letter was expected"):
        samples_of(read_mmlu_csv(path))


@pytest.mark.parametrize("line", [" ,w,x,y,z,A", "Which?,w,,y,z,A"])
def test_an_empty_question_or_option_is_refused(write: WriteText, line: str) -> None:
    with pytest.raises(GlassboxError, match=r"val\.csv, line 2: the question or an option is empty"):
        list(read_mmlu_csv(write("val.csv", f"First?,w,x,y,z,A\n{line}\n")))


def test_a_long_question_is_one_field(write: WriteText) -> None:
    (sample,) = samples_of(read_mmlu_csv(write("val.csv", f'"{"long, " * 30_000}?",w,x,y,z,A\n')))
    assert len(sample.prompt) > 180_000


def test_gsm8k_is_read_from_its_json_lines(write: WriteText) -> None:
    path = write("train.jsonl", json_lines({"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}) + "\n")
    (sample,) = samples_of(read_gsm8k_jsonl(path))
    assert (sample.answer, sample.gold) == (" 1+1=2\n#### 2", "2")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "it is not JSON"),
        ("[1]", "one JSON object per line"),
        ('{"question": "1+1?"}', r"`answer` is missing or no text; the keys are \['question'\]"),
        ('{"question": "1+1?", "answer": "two"}', "ends in '#### number'"),
        ('{"question": "cut \\ud83d", "answer": "#### 2"}', r"`question` holds half a surrogate pair, .ud83d"),
        ('{"question": "1\\u00001", "answer": "#### 2"}', "`question` holds a NUL"),
    ],
)
def test_an_unreadable_problem_names_its_line_and_why(write: WriteText, line: str, why: str) -> None:
    with pytest.raises(GlassboxError, match=rf"train\.jsonl, line 1: .*{why}"):
        samples_of(read_gsm8k_jsonl(write("train.jsonl", line + "\n")))


def test_a_new_task_needs_only_json_lines(write: WriteText) -> None:
    row = {"prompt": "Capital of France?\n", "answer": "Paris", "choices": ["Rome", " Paris"], "source": "atlas"}
    (sample,) = samples_of(read_jsonl(write("capitals.jsonl", json_lines(row))))
    assert (sample.prompt, sample.answer, sample.gold) == ("Capital of France?", " Paris", " Paris")
    assert sample.choices == (" Rome", " Paris")


def test_a_new_task_without_choices_is_matched_by_its_text_or_its_number(write: WriteText) -> None:
    rows = [{"prompt": "Say yes:", "answer": "yes"}, {"prompt": "2*500?", "answer": "1000\n#### 1,000"}]
    text, number = samples_of(read_jsonl(write("new.jsonl", json_lines(*rows))))
    assert (text.gold, number.gold) == ("yes", "1000")
    assert text.choices == number.choices == ()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "p", "answer": "x", "choices": ["y", "z"]}, "hold the answer 'x'"),
        ({"prompt": "p", "answer": "y", "choices": ["y", "y "]}, "choices differ"),
        ({"prompt": "p", "answer": "y", "choices": "yz"}, "a list of texts"),
        ({"prompt": "p", "answer": 3}, '`answer` is the number 3, and a text in quotes was expected; write "3"'),
        ({"prompt": "p", "answer": ["y"]}, r"`answer` is the list"),
        ({"prompt": "p", "answer": None}, "`answer` is missing or no text"),
        ({"prompt": "p", "answer": " p"}, "prompt and answer are the same text, ' p'"),
        (
            {"prompt": "p", "answer": "y", "choices": ["y"]},
            "choices has one entry, 'y', which leaves nothing to choose",
        ),
        ({"prompt": "p", "answer": "y", "choices": ["y", 2]}, "a list of texts"),
        ({"prompt": "p", "choices": ["y", "z"]}, "it has choices and no `answer`"),
        ({"prompt": "p", "answer": "y", "choises": ["y", "z"]}, "`choises` is not read, and the nearest .* `choices`"),
        ({"prompt": "p", "answer": "cut \ud83d"}, r"`answer` holds half a surrogate pair, .ud83d"),
        ({"prompt": "p", "answer": "y", "choices": ["y", "\ude00"]}, "`choices` holds half a surrogate pair"),
        ({"prompt": "p\x00q", "answer": "y"}, "`prompt` holds a NUL"),
        ({"prompt": "p", "answer": "#### many"}, "a number was expected"),
    ],
)
def test_an_unreadable_new_task_says_why(write: WriteText, row: dict[str, object], why: str) -> None:
    with pytest.raises(GlassboxError, match=rf"line 1: .*{why}"):
        samples_of(read_jsonl(write("new.jsonl", json_lines(row))))


def test_a_line_that_is_no_utf8_names_file_line_byte_and_the_way_out(tmp_path: Path) -> None:
    jsonl, tsv = tmp_path / "new.jsonl", tmp_path / "dev.tsv"
    jsonl.write_bytes(b'{"prompt": "p", "answer": "y"}\n{"prompt": "caf\xe9", "answer": "y"}\n')
    tsv.write_bytes(b"sentence\tlabel\nna\xefve\t1\n")
    with pytest.raises(
        GlassboxError, match=r"new\.jsonl, line 2: the byte 0xe9 at character 16 is not UTF-8\. .*iconv"
    ):
        list(read_jsonl(jsonl))
    with pytest.raises(GlassboxError, match=r"dev\.tsv, line 2: the byte 0xef at character 3 is not UTF-8"):
        list(read_sst2_tsv(tsv))


@pytest.mark.parametrize(
    ("encoding", "why"),
    [
        ("utf-16", "the file is UTF-16 and not"),
        ("utf-32", "the file is UTF-32 and not"),
        ("utf-16-le", "it holds a NUL byte .* UTF-16LE without its mark .*iconv -f UTF-16LE"),
        ("utf-16-be", "it holds a NUL byte .* UTF-16BE without"),
        ("utf-32-le", "it holds a NUL byte .* UTF-32LE without"),
        ("utf-32-be", "it holds a NUL byte .* UTF-32BE without"),
    ],
)
def test_a_file_in_another_unicode_is_named(tmp_path: Path, encoding: str, why: str) -> None:
    path = tmp_path / "new.jsonl"
    path.write_bytes(json_lines({"prompt": "p", "answer": "y"}).encode(encoding))
    with pytest.raises(GlassboxError, match=f"line 1: {why}"):
        list(read_jsonl(path))
    with pytest.raises(GlassboxError, match=f"line 1: {why}"):
        list(scarce({"echo": same_file("jsonl", path)}))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (gzip.compress(b'{"prompt": "p"}\n', mtime=0), "gzip"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"PK\x03\x04\n", "a ZIP archive"),
    ],
)
def test_a_file_that_is_no_text_is_named_by_its_format(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "new.jsonl"
    path.write_bytes(content)
    with pytest.raises(GlassboxError, match=f"new.jsonl, line 1: the file is {name}.* and no text. Unpack or convert"):
        list(read_jsonl(path))


def test_a_folder_in_place_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(GlassboxError, match=r"cannot be read \(Is a directory\)\. Name a text file"):
        pools("echo", same_file("jsonl", tmp_path))


def test_marks_of_joined_files_are_no_text(tmp_path: Path) -> None:
    path, reviews = tmp_path / "new.jsonl", tmp_path / "dev.tsv"
    rows = [json_lines({"prompt": prompt, "answer": "y"}).encode("utf-8-sig") for prompt in "pq"]
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(rows))
    reviews.write_bytes(b"\xef\xbb\xbfsentence\tlabel\n\xef\xbb\xbffine\t1\n")
    assert [found.sample.prompt for found in read_jsonl(path)] == ["p", "q"]
    assert [found.sample.prompt for found in read_sst2_tsv(reviews)] == ["Review: fine\nSentiment:"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"prompt": "p", "prompt": "q", "answer": "y"}', "the key 'prompt' stands there twice"),
        (f'{{"prompt": "p", "answer": {"9" * 5000}}}', "Exceeds the limit .* integer string conversion"),
        (f'{{"prompt": "p", "answer": "y", "x": {"[" * 100_000}', "nested too deeply"),
    ],
)
def test_json_that_means_nothing_certain_is_refused(write: WriteText, line: str, why: str) -> None:
    with pytest.raises(GlassboxError, match=rf"new\.jsonl, line 1: .*{why}.*\. Correct the line"):
        list(read_jsonl(write("new.jsonl", f"{line}\n")))


def test_a_mark_line_ends_of_windows_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json_lines({"prompt": "p", "answer": "y"}).replace("\n", "\r\n\r\n").encode())
    assert [(found.line, found.sample.prompt) for found in read_jsonl(path)] == [(1, "p")]


def test_a_line_of_a_megabyte_is_refused_without_its_text(write: WriteText) -> None:
    path = write("new.jsonl", json_lines({"prompt": "p", "answer": "y"}, {"prompt": "x" * 10**6, "answer": "y"}))
    with pytest.raises(GlassboxError, match=r"line 2: it has 1,000,\d+ characters") as refusal:
        list(read_jsonl(path))
    assert len(str(refusal.value)) < 400 + len(str(path))


@pytest.mark.parametrize("text", ['[\n{"prompt": "p"}\n]\n', '[{"prompt": "p"}]\n', '{\n"prompt": "p"\n}\n'])
def test_an_array_or_an_indented_object_is_pointed_to_json_lines(write: WriteText, text: str) -> None:
    with pytest.raises(GlassboxError, match=r"line 1: .*one object on each line, for example by `jq"):
        list(read_jsonl(write("new.jsonl", text)))


SOUND = "First?,w,x,y,z,A\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'{SOUND * 2}"Who wrote,w,x,y,z,B\n{SOUND * 5}Is "odd" one,w,x,y,z,A\n', 3),
        (f'{SOUND * 2}"Who wrote,w,x,y,z,B\n{SOUND * 200}', 3),
        (f'{SOUND * 2}"Who wrote,w,x,y,z,B\n{SOUND * 10_000}', 3),
        (f'{SOUND}"Two\nlines?",w,x,"stray,z,B\n{SOUND}', 3),
        (f'{SOUND}"Who wrote,w,x,y,z,B\n{SOUND}It ends in one",w,x,y,z,A\n', 2),
    ],
)
def test_a_stray_quotation_mark_is_named_by_the_line_that_it_opens_on(write: WriteText, text: str, line: int) -> None:
    with pytest.raises(GlassboxError, match=rf"val\.csv, line {line}: a quotation mark opens") as refusal:
        list(read_mmlu_csv(write("val.csv", text)))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500 + len(str(write("val.csv", "")))


def test_a_prompt_with_two_answers_is_named_with_both_lines(write: WriteText) -> None:
    rows = [{"prompt": "p", "answer": "y"}, {"prompt": "q", "answer": "y"}, {"prompt": "p", "answer": "n"}]
    path = write("new.jsonl", json_lines(*rows, *({"prompt": f"{n}?", "answer": "y"} for n in range(8))))
    drawn: list[Drawn] = []
    load_samples(
        sections.prepare(tasks={"echo": same_file("jsonl", path, train=2, validation=2, test=2)}), drawn.append
    )
    (said,) = {sentence for each in drawn for sentence in each.sentences() if "WARNING" in sentence}
    assert "new.jsonl, line 3: the prompt of line 1 has another answer here ('y' there, 'n' here)" in said


def which(number: int, *others: str) -> dict[str, object]:
    return {"prompt": "Which is right?", "answer": f"a{number}", "choices": [f"a{number}", *others]}


def test_one_prompt_with_other_choices_is_another_question(write: WriteText) -> None:
    rows = [which(number, f"b{number}") for number in range(8)]
    rows += [which(3, "c"), {**which(3, "b3"), "choices": ["b3", "a3"]}, {**which(4, "b4"), "answer": "b4"}]
    path = write("new.jsonl", json_lines(*rows))
    drawn: list[Drawn] = []
    task = same_file("jsonl", path, validation=2, test=2)
    splits = load_samples(sections.prepare(tasks={"which": task}), drawn.append)
    every = [sample for samples in splits.values() for sample in samples]
    assert len({sample.sample_id.rpartition("/")[2] for sample in every}) == len(every) == 9
    assert {tuple(sorted(sample.choices)) for sample in every} == {
        tuple(sorted(f" {choice}" for choice in row["choices"]))  # type: ignore[attr-defined]
        for row in rows
    }
    said = {sentence for each in drawn for sentence in each.sentences()}
    assert f"{path}: 2 samples dropped (repeat another prompt there)." in said
    (contradiction,) = {sentence for sentence in said if "WARNING" in sentence}
    assert "line 11: the prompt of line 5 has another answer here ('a4' there, 'b4' here)" in contradiction


def test_questions_of_one_prompt_that_stand_in_two_files_are_in_one_split(write: WriteText) -> None:
    task = three_files(write, train=[{}], validation=[{}], test=[{}])
    assert task.files
    both, one = json_lines(which(1, "b"), which(2, "b")), json_lines(which(1, "b"))
    for split, text in {"train": both, "validation": json_lines(which(3, "b")), "test": one}.items():
        Path(getattr(task.files, split)).write_text(text, encoding="utf-8")
    splits = load_samples(sections.prepare(tasks={"which": task}))
    assert {split: [sample.answer for sample in samples] for split, samples in splits.items()} == {
        "train": [" a2"],
        "validation": [" a3"],
        "test": [" a1"],
    }


def test_ids_are_made_of_prompt_and_answer_where_a_prompt_is_one_question(write: WriteText) -> None:
    path = write("new.jsonl", json_lines(*({**which(n, "b"), "prompt": f"{n}?"} for n in range(6))))
    task = same_file("jsonl", path, validation=2, test=2)
    for split, samples in load_samples(sections.prepare(tasks={"which": task})).items():
        for sample in samples:
            made = make_sample("which", split, sample.prompt, sample.answer, sample.choices, sample.gold)
            assert sample == made


def test_rows_of_the_hub_are_named_as_rows() -> None:
    samples = [sample_of({"prompt": "p", "answer": answer}, no_template) for answer in "yn"]
    found = (Found(Path("owner/name/train"), number, sample) for number, sample in enumerate(samples))
    (said,) = contradictions(found, "row")
    assert said.startswith("owner/name/train, row 1: the prompt of row 0 has another answer here ('y' there, 'n' here)")


def test_prompts_alone_are_training_samples_and_no_others(write: WriteText) -> None:
    prompts = write("prompts.jsonl", json_lines(*({"prompt": f"{n}?"} for n in range(4))))
    answered = write("answered.jsonl", json_lines(*({"prompt": f"{n}!", "answer": "y"} for n in range(4))))
    files = {"train": str(prompts), "validation": str(answered), "test": str(answered)}
    task = TaskSettings.model_validate({"source": "jsonl", "files": files, "validation": 2, "test": 2})
    train = load_samples(sections.prepare(tasks={"echo": task}))["train"]
    assert [(sample.answer, sample.gold, sample.choices) for sample in train] == [("", "", ())] * 4
    with pytest.raises(
        GlassboxError, match=r"prompts\.jsonl holds prompts without answers, and validation samples are"
    ):
        pools("echo", same_file("jsonl", prompts))
    mixed = write("mixed.jsonl", json_lines({"prompt": "p", "answer": "y"}, {"prompt": "q"}))
    with pytest.raises(GlassboxError, match="line 2: either every line has an answer or none has"):
        list(read_jsonl(mixed))


KINDS: dict[str, dict[str, object]] = {
    "questions with choices": {"answer": "y", "choices": ["y", "n"]},
    "free answers": {"answer": "y"},
    "answers with a number after '####'": {"answer": "#### 5"},
}


def three_files(write: WriteText, **rows: list[dict[str, object]]) -> TaskSettings:
    """A task whose splits have files of their own, of which each line gets a prompt."""
    numbered = {
        split: [{"prompt": f"{split} {number}", **row} for number, row in enumerate(mine)]
        for split, mine in rows.items()
    }
    files = {split: str(write(f"{split}.jsonl", json_lines(*mine))) for split, mine in numbered.items()}
    return TaskSettings.model_validate({"source": "jsonl", "files": files})


@pytest.mark.parametrize(("odd", "named"), [("train", "validation"), ("validation", "train"), ("test", "train")])
@pytest.mark.parametrize(("kind", "other"), list(permutations(KINDS, 2)))
def test_splits_of_unlike_kinds_are_named_with_what_they_hold(
    write: WriteText, odd: str, named: str, kind: str, other: str
) -> None:
    kinds = {**dict.fromkeys(("train", "validation", "test"), other), odd: kind}
    task = three_files(write, **{split: [KINDS[each]] for split, each in kinds.items()})
    with pytest.raises(
        GlassboxError, match=r"splits of a task are of one kind.*prepare\.tasks\.echo\.files"
    ) as refusal:
        load_samples(sections.prepare(tasks={"echo": task}))
    for split in (odd, named):
        assert f"{split}.jsonl ({split}) holds {kinds[split]}" in str(refusal.value)


def test_splits_of_one_kind_may_hold_prompts_alone_or_another_kind_beside_it(write: WriteText) -> None:
    free, number = KINDS["free answers"], KINDS["answers with a number after '####'"]
    for train in ([{}], [number], [free, number]):
        assert len(pools("echo", three_files(write, train=train, validation=[number, free], test=[number]))) == 3


def test_other_keys_are_mapped(write: WriteText) -> None:
    row = {"q": "Capital of France?", "options": {"text": ["Rome", "Paris"], "label": ["1", "2"]}, "key": "2"}
    fields = {"prompt": "Question: {q}\nAnswer:", "choices": "options.text", "answer": "key", "labels": "options.label"}
    path = write("new.jsonl", json_lines(row))
    (sample,) = samples_of(read_jsonl(path, fields=TaskFields.model_validate(fields)))
    assert (sample.prompt, sample.gold) == ("Question: Capital of France?\nAnswer:", " Paris")
    with pytest.raises(
        GlassboxError, match=r"line 1: there is no column `question`; there are \['key', 'options', 'q'\]"
    ):
        list(read_jsonl(path, fields=TaskFields(prompt="question")))


@pytest.mark.parametrize(
    ("answer", "gold"), [("positive", " positive"), (1, " positive"), ("B", " positive"), (0, " negative")]
)
def test_an_answer_names_its_choice_by_text_place_or_letter(answer: object, gold: str) -> None:
    fields = TaskFields.model_validate({"prompt": "text", "answer": "label", "choices": ["negative", "positive"]})
    assert sample_of(mapped({"text": "good", "label": answer}, fields), no_template).gold == gold
    with pytest.raises(ValueError, match="the answer 7 is none of the choices"):
        mapped({"text": "good", "label": 7}, fields)


@pytest.mark.parametrize(
    ("fields", "row", "why"),
    [
        ({"choices": "options", "answer": "key"}, {"options": "yes, no", "key": 0}, "`options` serves as choices and"),
        ({"choices": "options", "answer": "key"}, {"options": 2, "key": 0}, "holds no list, but 2"),
        (
            {"choices": ["a", "b"], "answer": "key", "labels": "names"},
            {"key": 0, "names": 3},
            "`names` serves as labels",
        ),
        ({"answer": "key"}, {"key": 3}, r"`key` holds the number 3; answer: '{key}' in `fields` reads it as a text"),
    ],
)
def test_columns_of_another_kind_are_named(
    write: WriteText, fields: dict[str, object], row: dict[str, object], why: str
) -> None:
    path = write("new.jsonl", json_lines({"text": "p", **row}))
    with pytest.raises(GlassboxError, match=f"line 1: .*{why}"):
        list(read_jsonl(path, fields=TaskFields.model_validate({"prompt": "text", **fields})))


def test_a_task_has_choices_on_every_line_or_on_none(write: WriteText) -> None:
    rows = [{"prompt": "p", "answer": "y", "choices": ["y", "z"]}, {"prompt": "q", "answer": "y"}]
    with pytest.raises(GlassboxError, match="line 2: either every line has choices or none has"):
        samples_of(read_jsonl(write("new.jsonl", json_lines(*rows))))


def test_a_new_task_is_loaded_under_its_own_name(write: WriteText) -> None:
    path = write("new.jsonl", json_lines(*({"prompt": f"{n}?", "answer": "y"} for n in range(10))))
    prepare = sections.prepare(tasks={"echo": same_file("jsonl", path, train=5, validation=2, test=3)})
    splits = load_samples(prepare)
    assert {split: len(samples) for split, samples in splits.items()} == {"train": 5, "validation": 2, "test": 3}
    assert all(sample.task == "echo" and sample.sample_id.startswith("echo/") for sample in splits["test"])


def test_a_known_format_under_another_name_is_another_task(write: WriteText) -> None:
    path = write("dev.tsv", "sentence\tlabel\n" + "".join(f"film {n}\t{n % 2}\n" for n in range(9)))
    splits = load_samples(sections.prepare(tasks={"films": same_file("sst2_tsv", path, train=5, validation=2, test=2)}))
    assert {sample.task for samples in splits.values() for sample in samples} == {"films"}


def test_a_missing_file_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(GlassboxError, match=r"prepare\.tasks\.echo\.files\.train names .*absent\.jsonl"):
        pools("echo", same_file("jsonl", tmp_path / "absent.jsonl"))


def test_an_empty_file_is_refused(write: WriteText) -> None:
    with pytest.raises(GlassboxError, match=re.escape("holds no sample")):
        pools("echo", same_file("jsonl", write("empty.jsonl", "\n")))


def test_relative_paths_also_start_at_the_repository_of_a_temporary_run(
    write: WriteText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("repository/data/new.jsonl", json_lines({"prompt": "p", "answer": "y"}))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    read = pools("echo", same_file("jsonl", "data/new.jsonl"))
    assert read["train"] is read["test"] and len(read["train"].samples) == 1


def test_an_unknown_task_on_the_hub_is_pointed_to_json_lines() -> None:
    with pytest.raises(GlassboxError, match=r"only sst2, mmlu, gsm8k are known there.*dataset.*to jsonl"):
        hub.pools("echo", TaskSettings(source="hub"))


def test_hub_rows_become_the_same_samples_as_files() -> None:
    row = {"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": 2, "subject": "letters"}
    assert hub.HUB_TASKS["mmlu"].sample(row).gold == " C"
    assert hub.HUB_TASKS["mmlu"].sample(row).cluster == "letters"
    assert hub.HUB_TASKS["sst2"].sample({"sentence": "dull ", "label": 0, "idx": 7}).gold == " negative"
    assert hub.HUB_TASKS["gsm8k"].sample({"question": "1+1?", "answer": "#### 2"}).gold == "2"


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("GLASSBOX_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with the real data sets")
    return Path(folder)


@pytest.mark.real
def test_all_of_gsm8ks_training_problems_are_read(real_data: Path) -> None:
    samples = samples_of(read_gsm8k_jsonl(real_data / "gsm8k" / "train.jsonl"))
    assert len(samples) == 7473
    assert len({sample.sample_id for sample in samples}) == 7473
    assert not any("<<" in sample.answer or "," in sample.gold for sample in samples)
    assert all(float(sample.gold) == float(sample.answer.rpartition("#### ")[2].replace(",", "")) for sample in samples)


@pytest.mark.real
@pytest.mark.parametrize(("folder", "size"), [("dev", 285), ("val", 1542)])
def test_all_of_mmlus_questions_are_read(real_data: Path, folder: str, size: int) -> None:
    samples = samples_of(read_mmlu_csv(real_data / "mmlu" / folder))
    assert len(samples) == size
    assert {sample.gold for sample in samples} == {" A", " B", " C", " D"}
    assert all(sample.prompt.count("\nD. ") >= 1 and sample.prompt.endswith("\nAnswer:") for sample in samples)


@pytest.mark.real
def test_real_files_make_disjoint_splits(real_data: Path) -> None:
    tasks = {
        "mmlu": same_file("mmlu_csv", real_data / "mmlu" / "val", train=500, validation=100, test=500),
        "gsm8k": same_file("gsm8k_jsonl", real_data / "gsm8k" / "train.jsonl", train=500, validation=100, test=500),
    }
    reports: list[Drawn] = []
    splits = load_samples(sections.prepare(tasks=tasks), reports.append)
    prompts = [sample.prompt for samples in splits.values() for sample in samples]
    assert len(prompts) == len(set(prompts)) == 2200
    (sentence,) = {sentence for drawn in reports for sentence in drawn.sentences()}
    assert sentence.endswith("val: 2 samples dropped (repeat another prompt there).")
