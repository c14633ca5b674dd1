"""What a trial learns where teacher and student cut text into other tokens, against a reference that loops."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import plain
import pytest
import torch
from miniatures import CORPUS, save_model_folder, tiny_tokenizer
from projects import merged, shrunk_settings
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

from glassbox.config.settings import Group, ModelSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.models.pieces import piece_texts
from glassbox.models.tokenizers import load_tokenizer
from glassbox.objective import Objective, component_weights, totals_of
from glassbox.snapshot.capture import capture
from glassbox.snapshot.partners import partners_of
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.tasks.miniature.vocabularies import metaspace
from glassbox.tasks.sample import Sample, make_sample
from glassbox.tasks.splits import read_split, write_splits
from glassbox.training.aligned_texts import AlignedTexts
from glassbox.training.ingredients import ingredients_of, vocabularies_between
from glassbox.training.student import Student, build_student
from glassbox.training.texts import Texts
from glassbox.training.trial import run_trial

ALIGNED = ("alm", "aligned_logits", "aligned_hidden", "aligned_attention")
CHANGES = {
    "snapshot": {
        "audit_positions": 8,
        "attention_codec": "float16",
        "positions": {"hidden": "all", "attention": "all"},
    },
    "objective": {"aligned_top_k": 8, "temperature": 2.0},
}


def samples(split: str) -> list[Sample]:
    """Answers of a letter, of numerals, and of characters of several bytes."""
    found = []
    for index in range(6):
        name = f"{split} {index}"
        found += [
            make_sample("mmlu", split, f"Question {name}: 3 + 4?\nAnswer:", " C", (), "C"),
            make_sample(
                "gsm8k", split, f"Tom has {index} apples ({name}).", f" 1{index} - 5 é中\U0001f642\n#### 7", (), "7"
            ),
        ]
    return found


@dataclass
class Pair:
    """A captured teacher and a student with another tokenizer, or with the teacher's own."""

    settings: Settings
    folder: Path
    student_tokenizer: PreTrainedTokenizerFast
    source: AlignedTexts
    snapshot: Snapshot
    student: Student

    def objective(self, positions: str = "answer", **group: Any) -> Objective:
        weights = Group.model_validate({"task": 1.0, "positions": dict.fromkeys(ALIGNED, positions), **group})
        own = self.settings.model_copy(update={"distill": {"x": weights}, "groups": ("x",)})
        pieces = vocabularies_between(self.snapshot, own, "x", self.student_tokenizer, self.student.vocabulary)
        found = replace(ingredients_of(self.snapshot, own, "x", 0), vocabularies=pieces)
        projector = self.student.projectors["aligned_hidden"]  # the same for the token-by-token component
        ingredients = replace(found, projectors={"aligned_hidden": projector, "hidden": projector})
        return Objective(weights, own.objective, ingredients)

    def batch(self, objective: Objective, sample_ids: list[str]) -> Batch:
        partners = partners_of(self.snapshot.samples("train"), "train")
        found = self.source.batches(
            [sample_ids], objective.signals, "cpu", objective.whole, objective.partner_signals, partners
        )
        with closing(found):  # pyright: ignore[reportArgumentType]
            return next(found)

    def components(self, objective: Objective, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        totals = totals_of([batch], objective.positions, objective.weights)
        weights = component_weights(batch, objective.positions, objective.weights, totals, "sample")
        signals = self.student(batch, objective.asks, objective.reach_of("attention"))
        loss, found = objective.loss(signals, self.student.head, batch, weights)
        return loss, found, weights


def make_pair(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast | None = None,
    splits: dict[str, list[Sample]] | None = None,
) -> Pair:
    """The student's output layer has five rows more than its tokenizer has pieces."""
    other = teacher or tiny_tokenizer()
    for role, own, width, heads in (("teacher", other, 48, 4), ("student", tokenizer, 32, 2)):
        rows = len(own) + 5 * (role == "student")
        save_model_folder(
            folder / "models" / role, own, width=width, heads=heads, key_heads=heads, seed=len(role), vocabulary=rows
        )
    settings = shrunk_settings(folder, **merged(CHANGES, {"snapshot": {"max_length": 512}} if splits else {}))
    write_splits(folder / "data/tasks", splits or {split: samples(split) for split in ("train", "validation", "test")})
    capture(settings, folder / "data/tasks", folder / "data/snapshot", folder / ".glassbox")
    snapshot, own = Snapshot(folder / "data/snapshot"), load_tokenizer(settings.student)
    source = AlignedTexts(Texts(folder / "data/tasks", own, settings.snapshot), snapshot)
    student = build_student(settings.student, 0, None, snapshot.format, ALIGNED, settings.objective)
    return Pair(settings, folder, own, source, snapshot, student)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("unlike"), metaspace(CORPUS, 340))


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("alike"), tiny_tokenizer())


