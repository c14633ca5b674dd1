"""Rules that tie one setting to another. They look at plain values, so that they can be asked even where other settings
are faulty: a value that is absent or faulty satisfies every rule."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glassbox.config.components import COMPONENTS, SIGNALS, TUNED
from glassbox.config.curves import Points, highest, is_constant, points_of, value_at
from glassbox.config.problems import Problem, nearest

EMBEDDED_TEXT = "chronicle"
EMBEDDED_TASKS = ("sst2", "mmlu", "gsm8k", EMBEDDED_TEXT)
# All the questions that the closed world of the miniature mmlu has, by split; the other two generators do not run dry
EMBEDDED_ITEMS = {"mmlu": {"train": 3438, "validation": 1150, "test": 2435}}
SOURCES_WITHOUT_FILES = ("embedded", "hub")

Tree = Mapping[str, Any]


def broken_rules(tree: Tree) -> Iterator[Problem]:
    """Every contradiction between settings of a nested mapping whose faulty values have been taken out."""
    for rule in (
        _groups_have_objectives,
        _objectives_are_named,
        _nothing_is_listed_twice,
        _groups_have_a_component,
        _own_answers_have_no_signals,
        _groups_compare_in_one_way,
        _shuffled_signals_are_used,
        _balance_has_a_task_loss,
        _topk_temperature_is_captured,
        _micro_batches_are_whole,
        _steps_hold_labels,
        _positions_are_captured,
        _experts_are_captured,
        _candidates_are_as_many,
        _tasks_have_their_source,
        _hub_data_sets_are_whole,
        _running_text_is_cut,
        _running_text_has_labels,
        _generators_hold_what_is_asked,
        _only_the_hub_has_revisions,
        _student_keeps_master_weights,
    ):
        yield from rule(tree)


def equal_groups(tree: Tree) -> Iterator[Problem]:
    """Groups that would train the very same student as one before them, under another name.

    Only of settings without a fault: a faulty value that is taken out would make groups equal.
    """
    groups = {name: group for name, group in _sections(tree, "distill").items() if name in _entries(tree, "groups")}
    firsts: dict[str, str] = {}
    for name, group in groups.items():
        firsts.setdefault(_trained(tree, group), name)
    kept = f"-S 'distill=[{','.join(firsts.values())}]'"
    for name, group in groups.items():
        first = firsts[_trained(tree, group)]
        if first == name:
            continue
        idle = list(dict.fromkeys(_idle(tree, first, groups[first]) + _idle(tree, name, group)))
        cause = f"{', '.join(idle)} at 0 adds nothing, and all else" if idle else "all that it trains by"
        why = f"it would train the very same student as group {first}: {cause} is equal"
        change = f"set {' or '.join(idle)} above 0" if idle else f"tell them apart in conf/distill/{name}.yaml"
        yield Problem(f"distill.{name}", why, f"{change}, or leave one of them out by {kept}", None, False)


def _trained(tree: Tree, group: Tree) -> str:
    """All that a group's training reads, in one form: equal where two groups train the same."""
    active = [component for component in COMPONENTS if highest(group.get(component, 0.0)) > 0]
    warm = any(COMPONENTS[component].of_logits for component in active if component in SIGNALS)
    shuffled = sorted(_entries(group, "shuffled"))
    own = {
        "weights": {component: _curve(group[component]) for component in active},
        "positions": {
            component: _at(group, f"positions.{component}") or _at(tree, f"objective.positions.{component}")
            for component in active
        },
        "temperature": _curve(_own_or_shared(tree, group, "temperature", "objective")) if warm else None,
        "learning_rate": _own_or_shared(tree, group, "learning_rate", "train"),
        "labelled": _own_or_shared(tree, group, "labelled", "train"),
        "shuffled": [shuffled, group.get("shuffled_share", 1.0)] if shuffled else None,
        **{name: group.get(name) for name in ("labels", "experts", "replica")},
    }
    return json.dumps(own, sort_keys=True)


def _own_or_shared(tree: Tree, group: Tree, name: str, section: str) -> Any:
    own = group.get(name)
    return _at(tree, f"{section}.{name}") if own is None else own


def _curve(value: float | str) -> Points:
    """The points of a curve; of one that is level, its value."""
    return points_of(highest(value)) if is_constant(value) else points_of(value)


