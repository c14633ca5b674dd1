"""conf/ composes into the committed params.yaml, and overrides change what they promise and no more."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import params
from glassbox.config.composition import composition
from glassbox.config.settings import Settings, load_settings
from glassbox.errors import GlassboxError

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GROUPS = ("sft", "black_box", "hidden_state", "attention", "combined")


@cache
def _text(*overrides: str) -> str:
    return composition(CONF, list(overrides))


def refusal_of(override: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> GlassboxError:
    """What src/params.py says in a folder with a copy of conf/, where it refuses."""
    shutil.copytree(CONF, folder / "conf")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["params.py", override])
    with pytest.raises(GlassboxError) as refused:
        params.main()
    return refused.value


def composed(*overrides: str) -> dict[str, Any]:
    return yaml.load(_text(*overrides), yaml.CSafeLoader)


def test_params_is_the_composition_of_conf():
    committed = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert committed == _text(), "Run `make params` after a change in conf/"


@pytest.mark.parametrize("path", sorted((CONF / "distill").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_group_file_defines_the_group_of_its_name_and_says_how_to_select_it(path: Path):
    text = path.read_text(encoding="utf-8")
    selects = "scale" if path.stem in ("scarce", "scratch") else "distill"
    names = {"scarce": "embedded", "aligned_controls": "[aligned,aligned_controls]"}
    quoted = text.replace("'", "").splitlines()[0]
    assert quoted.startswith(f"# Select with: dvc exp run -S {selects}={names.get(path.stem, path.stem)}")
    outlines = ("all", "outline", "controls", "moe", "scarce", "scratch")
    if path.stem not in (*outlines, "seeds", "seeds_controls", "aligned", "aligned_controls"):
        assert list(yaml.safe_load(text)) == [path.stem]


@pytest.mark.parametrize("path", sorted((CONF / "scale").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_scale_file_says_how_to_select_it_and_composes_to_good_settings(path: Path):
    assert f"-S scale={path.stem}" in path.read_text(encoding="utf-8").splitlines()[1]
    settings = Settings.model_validate(composed(f"scale={path.stem}"))
    assert settings.scale == path.stem


def test_all_holds_every_group_of_the_factorial_plan():
    weights = composed("distill=all")["distill"]
    assert tuple(weights) == GROUPS
    assert {**weights["hidden_state"], **weights["attention"]} == weights["combined"]


def test_the_groups_of_a_mixture_differ_in_which_experts_speak():
    """The contrasts with black_box change the teacher's side alone: the same weight for logits and mixture."""
    composed_moe = composed("scale=moe", "distill=[moe,moe_sar_other]")["distill"]
    speaks = {name: group.pop("experts", None) for name, group in composed_moe.items()}
    assert speaks == {
        "black_box": None,
        "moe_all": "all",
        "moe_ka": "sampled",
        "moe_sar": "router",
        "moe_sar_other": "other_router",
    }
    black_box = composed_moe.pop("black_box")
    assert all(g == {"task": black_box["task"], "mixture": black_box["logits"]} for g in composed_moe.values())


def test_the_outline_is_the_four_distilling_groups():
    outline = composed("distill=outline")
    assert tuple(outline["groups"]) == GROUPS[1:]
    assert outline["distill"] == {group: composed()["distill"][group] for group in GROUPS[1:]}


def test_the_paper_scale_is_28_trials_on_pinned_commits():
    settings = Settings.model_validate(composed("scale=paper", "distill=outline"))
    assert len(settings.groups) * len(settings.seeds) == 28
    pinned = (settings.teacher, settings.student, *settings.prepare.tasks.values())
    assert all(len(each.revision or "") == 40 for each in pinned)
    train = settings.train
    assert (train.epochs, train.batch_size, train.micro_batch_size) == (3, 8, 4)
    assert (train.learning_rate, train.weight_decay, train.clip_norm) == (1e-4, 0.01, 1.0)
    assert settings.snapshot.max_length == 512
    assert settings.storage.keep_students == "one_per_group"
    counts = {name: (task.train, task.validation, task.test) for name, task in settings.prepare.tasks.items()}
    assert counts == {"sst2": (5000, 500, None), "mmlu": (1000, None, None), "gsm8k": (1000, 500, None)}


@pytest.mark.parametrize("group", GROUPS)
def test_selecting_a_group_selects_it_alone(group: str):
    selected = composed(f"distill={group}")
    assert selected["groups"] == [group]
    assert selected["distill"] == {group: composed()["distill"][group]}


@pytest.mark.parametrize(
    ("group", "real"), [("hidden", "hidden_state"), ("attention", "attention"), ("logits", "black_box")]
)
def test_a_control_is_its_group_with_the_signal_shuffled(group: str, real: str):
    weights = composed("distill=[all,controls]")["distill"]
    assert weights[f"shuffled_{group}"] == {**weights[real], "shuffled": [group]}
    assert composed("distill=controls")["groups"] == ["shuffled_logits", "shuffled_hidden", "shuffled_attention"]


