"""The course of a study, rehearsed: stages by their own scripts, and between them what a look inside can tell."""

from __future__ import annotations

import json
import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassbox.comparison.notes import teacher_notes
from glassbox.config.settings import Settings
from glassbox.config.storage import TASKS_FOLDER, scratch_folder
from glassbox.errors import DivergedError, GlassboxError
from glassbox.models.agreement import ask_plainly, draw_probes, require_agreement
from glassbox.models.encoding import encode_sample
from glassbox.models.loading import load_model
from glassbox.models.tokenizers import load_tokenizer
from glassbox.objective import liveness
from glassbox.objective.head import HeadTerms, head_losses
from glassbox.preflight.rehearsal import captured_output, run_stage, write_params
from glassbox.randomness import derived_seed
from glassbox.snapshot.batch import Batch
from glassbox.tasks.splits import read_split
from glassbox.training.checkpoint import Progress
from glassbox.training.setup import Setup, prepare
from glassbox.training.step import audit, update
from glassbox.training.trial import evaluated, run, run_trial

LINES_PER_TRIAL = 12
SWAMPED = 0.99
NATS = 0.01


class Course:
    """Runs in the folder of a rehearsal; `settings` are those that hold there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.seed = settings.seeds[0]
        self.hardest = max(settings.groups, key=lambda group: len(settings.distill[group].active))
        self.lines: dict[str, list[str]] = {}
        write_params(settings)

    def stage(self, name: str, *options: str) -> None:
        self.lines[" ".join([name, *options])] = run_stage(name, *options)

    def gate(self) -> str:
        """The stage `verify`, and where the teacher is so sure of the labels that its logits say hardly more."""
        self.stage("verify")
        report = json.loads(Path("reports/snapshot.json").read_text(encoding="utf-8"))
        sure = teacher_notes({"teacher": {}}, {}, {}, report.get("label_probability", {}))
        return f"WARNING: {' '.join(sure)}" if sure else ""

    def prepared(self, group: str) -> Setup:
        with captured_output():
            trial = prepare(self.settings, group, self.seed)
        trial.scratch.mkdir(parents=True, exist_ok=True)
        return trial

    def first_step(self, trial: Setup) -> list[tuple[Batch, bool]]:
        return [(batch, True) for batch in trial.batches(trial.schedule.steps[0])]

    def student(self) -> str:
        """The student as it is read here against Transformers' own plain forward and generation."""
        tokenizer = load_tokenizer(self.settings.student)
        texts = [(sample.prompt, sample.answer) for sample in read_split(TASKS_FOLDER, "train")]
        probes = draw_probes(tokenizer, texts, self.settings.snapshot.max_length)
        settings, seed = (
            self.settings.student.model_copy(update={"dtype": "float32"}),
            derived_seed(self.seed, "student"),
        )
        device, end = "cuda" if torch.cuda.is_available() else "cpu", int(tokenizer.eos_token_id)  # type: ignore[arg-type]
        plain = ask_plainly(settings, probes, end=end, device=device, seed=seed)
        model: Any = load_model(settings, seed=seed).to(device)  # type: ignore[arg-type]
        maps = any("attention" in self.settings.distill[group].needs("asks") for group in self.settings.groups)
        require_agreement(settings, model, plain, wants_attention=maps)
        return f"{len(probes)} texts read and continued as Transformers does"

    def precision(self) -> str:
        """One step, in which the trial itself looks at the format of a layer's output."""
        trial = self.prepared(self.hardest)
        trial.student.train()
        update(trial, self.first_step(trial), Progress(), due=True)
        return f"{trial.accelerator.mixed_precision} on {trial.accelerator.device}"

    def objective(self) -> str:
        """What is learned at each position, against the model asked plainly, sample by sample."""
        trial = self.prepared(self.hardest)
        trial.student.eval()
        positions = 0
        for batch, _ in self.first_step(trial):
            if "answers" not in trial.digests:
                _require_labels(trial, batch)
            with torch.no_grad():
                signals = trial.student(batch)
                each = torch.ones_like(batch.labels, dtype=torch.float32)
                _, losses = head_losses(signals.hidden, trial.student.head, HeadTerms(batch.labels), {"task": each})
                learned = losses["task"]
                expected = _plain_losses(trial, batch)
            difference = (learned.float().cpu() - expected).abs()
            if not bool((difference <= NATS + NATS * expected.abs()).all()):
                worst = int(difference.argmax())
                raise GlassboxError(
                    f"The objective does not learn the next token after prompt and answer so far: at an answer "
                    f"position of {batch.sample_ids[int(batch.sample_index[worst])]} its cross-entropy is "
                    f"{float(learned[worst]):.3f} nats, and the model itself, given all tokens before, has "
                    f"{float(expected[worst]):.3f}. Positions are read from the wrong place (from the prompt, or "
                    "without the shift): look at glassbox/training/student.py, models/signals.py and snapshot/batch.py."
                )
            positions += len(expected)
        return f"{positions} positions agree with the model asked plainly"

    def attention_maps(self) -> str:
        """The student's rows and the teacher's: there, each a distribution over what its position may see."""
        groups = [group for group in self.settings.groups if "attention" in self.settings.distill[group].needs("reads")]
        if not groups:
            return "no group uses them"
        trial = self.prepared(groups[0])
        batch, _ = self.first_step(trial)[0]
        with torch.no_grad():
            mine = trial.student(batch, frozenset({"attention"})).attention
        side = batch if batch.aligned is None else batch.aligned.teacher
        own = side if side.attention is not None else side.partner
        for owner, maps in (("student", mine), ("teacher", None if own is None else own.attention)):
            if maps is None:
                raise GlassboxError(f"There are no attention maps of the {owner}, although {groups[0]} distils them.")
            if not bool(((maps.sum(-1) - 1).abs() < 1e-3).all()):
                raise GlassboxError(
                    f"The {owner}'s attention rows do not sum to 1: `-S snapshot.attention_codec=float16` rounds less, "
                    "and `python src/verify.py` looks closer."
                )
        return trial.heads or "head by head"

    def components(self) -> str:
        """Every component of every group moves the student, and none swamps the others."""
        least = ("", "", 1.0)
        for group in self.settings.groups:
            trial = self.prepared(group)
            trial.student.train()
            found = audit(trial, self.first_step(trial), Progress())
            liveness.refuse_dead([found], group)
            for name, figures in found.items():
                share = figures["share"] or 0.0
                if len(found) > 1 and share > SWAMPED:
                    others = ", ".join(other for other in found if other != name)
                    raise GlassboxError(
                        f"Group {group}: {name} makes {share:.2%} of the gradient, so that {others} cannot matter. "
                        f"Lower its weight (`-S weights.{name}=...`), or balance the signals "
                        "(`-S objective.balance=magnitude`)."
                    )
                least = min(least, (group, name, share), key=lambda each: each[2])
        return f"the smallest share of a gradient is {least[2]:.1%} ({least[1]} of {least[0]})"

    def final_evaluation(self) -> str:
        """After a step, under the precision of training: every item answered, and a broken student not scored."""
        trial = self.prepared(self.hardest)
        trial.student.train()
        update(trial, self.first_step(trial), Progress(), due=False)
        evaluation = self._evaluated(trial)
        if len(evaluation.items) != len(trial.test):
            raise GlassboxError(
                f"The final evaluation answered {len(evaluation.items)} of {len(trial.test)} test samples and said "
                "nothing of the others: look at glassbox/evaluation/evaluation.py."
            )
        parameter = next(trial.student.model.parameters())
        with torch.no_grad():
            parameter.fill_(float("nan"))
        try:
            scores = self._evaluated(trial).metrics("test")
        except DivergedError:
            return f"{len(evaluation.items)} items; a student of NaN is refused"
        raise GlassboxError(
            f"A student whose weights are NaN was scored ({scores}) instead of refused: evaluation swallows its own "
            "failures, and a crashed trial would look like a bad one. Look at glassbox/evaluation/evaluation.py."
        )

    @staticmethod
    def _evaluated(trial: Setup) -> Any:
        with captured_output():
            return evaluated(trial, trial.test)

    def trial(self, group: str) -> None:
        self.stage("train", "--group", group, "--seed", str(self.seed))

    def resume(self) -> str:
        """The same trial stopped after its first step, then started again, ends in the same student."""
        manifest = Path("runs") / self.hardest / f"{self.seed}.json"
        whole = _final_student(manifest)
        with captured_output():
            stopped = prepare(self.settings, self.hardest, self.seed)
            try:
                run(stopped, _StopAtOnce())
            except SystemExit as end:
                if end.code != 128 + signal.SIGTERM:
                    raise
            if not list(stopped.scratch.glob("step-*")):
                raise GlassboxError(f"A stopped trial left no checkpoint in {stopped.scratch}: it cannot resume.")
            run_trial(self.settings, self.hardest, self.seed)
        if stopped.accelerator.device.type == "cpu" and _final_student(manifest) != whole:
            raise GlassboxError(
                f"Group {self.hardest} ends in another student when it is stopped and goes on: a checkpoint lacks "
                "something. Look at glassbox/training/checkpoint.py."
            )
        return "a stopped trial goes on to the same student"

    def console(self) -> str:
        """A trial of two steps writes a handful of lines to its log; one that prints at every step fills a disk."""
        logs = list((scratch_folder(self.settings.storage) / "logs").glob("*.log"))
        lines = {path.stem: path.read_text(encoding="utf-8", errors="replace").splitlines() for path in logs}
        name, longest = max(lines.items(), key=lambda each: len(each[1]))
        if len(longest) > LINES_PER_TRIAL:
            raise GlassboxError(
                f"{name} wrote {len(longest)} lines to its log in two steps (at most {LINES_PER_TRIAL} are expected), "
                f"which floods the disk in a long run. The most frequent: {max(longest, key=longest.count)!r}."
            )
        return f"at most {len(longest)} lines a trial"

    def report(self) -> str:
        self.stage("compare")
        missing = [name for name in ("results.json", "report.html") if not (Path("reports") / name).is_file()]
        if missing:
            raise GlassboxError(f"src/compare.py ended well and wrote no reports/{missing[0]}.")
        return "results.json and report.html"