def _idle(tree: Tree, name: str, group: Tree) -> list[str]:
    """The settings by which components that a group names count nothing: the shared weight, or the group's own."""
    silent = [component for component in COMPONENTS if component in group and not highest(group[component]) > 0]
    shared = [component for component in silent if not highest(_at(tree, f"weights.{component}") or 0.0) > 0]
    return [f"weights.{each}" if each in shared else f"distill.{name}.{each}" for each in silent]


def _at(tree: Tree, path: str) -> Any:
    """The value at a dotted path; None where it is absent."""
    value: Any = tree
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _entries(tree: Tree, path: str) -> Sequence[Any]:
    value = _at(tree, path)
    return value if isinstance(value, list | tuple) else ()


def _sections(tree: Tree, path: str) -> dict[str, Tree]:
    value = _at(tree, path)
    return {key: each for key, each in value.items() if isinstance(each, Mapping)} if isinstance(value, Mapping) else {}


def _groups_have_objectives(tree: Tree) -> Iterator[Problem]:
    distill = _at(tree, "distill")
    for group in _entries(tree, "groups") if isinstance(distill, Mapping) else ():
        if group not in distill:
            near = nearest(str(group), list(distill))
            hint = f"; the nearest known group is `{near}`" if near else ""
            why = f"`distill` holds no objective of that name{hint}"
            yield Problem("groups", why, f"-S 'distill=[{near or 'sft'}]', and leave `groups` alone", group)


def _objectives_are_named(tree: Tree) -> Iterator[Problem]:
    groups = _entries(tree, "groups")
    for name in _sections(tree, "distill") if groups else ():
        if name not in groups:
            why = "`groups` does not name it, so that it would never be trained"
            next_step = f"choose groups by -S 'distill=[{','.join(map(str, groups))}]', and leave `groups` alone"
            yield Problem(f"distill.{name}", why, next_step, None, False)


def _nothing_is_listed_twice(tree: Tree) -> Iterator[Problem]:
    groups = _sections(tree, "distill")
    for path in ("groups", "seeds", "snapshot.temperatures", *(f"distill.{group}.shuffled" for group in groups)):
        entries = _entries(tree, path)
        repeated = [str(entry) for entry, count in Counter(map(str, entries)).items() if count > 1]
        if repeated:
            once = ",".join(dict.fromkeys(map(str, entries)))
            yield Problem(path, f"{', '.join(repeated)} stands there twice", f"-S '{path}=[{once}]'", list(entries))


def _groups_have_a_component(tree: Tree) -> Iterator[Problem]:
    for name, group in _sections(tree, "distill").items():
        curves = [points_of(group[component]) for component in COMPONENTS if component in group]
        moments = sorted({0.0, 1.0, *(place for curve in curves for place, _ in curve)})
        idle = [moment for moment in moments if not any(value_at(curve, moment) for curve in curves)]
        if idle:
            never = len(idle) == len(moments)
            where = "no component has a weight above 0" + ("" if never else f" at progress {idle[0]:g}")
            next_step = f"give it a component in conf/distill/{name}.yaml"
            yield Problem(f"distill.{name}", f"{where}, so that there is nothing to learn", next_step, dict(group))


def _shuffled_signals_are_used(tree: Tree) -> Iterator[Problem]:
    for name, group in _sections(tree, "distill").items():
        for component in _entries(group, "shuffled"):
            if not highest(group.get(component, 0.0)) > 0:
                why = f"{component} is shuffled, but the group gives it no weight"
                next_step = f"give it one in conf/distill/{name}.yaml, or leave it out of `shuffled`"
                yield Problem(f"distill.{name}.shuffled", why, next_step, list(group["shuffled"]))
        share = _at(group, "shuffled_share")
        if isinstance(share, int | float) and share < 1 and not _entries(group, "shuffled"):
            why = "a share of the samples is to be shuffled, and no component is"
            next_step = f"name the components in `shuffled` of conf/distill/{name}.yaml, or remove its shuffled_share"
            yield Problem(f"distill.{name}.shuffled_share", why, next_step, share)


def _balance_has_a_task_loss(tree: Tree) -> Iterator[Problem]:
    if _at(tree, "objective.balance") != "magnitude":
        return
    for name, group in _sections(tree, "distill").items():
        if not highest(group.get("task", 0.0)) > 0:
            why = f"group {name} has no task loss that its signals could be scaled to"
            next_step = "-S objective.balance=none, or give the group a task weight"
            yield Problem("objective.balance", why, next_step, "magnitude")


