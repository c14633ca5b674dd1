"""How many samples of which length a study reads: counted where its texts are at hand, bounded where they are not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.models.encoding import encode_prompt, encode_sample
from glassbox.models.tokenizers import load_tokenizer, tokenizer_fingerprint
from glassbox.snapshot.schema import ANSWERED, CAPTURED_SPLITS, answered_id
from glassbox.tasks.prepared import drawn_samples, read_prepared
from glassbox.tasks.sample import Sample
from glassbox.training.draws import draw
from glassbox.training.schedule import make_schedule

# Rows of the hub's splits that the settings take whole, at the commits of conf/scale/paper.yaml (docs/paper_scale.md)
HUB_ROWS = {
    ("sst2", "test"): 872,
    ("mmlu", "validation"): 1531,
    ("mmlu", "test"): 14042,
    ("gsm8k", "test"): 1319,
}


@dataclass(frozen=True)
class Length:
    """One training or validation sample: `n_captured` hidden states and `n_attention` rows are stored, the last ones.

    The last `n_answer` positions predict its answer. `teacher`: the same sample in the teacher's tokens, where the
    student's are counted and differ.
    """

    sample_id: str
    task: str
    split: str
    n_tokens: int
    n_captured: int
    n_attention: int
    n_answer: int
    teacher: Length | None = None


@dataclass(frozen=True)
class Question:
    """One test sample: tokens of its prompt, and of each choice; no choices means that an answer is generated.

    A block of running text (`is_text`) has one choice, the tokens that are predicted.
    """

    task: str
    n_prompt: int
    choices: tuple[int, ...]
    is_text: bool = False


@dataclass(frozen=True)
class Workload:
    """`exact` is False where numbers are upper bounds; `source` says in words what was counted.

    `lengths` and `questions` are in the teacher's tokens; `student_lengths` in the student's, where these differ.
    """

    lengths: tuple[Length, ...]
    questions: tuple[Question, ...]
    exact: bool
    source: str
    vocabulary: int | None
    student_lengths: tuple[Length, ...] | None = None

    def split(self, name: str) -> list[Length]:
        return [length for length in self.lengths if length.split == name]

    def read_by_students(self, name: str) -> list[Length]:
        """A split as trials read it."""
        every = self.lengths if self.student_lengths is None else self.student_lengths
        return [length for length in every if length.split == name]


@dataclass(frozen=True)
class Training:
    """Of one trial: optimizer steps, tokens it trains on, and micro-batches one of which needs the most memory."""

    steps: int
    tokens: int
    padded_tokens: int
    candidates: tuple[tuple[Length, ...], ...]


def workload_of(settings: Settings, tasks_folder: Path) -> Workload:
    """From the prepared tasks if they are of these settings and data, else from local sources, else a bound."""
    try:
        tokenizer = load_tokenizer(settings.teacher)
    except GlassboxError:
        return _bound(settings, f"the tokenizer of {settings.teacher.model} is not at hand")
    splits = read_prepared(tasks_folder, settings)
    if splits is not None:
        return _counted(settings, tokenizer, splits, f"counted in {tasks_folder}")
    on_hub = settings.prepare.hub is None
    if on_hub and any(task.of_the_hub for task in settings.prepare.tasks.values()):
        return _bound(settings, "the tasks are not prepared and their texts lie on the hub")
    source = "counted in the tasks' sources; nothing is prepared yet of these settings and data"
    return _counted(settings, tokenizer, drawn_samples(settings), source)


def _counted(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, splits: dict[str, list[Sample]], source: str
) -> Workload:
    snapshot = settings.snapshot
    every = [(split, sample) for split in CAPTURED_SPLITS for sample in splits[split]]
    lengths = [_length(settings, tokenizer, split, sample) for split, sample in every]
    student = _other_tokenizer(settings, tokenizer)
    read = None
    if student is not None:
        pairs = zip(every, lengths, strict=True)
        read = tuple(replace(_length(settings, student, *each), teacher=length) for each, length in pairs)
    questions = []
    for sample in splits["test"]:
        if sample.is_text:
            questions.append(_block(sample, tokenizer, settings))
            continue
        prompt = len(encode_prompt(tokenizer, sample.prompt, snapshot.max_length))
        choices = tuple(len(tokenizer(choice, add_special_tokens=False)["input_ids"]) for choice in sample.choices)
        questions.append(Question(sample.task, prompt, choices))
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    return _with_answered(settings, Workload(tuple(lengths), tuple(questions), True, source, vocabulary, read))


def _length(settings: Settings, tokenizer: PreTrainedTokenizerFast, split: str, sample: Sample) -> Length:
    snapshot = settings.snapshot
    encoded = encode_sample(
        tokenizer, sample.prompt, sample.answer, max_length=snapshot.max_length, overflow=snapshot.overflow
    )
    tokens = len(encoded.ids)
    answer = tokens - 1 - encoded.loss_start
    reaches = (snapshot.positions.hidden, snapshot.positions.attention)
    hidden, attention = (answer if reach == "answer" else tokens - 1 for reach in reaches)
    return Length(sample.sample_id, sample.task, split, tokens, hidden, attention, answer)


def _other_tokenizer(settings: Settings, teacher: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast | None:
    """The student's, where it is at hand and another one."""
    try:
        student = load_tokenizer(settings.student)
    except GlassboxError:
        return None
    return student if tokenizer_fingerprint(student) != tokenizer_fingerprint(teacher) else None


