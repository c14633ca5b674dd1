"""What one trial works with: snapshot or texts, student, objective, optimizer and schedule, loaded and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from transformers import PreTrainedTokenizerFast

from glassbox.config.components import COMPONENTS
from glassbox.config.settings import Settings
from glassbox.config.storage import ANSWERS_FOLDER, SNAPSHOT_FOLDER, TASKS_FOLDER, checkpoints_folder, scratch_folder
from glassbox.errors import GlassboxError
from glassbox.models.agreement import require_agreement_once
from glassbox.models.generation import name_end
from glassbox.models.loading import configuration_of, model_digest
from glassbox.models.precision import PrecisionProbe, cpu_has_bf16, cuda_has_bf16, resolve
from glassbox.models.signals import checkpoint_layers
from glassbox.models.tokenizers import load_tokenizer, tokenizer_fingerprint
from glassbox.objective import Objective, pair_heads
from glassbox.objective.mixture import LEARNING
from glassbox.processes import Processes, start_accelerator
from glassbox.randomness import derived_seed
from glassbox.snapshot.labels import Answer, read_teacher_labels
from glassbox.snapshot.partners import batches_with_partners, partners_digest, partners_of, with_answered
from glassbox.snapshot.reader import Batch, SampleInfo, Snapshot, open_snapshot
from glassbox.snapshot.schema import ANSWERED, NOTHING_CAPTURED, answered_id
from glassbox.tasks.sample import Sample
from glassbox.tasks.splits import read_split, tasks_digest
from glassbox.tracking.key import study_key, trial_key
from glassbox.training.aligned_texts import AlignedTexts
from glassbox.training.draws import Draw, draw
from glassbox.training.ingredients import ingredients_of, stream, vocabularies_between
from glassbox.training.negatives import Bank
from glassbox.training.router import Router
from glassbox.training.schedule import Schedule, make_schedule
from glassbox.training.student import Student, Trainee, build_optimizer, build_student, dropout_of
from glassbox.training.texts import Source, Texts


@dataclass(frozen=True)
class Setup:
    """Everything that the first step of a trial needs; `prepare` makes it whole or raises.

    digests: of snapshot, tasks, data order and what else the trial reads. shares_tokens: whether the snapshot's teacher
    cuts text as the student does. draw: which samples train, and which of them have labels. texts: the id of the text
    that stands for a sample where that is the teacher's own answer. partners: whose signals a text gets where a
    component is shuffled. bank: what negatives are drawn from, where a component needs them. heads: how attention maps
    of unlike head counts are compared. router: the teacher's gate where it learns from the student. trainee and
    optimizer are Accelerate's; student is the module inside the trainee.
    """

    settings: Settings
    group: str
    seed: int
    key: str
    study_key: str
    digests: Mapping[str, str]
    scratch: Path
    accelerator: Accelerator
    processes: Processes
    tokenizer: PreTrainedTokenizerFast
    snapshot: Snapshot | None
    shares_tokens: bool
    source: Source
    draw: Draw
    texts: Mapping[str, str]
    partners: Mapping[str, str]
    student: Student
    initial_student: str
    objective: Objective
    bank: Bank | None
    router: Router | None
    trainee: torch.nn.Module
    optimizer: AcceleratedOptimizer
    schedule: Schedule
    probe: PrecisionProbe
    heads: str | None
    validation: Sequence[Sample]
    test: Sequence[Sample]

    @property
    def name(self) -> str:
        return f"{self.group}/{self.seed}"

    @property
    def task_names(self) -> list[str]:
        return sorted(self.settings.prepare.tasks)

    @property
    def varies(self) -> dict[str, Any]:
        """What this seed drew, for a report that says what its intervals speak of."""
        counts = {task: len(ranked) for task, ranked in self.draw.ranked.items()}
        pool = Counter(info.task for info in self.source.samples("train"))
        return {
            "projector": len(self.student.projectors) > 0,
            "dropout": dropout_of(self.student.model),
            "random_student": self.settings.student.initialisation == "random",
            "labelled": self.settings.labelled(self.group),
            "drawn": counts,
            "pool": {task: pool[task] for task in counts},
        }

    def validation_turns(self, source: Source) -> list[tuple[tuple[str, ...], bool]]:
        """This rank's micro-batches of a source's validation samples, the shortest first, and whether each counts."""
        infos = sorted(source.samples("validation"), key=lambda info: info.n_tokens)
        size = self.settings.train.micro_batch_size
        return self.processes.turns(
            [tuple(info.sample_id for info in infos[at : at + size]) for at in range(0, len(infos), size)]
        )

    def batches(self, plan: Sequence[Sequence[str]]) -> Iterator[Batch]:
        """The planned batches of samples, decoded on the device, with all that the objective reads."""
        signals, lent, device = self.objective.signals, self.objective.partner_signals, self.accelerator.device
        whole = self.objective.whole
        texts = [[self.texts.get(sample_id, sample_id) for sample_id in sample_ids] for sample_ids in plan]
        if isinstance(self.source, AlignedTexts):
            found = self.source.batches(texts, signals, device, whole, lent, self.partners)
        elif self.snapshot and lent:
            found = batches_with_partners(self.snapshot, texts, signals, lent, self.partners, device, whole)
        else:
            found = self.source.batches(texts, signals, device, whole)
        if self.draw.all_labelled or self.settings.distill[self.group].labels == "teacher":
            return found
        return self._marked(plan, found)

    def _marked(self, plan: Sequence[Sequence[str]], batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, each with which of its samples have labels; those of no draw have theirs."""
        unlabelled = {*self.draw.samples} - self.draw.labelled
        for sample_ids, batch in zip(plan, batches, strict=True):
            marks = torch.tensor([sample_id not in unlabelled for sample_id in sample_ids])
            yield replace(batch, labelled=marks.to(batch.count.device))