def _own_answers_have_no_signals(tree: Tree) -> Iterator[Problem]:
    for name, group in _sections(tree, "distill").items():
        signals = [component for component in SIGNALS if highest(group.get(component, 0.0)) > 0]
        if group.get("labels") == "teacher" and signals:
            why = "the snapshot's signals belong to the tasks' answers, and its labels are the teacher's own answers"
            next_step = f"take {', '.join(signals)} out of conf/distill/{name}.yaml, or set labels to data"
            yield Problem(f"distill.{name}.labels", why, next_step, "teacher")


def _groups_compare_in_one_way(tree: Tree) -> Iterator[Problem]:
    """A batch carries one tokenization of a text, or two with the chunks in which they meet."""
    for name, group in _sections(tree, "distill").items():
        active = [component for component in SIGNALS if highest(group.get(component, 0.0)) > 0]
        by_chunk = [component for component in active if COMPONENTS[component].by_chunk]
        by_token = [component for component in active if component not in by_chunk]
        if by_chunk and by_token:
            why = f"{', '.join(by_token)} compare tokens, and {', '.join(by_chunk)} compare chunks of text"
            next_step = f"leave one kind out of conf/distill/{name}.yaml (docs/tokenizers.md)"
            yield Problem(f"distill.{name}", why, next_step, dict(group))


def _topk_temperature_is_captured(tree: Tree) -> Iterator[Problem]:
    captured = _entries(tree, "snapshot.temperatures")
    if _at(tree, "objective.logits_target") != "topk" or not captured:
        return
    asked: dict[str, Any] = {}
    for name, group in _sections(tree, "distill").items():
        if highest(group.get("logits", 0.0)) > 0:
            own = group.get("temperature")
            path = "objective.temperature" if own is None else f"distill.{name}.temperature"
            asked[path] = _at(tree, path)
    for path, temperature in asked.items():
        if temperature is None or (is_constant(temperature) and highest(temperature) in map(float, captured)):
            continue
        listed = ", ".join(f"{each:g}" for each in captured)
        why = f"logits_target `topk` knows only the temperatures that were captured ({listed})"
        next_step = "-S objective.logits_target=dense serves any temperature and any curve"
        yield Problem(path, why, next_step, temperature)


def _micro_batches_are_whole(tree: Tree) -> Iterator[Problem]:
    batch, micro = _at(tree, "train.batch_size"), _at(tree, "train.micro_batch_size")
    if batch and micro and batch % micro:
        near = max(size for size in range(1, batch + 1) if batch % size == 0 and size <= micro)
        why = f"train.batch_size {batch} is not a multiple of it"
        yield Problem("train.micro_batch_size", why, f"-S train.micro_batch_size={near}", micro)


def _steps_hold_labels(tree: Tree) -> Iterator[Problem]:
    """Where some samples have no labels, every step needs a fixed number of those that have."""
    batch, count = _at(tree, "train.batch_size"), _at(tree, "train.labelled_per_step")
    shares = [_at(tree, "train.labelled"), *(group.get("labelled") for group in _sections(tree, "distill").values())]
    few = [share for share in shares if share is not None and share < 1]
    if few and batch and not (count and count < batch):
        why = f"only {min(few):g} of the samples are labelled, and a step of {batch} must hold some of either kind"
        yield Problem("train.labelled_per_step", why, f"-S train.labelled_per_step={max(1, batch // 4)}", count)


def _candidates_are_as_many(tree: Tree) -> Iterator[Problem]:
    """A component that is tried at more weights than another has more chances to look good."""
    counts = {name: len(_entries(tree, f"tuning.{name}")) for name in (*TUNED, "control")}
    if _at(tree, "tuning") and len(set(counts.values())) > 1 and all(counts.values()):
        found = ", ".join(f"{count} of {name}" for name, count in counts.items())
        yield Problem("tuning", f"it tries {found}", "name as many candidates of each in conf/", None, False)


