"""The components of an objective: what each reads of the snapshot and needs of the student, one entry a component.

Everything that asks "which components are there, and what do they need" asks this table: settings and their rules, the
reader of the snapshot, plan, costs and reports. How a component is computed stands in objective/definitions.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Asked = Literal["attention", "layers", "relations"]
"""What a component needs of the student's forward pass beside its final hidden states."""


@dataclass(frozen=True)
class Component:
    """What a component needs.

    meaning: what its loss is, as docs/settings.md says it. letter: its mark in `show_batch`. reads: signals of the
    snapshot (SIGNAL_COLUMNS of snapshot/schema.py), which come from another sample where the component is shuffled.
    truncated: what it reads instead under `logits_target: topk`. stored: the entry of snapshot.positions that says
    how far these signals reach (None: always at all positions), or "experts", which are stored at answer positions
    alone. files: what it reads beside them, "head", "channels", "experts" (the gate) or, drawn at every step,
    "negatives". of_logits: it is computed from the student's logits. asks: what it needs of the student's forward
    pass. projects: a projector is trained with the student. by_chunk: it compares chunks of text and not tokens, so
    that both may cut text into other tokens. pieces: it needs the bytes of every piece of both vocabularies.
    """

    letter: str
    meaning: str = ""
    reads: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()
    stored: Literal["hidden", "attention", "experts"] | None = None
    files: tuple[str, ...] = ()
    of_logits: bool = False
    asks: tuple[Asked, ...] = ()
    projects: bool = False
    by_chunk: bool = False
    pieces: bool = False

    def signals(self, logits_target: str) -> tuple[str, ...]:
        """What it reads of the snapshot's rows."""
        return self.truncated if logits_target == "topk" and self.truncated else self.reads

    def parts(self, logits_target: str) -> tuple[str, ...]:
        """Everything that it reads of the snapshot, rows and files."""
        signals = self.signals(logits_target)
        return signals if signals != self.reads else signals + self.files


COMPONENTS: dict[str, Component] = {
    "task": Component("T", "the cross-entropy on the labels", of_logits=True),
    "logits": Component(
        "L",
        "the KL divergence from the teacher's logits",
        reads=("hidden",),
        truncated=("topk",),
        stored="hidden",
        files=("head",),
        of_logits=True,
    ),
    "hidden": Component(
        "H",
        "the distance between the final layer's hidden states",
        reads=("hidden",),
        stored="hidden",
        files=("channels",),
        projects=True,
    ),
    "attention": Component(
        "A",
        "the distance between the final layer's attention maps",
        reads=("attention",),
        stored="attention",
        asks=("attention",),
    ),
    "layers": Component(
        "Y",
        "the distance between the hidden states of the layers that objective.layer_map pairs",
        reads=("hidden", "layers"),
        stored="hidden",
        files=("channels",),
        asks=("layers",),
        projects=True,
    ),
    "layer_router": Component(
        "W",
        "the distance from the teacher's layers, weighed by a router that reads the student's last state",
        reads=("hidden", "layers"),
        stored="hidden",
        files=("channels",),
        projects=True,
    ),
    "relations": Component(
        "R",
        "the distance between the relations of queries, keys and values",
        reads=("relations",),
        asks=("relations",),
    ),
    "contrastive": Component(
        "C",
        "the contrast of a sample's final hidden states with those of other samples",
        reads=("hidden",),
        stored="hidden",
        files=("channels", "negatives"),
        projects=True,
    ),
    "mixture": Component(
        "M",
        "the KL divergence from the teacher's logits with the experts of its last layer mixed anew",
        reads=("experts",),
        stored="experts",
        files=("head", "experts"),
        of_logits=True,
    ),
    "alm": Component(
        "c",
        "across tokenizers, the divergence between the likelihoods of chunks of text",
        reads=("label_logp",),
        stored="hidden",
        by_chunk=True,
    ),
    "aligned_logits": Component(
        "l",
        "across tokenizers, the KL divergence from the teacher's logits on roots common to both vocabularies",
        reads=("hidden",),
        stored="hidden",
        files=("head",),
        of_logits=True,
        by_chunk=True,
        pieces=True,
    ),
    "aligned_hidden": Component(
        "h",
        "across tokenizers, the distance between the final layer's hidden states where chunks meet",
        reads=("hidden",),
        stored="hidden",
        files=("channels",),
        projects=True,
        by_chunk=True,
    ),
    "aligned_attention": Component(
        "a",
        "across tokenizers, the distance between the final layer's attention maps over chunks",
        reads=("attention",),
        stored="attention",
        asks=("attention",),
        by_chunk=True,
    ),
}
SIGNALS = tuple(name for name, component in COMPONENTS.items() if component.reads)
"""The components that compare teacher and student; each can be shuffled."""
TUNED = ("logits", "hidden", "attention")
"""Those that src/tune.py has candidates for."""


def needs(components: Iterable[str], what: str) -> set[str]:
    """All that these components have in one field of the table, such as "reads", "files" or "asks"."""
    return {each for name in components for each in getattr(COMPONENTS[name], what)}