def prepare(settings: Settings, group: str, seed: int) -> Setup:
    """Load and check everything that a trial needs. Raises GlassboxError before a run is opened."""
    weights = settings.distill[group]
    captured = open_snapshot(SNAPSHOT_FOLDER)
    digests = {
        "snapshot": captured.logical_digest if captured else NOTHING_CAPTURED,
        "tasks": tasks_digest(TASKS_FOLDER),
    }
    _require_same_tasks(captured, digests["tasks"])
    own_study = study_key(settings, *digests.values())
    answers = None
    if settings.reads_answers(group):
        labels = read_teacher_labels(ANSWERS_FOLDER, digests["tasks"])
        answers, digests["answers"] = labels.answers, labels.digest
        _require_answered(captured, labels.digest, settings, group)
    key = trial_key(settings, group, seed, *digests.values())
    accelerator = _accelerator(settings, group)
    processes = Processes(accelerator.device)
    torch.set_num_threads(settings.train.threads)
    torch.manual_seed(derived_seed(seed, stream(f"dropout/{processes.index}", weights.replica)))
    tokenizer = load_tokenizer(settings.student)
    shared = bool(captured) and captured.manifest["provenance"]["tokenizer"] == tokenizer_fingerprint(tokenizer)
    snapshot = _readable_snapshot(captured, shared, settings, group)
    source = _source(snapshot, tokenizer, settings, group, answers)
    ingredients = ingredients_of(snapshot, settings, group, seed)
    vocabulary, layout = (snapshot.vocabulary if snapshot and shared else None), (snapshot.format if snapshot else None)
    train, replica = settings.train, weights.replica
    student = build_student(
        settings.student,
        seed,
        vocabulary,
        layout,
        weights.active,
        settings.objective,
        dropout=train.dropout,
        replica=replica,
    )
    validation, initial_student = read_split(TASKS_FOLDER, "validation"), model_digest(student.model)
    if processes.is_main:
        _require_agreement(settings, seed, student, initial_student, tokenizer, validation)
    name_end(student.model, tokenizer)
    if settings.train.gradient_checkpointing:
        checkpoint_layers(student.model)
    probe = PrecisionProbe(student.model)
    ingredients = replace(
        ingredients,
        projectors=dict(student.projectors.items()),
        vocabularies=vocabularies_between(snapshot, settings, group, tokenizer, student.vocabulary),
    )
    objective = Objective(weights, settings.objective, ingredients).to(accelerator.device)
    router = Router(objective) if weights.experts in LEARNING else None
    trainee, optimizer = accelerator.prepare(Trainee(student), build_optimizer(student, settings.train))
    infos = {info.sample_id: info for split in ("train", ANSWERED) for info in source.samples(split)}
    chosen = draw({s.sample_id: s.task for s in source.samples("train")}, train.samples, settings.labelled(group), seed)
    texts = _texts(chosen, infos, weights.labels == "teacher")
    partners = _partners(snapshot, objective, infos, settings.distill[group].shuffled_share)
    schedule = make_schedule(
        {sample_id: infos[texts.get(sample_id, sample_id)].n_tokens for sample_id in chosen.samples},
        train,
        seed,
        chosen.labelled,
        labels_alone=not weights.uses_signals and weights.labels == "data",
    )
    digests |= {"partners": partners_digest(partners)} if partners else {}
    return Setup(
        settings=settings,
        group=group,
        seed=seed,
        key=key,
        study_key=own_study,
        digests=digests | {"data_order": schedule.digest(), "label_rank": chosen.digest()},
        scratch=checkpoints_folder(settings.storage, key),
        accelerator=accelerator,
        processes=processes,
        tokenizer=tokenizer,
        snapshot=captured,
        shares_tokens=shared,
        source=source,
        draw=chosen,
        texts=texts,
        partners=partners,
        student=student,
        initial_student=initial_student,
        objective=objective,
        bank=_bank(snapshot, settings, group, seed, chosen, texts),
        router=router,
        trainee=trainee,
        optimizer=optimizer,
        schedule=schedule,
        probe=probe,
        heads=_paired_heads(student, snapshot, settings) if snapshot and "attention" in weights.needs("asks") else None,
        validation=validation,
        test=read_split(TASKS_FOLDER, "test"),
    )