def _positions_are_captured(tree: Tree) -> Iterator[Problem]:
    captured = {name: _at(tree, f"snapshot.positions.{name}") for name in ("hidden", "attention")}
    if captured["hidden"] == "answer" and captured["attention"] == "all":
        why = "hidden states would be stored at answer positions only, and attention maps at more"
        yield Problem("snapshot.positions.hidden", why, "-S snapshot.positions.hidden=all", "answer")
    captured["experts"] = "answer"
    for name, group in _sections(tree, "distill").items():
        positions = {**(_at(tree, "objective.positions") or {}), **(group.get("positions") or {})}
        for component in SIGNALS:
            signal = COMPONENTS[component].stored
            active = highest(group.get(component, 0.0)) > 0
            if active and signal == "experts" and positions.get(component) == "all":
                why = (
                    f"group {name} compares {component} at all positions, and experts are stored at the answer's alone"
                )
                path = f"objective.positions.{component}"
                yield Problem(path, why, f"-S {path}=answer", "all")
            elif active and signal and positions.get(component) == "all" and captured[signal] == "answer":
                why = f"group {name} compares {component} at all positions, and the snapshot has answer positions only"
                step = f"-S snapshot.positions.{signal}=all, or -S objective.positions.{component}=answer"
                yield Problem(f"snapshot.positions.{signal}", why, step, "answer")


def _experts_are_captured(tree: Tree) -> Iterator[Problem]:
    """A group that mixes experts says which of them speak, and finds them in the snapshot."""
    captured, micro = _at(tree, "snapshot.experts"), _at(tree, "train.micro_batch_size")
    for name, group in _sections(tree, "distill").items():
        mixes, speaks = highest(group.get("mixture", 0.0)) > 0, group.get("experts")
        if mixes and captured == "none":
            why = f"group {name} mixes the experts of the teacher's last layer, and the snapshot holds none"
            step = "-S scale=moe, or -S snapshot.experts=last with a mixture-of-experts teacher"
            yield Problem("snapshot.experts", why, step, "none")
        if mixes and speaks is None:
            why = "nothing says which experts speak"
            yield Problem(f"distill.{name}.experts", why, f"write `experts: all` in conf/distill/{name}.yaml", None)
        if speaks is not None and not mixes:
            why = "it says which experts speak, but the group gives `mixture` no weight"
            yield Problem(f"distill.{name}.experts", why, f"give it one in conf/distill/{name}.yaml", speaks)
        if speaks == "other_router" and micro == 1:
            why = f"the router of group {name} learns from another sample of its micro-batch, which has one"
            yield Problem("train.micro_batch_size", why, "-S train.micro_batch_size=2", micro)


def _tasks_have_their_source(tree: Tree) -> Iterator[Problem]:
    for name, task in _sections(tree, "prepare.tasks").items():
        path, source, files = f"prepare.tasks.{name}", task.get("source"), task.get("files")
        if source == "embedded" and name not in EMBEDDED_TASKS:
            near = nearest(name, EMBEDDED_TASKS)
            hint = f"; the nearest is `{near}`" if near else ""
            why = f"only {', '.join(EMBEDDED_TASKS)} are embedded{hint}"
            yield Problem(f"{path}.source", why, "rename the task, or give it source jsonl and files", source)
        elif source in SOURCES_WITHOUT_FILES and files:
            why = f"source `{source}` reads no files, so that these would be ignored"
            yield Problem(f"{path}.files", why, f"-S {path}.source=jsonl, or leave the files away", dict(files))
        elif source == "text" and task.get("dataset"):
            if files:
                why = "it names files and a data set, and one of them is the text"
                yield Problem(f"{path}.files", why, f"-S {path}.files=null, or {path}.dataset to null", dict(files))
        elif source and source not in SOURCES_WITHOUT_FILES and "files" in task and not files:
            why = f"source `{source}` reads local files"
            yield Problem(f"{path}.files", why, "name them in conf/ under files.train, .validation and .test", files)


def _hub_data_sets_are_whole(tree: Tree) -> Iterator[Problem]:
    for name, task in _sections(tree, "prepare.tasks").items():
        path, source = f"prepare.tasks.{name}", task.get("source")
        dataset, fields = task.get("dataset"), task.get("fields")
        if dataset and source not in (None, "hub", "text"):
            why = f"source `{source}` reads no data set of the hub, so that it would be ignored"
            yield Problem(f"{path}.dataset", why, f"-S {path}.source=hub, or set it to null", dataset)
        if dataset and source == "hub" and "fields" in task and not fields:
            why = "nothing says which columns of the data set make a sample"
            yield Problem(f"{path}.fields", why, "write them as docs/own_data.md shows", fields)
        if fields and source == "text":
            why = "running text has one column, `text.column`, so that these would be ignored"
            yield Problem(f"{path}.fields", why, "set it to null", dict(fields))
        elif fields and not dataset and source not in (None, "jsonl"):
            why = f"source `{source}` without a `dataset` has columns of its own, so that these would be ignored"
            yield Problem(f"{path}.fields", why, "set it to null, or give the task source jsonl", dict(fields))
        if fields and not (fields.get("prompt") or fields.get("messages")):
            why = "it maps neither `prompt` nor `messages`"
            yield Problem(f"{path}.fields", why, "name the column of one of them", dict(fields))