def some_ids(pair: Pair, count: int = 5) -> list[str]:
    return [info.sample_id for info in pair.snapshot.samples("train")][:count]


def references(pair: Pair, sample_ids: list[str], reach: str) -> dict[str, Tensor]:
    """Mean over chunks, then over samples, of every component by plain code (tests/plain.py)."""
    every = {sample.sample_id: sample for sample in read_split(pair.folder / "data/tasks", "train")}
    teacher, model, projectors = load_tokenizer(pair.settings.teacher), pair.student.model, pair.student.projectors
    own = piece_texts(pair.student_tokenizer, pair.student.vocabulary)
    others = piece_texts(teacher, pair.snapshot.vocabulary)
    facts = plain.Alignment(every, pair.student_tokenizer, teacher, own, others, 8)
    reference = plain.Plain(model, dict(projectors.items()), pair.snapshot, 2.0, 0.0, aligned=facts)
    model.set_attn_implementation("eager")
    lessons = [reference.lesson(sample_id) for sample_id in sample_ids]
    model.set_attn_implementation("glassbox")
    found: dict[str, list[Tensor]] = {name: [] for name in ALIGNED}
    for mine, theirs in (facts.sides(lesson, reference) for lesson in lessons):
        found["alm"].append(plain.coins(mine, theirs, reach))
        found["aligned_logits"].append(plain.roots(mine, theirs, facts, 2.0, reach))
        channels, projector = pair.snapshot.channels(reach), projectors["aligned_hidden"]
        found["aligned_hidden"].append(plain.chunk_states(mine, theirs, projector, channels, reach))
        found["aligned_attention"].append(plain.chunk_maps(mine, theirs, reach))
    return {name: torch.stack([each.mean() for each in values]).mean() for name, values in found.items()}


@pytest.mark.parametrize("reach", ["answer", "all"])
def test_a_step_of_every_component_is_that_of_a_reference_that_loops_over_chunks(unlike: Pair, reach: str) -> None:
    pair, ids = unlike, some_ids(unlike)
    names = dict.fromkeys(ALIGNED, 1.0)
    objective = pair.objective(reach, **names)
    batch = pair.batch(objective, ids)
    _, found, weights = pair.components(objective, batch)
    expected = references(pair, ids, reach)
    for name in ALIGNED:
        value = (found[name] * weights[name]).sum()
        assert float(value) == pytest.approx(float(expected[name].detach()), rel=1e-5, abs=1e-6), name
        gradient = gradients(pair, objective.alone(name), batch)
        reference = torch.autograd.grad(expected[name], parameters(pair), retain_graph=True, allow_unused=True)
        difference = flat(pair, gradient) - flat(pair, reference)
        assert float(difference.norm() / flat(pair, reference).norm()) < 2e-4, name


def parameters(pair: Pair) -> list[torch.nn.Parameter]:
    return list(pair.student.model.parameters())


def gradients(pair: Pair, objective: Objective, batch: Batch) -> tuple[Tensor | None, ...]:
    loss, _, _ = pair.components(objective, batch)
    return torch.autograd.grad(loss, parameters(pair), allow_unused=True)


def flat(pair: Pair, found: tuple[Tensor | None, ...]) -> Tensor:
    every = zip(found, parameters(pair), strict=True)
    return torch.cat([(torch.zeros_like(own) if each is None else each).flatten() for each, own in every])