def test_a_weight_is_a_curve_on_the_command_line(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(composition(CONF, ["weights.hidden='0:0, 0.3:0, 0.5:0.1'"]), encoding="utf-8")
    assert load_settings(path).distill["combined"].hidden == "0:0, 0.3:0, 0.5:0.1"


def test_the_teachers_answers_join_the_other_groups_and_change_none():
    together = composed("distill=[all,seqkd]")
    assert together["groups"] == [*GROUPS, "seqkd"]
    assert together["distill"] == {**composed("distill=all")["distill"], "seqkd": {"task": 1.0, "labels": "teacher"}}


def test_two_groups_are_selected_by_a_list():
    assert composed("distill=[black_box,combined]")["groups"] == ["black_box", "combined"]


def test_a_weight_changes_only_the_groups_that_use_it():
    before, after = composed()["distill"], composed("weights.hidden=0.3")["distill"]
    assert {group for group in GROUPS if before[group] != after[group]} == {"hidden_state", "combined"}
    assert after["combined"]["hidden"] == 0.3


def test_seeds_change_nothing_but_the_seeds():
    assert composed("seeds=[0,1]") == {**composed(), "seeds": [0, 1]}


def test_a_new_file_is_a_new_group(tmp_path: Path):

    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (conf / "distill/maps_only.yaml").write_text("maps_only:\n  attention: ${weights.attention}\n", encoding="utf-8")
    values = yaml.safe_load(composition(conf, ["distill=maps_only"]))
    assert Settings.model_validate(values).distill["maps_only"].attention == values["weights"]["attention"]


def test_a_new_task_is_a_jsonl_file_named_in_an_override():
    files = "{train: a.jsonl, validation: b.jsonl, test: c.jsonl}"
    values = composed(f"+prepare.tasks.riddles={{source: jsonl, files: {files}}}")
    assert Settings.model_validate(values).prepare.tasks["riddles"].source == "jsonl"


def test_real_files_are_read_from_one_folder_and_any_subset_of_tasks():
    settings = Settings.model_validate(composed("scale=files", "prepare.folder=elsewhere", "~prepare.tasks.sst2"))
    assert set(settings.prepare.tasks) == {"mmlu", "gsm8k"}
    gsm8k = settings.prepare.tasks["gsm8k"]
    assert gsm8k.files and gsm8k.files.train == "elsewhere/gsm8k/train.jsonl"
    assert settings.student.initialisation == "random"


def test_words_that_yaml_takes_for_booleans_stay_words(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(composition(CONF, ["train.precision=no"]), encoding="utf-8")
    assert load_settings(path).train.precision == "no"


def test_composing_by_hand_says_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["params.py", "distill=combined"])
    params.main()
    assert capsys.readouterr().out == "params.yaml: composed of conf/ distill=combined\n"
    assert load_settings(tmp_path / "params.yaml").groups == ("combined",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seeds=7", "- `seeds` = 7: a list was expected. Next: -S 'seeds=[7]'"),
        ("seeds='[1,2]'", "a list was expected. Next: -S 'seeds=[1,2]'"),
        ("seeds=[]", "- `seeds` = []: it is empty, and at least one is needed. Next: -S 'seeds=[<a value>]'"),
        ("prepare.tasks=null", "`prepare.tasks`"),
        ("train.learning_rate=abc", '- `train.learning_rate` = "abc": input should be a valid number'),
        ("train.epochs=0", "- `train.epochs` = 0: input should be greater than 0"),
        ("weights.logits=0", "- `distill.black_box`: it would train the very same student as group sft"),
    ],
)
def test_settings_that_cannot_run_leave_params_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, said: str
):
    (tmp_path / "params.yaml").write_text("as it was", encoding="utf-8")
    refused = refusal_of(override, tmp_path, monkeypatch)
    assert refused.exit_code == 1 and said in str(refused)
    assert str(refused).startswith(f"conf/ {override} is refused for ")
    assert str(refused).endswith("\n\nparams.yaml is as it was.")
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == "as it was"


def test_every_default_stands_in_one_place() -> None:
    """A key that conf/config.yaml gives has no default in code, where one that is lost from conf would be filled in."""
    given = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text(encoding="utf-8"))
    twice = []
    for section, keys in given.items():
        model = Settings.model_fields[section].annotation if section in Settings.model_fields else None
        if isinstance(keys, dict) and isinstance(model, type) and section != "weights":
            fields = model.model_fields
            twice += [f"{section}.{key}" for key in keys if not fields[key].is_required()]
    assert twice == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill=black_bx", "conf/distill/black_bx.yaml does not exist; the nearest is `black_box`"),
        ("distill=[sft,blackbox]", "conf/distill/blackbox.yaml does not exist; the nearest is `black_box`"),
        ("scale=papr", "conf/scale/papr.yaml does not exist; the nearest is `paper`"),
        ("scale=zzz", "dialogpt, embedded, faithful"),
        ("weights.hiden=3", "there is no setting `weights.hiden`; the nearest is `weights.hidden`"),
        ("weights.hidden", "is as it was. "),
        ("distill=[]", "`distill` names no group; name one or more"),
        ("distill=null", "A file of conf/ is chosen by its name"),
        ("=1", "A file of conf/ is chosen by its name"),
        ("weights=3", "node `weights` is not a container"),
        ("weights.hidden=${nowhere}", "Interpolation key 'nowhere' not found"),
    ],
)
def test_a_name_that_is_not_there_is_a_sentence_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, said: str
):
    refused = refusal_of(override, tmp_path, monkeypatch)
    assert said in str(refused) and len(str(refused).splitlines()) == 1
    assert not (tmp_path / "params.yaml").exists()
