"""How much of the teacher's distribution a trained student kept: on validation texts, at the positions of the answer.

    KL(p || q) at T = 1, in nats per token: what coding the teacher's draws by the student costs more
    top-1 agreement: the share of tokens at which both have the same most likely token
    top-5 overlap: the share of the teacher's five most likely tokens among the student's five

None of it tells of right answers: agreement and accuracy can move apart (Stanton et al. 2021).
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.errors import DivergedError
from glassbox.models.loading import head_logits
from glassbox.models.tokenizers import tokenizer_fingerprint
from glassbox.processes import whole_weights
from glassbox.training.setup import Setup

LOGITS_AT_ONCE = 1 << 25
TOP = 5


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
    """{'retention/kl_sst2': ..., 'retention/top1_sst2': ..., 'retention/top5_sst2': ..., 'retention/tokens_sst2': ...}.

    Empty where the student cuts texts otherwise than the teacher, or nothing was captured: tokens are then not
    comparable. Raises DivergedError where a logit is not finite. Every rank takes its share of the batches.
    """
    snapshot = setup.snapshot
    if snapshot is None or snapshot.manifest["provenance"]["tokenizer"] != tokenizer_fingerprint(setup.tokenizer):
        return {}
    infos = sorted(snapshot.samples("validation"), key=lambda info: info.n_tokens)
    size, device = setup.settings.train.micro_batch_size, setup.accelerator.device
    plan = [tuple(info.sample_id for info in infos[at : at + size]) for at in range(0, len(infos), size)]
    turns = setup.processes.turns(plan)
    batches = snapshot.batches([ids for ids, _ in turns], frozenset({"hidden"}), device)
    weight, bias = (None if each is None else each.to(device) for each in snapshot.head())
    assert weight is not None
    sums: dict[str, float] = defaultdict(float)
    sums |= {f"{name}_{task}": 0.0 for task in setup.task_names for name in ("kl", "top1", "top5", "tokens")}
    chunk = max(1, LOGITS_AT_ONCE // len(weight))
    setup.student.eval()
    with whole_weights(setup.trainee), setup.accelerator.autocast():
        for batch, (_, counts) in zip(batches, turns, strict=True):
            own = setup.student(batch, want_attention=False).hidden
            assert batch.hidden is not None
            for start in range(0, len(own) * counts, chunk):
                here = slice(start, start + chunk)
                with torch.autocast(device.type, enabled=False):
                    teacher = torch.nn.functional.linear(batch.hidden[here].float(), weight, bias)
                    found = agreement(teacher, head_logits(setup.student.model, own[here], snapshot.vocabulary))
                tasks = [batch.tasks[row] for row in batch.sample_index[here].tolist()]
                for task in set(tasks):
                    mine = torch.tensor([each == task for each in tasks], device=device)
                    sums[f"tokens_{task}"] += float(mine.sum())
                    for name, values in found.items():
                        sums[f"{name}_{task}"] += float(values[mine].double().sum())
    totals = setup.processes.totals(dict(sums))
    if not all(map(math.isfinite, totals.values())):
        raise DivergedError("The student's logits on the validation texts are not finite: its weights have diverged.")
    known = [task for task in setup.task_names if totals[f"tokens_{task}"]]
    means = {
        f"retention/{name}_{task}": totals[f"{name}_{task}"] / totals[f"tokens_{task}"]
        for task in known
        for name in ("kl", "top1", "top5")
    }
    return means | {f"retention/tokens_{task}": totals[f"tokens_{task}"] for task in known}
