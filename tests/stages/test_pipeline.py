"""The whole way by its real commands: DVC, Hydra and MLflow over a copy of this repository, shrunk to seconds."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from glassbox.comparison.plan import read_plan
from glassbox.files import sha256_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("sft", "black_box", "hidden_state", "attention", "combined")
TRAINED = re.compile(r"^(\w+)/(\d+) (?:finished|diverged)", re.MULTILINE)
KILLS = int(os.environ.get("GLASSBOX_KILLS", "2"))
UNCHANGED = "data/snapshot: nothing that it depends on has changed"
RAN = re.compile(r"Running stage '([\w@-]+)'")


def environment() -> dict[str, str]:
    """This interpreter's environment first on the path, and no store of the caller's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DVC_"))}
    return own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}", "DVC_NO_ANALYTICS": "1"}


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own; nobody reads what it says."""
    silent = subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=silent, stderr=silent, start_new_session=True
    )


def run(folder: Path, *command: str, expect: int = 0) -> str:
    """A command in the project; its output."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900)
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"{' '.join(command)} ended with {done.returncode}:\n{output}"
    return output


def shrink(folder: Path) -> None:
    """The faithful scale by default, two seeds, a dozen samples and one epoch: the same configuration otherwise."""
    for name in ("embedded", "faithful"):
        scale = folder / f"conf/scale/{name}.yaml"
        values = yaml.safe_load(scale.read_text(encoding="utf-8"))
        for task in values["prepare"]["tasks"].values():
            task |= {"train": 16, "validation": 4, "test": 12}
        values["train"] |= {"epochs": 1, "threads": 1}
        values["seeds"] = [0, 1]
        values["evaluation"] = values.get("evaluation", {}) | {"max_new_tokens": 8}
        scale.write_text("# @package _global_\n" + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    config = folder / "conf/config.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("- scale: embedded", "- scale: faithful"), encoding="utf-8"
    )


def copy_of_the_repository(folder: Path) -> None:
    """The files of this working tree, in a repository of their own."""
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in (name for name in listed if name and (ROOT / name).is_file() and name != "dvc.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    run(folder, "git", "init", "--quiet")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this working tree with a finished study of ten small trials."""
    folder = tmp_path_factory.mktemp("study") / "project"
    copy_of_the_repository(folder)
    shrink(folder)
    run(folder, sys.executable, "src/params.py")
    run(folder, "git", "add", "--all")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    run(folder, "git", *identity, "commit", "--quiet", "--message", "study")
    (folder / "first.log").write_text(run(folder, "dvc", "repro"), encoding="utf-8")
    run(folder, "git", "add", "--all", ":!first.log")
    run(folder, "git", *identity, "commit", "--quiet", "--message", "results")
    return folder


@pytest.fixture
def project(study: Path, tmp_path: Path) -> Path:
    """A copy of the finished study for one test to change."""
    folder = tmp_path / "project"
    shutil.copytree(study, folder, symlinks=True)
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "reports/results.json").read_text(encoding="utf-8"))


def test_one_command_trains_every_trial_and_ends_with_the_table_and_where_to_look(study: Path) -> None:
    log = (study / "first.log").read_text(encoding="utf-8")
    assert {(group, int(seed)) for group, seed in TRAINED.findall(log)} == {(g, s) for g in GROUPS for s in (0, 1)}
    assert "make ui" in log and "workflowType=machine_learning" in log
    assert str(study / "reports/report.html") in log
    assert "on these miniature tasks" in (study / "reports/report.html").read_text(encoding="utf-8")
    assert len(log.splitlines()) < 2000 * 10 / 35


def captured(log: str) -> bool:
    """Whether the teacher was asked."""
    return "snapshot" in RAN.findall(log) and UNCHANGED not in log


def test_the_same_command_again_runs_nothing(study: Path) -> None:
    assert RAN.findall(run(study, "dvc", "repro")) == ["settings"]


