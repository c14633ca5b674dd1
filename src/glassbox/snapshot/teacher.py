"""The teacher as the snapshot sees it: one batch in, the rows of its samples out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.files import brief_ids
from glassbox.models.encoding import input_digest
from glassbox.models.experts import LastLayer, Seen, find_last_layer, read_experts, watching_experts
from glassbox.models.loading import head_logits, load_model, output_head, output_rows, vocabulary_size
from glassbox.models.shapes import layers_of
from glassbox.models.signals import gives_attention, packed_positions, position_signals, relation_widths
from glassbox.snapshot.codec import (
    byte_rows,
    encode_attention,
    expert_records,
    log_sum_exp,
    pack_ragged,
    top_k_with_tails,
)
from glassbox.snapshot.composition import Item
from glassbox.snapshot.further import relations_layer, stored_layers
from glassbox.snapshot.schema import EXPERTS, AuditRow, Format, Row, attention_entries

CHUNK_LOGITS = 1 << 26


@dataclass(frozen=True)
class Teacher:
    """`last_layer` is the mixture of experts whose parts are captured; None where none is."""

    model: PreTrainedModel
    layout: Format
    device: torch.device
    last_layer: LastLayer | None = None

    def head(self) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None]:
        """Weight and bias of the output layer, without padding past the vocabulary, in the teacher's dtype."""
        weight, bias = output_rows(self.model, self.layout.vocabulary)
        return weight.detach(), None if bias is None else bias.detach()