def test_equal_tokenizers_give_the_token_by_token_components(alike: Pair) -> None:
    """At every position that is the only token of its character; there aligned logits are at most the dense KL."""
    ids = [info.sample_id for info in alike.snapshot.samples("train") if info.task == "mmlu"]
    aligned = alike.objective(aligned_logits=1.0, aligned_hidden=1.0, aligned_attention=1.0)
    batch = alike.batch(aligned, ids)
    assert bool(batch.rows("answer", by_chunk=True).all())
    _, by_chunk, _ = alike.components(aligned, batch)
    names = {"aligned_hidden": "hidden", "aligned_attention": "attention", "aligned_logits": "logits"}
    dense = alike.objective(logits=1.0, hidden=1.0, attention=1.0)
    plain = alike.snapshot.read(ids, dense.signals)
    totals = totals_of([plain], dense.positions, dense.weights)
    signals = alike.student(plain, dense.asks)
    head = type(alike.student.head)(alike.student.head.weight[: alike.snapshot.vocabulary], None)
    _, by_token = dense.loss(
        signals, head, plain, component_weights(plain, dense.positions, dense.weights, totals, "sample")
    )
    for name, other in names.items():
        if name != "aligned_logits":
            torch.testing.assert_close(by_chunk[name], by_token[other], atol=1e-5, rtol=1e-4)
    assert bool((by_chunk["aligned_logits"] <= by_token["logits"] + 1e-4).all())