def _require_same_tasks(captured: Snapshot | None, tasks: str) -> None:
    """Raise GlassboxError where data/tasks holds other samples than those that the snapshot was made from."""
    if captured and captured.manifest["provenance"]["tasks"] != tasks:
        raise GlassboxError(
            f"{TASKS_FOLDER} holds other samples than those that {SNAPSHOT_FOLDER} was made from: `dvc repro` brings "
            "both together again."
        )


def _require_answered(captured: Snapshot | None, answers: str, settings: Settings, group: str) -> None:
    """Raise GlassboxError where the samples without labels would be read off the data's answers after all."""
    if captured and settings.distill[group].uses_signals and captured.manifest["provenance"]["answers"] != answers:
        raise GlassboxError(
            f"Group {group} reads the teacher's own answers where samples have no label, and the snapshot holds no "
            "signals of these answers. Run `dvc repro snapshot`, which captures them."
        )


def _require_agreement(
    settings: Settings,
    seed: int,
    student: Student,
    weights: str,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
) -> None:
    """Once per weights and code: the student computes here what it computes in Transformers' own forward pass."""
    require_agreement_once(
        settings.student.model_copy(update={"dtype": "float32"}),
        student.model,
        tokenizer,
        [(sample.prompt, sample.answer) for sample in samples],
        max_length=settings.snapshot.max_length,
        vocabulary=student.vocabulary,
        wants_attention=any("attention" in settings.distill[name].needs("asks") for name in settings.groups),
        weights=weights,
        remembered=scratch_folder(settings.storage) / "agreement",
        seed=derived_seed(seed, "student"),
    )