def open_teacher(settings: Settings, tokenizer: PreTrainedTokenizerFast, device: torch.device | None = None) -> Teacher:
    """Load the teacher onto a device: by default the accelerator, where there is one.

    A teacher whose last layer gives no attention map is captured without one: its layout has no heads.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: PreTrainedModel = load_model(settings.teacher).to(device)  # type: ignore[arg-type]
    vocabulary = vocabulary_size(tokenizer, model)
    layer, stored = relations_layer(settings), stored_layers(settings)
    capture = settings.snapshot
    last_layer = None if capture.experts == "none" else find_last_layer(model)
    experts = len(last_layer.mixture.gate) if last_layer else 0
    if last_layer and not last_layer.mixture.chosen <= (capture.experts_kept or experts) <= experts:
        raise GlassboxError(
            f"snapshot.experts_kept is {capture.experts_kept}, and {type(model).__name__} has {experts} experts of "
            f"which it chooses {last_layer.mixture.chosen}. `-S snapshot.experts_kept=null` keeps all, and any number "
            "from one to the other keeps the most probable."
        )
    layout = Format(
        vocabulary=vocabulary,
        width=output_head(model).weight.shape[1],  # type: ignore[union-attr,index]
        heads=model.config.get_text_config().num_attention_heads if gives_attention(model) else 0,
        top_k=min(settings.snapshot.top_k, vocabulary),
        temperatures=settings.snapshot.temperatures,
        hidden_dtype=settings.snapshot.hidden_dtype,
        attention_codec=settings.snapshot.attention_codec,
        positions=settings.snapshot.positions.hidden,
        attention_positions=settings.snapshot.positions.attention,
        layers=stored,
        relations=relation_widths(model, layer) if layer else (),
        relations_layer=layer,
        n_layers=layers_of(model.config) if stored else 0,
        experts=experts,
        experts_kept=min(capture.experts_kept or experts, experts),
        experts_dtype=capture.experts_dtype if experts else "",
    )
    return Teacher(model, layout, device, last_layer)


@dataclass(frozen=True)
class Reading:
    """What the teacher said of one batch, packed sample by sample: cells to be stored, and dense signals to audit.

    `cells` are [positions, ...] by column, `everywhere` the same at all positions of every sample, `experts` the fields
    of `Format.expert_dtype` at answer positions, `attention` [heads, ragged] as stored; all may be on the teacher's
    device. An audited position without an attention row has an empty one.
    """

    items: Sequence[Item]
    cells: Mapping[str, Tensor]
    everywhere: Mapping[str, Tensor]
    experts: Mapping[str, Tensor]
    attention: Tensor
    audited: Sequence[tuple[Item, int, Tensor, Tensor, Tensor]]


def capture_batch(
    teacher: Teacher, items: Sequence[Item], audit: Mapping[str, Sequence[int]]
) -> tuple[list[Row], list[AuditRow]]:
    """Run the teacher over one batch; `audit` names the offsets of positions that are also kept dense and unrounded.

    Raises GlassboxError for a token id past the vocabulary and for a signal that is not finite as stored.
    """
    return rows_of(read_teacher(teacher, items, audit), teacher.layout)


@torch.no_grad()
def read_teacher(teacher: Teacher, items: Sequence[Item], audit: Mapping[str, Sequence[int]]) -> Reading:
    """The part of `capture_batch` that computes with the teacher."""
    ids, mask = padded_ids(items)
    first = torch.tensor([item.first for item in items])
    count = torch.tensor([item.n_positions for item in items])
    rows = torch.tensor([item.n_attention for item in items])
    _refuse_unknown_ids(teacher, items)
    sample_index, position = packed_positions(first, count)
    with watching_experts(teacher.last_layer) if teacher.last_layer else nullcontext() as seen:
        signals = position_signals(
            teacher.model,
            ids.to(teacher.device),
            mask.to(teacher.device),
            first.to(teacher.device),
            count.to(teacher.device),
            want_attention=teacher.layout.heads > 0,
            attention_count=rows.to(teacher.device),
            layers=teacher.layout.layers,
            relations_layer=teacher.layout.relations_layer or None,
        )
    stored = signals.hidden.to(getattr(torch, teacher.layout.hidden_dtype))
    _refuse_non_finite(teacher, items, count, stored)
    labels = ids[sample_index, position + 1].to(teacher.device)
    mapped = packed_positions(first + count - rows, rows)[1]
    maps = signals.attention if signals.attention is not None else stored.new_zeros(len(mapped), 0, ids.shape[1])
    ragged = pack_ragged(maps, mapped.to(teacher.device))
    audited = []
    start = end_of_maps = 0
    for item in items:
        end_of_maps += item.n_attention
        for offset in audit.get(item.sample.sample_id, ()):
            hidden = signals.hidden[start + offset]
            dense = head_logits(teacher.model, hidden[None], teacher.layout.vocabulary)
            from_the_end = item.n_positions - offset
            row = end_of_maps - from_the_end
            has_row = from_the_end <= item.n_attention
            visible = maps[row, :, : item.first + offset + 1] if has_row else maps.new_zeros(0)
            audited.append((item, offset, dense, hidden, visible))
        start += item.n_positions
    cells = {**_logit_cells(teacher, stored, labels), "hidden": stored}
    everywhere = {}
    if signals.layers is not None:
        cells["layers"] = signals.layers.to(stored.dtype)
    if signals.relations is not None:
        tokens = torch.tensor([item.n_tokens - 1 for item in items], device=teacher.device)
        index, column = packed_positions(torch.zeros_like(tokens), tokens)
        everywhere["relations"] = torch.cat([each[index, column] for each in signals.relations], -1).to(stored.dtype)
    _refuse_infinite_further(teacher, items, cells | everywhere)
    experts = {} if seen is None else _expert_cells(teacher, items, seen, ids.shape[1])
    attention = encode_attention(ragged, teacher.layout.attention_codec)
    return Reading(items, cells, everywhere, experts, attention, audited)


def rows_of(reading: Reading, layout: Format) -> tuple[list[Row], list[AuditRow]]:
    """The batch's rows; the computer's own processor does all of it, so that another thread can."""
    id_dtype = torch.uint16 if layout.topk_id_dtype.itemsize == 2 else torch.uint32
    cells = {**reading.cells, "topk_ids": reading.cells["topk_ids"].cpu().to(id_dtype)}
    packed = {name: byte_rows(value) for name, value in cells.items()}
    everywhere = {name: byte_rows(value) for name, value in reading.everywhere.items()}
    experts = expert_records(reading.experts, layout) if layout.experts else None
    attention = reading.attention.cpu().numpy()
    rows = []
    position_end = entry_end = token_end = answer_end = 0
    for item in reading.items:
        here = slice(position_end, position_end + item.n_positions)
        entries = slice(entry_end, entry_end + attention_entries(item.n_tokens, item.n_attention))
        tokens = slice(token_end, token_end + item.n_tokens - 1)
        position_end, entry_end, token_end = here.stop, entries.stop, tokens.stop
        own = {name: value[here].tobytes() for name, value in packed.items()}
        own |= {name: value[tokens].tobytes() for name, value in everywhere.items()}
        if experts is not None:
            answer = slice(answer_end, answer_end + item.n_answer)
            answer_end, own[EXPERTS] = answer.stop, experts[answer].tobytes()
        further = {name: own.pop(name) for name in layout.further}
        rows.append(_row(item, {**own, "attention": attention[:, entries].tobytes()}, further))
    return rows, [_audit_row(*each) for each in reading.audited]


def padded_ids(items: Sequence[Item]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """The ids of a batch, padded on the right with 0, and which of them are real."""
    length = max(item.n_tokens for item in items)
    ids = torch.tensor([(*item.encoded.ids, *[0] * (length - item.n_tokens)) for item in items])
    return ids, torch.arange(length) < torch.tensor([item.n_tokens for item in items])[:, None]


def _refuse_unknown_ids(teacher: Teacher, items: Sequence[Item]) -> None:
    unknown = [item.sample.sample_id for item in items if max(item.encoded.ids) >= teacher.layout.vocabulary]
    if unknown:
        raise GlassboxError(
            f"Samples {brief_ids(unknown)} hold token ids past the teacher's {teacher.layout.vocabulary} output rows: "
            "its tokenizer belongs to another model. Correct teacher.tokenizer."
        )


def _refuse_non_finite(teacher: Teacher, items: Sequence[Item], count: Tensor, stored: Tensor) -> None:
    finite = torch.isfinite(stored).all(1).cpu()
    if not bool(finite.all()):
        bad = torch.repeat_interleave(torch.arange(len(items)), count)[~finite].unique().tolist()
        raise GlassboxError(
            f"The teacher's hidden states of {brief_ids([items[row].sample.sample_id for row in bad])} are not finite "
            f"as {teacher.layout.hidden_dtype}. Capture with `-S snapshot.hidden_dtype=bfloat16`, or load the teacher "
            "with `-S teacher.dtype=float32`."
        )


def _refuse_infinite_further(teacher: Teacher, items: Sequence[Item], cells: Mapping[str, Tensor]) -> None:
    bad = [name for name in teacher.layout.further if name in cells and not bool(torch.isfinite(cells[name]).all())]
    if bad:
        raise GlassboxError(
            f"The teacher's {', '.join(bad)} of {brief_ids([item.sample.sample_id for item in items])} are not finite "
            f"as {teacher.layout.hidden_dtype}. Capture with `-S snapshot.hidden_dtype=bfloat16`."
        )


def _expert_cells(teacher: Teacher, items: Sequence[Item], seen: Seen, length: int) -> dict[str, Tensor]:
    """What the last layer's mixture is made of at answer positions, as it will be stored."""
    assert teacher.last_layer is not None
    count = torch.tensor([item.n_answer for item in items])
    sample_index, column = packed_positions(torch.tensor([item.n_tokens - 1 for item in items]) - count, count)
    found = read_experts(
        teacher.last_layer, seen, (sample_index * length + column).to(teacher.device), teacher.layout.experts_kept
    )
    cells = {
        "router_logits": found.logits,
        "expert_ids": found.ids,
        **{
            name: value.to(getattr(torch, teacher.layout.experts_dtype))
            for name, value in (
                ("router_input", found.inputs),
                ("residual", found.residual),
                ("expert_outputs", found.outputs),
            )
        },
    }
    finite = torch.stack([value.isfinite().flatten(1).all(1) for value in cells.values()]).all(0).cpu()
    if not bool(finite.all()):
        bad = torch.repeat_interleave(torch.arange(len(items)), count)[~finite].unique().tolist()
        raise GlassboxError(
            f"What the experts of the teacher say of {brief_ids([items[row].sample.sample_id for row in bad])} is not "
            f"finite as {teacher.layout.experts_dtype}. Capture with `-S snapshot.experts_dtype=bfloat16`."
        )
    return cells