def test_one_group_is_compared_with_the_others_from_the_store(project: Path) -> None:
    log = run(project, "dvc", "exp", "run", "-S", "distill=combined")
    assert not TRAINED.findall(log)
    assert "from the store" in log
    assert "black_box" in (project / "reports/table_main.csv").read_text(encoding="utf-8")


def test_a_changed_weight_retrains_the_groups_that_use_it_and_no_other(project: Path) -> None:
    log = run(project, "dvc", "exp", "run", "-S", "weights.hidden=0.3")
    assert {group for group, _ in TRAINED.findall(log)} == {"hidden_state", "combined"}


@pytest.mark.long
def test_another_temperature_never_captures_the_teacher_again(project: Path) -> None:
    log = run(project, "dvc", "exp", "run", "-S", "objective.temperature=4", "-S", "seeds=[0]")
    assert not captured(log)
    assert "prepare" not in RAN.findall(log)
    assert ("combined", "0") in TRAINED.findall(log)


@pytest.mark.long
def test_a_weight_that_is_typed_back_trains_nothing_again(project: Path) -> None:
    run(project, "dvc", "exp", "run", "-S", "weights.attention=0.3", "-S", "seeds=[0]")
    log = run(project, "dvc", "exp", "run", "-S", "seeds=[0]")
    assert not TRAINED.findall(log)


@pytest.mark.long
def test_weights_that_are_overwritten_in_the_teachers_folder_are_captured_and_trained_again(project: Path) -> None:
    path = project / "data/embedded/teacher/model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.01
    save_file(weights, path, metadata={"format": "pt"})
    log = run(project, "dvc", "repro")
    assert captured(log)
    assert len(TRAINED.findall(log)) == 10


def test_bad_settings_are_refused_before_anything_runs_and_nothing_is_lost(project: Path) -> None:
    log = run(project, "dvc", "exp", "run", "-S", "+train.learning_rat=1", "-S", "train.epochs=0", expect=255)
    assert "learning_rate" in log
    assert "train.epochs" in log
    assert (project / "runs/combined/0.json").exists()


def test_a_misspelt_override_is_refused_by_hydra(project: Path) -> None:
    log = run(project, "dvc", "exp", "run", "-S", "weights.hiden=0.3", expect=255)
    assert "Key 'hiden' is not in struct" in log