def _block(sample: Sample, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> Question:
    limits = {"max_length": settings.snapshot.max_length, "overflow": settings.snapshot.overflow}
    encoded = encode_sample(tokenizer, sample.prompt, sample.answer, **limits)
    known = encoded.loss_start + 1
    return Question(sample.task, known, (len(encoded.ids) - known,), is_text=True)


def _bound(settings: Settings, reason: str) -> Workload:
    """Every sample as long as the settings allow, all of it answer; GlassboxError where not even counts are known."""
    most = settings.snapshot.max_length
    lengths, questions = [], []
    for name in settings.prepare.tasks:
        for split in CAPTURED_SPLITS:
            for index in range(_rows(settings, name, split, reason)):
                lengths.append(Length(f"{name}/{split}/{index}", name, split, most, most - 1, most - 1, most - 1))
        is_text = settings.prepare.tasks[name].text is not None
        asked = Question(name, 1, (most - 1,), is_text=True) if is_text else Question(name, most, ())
        questions += [asked] * _rows(settings, name, "test", reason)
    source = f"an upper bound, every sample {most} tokens long (snapshot.max_length): {reason}"
    return _with_answered(settings, Workload(tuple(lengths), tuple(questions), False, source, None))


def _with_answered(settings: Settings, workload: Workload) -> Workload:
    """With every training sample once more where the teacher's own answers are captured too.

    No more than that many differ from the data's; how long they are is not known before the teacher is asked.
    """
    if not settings.captures_answers:
        return workload
    again = [
        replace(length, sample_id=answered_id(length.sample_id), split=ANSWERED) for length in workload.split("train")
    ]
    source = f"{workload.source}; training samples count twice, the teacher's answers as long as the data's"
    return replace(workload, lengths=(*workload.lengths, *again), source=source)


def _rows(settings: Settings, name: str, split: str, reason: str) -> int:
    task = settings.prepare.tasks[name]
    count = getattr(task, split)
    if count is None and task.source == "hub":
        count = HUB_ROWS.get((name, split))
    if count is None:
        raise GlassboxError(
            f"Nothing bounds this study: {reason}, and prepare.tasks.{name}.{split} is null, which means all there "
            f"are. Run `dvc repro prepare` first, or set a number (`-S prepare.tasks.{name}.{split}=1000`)."
        )
    return count


def training_of(settings: Settings, workload: Workload) -> Training:
    """The trials' own step plans; steps are equal in all seeds, the candidates come from all of them."""
    by_id = {length.sample_id: length for length in workload.read_by_students("train")}
    tokens_by_id = {sample_id: length.n_tokens for sample_id, length in by_id.items()}
    tasks = {sample_id: length.task for sample_id, length in by_id.items()}
    plans = []
    for seed in settings.seeds:
        chosen = draw(tasks, settings.train.samples, settings.train.labelled, seed)
        drawn = {sample_id: tokens_by_id[sample_id] for sample_id in chosen.samples}
        plans.append(make_schedule(drawn, settings.train, seed, chosen.labelled))
    steps = [
        [tuple(by_id[sample_id] for sample_id in batch) for batch in step] for plan in plans for step in plan.steps
    ]
    every = [batch for step in steps for batch in step]
    widest = max(every, key=padded_tokens)
    fullest = max(every, key=lambda batch: sum(length.n_answer for length in batch))
    first = steps[: len(plans[0].steps)]
    return Training(
        steps=len(plans[0].steps),
        tokens=sum(length.n_tokens for step in first for batch in step for length in batch),
        padded_tokens=sum(padded_tokens(batch) for step in first for batch in step),
        candidates=tuple(dict.fromkeys((widest, fullest))),
    )


def padded_tokens(batch: tuple[Length, ...]) -> int:
    return len(batch) * max(length.n_tokens for length in batch)
