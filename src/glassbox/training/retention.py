"""How much of the teacher's distribution a trained student kept: on validation texts, at the positions of the answer.

    KL(p || q) at T = 1, in nats per token: what coding the teacher's draws by the student costs more
    top-1 agreement: the share of tokens at which both have the same most likely token
    top-5 overlap: the share of the teacher's five most likely tokens among the student's five
    perplexity, bits per byte: of the data's answers with their ends, of the student and of the teacher

None of it tells of right answers: agreement and accuracy can move apart (Stanton et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassbox.errors import DivergedError
from glassbox.evaluation.perplexity import LARGEST
from glassbox.models.loading import head_logits
from glassbox.objective.head import Head
from glassbox.processes import whole_weights
from glassbox.snapshot.batch import Batch
from glassbox.tasks.sample import Sample
from glassbox.training.setup import Setup

LOGITS_AT_ONCE = 1 << 25
TOP = 5
AGREEMENT = ("kl", "top1", "top5")
NATS = ("nats", "teacher_nats")


def agreement(
    teacher: Float[Tensor, "positions vocabulary"], student: Float[Tensor, "positions vocabulary"]
) -> dict[str, Float[Tensor, " positions"]]:
    """`kl`, `top1` and `top5` of every position, from logits of both."""
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    size = min(TOP, log_p.shape[-1])
    best, other = log_p.topk(size, dim=-1).indices, log_q.topk(size, dim=-1).indices
    shared = (best[:, :, None] == other[:, None, :]).any(-1).float().mean(-1)
    return {
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1),
        "top1": (best[:, 0] == other[:, 0]).float(),
        "top5": shared,
    }


@torch.no_grad()
def retention(setup: Setup) -> dict[str, float]:
    """{'retention/kl_sst2': ..., 'retention/perplexity_sst2': ..., 'retention/tokens_sst2': ...}, for every task.

    Of the teacher too its perplexity and bits per byte. Where the student cuts texts into other tokens than the
    teacher, or nothing was captured, only the student's own are there. Raises DivergedError where a logit is not
    finite. Every rank takes its share of the batches.
    """
    device, teacher = setup.accelerator.device, _teacher(setup)
    source = setup.snapshot if teacher and setup.snapshot else setup.source
    turns = setup.validation_turns(source)
    batches = source.batches([ids for ids, _ in turns], frozenset({"hidden"} if teacher else ()), device)
    names = (*AGREEMENT, *NATS) if teacher else ("nats",)
    sums = {f"{name}_{task}": 0.0 for task in setup.task_names for name in (*names, "tokens")}
    setup.student.eval()
    with whole_weights(setup.trainee), setup.accelerator.autocast():
        for batch, (_, counts) in zip(batches, turns, strict=True):
            own = setup.student(batch).hidden
            for found, tasks in _measured(setup, batch, own, teacher) if counts else ():
                for task in set(tasks):
                    mine = torch.tensor([each == task for each in tasks], device=device)
                    sums[f"tokens_{task}"] += float(mine.sum())
                    for name, values in found.items():
                        sums[f"{name}_{task}"] += float(values[mine].double().sum())
    totals = setup.processes.totals(sums)
    if not all(map(math.isfinite, totals.values())):
        raise DivergedError("The student's logits on the validation texts are not finite: its weights have diverged.")
    result: dict[str, float] = {}
    for task in setup.task_names:
        if totals[f"tokens_{task}"]:
            of_task = {name: totals[f"{name}_{task}"] for name in (*names, "tokens")}
            result |= _of_task(task, of_task, _answer_bytes(setup.validation, task))
    return result


def _teacher(setup: Setup) -> Head | None:
    """The teacher's output layer, where a position is the same text to teacher and student."""
    if setup.snapshot is None or not setup.shares_tokens:
        return None
    weight, bias = setup.snapshot.head()
    device = setup.accelerator.device
    return Head(weight.to(device), None if bias is None else bias.to(device))


def _measured(
    setup: Setup, batch: Batch, own: Float[Tensor, "positions width"], teacher: Head | None
) -> Iterator[tuple[dict[str, Float[Tensor, " positions"]], list[str]]]:
    """Some positions at a time, what is measured at each and of which task it is."""
    vocabulary = setup.student.vocabulary
    chunk = max(1, LOGITS_AT_ONCE // vocabulary)
    for start in range(0, len(own), chunk):
        here = slice(start, start + chunk)
        labels = batch.labels[here]
        student = head_logits(setup.student.model, own[here], vocabulary)
        found = {"nats": functional.cross_entropy(student, labels, reduction="none")}
        if teacher is not None:
            assert batch.hidden is not None
            with torch.autocast(own.device.type, enabled=False):
                logits = functional.linear(batch.hidden[here].float(), teacher.weight, teacher.bias)
            found |= agreement(logits, student)
            found["teacher_nats"] = functional.cross_entropy(logits, labels, reduction="none")
        yield found, [batch.tasks[row] for row in batch.sample_index[here].tolist()]


def _answer_bytes(samples: Sequence[Sample], task: str) -> int:
    """UTF-8 bytes of a task's answers; 0 of running text, whose bits per byte its evaluation gives."""
    return sum(len(sample.answer.encode()) for sample in samples if sample.task == task and not sample.is_text)


def _of_task(task: str, sums: Mapping[str, float], size: int) -> dict[str, float]:
    tokens = sums["tokens"]
    found = {f"retention/{name}_{task}": sums[name] / tokens for name in AGREEMENT if name in sums}
    for name, prefix in (("nats", ""), ("teacher_nats", "teacher_")):
        if name in sums:
            found[f"retention/{prefix}perplexity_{task}"] = math.exp(min(sums[name] / tokens, LARGEST))
            if size:
                found[f"retention/{prefix}bits_per_byte_{task}"] = sums[name] / (size * math.log(2))
    return found | {f"retention/tokens_{task}": tokens}
