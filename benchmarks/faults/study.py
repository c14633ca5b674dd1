"""A scratch copy of the project with a study of seconds, and what is looked at after a fault."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from faults.counts import Injection
from glassbox.files import sha256_of
from glassbox.tasks.splits import tasks_digest

ROOT = Path(__file__).resolve().parents[2]
GROUPS = "distill=[sft,combined]"
OVERRIDES = (GROUPS, "scale=faithful", "train.labelled=0.5", "train.labelled_per_step=2", "storage.keep_students=all")
OUTPUTS = {
    "prepare": ("data/tasks", "reports/tasks.json"),
    "answers": ("data/answers", ".glassbox/answers"),
    "snapshot": ("data/snapshot",),
    "verify": ("reports/snapshot.json",),
    "train": ("runs", ".glassbox/trials", ".glassbox/running"),
    "compare": ("reports/results.json", "reports/report.html", "reports/figures", "reports/plots"),
}
OF_STAGES = ("data/tasks", "data/answers", "data/snapshot", "runs", "reports")
LEFTOVERS = ("*.partial", ".*.partial", "*.part", ".*-staging", ".*-kept", ".*-nothing")
SECONDS = 900


@dataclass(frozen=True)
class Done:
    """A command that has ended, and all that it said."""

    code: int
    said: str

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said


@dataclass(frozen=True)
class Study:
    """The project in `folder`, run by its own commands."""

    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """This interpreter's programs first on the path, and no store of the caller's."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DVC_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
        return own | {"PATH": path, "DVC_NO_ANALYTICS": "1", "DVC_ROOT": str(self.folder)} | more

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """A command in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, *command: str, **more: str) -> Done:
        process = self.start(*command, **more)
        try:
            said, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            kill_group(process)
            said, _ = process.communicate()
            said += f"\nnot done in {SECONDS} s"
        return Done(process.returncode, said)

    def script(self, name: str, *arguments: str, **more: str) -> Done:
        """A stage's script."""
        return self.run(sys.executable, f"src/{name}.py", *arguments, **more)

    def repro(self, **more: str) -> Done:
        return self.run("dvc", "repro", **more)

    def copy(self, folder: Path) -> Study:
        """The same, finished study in another folder."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder, symlinks=True)
        return Study(folder)

    def forget(self, *stages: str) -> None:
        """As if these stages had never run, in DVC's eyes too."""
        for name in [".dvc/cache/runs", *(name for stage in stages for name in OUTPUTS[stage])]:
            path = self.folder / name
            shutil.rmtree(path, ignore_errors=True)
            if path.is_file():
                path.unlink()

    def forget_outputs(self) -> None:
        """What the stages made and DVC tracks is gone from the working tree; the lock, cache and store are there."""
        for name in ("data/tasks", "data/answers", "data/snapshot", "runs", "reports", ".glassbox"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def digests(self) -> dict[str, str]:
        """What each stage made, by a name; what is not there is left out."""
        return dict(self._digests())

    def _digests(self) -> Iterator[tuple[str, str]]:
        if (self.folder / "data/tasks").is_dir():
            yield "tasks", tasks_digest(self.folder / "data/tasks")
        for name, key in (("answers", "digest"), ("snapshot", "logical_digest")):
            path = self.folder / f"data/{name}/manifest.json"
            if path.is_file():
                yield name, str(json.loads(path.read_text(encoding="utf-8")).get(key))
        for name, manifest in self.manifests().items():
            yield name, f"{manifest['digests']['final_student']} {manifest['digests']['items']}"
        path = self.folder / "reports/results.json"
        if path.is_file():
            results = json.loads(path.read_text(encoding="utf-8"))
            shown = {name: results[name] for name in ("means", "contrasts", "answers", "tasks")}
            yield "report", hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Of every trial in runs/."""
        paths = sorted((self.folder / "runs").glob("*/*.json"))
        return {f"{path.parent.name}/{path.stem}": json.loads(path.read_text(encoding="utf-8")) for path in paths}

    def torn(self) -> str:
        """What is published and not whole; empty where nothing is."""
        for name, manifest in self.manifests().items():
            for file, digest in manifest["files"].items():
                path = self.folder / "runs" / name / file
                if not path.is_file() or sha256_of(path) != digest:
                    return f"runs/{name}.json names {file}, which is missing or another file"
        path = self.folder / "data/snapshot/manifest.json"
        if path.is_file():
            for file, entry in json.loads(path.read_text(encoding="utf-8")).get("files", {}).items():
                if sha256_of(path.with_name(file)) != entry["sha256"]:
                    return f"data/snapshot/{file} is not the file of the manifest"
        return ""

    def unfinished(self, **more: str) -> str:
        """What a study that has ended must not leave; empty where it left nothing."""
        for place in OF_STAGES:
            for pattern in LEFTOVERS:
                for path in (self.folder / place).rglob(pattern):
                    return f"{path.relative_to(self.folder)} was left"
        running = self.folder / ".glassbox/running"
        if any(running.glob("*/step-*")):
            return "a checkpoint of a finished trial was left"
        return self.open_runs(more.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"))

    def open_runs(self, uri: str = "sqlite:///mlflow.db") -> str:
        """Runs that the store shows as running, and trials whose run it does not show as finished."""
        path = self.folder / uri.removeprefix("sqlite:///")
        if not path.is_file():
            return f"{path.name} is gone"
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"
            status = dict(connection.execute(query).fetchall())
            tags = "SELECT value, run_uuid FROM tags WHERE key IN ('local_id', 'restored_from')"
            other = dict(connection.execute(tags).fetchall())
        running = [run for run, state in status.items() if state == "RUNNING"]
        if running:
            return f"{len(running)} runs are RUNNING"
        for name, manifest in self.manifests().items():
            run = manifest["run_id"] if manifest["run_id"] in status else other.get(manifest["run_id"])
            if status.get(str(run)) != "FINISHED":
                return f"the run of {name} is {status.get(str(run), 'unknown')}"
        return ""


def resumed(
    study: Study,
    undisturbed: Mapping[str, str],
    part: str,
    case: str,
    torn: Iterable[str] = (),
    stage: str | None = None,
    **more: str,
) -> Injection:
    """What the same command makes of a study after a fault: `dvc repro`, or the script of a stage.

    torn: what was found torn meanwhile.
    """
    done = study.script(stage, **more) if stage else study.repro(**more)
    if done.code or done.has_traceback:
        return Injection(part, case, "lost", f"the same command ended with {done.code}: {done.said[-400:]}")
    found = study.digests()
    differing = sorted(name for name in undisturbed if found.get(name) != undisturbed[name])
    if differing:
        return Injection(part, case, "silent", f"{', '.join(differing)} differ from the undisturbed study's")
    fault = next(filter(None, torn), "") or study.torn() or study.unfinished(**more)
    return Injection(part, case, "lost", fault) if fault else Injection(part, case, "survived")


def kill_group(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def make_study(folder: Path, *overrides: str) -> Study:
    """A finished study of four small trials in a copy of this working tree."""
    folder.mkdir(parents=True)
    study = Study(folder)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in (name for name in listed if name and (ROOT / name).is_file() and name != "dvc.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    _shrink(folder)
    for command in (
        ("git", "init", "--quiet"),
        (sys.executable, "src/params.py", *OVERRIDES, *overrides),
        ("dvc", "repro"),
    ):
        done = study.run(*command)
        if done.code:
            raise RuntimeError(f"the undisturbed study failed at {' '.join(command)}:\n{done.said}")
    fault = study.torn() or study.unfinished()
    if fault:
        raise RuntimeError(f"the undisturbed study is not whole: {fault}")
    return study


def _shrink(folder: Path) -> None:
    """A dozen samples a task, two epochs, two seeds."""
    for name in ("embedded", "faithful"):
        scale = folder / f"conf/scale/{name}.yaml"
        values = yaml.safe_load(scale.read_text(encoding="utf-8"))
        for task in values["prepare"]["tasks"].values():
            task |= {"train": 16, "validation": 4, "test": 12}
        values["train"] |= {"epochs": 2, "threads": 1}
        values["seeds"] = [0, 1]
        values["evaluation"] = values.get("evaluation", {}) | {"max_new_tokens": 8}
        scale.write_text("# @package _global_\n" + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
