"""Each fault that has killed such studies, planted: the preflight's check of that name finds it and says what to do."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import sections
import torch
from accelerate.state import AcceleratorState
from miniatures import save_model_folder, tiny_tokenizer
from projects import ROOT, shrunk_settings
from safetensors.torch import load_file, save_file

import preflight as script
from glassbox.config.settings import Settings, load_settings
from glassbox.evaluation import evaluation
from glassbox.models import generation
from glassbox.objective import hidden
from glassbox.preflight import checks
from glassbox.preflight.checks import Course
from glassbox.preflight.findings import Check, Finding, Findings
from glassbox.preflight.preflight import checks_beforehand, checks_of, longest_samples, preflight, shortened
from glassbox.preflight.rehearsal import captured_output
from glassbox.snapshot import reader
from glassbox.tasks.prepared import drawn_samples, write_prepared
from glassbox.training import checkpoint, student


@pytest.fixture
def project(project: Path) -> Path:
    """The small project with the committed configuration beside it."""
    shutil.copytree(ROOT / "conf", project / "conf")
    return project


def two_groups(project: Path, **changes: Any) -> Settings:
    settings = shrunk_settings(project, seeds=[0], **changes)
    groups = {name: settings.distill[name] for name in ("sft", "combined")}
    return settings.model_copy(update={"groups": tuple(groups), "distill": groups})


def found(project: Path, name: str, settings: Settings | None = None, first: tuple[str, ...] = ()) -> Finding:
    """What the check of this name finds, after the checks named in `first`."""
    settings = settings or two_groups(project)
    checks = checks_beforehand(settings, project, project / "data/tasks") + checks_of(Course(shortened(settings)))
    by_name = {check.name: replace(check, after=()) for check in checks}
    findings = Findings(lambda finding: None)
    for each in (*first, name):
        findings.add(by_name[each])
    return findings.all[-1]


def assert_failed(finding: Finding, *words: str) -> None:
    assert finding.result == "failed"
    for word in words:
        assert word in finding.sentence, finding.sentence


@pytest.mark.parametrize(
    "name", ["tokenizers", "teacher", "disk", "memory", "precision", "objective", "attention maps", "components"]
)
def test_a_sound_study_passes(name: str, project: Path):
    finding = found(project, name)
    assert (finding.result, finding.trace) == ("ok", ""), finding.sentence


def test_a_teacher_that_guesses_is_said_to_be_at_chance(project: Path):
    finding = found(project, "teacher")
    assert finding.sentence.startswith("WARNING: its score on 12 test questions: sst2"), finding.sentence
    assert "The teacher is at chance on gsm8k (0.0 % of 4 questions, where guessing gets 0 %)" in finding.sentence


def test_an_objective_read_position_by_position_from_the_prompt(project: Path, monkeypatch: pytest.MonkeyPatch):
    right = student.position_signals

    def from_the_prompt(model: Any, ids: Any, mask: Any, first: torch.Tensor, count: Any, **options: Any) -> Any:
        return right(model, ids, mask, torch.zeros_like(first), count, **options)

    monkeypatch.setattr(student, "position_signals", from_the_prompt)
    assert_failed(found(project, "objective"), "does not learn the next token", "from the prompt")


def test_labels_without_the_shift(project: Path, monkeypatch: pytest.MonkeyPatch):
    right = reader.assemble

    def unshifted(*arguments: Any) -> Any:
        batch = right(*arguments)
        column = batch.first[batch.sample_index] + torch.arange(len(batch.labels))
        column -= (torch.cumsum(batch.count, 0) - batch.count)[batch.sample_index]
        return replace(batch, labels=batch.input_ids[batch.sample_index, column])

    monkeypatch.setattr(reader, "assemble", unshifted)
    assert_failed(found(project, "objective"), "the mask or the shift is wrong")


def test_tokenizers_that_differ(project: Path):
    save_model_folder(project / "models/student", tiny_tokenizer(["Quite another text altogether 5 6 7"]))
    assert_failed(found(project, "tokenizers"), "their tokenizers differ", "seqkd")


def test_precision_that_is_not_in_force(project: Path, monkeypatch: pytest.MonkeyPatch):
    AcceleratorState._reset_state(True)
    right = student.position_signals

    def in_full(*arguments: Any, **options: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return right(*arguments, **options)

    monkeypatch.setattr(student, "position_signals", in_full)
    settings = two_groups(project, train={"precision": "bf16"})
    assert_failed(found(project, "precision", settings), "Mixed precision is not in force", "train.precision")
    AcceleratorState._reset_state(True)


def test_rows_of_nan_from_the_teacher(project: Path):
    weights = project / "models/teacher/model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    assert_failed(found(project, "capture"), "not finite", "teacher.dtype=float32")


def test_missing_attention_maps(project: Path, monkeypatch: pytest.MonkeyPatch):
    right = student.load_model

    def without_maps(*arguments: Any, **options: Any) -> Any:
        model = right(*arguments, **options)
        model.set_attn_implementation("sdpa")
        return model

    monkeypatch.setattr(student, "load_model", without_maps)
    assert_failed(found(project, "attention maps"), "gives no attention map")


def test_a_dead_component(project: Path, monkeypatch: pytest.MonkeyPatch):
    right = hidden.mse
    monkeypatch.setattr(hidden, "mse", lambda predicted, target: right(predicted.detach(), target))
    assert_failed(found(project, "components"), "hidden did not move the student", "conf/distill/combined.yaml")


def test_a_swamping_component(project: Path):
    settings = two_groups(project)
    heavy = settings.distill["combined"].model_copy(update={"hidden": 1e4})
    settings = settings.model_copy(update={"distill": settings.distill | {"combined": heavy}})
    assert_failed(found(project, "components", settings), "hidden makes 99", "-S weights.hidden", "objective.balance")


def test_a_swallowed_evaluation_failure(project: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (evaluation, generation):
        monkeypatch.setattr(module, "require_finite", lambda logits, sample_ids: None)
    assert_failed(found(project, "final evaluation"), "weights are NaN was scored", "swallows")


def test_a_dtype_clash_in_the_final_evaluation(project: Path, monkeypatch: pytest.MonkeyPatch):
    def clashing(model: Any, states: torch.Tensor, vocabulary: int) -> torch.Tensor:
        return torch.nn.functional.linear(states, model.get_output_embeddings().weight[:vocabulary].bfloat16())

    monkeypatch.setattr(evaluation, "head_logits", clashing)
    finding = found(project, "final evaluation")
    assert_failed(finding, "RuntimeError", "dtype")
    assert "clashing" in finding.trace


def test_a_log_flood(project: Path, monkeypatch: pytest.MonkeyPatch):
    right = checks.Course.trial

    def chatty(course: checks.Course, group: str) -> None:
        right(course, group)
        for log in Path(".glassbox/logs").glob(f"{group}-*.log"):
            log.write_text("a line at every turn\n" * 40, encoding="utf-8")

    monkeypatch.setattr(checks.Course, "trial", chatty)
    finding = found(project, "console", first=("capture", "answers", "gate", "trial combined"))
    assert_failed(finding, "floods the disk", "wrote 40 lines", "a line at every turn")


def test_a_full_disk(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=2, used=1, free=10_000))
    assert_failed(found(project, "disk"), "10.0 kB free", "storage.")


@pytest.mark.long
@pytest.mark.slow
def test_memory_that_will_not_fit(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_200_000))
    assert_failed(found(project, "memory"), "train combined needs", "train.micro_batch_size")


@pytest.mark.long
@pytest.mark.slow
def test_a_checkpoint_that_lacks_something(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "MOMENTS", ("exp_avg", "step"))
    finding = found(project, "resume", first=("capture", "answers", "gate", "trial combined"))
    assert finding.result == "failed"


def test_what_a_failure_makes_pointless_is_not_reached():
    findings = Findings(lambda finding: None)
    findings.add(Check("capture", lambda: 1 / 0))  # type: ignore[arg-type,return-value]
    findings.add(Check("gate", lambda: None, ["capture"]))
    findings.add(Check("report", lambda: None, ["gate"]))
    assert [finding.result for finding in findings.all] == ["failed", "not reached", "not reached"]
    assert findings.all[1].sentence == "it needs 'capture' to hold"
    assert "ZeroDivisionError" in findings.all[0].trace


def test_output_is_caught_whoever_writes_it(capfd: pytest.CaptureFixture[str]):
    with captured_output() as output:
        print("from python")
        os.write(1, b"from below\n")
    assert sorted(output.lines) == ["from below", "from python"]
    print("again")
    assert capfd.readouterr().out == "again\n"


def test_the_samples_are_the_longest_of_every_task(project: Path):
    settings = two_groups(project)
    chosen = longest_samples(settings, project / "data/tasks")
    assert len(chosen["train"]) == 2 * settings.train.batch_size
    assert {sample.task for sample in chosen["test"]} == set(settings.prepare.tasks)


@pytest.mark.slow
def test_a_sound_study_passes_every_check_and_nothing_is_left_behind(project: Path, monkeypatch: pytest.MonkeyPatch):
    before = sorted(path for path in project.rglob("*") if path.is_file())
    store_before = (project / "mlflow.db").read_bytes()
    findings = preflight(two_groups(project), project, project / "data/tasks", lambda finding: None)
    assert [(each.check, each.result, each.sentence) for each in findings.all if each.result != "ok"] == []
    assert {"trial sft", "trial combined", "resume", "console", "report"} <= {each.check for each in findings.all}
    assert sorted(path for path in project.rglob("*") if path.is_file()) == before
    assert (project / "mlflow.db").read_bytes() == store_before


def test_a_file_rewritten_since_it_was_prepared_is_a_finding_of_its_samples_alone(project: Path):
    rows = [{"prompt": f"{n} + 1?", "answer": "odd", "choices": ["odd", "even"]} for n in range(16)]
    path, tasks = project / "own.jsonl", project / "data/tasks"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = dict.fromkeys(("train", "validation", "test"), str(path))
    task = {"source": "jsonl", "files": files, "train": 8, "validation": 4, "test": 4}
    settings = two_groups(project).model_copy(update={"prepare": sections.prepare(tasks={"own": task})})
    write_prepared(tasks, settings, drawn_samples(settings))
    path.write_text("garbage\n" * 4, encoding="utf-8")
    findings = Findings(lambda finding: None)
    for check in checks_beforehand(settings, project, tasks):
        findings.add(check)
    (failed,) = findings.failed
    assert failed.check == "samples"
    assert_failed(failed, "own.jsonl, line 1: it is not JSON")


def run_script(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    Path("params.json").write_text(settings.model_dump_json(), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["preflight.py", "--params", "params.json"])
    script.main()


@pytest.mark.slow
def test_the_script_says_what_failed_and_exits_with_1(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    save_model_folder(project / "models/student", tiny_tokenizer(["Quite another text altogether 5 6 7"]))
    with pytest.raises(SystemExit) as ended:
        run_script(monkeypatch, two_groups(project))
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "tokenizers        failed" in printed.out
    assert "their tokenizers differ" in printed.err.replace("\n", " ")
    written = json.loads(Path("reports/preflight.json").read_text(encoding="utf-8"))
    assert not written["passed"]
    assert [check["result"] for check in written["checks"]] == ["failed", "ok", "ok", "ok", "not reached"]


@pytest.mark.long
@pytest.mark.slow
def test_the_embedded_scale_passes(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in ("conf", "data/embedded"):
        shutil.copytree(ROOT / name, store / name)
    monkeypatch.chdir(store)
    run_script(monkeypatch, load_settings(ROOT / "params.yaml"))
    assert "Every check held" in capsys.readouterr().out
