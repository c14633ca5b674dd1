"""Settings are read whole or refused whole, in sentences."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sections
import yaml

from glassbox.config.composition import composition
from glassbox.config.rules import EMBEDDED_TASKS, EMBEDDED_TEXT
from glassbox.config.settings import Settings, load_settings
from glassbox.errors import GlassboxError
from glassbox.tasks.miniature import generators as embedded

ROOT = Path(__file__).parents[2]
GOOD = sections.FAITHFUL


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """What is said to the good settings with values at dotted paths changed."""

    def refuse(changes: dict[str, Any]) -> str:
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(changed(changes)), encoding="utf-8")
        with pytest.raises(GlassboxError) as caught:
            load_settings(path)
        return str(caught.value)

    return refuse


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *sections, name = path.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return values


def problems(message: str) -> list[str]:
    return [line for line in message.splitlines() if line.startswith("- ")]


def test_the_committed_settings_are_accepted_and_frozen():
    settings = load_settings(ROOT / "params.yaml")
    signals = ("black_box", "black_box_matched", "hidden_state", "attention", "combined")
    assert settings.groups == ("sft", "sft_tuned", "seqkd", *signals, "shuffled_logits", "replica_null")
    assert settings.seeds == tuple(range(41, 48))
    with pytest.raises(ValueError, match="frozen"):
        settings.train.epochs = 1


def test_every_setting_stands_in_params_so_that_no_default_is_hidden():
    settings = load_settings(ROOT / "params.yaml")
    distill = {
        group: weights.model_dump(mode="json", exclude_unset=True) for group, weights in settings.distill.items()
    }
    assert {**settings.model_dump(mode="json"), "distill": distill} == yaml.safe_load(
        (ROOT / "params.yaml").read_text(encoding="utf-8")
    )


def test_all_faults_are_told_at_once_each_with_path_value_reason_and_next_step(refusal):
    message = refusal(
        {
            "train.epochs": -1,
            "train.lerning_rate": 0.1,
            "objective.reduction": "token",
            "seeds": [0, 1, 1],
            "train.micro_batch_size": 3,
            "evaluation.batch_size": True,
        }
    )
    lines = problems(message)
    assert len(lines) == 6, message
    assert all("Next: " in line for line in lines)
    assert any("`train.epochs` = -1: input should be greater than 0" in line for line in lines)
    assert any("`evaluation.batch_size` = true" in line for line in lines)
    assert any("`objective.reduction` = \"token\": input should be 'sample' or 'position'" in line for line in lines)
    assert any("`seeds` = [0, 1, 1]: 1 stands there twice. Next: -S 'seeds=[0,1]'" in line for line in lines)
    assert any("-S train.micro_batch_size=2" in line for line in lines)
    assert "6 settings" in message


def test_an_unknown_key_names_the_nearest_one_of_its_section(refusal):
    message = refusal({"objective.temprature": 4.0})
    assert "`objective` has no such key; the nearest known key is `objective.temperature`" in message
    assert "-S objective.temperature=4.0" in message


def test_a_key_in_the_wrong_section_names_its_right_place(refusal):
    assert "the nearest known key is `train.learning_rate`" in refusal({"learning_rate": 0.1})


def test_a_misspelt_component_of_a_group_names_the_right_one(refusal):
    message = refusal({"distill.combined": {"task": 1.0, "hiden": 0.1}})
    assert "`distill.combined.hiden` = 0.1" in message
    assert "`distill.combined.hidden`" in message


def test_a_key_like_no_other_is_told_what_there_is(refusal):
    assert "`verify` has no such key, only recaptured_samples" in refusal({"verify.zzz": 1})


def test_a_missing_key_is_named(tmp_path: Path):
    values = changed({})
    del values["train"]["threads"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(GlassboxError, match=r"`train\.threads`: is missing"):
        load_settings(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": ["combind"]}, "the nearest known group is `combined`"),
        ({"groups": ["sft"]}, "`distill.black_box`: `groups` does not name it"),
        ({"groups": []}, "`groups` = []"),
        ({"distill.sft": {"task": 0.0}}, "nothing to learn"),
        (
            {"objective.logits_target": "topk", "objective.temperature": 3.0},
            "logits_target=dense serves any temperature",
        ),
        (
            {"objective.logits_target": "topk", "objective.temperature": "0:4, 1:2"},
            "logits_target=dense serves any temperature and any curve",
        ),
        (
            {"weights.hidden": "0:0, 2:1"},
            '`weights.hidden` = "0:0, 2:1": the progress of each point lies between 0 and 1',
        ),
        ({"distill.combined.hidden": "0:0, 0.5:-1"}, "`distill.combined.hidden`"),
        ({"distill.sft": {"task": "0:1, 0.5:0, 1:1"}}, "no component has a weight above 0 at progress 0.5"),
        ({"distill.combined.shuffled": ["task"]}, "`distill.combined.shuffled.0`"),
        (
            {"distill.sft": {"task": 1.0, "shuffled": ["hidden"]}},
            "hidden is shuffled, but the group gives it no weight",
        ),
        ({"distill.combined.shuffled": ["hidden", "hidden"]}, "hidden stands there twice"),
        (
            {"distill.combined.shuffled_share": 0.5},
            "a share of the samples is to be shuffled, and no component is",
        ),
        (
            {"distill.combined": {"mixture": 0.5, "experts": "all"}},
            "the snapshot holds none. Next: -S scale=moe, or -S snapshot.experts=last",
        ),
        (
            {"snapshot.experts": "last", "distill.combined": {"mixture": 0.5}},
            "nothing says which experts speak. Next: write `experts: all` in conf/distill/combined.yaml",
        ),
        (
            {"distill.combined": {"logits": 0.5, "experts": "router"}},
            "it says which experts speak, but the group gives `mixture` no weight",
        ),
        (
            {"snapshot.experts": "last", "objective.positions.mixture": "all", "distill.combined.mixture": 0.5},
            "experts are stored at the answer's alone. Next: -S objective.positions.mixture=answer",
        ),
        (
            {
                "train.micro_batch_size": 1,
                "snapshot.experts": "last",
                "distill.combined": {"mixture": 0.5, "experts": "other_router"},
            },
            "learns from another sample of its micro-batch, which has one",
        ),
        (
            {"objective.balance": "magnitude", "distill.combined": {"logits": 0.5}},
            "group combined has no task loss that its signals could be scaled to",
        ),
        ({"student.dtype": "float16"}, "loses small updates"),
        ({"student.dtype": "bfloat16", "train.precision": "fp16"}, "needs float32 weights"),
        ({"prepare.tasks": {}}, "`prepare.tasks` = {}"),
        ({"prepare.tasks": {"riddles": {"source": "jsonl"}}}, "reads local files"),
        ({"prepare.tasks": {"sst22": {"source": "embedded"}}}, "the nearest is `sst2`"),
        ({"prepare.tasks.sst2.revision": "main"}, "source `embedded` knows no revisions"),
        ({"prepare.tasks.mmlu.train": 3439}, "the embedded mmlu has 3438 train items in all"),
        ({"prepare.hub": "mirror"}, "no task has source `hub`"),
        ({"prepare.tasks.my-task": {"source": "embedded"}}, "a name begins with a letter"),
        ({"train.learning_rate": float("nan")}, "`train.learning_rate`"),
        ({"train.learning_rate": float("inf")}, "`train.learning_rate`"),
        ({"train.epochs": "3"}, '`train.epochs` = "3": input should be a valid integer'),
        ({"train": None}, "`train` = null"),
        ({"train.labelled": 0.0}, "`train.labelled` = 0.0"),
        (
            {"train.labelled": 0.1},
            "`train.labelled_per_step` = null: only 0.1 of the samples are labelled, and a step of 8 must hold some of "
            "either kind. Next: -S train.labelled_per_step=2",
        ),
        ({"train.labelled": 0.1, "train.labelled_per_step": 8}, "`train.labelled_per_step` = 8"),
        ({"distill.sft": {"task": 1.0, "labelled": 0.3}}, "only 0.3 of the samples are labelled"),
        (
            {"objective.positions.logits": "all"},
            '`snapshot.positions.hidden` = "answer": group black_box compares logits at all positions, and the '
            "snapshot has answer positions only. "
            "Next: -S snapshot.positions.hidden=all, or -S objective.positions.logits=answer",
        ),
        (
            {"distill.combined.positions": {"attention": "all"}},
            "group combined compares attention at all positions",
        ),
        (
            {"snapshot.positions.attention": "all"},
            "hidden states would be stored at answer positions only, and attention maps at more",
        ),
    ],
)
def test_what_cannot_work_is_refused(refusal, changes: dict[str, Any], said: str):
    assert said in refusal(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.labelled": 0.1, "train.labelled_per_step": 2},
        {"distill.sft": {"task": 1.0, "labelled": 0.3}, "train.labelled_per_step": 1},
        {"objective.positions.task": "all"},
        {"snapshot.positions.hidden": "all", "objective.positions.hidden": "all", "objective.positions.logits": "all"},
        {
            "objective.positions.hidden": "all",
            "distill.combined": {"task": 1.0, "hidden": 0.0},
            "distill.hidden_state": {"task": 0.7, "hidden": 0.0},
            "distill.sft": {"task": 0.5},
        },
        {"objective.positions.attention": "all", "snapshot.positions": {"hidden": "all", "attention": "all"}},
    ],
)
def test_labels_and_positions_that_can_be_had_are_accepted(changes: dict[str, Any]):
    Settings.model_validate(changed(changes))


def test_a_groups_own_labels_and_positions_replace_the_studys():
    own = {"distill.combined.positions": {"task": "all"}, "distill.sft": {"task": 1.0, "labelled": 0.3}}
    settings = Settings.model_validate(changed({**own, "train.labelled_per_step": 2}))
    assert settings.positions("combined") == {**settings.positions("sft"), "task": "all"}
    assert (settings.labelled("sft"), settings.labelled("combined")) == (0.3, 1.0)
    assert not settings.captures_answers and not settings.reads_answers("sft")
    scarce = Settings.model_validate(changed({"train.labelled": 0.1, "train.labelled_per_step": 2}))
    assert scarce.captures_answers
    alone = {"groups": ["sft"], "distill": {"sft": {"task": 1.0}}}
    assert Settings.model_validate(
        changed({**alone, "train.labelled": 0.1, "train.labelled_per_step": 2})
    ).captures_answers
    assert [scarce.reads_answers(group) for group in scarce.groups] == [False, True, True, True, True]


def test_a_group_of_the_teachers_answers_has_no_signals(refusal):
    message = refusal({"distill.black_box.labels": "teacher"})
    assert "distill.black_box.labels" in message
    assert "take logits out of conf/distill/black_box.yaml" in message
    own = {"groups": ["seqkd"], "distill": {"seqkd": {"task": 1.0, "labels": "teacher"}}}
    group = Settings.model_validate(changed(own)).distill["seqkd"]
    assert group.labels == "teacher"
    assert not group.uses_signals


def test_topk_is_accepted_at_a_captured_temperature():
    Settings.model_validate(changed({"objective.logits_target": "topk", "objective.temperature": 4.0}))


def test_weights_and_temperatures_may_be_curves_and_components_shuffled():
    values = changed(
        {
            "weights.hidden": "0:0, 0.3:0, 0.5:0.1",
            "distill.combined": {"task": "0:1, 1:0", "hidden": "0:0, 0.3:0, 0.5:0.1", "shuffled": ["hidden"]},
            "objective.temperature": "0:4, 1:1",
            "objective.balance": "magnitude",
        }
    )
    settings = Settings.model_validate(values)
    assert settings.distill["combined"].active == {"task": "0:1, 1:0", "hidden": "0:0, 0.3:0, 0.5:0.1"}
    assert settings.distill["combined"].shuffled == ("hidden",)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("distill=[sft,black_box]", "weights.logits=0"),
            [
                "- `distill.black_box`: it would train the very same student as group sft: weights.logits at 0 adds "
                "nothing, and all else is equal. Next: set weights.logits above 0, or leave one of them out by "
                "-S 'distill=[sft]'."
            ],
        ),
        (
            ("distill=all", "weights.hidden='0:0, 1:0'"),
            [
                "`distill.hidden_state`: it would train the very same student as group black_box: weights.hidden at 0",
                "`distill.combined`: it would train the very same student as group attention: weights.hidden at 0",
            ],
        ),
        (
            ("distill=[sft,sft_tuned]", "tuning.control_learning_rate=null"),
            [
                "as group sft: all that it trains by is equal. Next: tell them apart in conf/distill/sft_tuned.yaml, "
                "or leave one of them out by -S 'distill=[sft]'"
            ],
        ),
        (("distill=[sft,sft_tuned]", "tuning.control_learning_rate=${train.learning_rate}"), ["as group sft"]),
        (("distill=[black_box,black_box_matched]", "tuning.matched_logits=${weights.logits}"), ["as group black_box"]),
        (("distill=[black_box,black_box_matched]", "tuning.matched_logits=2", "weights.logits='0:2, 1:2'"), ["as gro"]),
        (("distill=[sft,sft_all]", "objective.positions.task=all"), ["as group sft"]),
        (("distill=[sft,black_box]", "+distill.sft.temperature=4", "weights.logits=0"), ["as group sft"]),
    ],
)
def test_two_groups_that_would_train_the_same_are_refused(tmp_path: Path, overrides: tuple[str, ...], said: list[str]):
    path = tmp_path / "params.yaml"
    path.write_text(composition(ROOT / "conf", overrides), encoding="utf-8")
    with pytest.raises(GlassboxError) as refused:
        load_settings(path)
    told = problems(str(refused.value))
    assert len(told) == len(said) and all(part in line for part, line in zip(said, told, strict=True))


@pytest.mark.parametrize(
    "overrides",
    [
        ("distill=[black_box,replica_null]",),
        ("distill=[sft,sft_all]", "weights.logits=0"),
        ("distill=[sft,hidden_state]", "weights.logits=0"),
        ("distill=[black_box,hidden_state]", "weights.hidden='0:0, 0.5:0, 1:0.1'"),
        ("distill=[black_box,shuffled_logits,partly_shuffled]",),
        ("distill=[sft,seqkd]",),
        ("scale=moe", "distill=[black_box,moe_all,moe_ka,moe_sar,moe_sar_other]"),
    ],
)
def test_groups_that_differ_in_anything_that_training_reads_are_accepted(tmp_path: Path, overrides: tuple[str, ...]):
    path = tmp_path / "params.yaml"
    path.write_text(composition(ROOT / "conf", overrides), encoding="utf-8")
    assert len(load_settings(path).groups) > 1


def test_a_faulty_weight_makes_no_two_groups_equal(refusal):
    assert len(problems(refusal({"distill.black_box.logits": "much"}))) == 1


def test_the_rules_hold_for_settings_made_in_code_too():
    with pytest.raises(ValueError, match="stands there twice"):
        Settings.model_validate(changed({"seeds": [1, 1]}))


def test_the_embedded_tasks_are_those_that_can_be_generated():
    assert set(EMBEDDED_TASKS) == {*embedded.GENERATORS, EMBEDDED_TEXT}


def test_a_key_written_twice_is_refused_with_both_lines(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("train:\n  epochs: 3\n  epochs: 4\n", encoding="utf-8")
    with pytest.raises(GlassboxError, match=r"`train\.epochs`: is written twice, on line 2 and on line 3"):
        load_settings(path)


def test_a_float_without_a_dot_is_a_number(tmp_path: Path):
    path = tmp_path / "params.yaml"
    text = (
        (ROOT / "params.yaml")
        .read_text(encoding="utf-8")
        .replace("\n  learning_rate: 0.0004", "\n  learning_rate: 1e-4")
    )
    path.write_text(text, encoding="utf-8")
    assert load_settings(path).train.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: [", "is not YAML"),
        ("- 1", "holds no settings"),
        ("", "holds no settings"),
        ("a: !!python/x 1", "not YAML"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, said: str):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GlassboxError, match=said):
        load_settings(path)


def test_a_missing_file_is_a_sentence(tmp_path: Path):
    with pytest.raises(GlassboxError, match="There is no"):
        load_settings(tmp_path / "params.yaml")


def test_reading_settings_imports_neither_torch_nor_mlflow():
    code = (
        "import sys; from glassbox.config.settings import load_settings; load_settings('params.yaml'); "
        "print(sorted({'torch', 'mlflow', 'transformers', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_settings_stage_refuses_within_two_seconds_and_touches_nothing(tmp_path: Path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed({"train.epochs": 0})), encoding="utf-8")
    done = settings_stage(tmp_path)
    assert float(done.stdout) < 2.0, "processor seconds: what else the machine does meanwhile is not counted"
    assert done.returncode == 1
    assert done.stderr.startswith("settings: params.yaml is refused for 1 setting")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.slow
def test_the_settings_stage_writes_what_lies_in_named_folders_and_nothing_of_the_settings(store: Path):
    written = []
    for epochs in (1, 2):
        (store / "params.yaml").write_text(
            yaml.safe_dump(changed({"train.epochs": epochs, "distill.combined.hidden": epochs / 10})), encoding="utf-8"
        )
        done = settings_stage(store)
        assert done.returncode == 0, done.stderr
        written.append([(store / f"data/inputs/{name}.json").read_bytes() for name in ("tasks", "teacher", "student")])
    assert written[0] == written[1]


@pytest.mark.slow
def test_the_settings_stage_refuses_a_cache_that_dvc_does_not_use(store: Path):
    (store / "params.yaml").write_text(yaml.safe_dump(changed({"storage.cache": "elsewhere"})), encoding="utf-8")
    done = settings_stage(store)
    assert done.returncode == 1
    assert "dvc cache dir --local" in done.stderr
    (store / ".dvc").mkdir()
    (store / ".dvc/config.local").write_text("[cache]\n    dir = ../elsewhere\n", encoding="utf-8")
    assert settings_stage(store).returncode == 0


def test_the_settings_stage_refuses_counts_that_a_file_cannot_hold(store: Path):
    (store / "few.jsonl").write_text("{}\n" * 9, encoding="utf-8")
    task = {"source": "jsonl", "files": dict.fromkeys(("train", "validation", "test"), "few.jsonl")}
    counts = {"train": 6, "validation": 2, "test": 2}
    (store / "params.yaml").write_text(yaml.safe_dump(changed({"prepare.tasks": {"few": task | counts}})))
    done = settings_stage(store)
    assert done.returncode == 1
    assert "`prepare.tasks.few.train` = 6" in done.stderr
    assert "has 9 lines, and 6 for train and 2 for validation and 2 for test are asked of it" in done.stderr
    assert not (store / "data").exists()


STAGE = """
import atexit, runpy, sys, time
atexit.register(lambda: print(time.process_time()))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def settings_stage(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STAGE, str(ROOT / "src/settings.py")]
    variables = {**environment(), "DVC_ROOT": str(folder)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def environment() -> dict[str, str]:

    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}