def test_padding_and_micro_batches_change_nothing(unlike: Pair) -> None:
    ids = some_ids(unlike)
    objective = unlike.objective(**dict.fromkeys(ALIGNED, 1.0))
    whole = unlike.batch(objective, ids)
    loss, _, _ = unlike.components(objective, whole)
    totals = totals_of([whole], objective.positions, objective.weights)
    parts = torch.zeros(())
    for sample_id in ids:
        batch = unlike.batch(objective, [sample_id])
        weights = component_weights(batch, objective.positions, objective.weights, totals, "sample")
        signals = unlike.student(batch, objective.asks, objective.reach_of("attention"))
        parts = parts + objective.loss(signals, unlike.student.head, batch, weights)[0]
    assert float(parts.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_chunks_of_all_positions_hold_those_of_the_answers(unlike: Pair) -> None:
    infos = {info.sample_id: info for info in unlike.source.samples("train")}
    for reach, place in (("answer", 0), ("all", 1)):
        objective = unlike.objective(reach, alm=1.0)
        batch = unlike.batch(objective, some_ids(unlike))
        counts = batch.counts(reach, by_chunk=True).tolist()
        assert counts == [infos[sample_id].n_chunks[place] for sample_id in batch.sample_ids]
        marked = batch.rows(reach, by_chunk=True)
        assert marked is not None and int(marked.sum()) == sum(counts)


def test_a_shuffled_component_reads_the_partner_and_its_own_is_another(unlike: Pair) -> None:
    ids = some_ids(unlike)
    for name in ALIGNED:
        values = []
        for shuffled in ((), (name,)):
            objective = unlike.objective(**{name: 1.0, "shuffled": shuffled})
            batch = unlike.batch(objective, ids)
            assert batch.aligned is not None and (batch.aligned.teacher.partner is None) == (not shuffled)
            values.append(unlike.components(objective, batch)[1][name])
        assert not torch.allclose(*values), name
        assert bool(values[1].isfinite().all())


def test_no_gradient_reaches_the_teacher_and_a_constant_student_keeps_its_loss(unlike: Pair) -> None:
    """An alignment that trains both sides collapses to zero; the standardised target stays where it is."""
    objective = unlike.objective(aligned_hidden=1.0)
    infos = [info.sample_id for info in unlike.snapshot.samples("train")]
    batch = unlike.batch(objective, infos)
    assert batch.aligned is not None and batch.aligned.teacher.hidden is not None
    assert not batch.aligned.teacher.hidden.requires_grad
    trained = {id(parameter) for parameter in unlike.student.parameters()}
    head, channels = objective.ingredients.head, objective.ingredients.channels
    assert channels is not None and head is None and not any(id(each) in trained for each in channels)
    projector = unlike.student.projectors["aligned_hidden"]
    with torch.no_grad():
        kept = [parameter.clone() for parameter in projector.parameters()]
        for parameter in projector.parameters():
            parameter.zero_()
        _, found, weights = unlike.components(objective, batch)
        for parameter, value in zip(projector.parameters(), kept, strict=True):
            parameter.copy_(value)
    assert float((found["aligned_hidden"] * weights["aligned_hidden"]).sum()) > 0.5


def real_samples(split: str, start: int) -> list[Sample]:
    root = Path(os.environ["GLASSBOX_REAL_DATA"])
    lines = (root / "gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()[start : start + 4]
    rows = [json.loads(line) for line in lines]
    found = [
        make_sample("gsm8k", split, f"Question: {row['question']}\nAnswer:", f" {row['answer']}", (), "1")
        for row in rows
    ]
    files = sorted((root / "mmlu/val").glob("*.csv"))
    questions = list(csv.reader(files[start].read_text(encoding="utf-8").splitlines()))[:4]
    for question, *choices, letter in questions:
        options = "\n".join(f"{name}. {choice}" for name, choice in zip("ABCD", choices, strict=True))
        found.append(make_sample("mmlu", split, f"Question: {question}\n{options}\nAnswer:", f" {letter}", (), letter))
    return found


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2", "gpt2"])
def test_a_student_learns_from_a_teacher_that_reads_as_mistral_on_real_questions(tmp_path: Path, name: str) -> None:
    root = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent")) / "tokenizers"
    if not root.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    teacher = load_tokenizer(ModelSettings(model=str(root / "mistral-7b-v0.1")))
    if name == "gpt2":
        files = (str(root / name / each) for each in ("vocab.json", "merges.txt"))
        student = GPT2TokenizerFast(*files)
    else:
        student = load_tokenizer(ModelSettings(model=str(root / name)))
    splits = {split: real_samples(split, start) for split, start in (("train", 0), ("validation", 8), ("test", 16))}
    pair = make_pair(tmp_path, student, teacher, splits)
    objective = pair.objective(**dict.fromkeys(ALIGNED, 1.0))
    batch = pair.batch(objective, [info.sample_id for info in pair.snapshot.samples("train")])
    beginning = copy.deepcopy(pair.student.state_dict())
    for part in ALIGNED:
        pair.student.load_state_dict(beginning)
        alone = objective.alone(part)
        optimizer = torch.optim.Adam(pair.student.parameters(), lr=1e-2)
        seen = []
        for _ in range(6):
            loss, _, _ = pair.components(alone, batch)
            seen.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        # not the last: the student's likeliest tokens, which aligned_logits compares, change with every step
        assert min(seen) < 0.9 * seen[0], (part, seen)


@pytest.mark.slow
def test_a_trial_of_all_components_runs_from_setup_to_scores(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(store, metaspace(CORPUS, 340))
    monkeypatch.chdir(store)
    group = Group.model_validate({"task": 1.0, **dict.fromkeys(ALIGNED, 1.0), "shuffled": ("alm",)})
    train = pair.settings.train.model_copy(update={"epochs": 1, "max_steps": 3})
    changed = {"distill": {"everything": group}, "groups": ("everything",), "train": train}
    settings = pair.settings.model_copy(update=changed)
    assert run_trial(settings, "everything", 0) == "finished"
    manifest = json.loads((store / "runs/everything/0.json").read_text(encoding="utf-8"))
    assert manifest["heads"].startswith("means of 2 neighbouring teacher heads")
    history = pd.read_parquet(store / "runs/everything/0/history.parquet").set_index("metric")["value"]
    for name in ALIGNED:
        for part in ("train", "validation"):
            assert math.isfinite(float(history.loc[[f"{part}/loss_{name}"]].iloc[-1]))
        assert float(history.loc[[f"liveness/{name}_gradient_norm"]].iloc[0]) > 0


def test_a_group_across_tokenizers_is_refused_what_it_cannot_have(unlike: Pair, tmp_path: Path) -> None:
    bare = Group.model_validate({"task": 1.0, "aligned_logits": 1.0})
    with pytest.raises(GlassboxError, match="the teacher.s output layer and both vocabularies, and got no output"):
        Objective(bare, unlike.settings.objective)
    with pytest.raises(GlassboxError, match="The aligned_hidden component needs"):
        Objective(Group.model_validate({"task": 1.0, "aligned_hidden": 1.0}), unlike.settings.objective)
    other = tmp_path / "other"
    save_model_folder(other, tiny_tokenizer(["zebra quilt"] * 3))
    moved = unlike.settings.teacher.model_copy(update={"model": str(other)})
    settings = unlike.settings.model_copy(update={"teacher": moved, "distill": {"x": bare}, "groups": ("x",)})
    with pytest.raises(GlassboxError, match="another one than the snapshot was captured"):
        vocabularies_between(unlike.snapshot, settings, "x", unlike.student_tokenizer, unlike.student.vocabulary)
    core = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    plain = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    with pytest.raises(GlassboxError, match="decodes its pieces by nothing.*Choose `alm`"):
        piece_texts(plain, 2)