def _logit_cells(
    teacher: Teacher, stored: Float[Tensor, "positions width"], labels: Int[Tensor, " positions"]
) -> dict[str, Tensor]:
    """Top-k, tails and the label's log-probability, in float32 from hidden states as stored, chunk by chunk."""
    layout = teacher.layout
    chunk = max(1, CHUNK_LOGITS // layout.vocabulary)
    cells: dict[str, list[Tensor]] = {"topk_ids": [], "topk_logits": [], "log_tail": [], "label_logp": []}
    for start in range(0, len(stored), chunk):
        logits = head_logits(teacher.model, stored[start : start + chunk].float(), layout.vocabulary)
        ids, values, tails = top_k_with_tails(logits, layout.top_k, layout.temperatures)
        label = logits.gather(1, labels[start : start + chunk, None])[:, 0]
        cells["topk_ids"].append(ids.to(torch.int64))
        cells["topk_logits"].append(values.to(torch.float16))
        cells["log_tail"].append(tails)
        cells["label_logp"].append(label - log_sum_exp(logits, logits.gather(1, ids[:, :1])))
    return {name: torch.cat(values) for name, values in cells.items()}


def _row(item: Item, signals: Mapping[str, bytes], further: Mapping[str, bytes]) -> Row:
    ids = np.array(item.encoded.ids, dtype="<i4")
    return Row(
        sample_id=item.sample.sample_id,
        task=item.sample.task,
        split=item.split,
        input_sha256=input_digest(ids, item.encoded.loss_start),
        input_ids=ids,
        loss_start=item.encoded.loss_start,
        n_positions=item.n_positions,
        byte_spans=item.byte_spans().tobytes(),
        further=further,
        **signals,
    )


def _audit_row(item: Item, offset: int, logits: Tensor, hidden: Tensor, attention: Tensor) -> AuditRow:
    return AuditRow(
        sample_id=item.sample.sample_id,
        position=item.first + offset,
        logits=byte_rows(logits.float()).tobytes(),
        hidden=byte_rows(hidden[None].float()).tobytes(),
        attention=byte_rows(attention.float()).tobytes() if attention.numel() else b"",
    )
