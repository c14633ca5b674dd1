"""Small projects whose snapshots hold what the further groups read: of layers, of experts, of other tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sections
from miniatures import CORPUS, save_model_folder, tiny_tokenizer
from mixtures import save_mixture
from projects import merged, shrunk_settings

from glassbox.config.settings import Settings
from glassbox.snapshot.capture import capture
from glassbox.tasks.miniature.vocabularies import metaspace
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import write_splits

Groups = Mapping[str, Mapping[str, Any]]
CHANGES: dict[str, dict[str, Any]] = {
    "dense": {},
    "experts": {"snapshot": {"experts": "last"}},
    "unlike": {"snapshot": {"positions": {"hidden": "all", "attention": "all"}}},
}
"""What each kind of project has other settings for."""
FEATURES = {
    "experts": {"passes": 2, "sampled_share": 0.5, "router_rate": 1e-2, "router_clip": 1e-3},
    "negatives": 16,
    "aligned_top_k": 8,
}


def settings_of(kind: str, folder: Path, groups: Groups, **changes: Any) -> Settings:
    """The shrunk study with just these groups."""
    every = [*dict.fromkeys((*sections.FAITHFUL["groups"], *groups))]
    own = merged(CHANGES[kind], {"objective": FEATURES, **changes})
    found = shrunk_settings(folder, groups=every, distill=dict(groups), **own)
    return found.model_copy(update={"groups": tuple(groups), "distill": {name: found.distill[name] for name in groups}})


def make_further(kind: str, folder: Path, groups: Groups) -> Path:
    """Models, tasks and a captured snapshot.

    dense: a teacher of four layers, whose queries, keys and values have other widths than the student's. experts: a
    mixture. unlike: a student with another tokenizer, half the heads and five rows more than its tokenizer has pieces.
    """
    tokenizer, teacher, student = tiny_tokenizer(), folder / "models/teacher", folder / "models/student"
    if kind == "experts":
        save_mixture(teacher, "olmoe", gate=0.1)
    else:
        save_model_folder(teacher, tokenizer, width=48, heads=4, key_heads=4, layers=4, seed=1)
    if kind == "unlike":
        own = metaspace(CORPUS, 340)
        save_model_folder(student, own, width=32, heads=2, key_heads=2, vocabulary=len(own) + 5, seed=2)
    else:
        save_model_folder(student, tokenizer, width=32, heads=4, key_heads=2, seed=2)
    settings = settings_of(kind, folder, groups)
    write_splits(folder / "data/tasks", load_samples(settings.prepare))
    capture(settings, folder / "data/tasks", folder / "data/snapshot", folder / ".glassbox")
    return folder