@pytest.mark.long
def test_a_jsonl_file_is_a_new_task_without_code(project: Path) -> None:
    folder = project / "data/files"
    folder.mkdir(parents=True)
    lines = [{"prompt": f"Colour {n}:", "answer": " red", "choices": [" red", " blue"]} for n in range(40)]
    (folder / "colours.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    path = (folder / "colours.jsonl").as_posix()
    files = f"{{train: {path}, validation: {path}, test: {path}}}"
    task = f"+prepare.tasks.colours={{source: jsonl, files: {files}, train: 20, validation: 8, test: 8}}"
    run(project, "dvc", "exp", "run", "-S", task, "-S", "distill=black_box", "-S", "seeds=[0]")
    assert "accuracy_colours" in (project / "reports/results.json").read_text(encoding="utf-8")
    (folder / "colours.jsonl").write_text(
        "\n".join(map(json.dumps, lines)).replace("Colour", "Color"), encoding="utf-8"
    )
    log = run(project, "dvc", "repro")
    assert "prepare" in RAN.findall(log) and captured(log) and TRAINED.findall(log) == [("black_box", "0")]


@pytest.mark.long
def test_a_group_file_is_a_new_group_without_code(project: Path) -> None:
    text = "signals_only:\n  task: 0.0\n  logits: ${weights.logits}\n  hidden: ${weights.hidden}\n"
    (project / "conf/distill/signals_only.yaml").write_text(text, encoding="utf-8")
    log = run(project, "dvc", "exp", "run", "-S", "distill=signals_only", "-S", "seeds=[0]")
    assert TRAINED.findall(log) == [("signals_only", "0")]


@pytest.mark.long
def test_a_lost_store_is_noticed_and_refilled_from_the_runs(project: Path) -> None:
    before = results(project)
    (project / "mlflow.db").unlink()
    run(project, sys.executable, "src/settings.py")
    assert "python src/restore.py" in run(project, sys.executable, "src/compare.py")
    run(project, sys.executable, "src/restore.py")
    assert "python src/restore.py" not in run(project, sys.executable, "src/compare.py")
    assert results(project)["tasks"] == before["tasks"]


@pytest.mark.long
@pytest.mark.real
def test_the_same_stages_work_on_real_files(project: Path) -> None:
    real = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent"))
    if not real.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real data")
    folder = project / "data/files"
    shutil.copytree(real / "gsm8k", folder / "gsm8k")
    shutil.copytree(real / "mmlu/val", folder / "mmlu/val")
    (folder / "sst2").mkdir()
    for split in ("train", "dev"):
        lines = [f"the {split} film number {n} is {'good' if n % 2 else 'bad'} \t{n % 2}" for n in range(400)]
        (folder / f"sst2/{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(lines), encoding="utf-8")
    few = [f"prepare.tasks.{task}.{split}=20" for task in ("sst2", "mmlu", "gsm8k") for split in ("train", "test")]
    overrides = ["scale=files", "seeds=[0]", "distill=[sft,combined]", *few]
    log = run(project, "dvc", "exp", "run", *(part for override in overrides for part in ("-S", override)))
    assert set(TRAINED.findall(log)) == {("sft", "0"), ("combined", "0")}
    assert "embedded miniature tasks" not in (project / "reports/report.html").read_text(encoding="utf-8")
    assert results(project)["scale"] == "files"


def give_the_student_another_tokenizer(project: Path) -> None:
    path = project / "data/embedded/student/tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


@pytest.mark.long
def test_the_teachers_answers_are_a_group_beside_the_others_and_train_no_other_again(project: Path) -> None:
    log = run(project, "dvc", "exp", "run", "-S", "distill=[sft,black_box,seqkd]", "-S", "seeds=[0]")
    assert TRAINED.findall(log) == [("seqkd", "0")]
    assert not captured(log)
    manifest = json.loads((project / "data/answers/manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["accuracy"]["tasks"]) == {"sst2", "mmlu", "gsm8k"}
    rows = {(row["group"], row["task"]) for row in results(project)["means"]}
    assert {("seqkd", task) for task in ("sst2", "mmlu", "gsm8k")} <= rows
    log = run(project, "dvc", "exp", "run", "-S", "distill=seqkd", "-S", "seeds=[0]", "-S", "weights.logits=0.4")
    assert TRAINED.findall(log) == []


@pytest.mark.long
def test_two_tokenizers_are_refused_token_by_token_and_go_all_the_way_by_the_teachers_answers(project: Path) -> None:
    give_the_student_another_tokenizer(project)
    log = run(project, "dvc", "exp", "run", "-S", "distill=[sft,black_box]", "-S", "seeds=[0]", expect=255)
    assert "Group 'black_box' compares teacher and student token by token" in log
    assert "The way for such a pair is `seqkd`" in log
    log = run(project, "dvc", "exp", "run", "-S", "distill=[sft,seqkd]", "-S", "seeds=[0]")
    assert set(TRAINED.findall(log)) == {("sft", "0"), ("seqkd", "0")}
    assert "nothing was captured" in log
    assert json.loads((project / "data/snapshot/manifest.json").read_text(encoding="utf-8"))["signals"] == []
    assert {row["group"] for row in results(project)["means"]} == {"sft", "seqkd"}


PLANTED = {
    "control": "black_box",
    "groups": ["black_box", "partly_shuffled"],
    "optional_groups": ["replica_null"],
    "replicas": {"replica_null": "black_box"},
    "contrasts": [
        {
            "id": name,
            "family": name,
            "question": f"is {group} found to differ?",
            "weights": {group: 1, "black_box": -1},
            "tasks": "each",
            "test": "two_sided",
            "holm": "over tasks",
        }
        for name, group in (("P1", "partly_shuffled"), ("P2", "replica_null"))
    ],
}


def plan_what_is_planted(conf: Path) -> None:
    """The project's plan with the planted questions in place of its own."""
    plan = yaml.safe_load((conf / "analysis.yaml").read_text(encoding="utf-8"))
    own = ("control", "primary", "groups", "optional_groups", "replicas", "hypothesis", "scales", "contrasts")
    kept = {name: value for name, value in plan.items() if name not in own}
    (conf / "analysis.yaml").write_text(yaml.safe_dump(kept | PLANTED), encoding="utf-8")


def test_the_plan_of_the_planted_fault_is_one_that_a_study_takes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    plan_what_is_planted(tmp_path / "conf")
    plan = read_plan(tmp_path / "conf", "embedded")
    assert {row.id for row in plan.contrasts} == {"P1", "P2"}


@pytest.mark.long
def test_a_planted_fault_is_found_and_a_planted_null_is_not(tmp_path: Path) -> None:
    copy_of_the_repository(tmp_path)
    plan_what_is_planted(tmp_path / "conf")
    run(tmp_path, sys.executable, "src/params.py", "distill=[black_box,replica_null,partly_shuffled]", "scale=embedded")
    run(tmp_path, "dvc", "repro", expect=0)
    found = {(row["id"], *row["tasks"]): row for row in results(tmp_path)["contrasts"]}
    for task in ("mmlu", "gsm8k"):
        assert found["P1", task]["estimate"] < 0 and found["P1", task]["p_adjusted"] < 0.05
        assert found["P2", task]["p_adjusted"] >= 0.05


def digests(folder: Path) -> dict[str, tuple[str, str]]:
    """Of every trial its student and its answers; each manifest's files are there and as it says."""
    found = {}
    for path in sorted(folder.glob("runs/*/*.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for name, digest in manifest["files"].items():
            assert sha256_of(path.with_suffix("") / name) == digest
        found[f"{path.parent.name}/{path.stem}"] = (manifest["digests"]["final_student"], manifest["digests"]["items"])
    return found


def forget_trials(folder: Path) -> None:
    for name in ("runs", "reports", ".glassbox/trials", ".glassbox/running"):
        shutil.rmtree(folder / name, ignore_errors=True)


@pytest.mark.long
def test_the_same_command_finishes_a_study_that_was_killed_at_any_moment(project: Path) -> None:
    forget_trials(project)
    run(project, sys.executable, "src/params.py", "distill=[sft,black_box,combined]")
    run(project, "dvc", "repro")
    undisturbed = digests(project)
    assert len(undisturbed) == 6
    moments = random.Random(0)
    for _ in range(KILLS):
        forget_trials(project)
        process = start(project, "dvc", "repro")
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(2, 40))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        halfway = digests(project)
        assert halfway.items() <= undisturbed.items()
        run(project, "dvc", "repro")
        assert digests(project) == undisturbed
        compared = {f"{trial['group']}/{trial['seed']}" for trial in results(project)["trials"]}
        assert set(undisturbed) <= compared  # and those of groups that the store has besides


@pytest.mark.long
def test_queued_experiments_run_side_by_side(project: Path) -> None:
    for weight in ("0.2", "0.4"):
        overrides = ("-S", f"weights.attention={weight}", "-S", "distill=attention", "-S", "seeds=[0]")
        run(project, "dvc", "exp", "run", "--queue", *overrides)
    run(project, "dvc", "queue", "start", "--jobs", "2")
    for task in re.findall(r"^([0-9a-f]{7})\b", run(project, "dvc", "queue", "status"), flags=re.MULTILINE):
        run(project, "dvc", "queue", "logs", "--follow", task)
    assert run(project, "dvc", "queue", "status").count("Success") == 2
    assert "accuracy_sst2" in run(project, "dvc", "exp", "show", "--csv")


@pytest.mark.long
def test_mlflow_runs_one_trial_and_the_comparison(project: Path) -> None:
    mlflow = (sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local")
    run(project, *mlflow, "-e", "train", "-P", "group=combined", "-P", "seed=1")
    run(project, *mlflow, "-e", "compare")