class _StopAtOnce:
    """Watches a trial and tells it to stop, as by SIGTERM, while its first step runs."""

    def begins(self, step: int, steps: int) -> None: ...

    def step(self, step: int, steps: int, loss: float | None, samples_per_second: float) -> None:
        signal.raise_signal(signal.SIGTERM)

    def may_publish(self) -> bool:
        return True

    def during(self, phase: str, units: int) -> AbstractContextManager[None]:
        return nullcontext()


def _require_labels(trial: Setup, batch: Batch) -> None:
    """The labels of a batch are the tokens of answer and end, as the sample's own text gives them."""
    samples = {sample.sample_id: sample for sample in read_split(TASKS_FOLDER, "train")}
    snapshot = trial.settings.snapshot
    for row, sample_id in enumerate(batch.sample_ids):
        sample = samples[sample_id]
        encoded = encode_sample(
            trial.tokenizer,
            sample.prompt,
            sample.answer,
            max_length=snapshot.max_length,
            overflow=snapshot.overflow,
        )
        wanted = list(encoded.ids[encoded.loss_start + 1 :])
        found = batch.labels[batch.sample_index == row].tolist()
        if found != wanted:
            raise GlassboxError(
                f"Sample {sample_id} is trained towards {trial.tokenizer.decode(found)!r}, and its answer with the end "
                f"of sequence is {trial.tokenizer.decode(wanted)!r}: the mask or the shift is wrong. Look at "
                "glassbox/snapshot/batch.py."
            )


def _plain_losses(trial: Setup, batch: Batch) -> Float[Tensor, " positions"]:
    """Cross-entropy of every answer token from the model's own logits, one unpadded sample at a time, in nats."""
    losses = []
    for row, (first, count) in enumerate(zip(batch.first.tolist(), batch.count.tolist(), strict=True)):
        ids = batch.input_ids[row : row + 1, : first + count + 1]
        logits = trial.student.model(input_ids=ids, use_cache=False).logits[0, first : first + count]
        losses.append(
            functional.cross_entropy(
                logits[:, : trial.student.vocabulary].float(), ids[0, first + 1 :], reduction="none"
            )
        )
    return torch.cat(losses).cpu()


def _final_student(manifest: Path) -> str:
    return json.loads(manifest.read_text(encoding="utf-8"))["digests"]["final_student"]