def _accelerator(settings: Settings, group: str) -> Accelerator:
    """The device and the precision of a trial, and the other ranks where a launcher started several."""
    cuda = torch.cuda.is_available()
    width = configuration_of(settings.student).get_text_config().hidden_size
    precision = resolve(settings.train.precision, cuda, cuda_has_bf16(), cpu_has_bf16(), width)
    uses_every_weight = any(COMPONENTS[name].of_logits for name in settings.distill[group].active)
    return start_accelerator(precision, cpu=not cuda, uses_every_weight=uses_every_weight)


def _readable_snapshot(captured: Snapshot | None, shared: bool, settings: Settings, group: str) -> Snapshot | None:
    """The snapshot, where the student reads its tokens or the group aligns them with its own; else None.

    Raises GlassboxError where the group needs a signal and cannot have it.
    """
    weights = settings.distill[group]
    if captured and (shared or weights.aligns):
        return captured
    if weights.uses_signals:
        differs = (
            "differs from the one that the snapshot was captured with, so a comparison token by token means nothing"
        )
        raise GlassboxError(
            f"Group {group}: the tokenizer of the student '{settings.student.model}' {differs}. "
            "`-S distill=aligned` compares such a pair chunk by chunk, `-S distill=seqkd` trains the student on the "
            "teacher's answers as text; or choose a student with the teacher's tokenizer. `python src/snapshot.py` "
            "names the differences."
        )
    return None


def _source(
    snapshot: Snapshot | None,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    group: str,
    answers: Mapping[str, Answer] | None,
) -> Source:
    """Where the group's samples come from: the snapshot, texts of the student's own, or both side by side."""
    weights = settings.distill[group]
    if snapshot is not None and not weights.aligns and weights.labels != "teacher":
        return snapshot
    texts = Texts(TASKS_FOLDER, tokenizer, settings.snapshot, answers)
    return AlignedTexts(texts, snapshot) if snapshot is not None and weights.aligns else texts


def _texts(chosen: Draw, infos: Mapping[str, SampleInfo], every: bool) -> dict[str, str]:
    """Sample -> the text with the teacher's own answer, for samples without labels, or for `every` one.

    Where not all samples are labelled, labelled ones keep the data's. A sample that is not here has the data's answer,
    for the teacher's is the same.
    """
    wanted = [each for each in chosen.samples if each not in chosen.labelled or (every and chosen.all_labelled)]
    return {sample_id: text for sample_id in wanted if (text := answered_id(sample_id)) in infos}


def _bank(
    snapshot: Snapshot | None, settings: Settings, group: str, seed: int, chosen: Draw, texts: Mapping[str, str]
) -> Bank | None:
    """What a component with negatives draws them from: the texts that this trial trains on."""
    asking = [name for name in settings.distill[group].active if "negatives" in COMPONENTS[name].files]
    if snapshot is None or not asking:
        return None
    read = [texts.get(sample_id, sample_id) for sample_id in chosen.samples]
    return Bank(snapshot, read, settings.objective.negatives, seed, settings.positions(group)[asking[0]])


def _partners(
    snapshot: Snapshot | None, objective: Objective, infos: Mapping[str, SampleInfo], share: float
) -> dict[str, str]:
    """Whose signals each text gets where a component is shuffled; the same for every trial of a study."""
    if snapshot is None or not objective.partner_signals:
        return {}
    splits = ("train", "validation")
    found = {k: v for split in splits for k, v in partners_of(snapshot.samples(split), split, share).items()}
    return with_answered(found, {each: text for each in found if (text := answered_id(each)) in infos})


def _paired_heads(student: Student, snapshot: Snapshot, settings: Settings) -> str:
    """How attention maps of different head counts are compared; refused early where the settings are strict."""
    own = student.model.config.get_text_config().num_attention_heads
    return pair_heads(own, snapshot.format.heads, settings.objective.heads == "strict").description
