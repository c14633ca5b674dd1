"""Row 4: what stored top-k logits take, and how far their gradient is from the complete distribution's, on real logits.

Teacher and student are the embedded ones over prompts of the embedded test split; the targets are read back from a
snapshot of them, as trials read them. The reference is the dense KL's gradient with respect to the student's logits,
T (q - p), in float64 from the teacher's unrounded hidden states.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from glassbox.config.settings import Settings
from glassbox.models.encoding import encode_sample
from glassbox.models.loading import head_logits, load_model
from glassbox.models.signals import ATTENTION_NAME, position_signals
from glassbox.models.tokenizers import load_tokenizer
from glassbox.objective.logits import DenseTarget, TopkTarget
from glassbox.snapshot.batch import Batch
from glassbox.snapshot.composition import Item
from glassbox.snapshot.schema import Format
from glassbox.snapshot.teacher import Teacher, capture_batch
from glassbox.tasks.sample import Sample
from glassbox.tasks.sources import load_samples
from suite.embedded import captured, embedded_settings
from suite.row import Row

SAMPLES = 40
VOCABULARY = 32_000
BYTES_GOAL, ERROR_GOAL = 0.0045, 0.01
LOGIT_CELLS = ("topk_ids", "topk_logits", "log_tail", "label_logp")
MISSED = "; 64 ids leave out part of the teacher's mass, and logits are stored in float16"


def measure() -> list[Row]:
    settings = embedded_settings(train=1, validation=1, test=SAMPLES)
    test = load_samples(settings.prepare)["test"]
    return [_bytes(settings, test[:4]), *_errors(settings, test)]


def _bytes(settings: Settings, samples: list[Sample]) -> Row:
    """From cells that the project's own capture makes of a model with Llama-2's vocabulary."""
    tokenizer, snapshot = load_tokenizer(settings.teacher), settings.snapshot
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    config.num_attention_heads = config.num_key_value_heads = 1
    config.head_dim = 64
    config._attn_implementation = ATTENTION_NAME
    model = LlamaForCausalLM(config).eval()
    layout = Format(
        vocabulary=VOCABULARY,
        width=config.hidden_size,
        heads=1,
        top_k=snapshot.top_k,
        temperatures=snapshot.temperatures,
        hidden_dtype=snapshot.hidden_dtype,
        attention_codec=snapshot.attention_codec,
        positions="answer",
        attention_positions="answer",
    )
    items = []
    for sample in samples:
        encoded = encode_sample(
            tokenizer, sample.prompt, sample.answer, max_length=snapshot.max_length, overflow="refuse"
        )
        answer = len(encoded.ids) - 1 - encoded.loss_start
        items.append(Item(sample, "train", encoded, answer, answer))
    rows, _ = capture_batch(Teacher(model, layout, torch.device("cpu")), items, {})
    stored = sum(len(memoryview(getattr(row, name))) for row in rows for name in LOGIT_CELLS)
    per_position = stored / sum(row.n_positions for row in rows)
    return Row(
        "4",
        "stored logits of a position / dense float16",
        f"V {VOCABULARY:,}, k {layout.top_k}, {len(layout.temperatures)} temperatures",
        per_position / (2 * VOCABULARY),
        BYTES_GOAL,
        note=f"{per_position:.0f} bytes: ids, logits, tails and the label's log-probability",
        details={"bytes_per_position": per_position},
    )


def _errors(settings: Settings, samples: list[Sample]) -> list[Row]:
    """One row a temperature, with the dense target's own error in the note."""
    rows = []
    with captured(settings, {"train": samples, "validation": [], "test": []}) as made:
        ids = [info.sample_id for info in made.snapshot.samples("train")]
        batch = made.snapshot.read(ids, frozenset({"hidden", "topk"}))
        head, bias = made.snapshot.head()
    exact, student = (_logits(load_model(model), batch, len(head)) for model in (settings.teacher, settings.student))
    assert batch.topk_ids is not None and batch.topk_logits is not None and batch.log_tail is not None
    assert batch.hidden is not None
    temperatures = settings.snapshot.temperatures
    targets = {
        "topk": TopkTarget(batch.topk_ids, batch.topk_logits, batch.log_tail, temperatures),
        "dense": DenseTarget(batch.hidden, head, bias),
    }
    for temperature in temperatures:
        target = torch.softmax(exact / temperature, 1)
        wanted = temperature * (torch.softmax(student / temperature, 1) - target)
        errors, together = {}, {}
        for name, stored in targets.items():
            gradient = stored.divergence(student.float(), slice(None), temperature, True).gradient
            off = gradient.double() - wanted
            errors[name] = off.norm(dim=1) / wanted.norm(dim=1)
            together[name] = float(off.norm() / wanted.norm())
        value = float(errors["topk"].mean())
        goal = ERROR_GOAL if temperature == 1 else None
        outside = 1 - target.gather(1, batch.topk_ids).sum(1).mean().item()
        note = (
            f"`dense` {float(errors['dense'].mean()):.2g}. Of all positions' gradients as one vector: `topk` "
            f"{together['topk']:.2g}, `dense` {together['dense']:.2g} (the mean weighs positions with nothing left to "
            f"learn like all others). Teacher's mass outside the {batch.topk_ids.shape[1]}: {outside:.2g}"
        )
        name = f"`topk`: relative L2 error of the gradient, T = {temperature:g}"
        shapes = f"embedded pair, V {exact.shape[1]}, {len(exact):,} positions of {len(ids)} test samples"
        rows.append(
            Row(
                "4",
                name,
                shapes,
                value,
                goal,
                note=note + (MISSED if goal and value > goal else ""),
                details={
                    key: {
                        "mean": float(found.mean()),
                        "median": float(found.median()),
                        "largest": float(found.max()),
                        "together": together[key],
                    }
                    for key, found in errors.items()
                },
            )
        )
    return rows


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: Batch, vocabulary: int) -> Tensor:
    """At the batch's positions, [positions, vocabulary], in float64 from the model's hidden states as they come."""
    inputs = batch.input_ids, batch.attention_mask, batch.first, batch.count
    hidden = position_signals(model, *inputs, want_attention=False).hidden
    return head_logits(model, hidden.double(), vocabulary)
