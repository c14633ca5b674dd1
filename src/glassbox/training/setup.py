"""What one trial works with: snapshot or texts, student, objective, optimizer and step plan, loaded and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.models.loading import configuration_of, model_digest
from glassbox.models.precision import PrecisionProbe, cpu_has_bf16, cuda_has_bf16, resolve
from glassbox.models.signals import checkpoint_layers
from glassbox.models.tokenizers import load_tokenizer, tokenizer_fingerprint
from glassbox.objective import Objective, pair_heads
from glassbox.processes import Processes, start_accelerator
from glassbox.randomness import derived_seed
from glassbox.snapshot.labels import read_teacher_labels
from glassbox.snapshot.partners import batches_with_partners, partners_digest, partners_of
from glassbox.snapshot.reader import Batch, Snapshot, open_snapshot
from glassbox.snapshot.schema import NOTHING_CAPTURED
from glassbox.tasks.splits import read_split, tasks_digest
from glassbox.tracking import root
from glassbox.tracking.key import study_key, trial_key
from glassbox.training.schedule import make_plan
from glassbox.training.student import Student, Trainee, build_optimizer, build_student
from glassbox.training.texts import Source, Texts

SNAPSHOT_FOLDER = Path("data/snapshot")
TASKS_FOLDER = Path("data/tasks")
ANSWERS_FOLDER = Path("data/answers")


class Preparation:
    """One group with one seed, from its settings to the first step. `join` comes before `prepare`."""

    def __init__(self, settings: Settings, group: str, seed: int) -> None:
        self.settings, self.group, self.seed = settings, group, seed
        self.snapshot = open_snapshot(SNAPSHOT_FOLDER)
        snapshot = self.snapshot.logical_digest if self.snapshot else NOTHING_CAPTURED
        self.digests = {"snapshot": snapshot, "tasks": tasks_digest(TASKS_FOLDER)}
        self.study_key = study_key(settings, *self.digests.values())
        self.answers = None
        if settings.distill[group].labels == "teacher":
            labels = read_teacher_labels(ANSWERS_FOLDER / group, self.digests["tasks"])
            self.answers, self.digests["answers"] = labels.answers, labels.digest
        self.key = trial_key(settings, group, seed, *self.digests.values())
        scratch = Path(settings.storage.scratch) if settings.storage.scratch else root() / ".glassbox"
        self.scratch = scratch / "trials" / self.key

    def join(self) -> None:
        """Find the device, the precision, and the other processes of this trial where a launcher started several."""
        weights, cuda = self.settings.distill[self.group], torch.cuda.is_available()
        width = configuration_of(self.settings.student).get_text_config().hidden_size
        precision = resolve(self.settings.train.precision, cuda, cuda_has_bf16(), cpu_has_bf16(), width)
        uses_every_weight = not {"task", "logits"}.isdisjoint(weights.active)
        self.accelerator = start_accelerator(precision, cpu=not cuda, uses_every_weight=uses_every_weight)
        self.processes = Processes(self.accelerator.device)

    def prepare(self) -> None:
        """Load and check everything that training needs. Raises GlassboxError before a run is opened."""
        settings = self.settings.train
        torch.set_num_threads(settings.threads)
        torch.manual_seed(derived_seed(self.seed, f"dropout/{self.processes.index}"))
        self.tokenizer = load_tokenizer(self.settings.student)
        weights = self.settings.distill[self.group]
        snapshot = self._shared_snapshot()
        channels = snapshot.channels() if snapshot and "hidden" in weights.active else None
        self.source = self._source(snapshot)
        student = build_student(
            self.settings.student,
            self.seed,
            snapshot.vocabulary if snapshot else None,
            len(channels[0]) if channels else None,
        )
        self.initial_student = model_digest(student.model)
        if settings.gradient_checkpointing:
            checkpoint_layers(student.model)
        self.probe = PrecisionProbe(student.model)
        self.student: Student = student
        self.objective = Objective(
            weights,
            self.settings.objective,
            head=snapshot.head() if snapshot and "logits" in weights.active else None,
            channels=channels,
            temperatures=snapshot.temperatures if snapshot else (),
            projector=student.projector,
        ).to(self.accelerator.device)
        self.trainee, self.optimizer = self.accelerator.prepare(Trainee(student), build_optimizer(student, settings))
        self.partners = self._find_partners(snapshot)
        self.heads = self._pair_heads(snapshot) if snapshot and "attention" in weights.active else None
        self.plan = make_plan({s.sample_id: s.n_tokens for s in self.source.samples("train")}, settings, self.seed)
        self.digests["data_order"] = self.plan.digest()
        self.test, self.validation = (read_split(TASKS_FOLDER, split) for split in ("test", "validation"))

    def _source(self, snapshot: Snapshot | None) -> Source:
        """Where samples come from: texts for the teacher's answers, and where no snapshot has the student's tokens."""
        if snapshot and self.answers is None:
            return snapshot
        return Texts(TASKS_FOLDER, self.tokenizer, self.settings.snapshot, self.answers)

    def _shared_snapshot(self) -> Snapshot | None:
        """The snapshot, where its tokens are the student's too. Raises GlassboxError where a signal is needed of it."""
        found = tokenizer_fingerprint(self.tokenizer)
        if self.snapshot and self.snapshot.manifest["provenance"]["tokenizer"] == found:
            return self.snapshot
        if self.settings.distill[self.group].uses_signals:
            raise GlassboxError(
                f"Group {self.group}: the student '{self.settings.student.model}' cuts text into other tokens than the "
                "teacher did, so comparing them token by token means nothing. `-S distill=seqkd` trains such a student "
                "on the teacher's answers as text; or choose a student with the teacher's tokenizer. "
                "`python src/pair.py` names the differences."
            )
        return None

    def _find_partners(self, snapshot: Snapshot | None) -> dict[str, str]:
        """Whose signals each sample gets where a component is shuffled; the same for every trial of a study."""
        if snapshot is None or not self.objective.partner_signals:
            return {}
        splits = ("train", "validation")
        partners = {k: v for split in splits for k, v in partners_of(snapshot.samples(split), split).items()}
        self.digests["partners"] = partners_digest(partners)
        return partners

    def _pair_heads(self, snapshot: Snapshot) -> str:
        """How attention maps of different head counts are compared; refused early where the settings are strict."""
        student = self.student.model.config.get_text_config().num_attention_heads
        strict = self.settings.objective.heads == "strict"
        return pair_heads(student, snapshot.format.heads, strict).description

    def batches(self, plan: Sequence[Sequence[str]]) -> Iterator[Batch]:
        """The planned batches, decoded on the device, with all that the objective reads."""
        signals, lent, device = self.objective.signals, self.objective.partner_signals, self.accelerator.device
        if self.snapshot and lent:
            return batches_with_partners(self.snapshot, plan, signals, lent, self.partners, device)
        return self.source.batches(plan, signals, device)

    @property
    def task_names(self) -> list[str]:
        return sorted(self.settings.prepare.tasks)