def _running_text_is_cut(tree: Tree) -> Iterator[Problem]:
    longest = _at(tree, "snapshot.max_length")
    for name, task in _sections(tree, "prepare.tasks").items():
        path, source, text = f"prepare.tasks.{name}.text", task.get("source"), task.get("text")
        is_text = source == "text" or (source == "embedded" and name == EMBEDDED_TEXT)
        if text and source and not is_text:
            why = f"source `{source}` is no running text, so that it would be ignored"
            yield Problem(path, why, f"-S prepare.tasks.{name}.source=text, or set it to null", dict(text))
        elif is_text and not text:
            why = "nothing says into blocks of how many tokens the text is cut"
            yield Problem(path, why, f"-S +{path}.block_size={longest or 512}", text)
        elif is_text and isinstance(text, Mapping):
            size, stride = text.get("block_size"), text.get("stride")
            if size and longest and size > longest:
                why = f"samples have at most snapshot.max_length {longest} tokens"
                yield Problem(f"{path}.block_size", why, f"-S {path}.block_size={longest}", size)
            if size and stride and stride >= size:
                why = f"blocks of {size} tokens so far apart would leave tokens out"
                yield Problem(f"{path}.stride", why, f"-S {path}.stride={size // 2}, or null for no overlap", stride)


def _running_text_has_labels(tree: Tree) -> Iterator[Problem]:
    """The teacher has no answer of its own to a text, and no token of it is without a label."""
    texts = [name for name, task in _sections(tree, "prepare.tasks").items() if task.get("text")]
    if not texts:
        return
    share = _at(tree, "train.labelled")
    if share is not None and share < 1:
        why = f"{', '.join(texts)} is running text, every token of which is its own label"
        yield Problem("train.labelled", why, "-S train.labelled=1", share)
    for name, group in _sections(tree, "distill").items():
        own = group.get("labelled")
        if group.get("labels") == "teacher" or (own is not None and own < 1):
            why = f"{', '.join(texts)} is running text, to which the teacher gives no answer of its own"
            groups = ",".join(each for each in _sections(tree, "distill") if each != name)
            yield Problem(f"distill.{name}", why, f"leave the group out: -S 'distill=[{groups}]'", None, False)


def _generators_hold_what_is_asked(tree: Tree) -> Iterator[Problem]:
    for name, task in _sections(tree, "prepare.tasks").items():
        items = EMBEDDED_ITEMS.get(name, {}) if task.get("source") == "embedded" else {}
        for split, most in items.items():
            count = task.get(split)
            if count is not None and count > most:
                path = f"prepare.tasks.{name}.{split}"
                yield Problem(path, f"the embedded {name} has {most} {split} items in all", f"-S {path}={most}", count)


def _only_the_hub_has_revisions(tree: Tree) -> Iterator[Problem]:
    tasks = _sections(tree, "prepare.tasks")
    for name, task in tasks.items():
        of_the_hub = task.get("source") in (None, "hub") or (task.get("source") == "text" and task.get("dataset"))
        if task.get("revision") and not of_the_hub:
            why = f"source `{task['source']}` knows no revisions, so that it would be ignored"
            yield Problem(f"prepare.tasks.{name}.revision", why, "set it to null", task["revision"])
    mirror = _at(tree, "prepare.hub")
    if (
        mirror
        and tasks
        and not any(task.get("source") in (None, "hub") or task.get("dataset") for task in tasks.values())
    ):
        why = "no task has source `hub`, so that it would be ignored"
        yield Problem("prepare.hub", why, "-S prepare.hub=null, or -S scale=paper", mirror)


def _student_keeps_master_weights(tree: Tree) -> Iterator[Problem]:
    dtype = _at(tree, "student.dtype")
    if dtype == "float16":
        why = "AdamW on float16 weights loses small updates"
        next_step = "-S student.dtype=float32, and train.precision=fp16 for the speed"
        yield Problem("student.dtype", why, next_step, dtype)
    elif dtype == "bfloat16" and _at(tree, "train.precision") == "fp16":
        why = "train.precision fp16 needs float32 weights to scale its gradients"
        yield Problem("student.dtype", why, "-S student.dtype=float32, or -S train.precision=bf16", dtype)
