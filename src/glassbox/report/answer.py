"""The answer in one sentence that can be repeated, and what limits it, from results.json by rules and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIGNALS = {
    "logits": "logits",
    "hidden": "hidden states",
    "attention": "attention maps",
    "layers": "states of further layers",
    "layer_router": "routed layers",
    "relations": "self-attention relations",
    "contrastive": "contrasted hidden states",
    "mixture": "experts mixed anew",
    "alm": "likelihoods of chunks",
    "aligned_logits": "logits on common roots",
    "aligned_hidden": "hidden states at chunk ends",
    "aligned_attention": "attention maps between chunks",
}
POINTS, PERPLEXITY = "points", "% of perplexity"  # what a difference is counted in
CONTROL_WORDS = "labels alone"
MOST_TASKS = 3  # that are named one by one; of more, their number and range
MOST_LIMITS = 3
EXPLORATORY = ("Partial", "Beyond")  # the banners that make a study exploratory, beside the state of its plan
AS_PLANNED = "as planned"
FRACTIONS = {2: "one label in two", 3: "one label in three", 4: "one label in four", 5: "one label in five"}
FRACTIONS |= {10: "one label in ten", 20: "one label in twenty", 100: "one label in a hundred"}


@dataclass(frozen=True)
class Said:
    """What was found of one comparison on one task. kind: gain, loss, same, unseen, chance or unknown.

    points: the difference, without its sign. bound: the margin of what is the same, else the smallest difference that
    the test would have found; both in `unit`, None where there is none.
    """

    task: str
    kind: str
    points: float
    bound: float | None = None
    unit: str = POINTS


def answer(results: Mapping[str, Any]) -> str:
    """One sentence: what the logits are worth over the control, and what the other signals add to the logits."""
    clauses = list(_clauses(results))
    if not clauses:
        return _nothing(results)
    seen = "; ".join(_unfinished(results))
    said = f"{_opening(results)}{'; '.join(clauses)}{f' ({seen})' if seen else ''}."
    return said[0].upper() + said[1:]


def limits(results: Mapping[str, Any]) -> list[str]:
    """Every short line that limits the answer, the gravest first; the first MOST_LIMITS stand beside it."""
    return [line for line in _limits(results) if line]


def question_answer(rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    """One question's rows, one a task, in a plain sentence: 'black_box is 9.3 points above sft on mmlu.'"""
    ran = [row for row in rows if row["status"] == "run"]
    if not ran:
        return "Not run."
    parts = _parts([_said(row) for row in ran], len(results["seeds"]), gain="gains", loss="loses", same="changes")
    absent = [_place(row) for row in rows if row["status"] != "run"]
    rest = f"; not run on {_joined(absent)}" if absent else ""
    return f"{_formula(ran[0])} {_joined(parts)}{rest}."


def _clauses(results: Mapping[str, Any]) -> Iterator[str]:
    control, baseline = results["plan"]["control"], results["plan"]["baseline"]
    weights = {entry["group"]: entry["weights"] for entry in results["groups"]}
    if baseline != control:
        rows = _rows(results, {baseline: 1.0, control: -1.0})
        if rows:
            said = [_said(row) for row in rows]
            reference = f" over {CONTROL_WORDS}" if any(each.kind in ("gain", "loss") for each in said) else ""
            yield _clause(_named(_further(weights[baseline], {}), baseline), said, results, "are worth", reference)
        elif control not in weights and baseline in weights:
            yield f"whether the logits help is not tested, since {control} did not run"
    yield from _white_box(results, weights, control, baseline)


def _white_box(
    results: Mapping[str, Any], weights: Mapping[str, Mapping[str, float]], control: str, baseline: str
) -> Iterator[str]:
    """One clause for all signals beyond the baseline's that end alike, and one for each that does not."""
    base = weights.get(baseline, {})
    shuffled = {entry["group"] for entry in results["groups"] if entry["shuffled"]}
    further = [
        group for group in weights if group not in (control, baseline, *shuffled) and set(weights[group]) - {*base}
    ]
    own = {group: [_said(row) for row in _rows(results, {group: 1.0, baseline: -1.0})] for group in further}
    own = {group: said for group, said in own.items() if said}
    pooled = _pooled(results, further, baseline)
    verb = "add" if "logits" in base else "are worth"
    if pooled:
        groups = [group for group in further if pooled[0]["weights"].get(group, 0.0) > 0]
        said = [_said(row) for row in pooled]
        parts = {group: own[group] for group in groups if group in own}
        if all(_directions(each) == _directions(said) for each in parts.values()):
            yield _clause(_all_named(groups, weights, base), said, results, verb)
            own = {group: each for group, each in own.items() if group not in groups and _differs(each, said)}
    alike: dict[str, list[str]] = {}
    for group, said in own.items():
        alike.setdefault(_predicate(said, results, verb), []).append(group)
    for predicate, groups in alike.items():
        yield f"{_all_named(groups, weights, base)} {predicate}"


def _pooled(results: Mapping[str, Any], further: Sequence[str], baseline: str) -> list[Mapping[str, Any]]:
    """The rows of the primary family where it weighs several of the further groups against the baseline."""
    primary = results["multiplicity"]["primary"]
    rows = [row for row in results["contrasts"] if row["family"] == primary and _is_plain(row)]
    for row in rows:
        plus = [group for group, weight in row["weights"].items() if weight > 0]
        if len(plus) < 2 or not set(plus) <= {*further} or row["weights"].get(baseline) != -1.0:
            return []
    return rows


def _rows(results: Mapping[str, Any], weights: Mapping[str, float]) -> list[Mapping[str, Any]]:
    """The contrasts of two groups that were run, one for each task."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in results["contrasts"]:
        if row["weights"] == weights and _is_plain(row) and row["test"] == "two_sided":
            found.setdefault(next(iter(row["tasks"])), row)
    return list(found.values())


def _is_plain(row: Mapping[str, Any]) -> bool:
    return row["status"] == "run" and row["scale"] in ("points", "nats") and len(row["tasks"]) == 1


def _said(row: Mapping[str, Any]) -> Said:
    verdict, alike = row["verdict"], row["equivalence"]
    in_nats = row["scale"] == "nats"
    least = (row["minimum_detectable"] or {}).get("holm_first")
    kind, bound = "unknown", None
    if verdict in ("equivalent", "no benefit") or verdict.endswith("below the margin"):
        kind, bound = "same", _size(alike["margin"], in_nats)
    elif verdict.startswith("better"):
        kind = "gain"
    elif verdict.startswith("worse"):
        kind = "loss"
    elif verdict == "uninformative":
        kind = "chance"
    elif verdict in ("inconclusive", "depends on scale"):
        kind, bound = "unseen", None if least is None else _size(least, in_nats)
    return Said(_place(row), kind, _size(row["estimate"], in_nats), bound, PERPLEXITY if in_nats else POINTS)


def _size(value: float, in_nats: bool) -> float:
    """A share of 1 in points, without its sign; nats per token as the percent by which they change a perplexity."""
    return 100 * (1 - math.exp(-abs(value))) if in_nats else 100 * abs(value)


def _place(row: Mapping[str, Any]) -> str:
    plus = [task for task, weight in row["tasks"].items() if weight > 0]
    against = [task for task, weight in row["tasks"].items() if weight < 0]
    if against:
        return f"{_joined(plus)} against {_joined(against)}"
    return plus[0] if len(plus) == 1 else f"the mean of {_joined(plus)}"


def _formula(row: Mapping[str, Any]) -> str:
    """`black_box, over sft,`; of several groups on a side their mean, or the better of them where there are legs."""
    plus = [group for group, weight in row["weights"].items() if weight > 0]
    minus = [group for group, weight in row["weights"].items() if weight < 0]
    subject = f"The mean of {_joined(plus)}" if len(plus) > 1 else "".join(plus)
    kind = "better" if row["components"] else "mean"
    return f"{subject}, over {f'the {kind} of {_joined(minus)}' if len(minus) > 1 else ''.join(minus)},"


def _directions(said: Sequence[Said]) -> dict[str, str]:
    return {each.task: each.kind if each.kind in ("gain", "loss") else "" for each in said}


def _differs(said: Sequence[Said], other: Sequence[Said]) -> bool:
    """Whether it goes in a direction on some task in which the other does not."""
    known = _directions(other)
    return any(kind and kind != known.get(task) for task, kind in _directions(said).items())


def _clause(subject: str, said: Sequence[Said], results: Mapping[str, Any], verb: str, reference: str = "") -> str:
    return f"{subject} {_predicate(said, results, verb, reference)}"


def _predicate(said: Sequence[Said], results: Mapping[str, Any], verb: str, reference: str = "") -> str:
    return _joined(_parts(said, len(results["seeds"]), verb, "cost", "change", reference))


def _parts(said: Sequence[Said], n_seeds: int, gain: str, loss: str, same: str, reference: str = "") -> list[str]:
    """A verb phrase for every kind that occurs, gains first."""
    of = {kind: [each for each in said if each.kind == kind] for kind in dict.fromkeys(each.kind for each in said)}
    parts = []
    for kind, verb in (("gain", gain), ("loss", loss)):
        if kind in of:
            parts.append(f"{verb} {_amounts(of[kind], len(said))}{reference}")
            reference = ""
    if "same" in of:
        size = _widest(of["same"])
        if len(of) == 1 and len(said) > 1:
            parts.append(f"{same} {'neither' if len(said) == 2 else 'no'} task by as much as {size}")
        else:
            parts.append(f"{same} {_tasks(of['same'], len(said))} by less than {size}")
    if "unseen" in of:
        seeds = f"{n_seeds} {'seed' if n_seeds == 1 else 'seeds'}"
        where = "" if len(of) == 1 and len(said) > 1 else f" on {_tasks(of['unseen'], len(said))}"
        parts.append(f"{'show' if loss == 'cost' else 'shows'} nothing{where} that {seeds} can see")
    if "chance" in of:
        parts.append(f"cannot be judged on {_tasks(of['chance'], len(said))}, where every group is near chance")
    if "unknown" in of:
        parts.append(f"cannot be tested on {_tasks(of['unknown'], len(said))}")
    return parts


def _widest(said: Sequence[Said]) -> str:
    """The largest margin of each unit: '3 points', '3 points or 2 % of perplexity'."""
    margins: dict[str, float] = {}
    for each in said:
        margins[each.unit] = max(margins.get(each.unit, 0.0), each.bound or 0.0)
    return " or ".join(
        f"{margin:.3g} {'point' if (margin, unit) == (1, POINTS) else unit}" for unit, margin in margins.items()
    )


def _amounts(said: Sequence[Said], n_tasks: int) -> str:
    """'9.3 points on mmlu and 14.8 on gsm8k'; of many tasks '2.1 to 8.0 points on 5 of 7 tasks'."""
    units = {each.unit for each in said}
    if len(said) > MOST_TASKS and len(units) == 1:
        low, high = min(each.points for each in said), max(each.points for each in said)
        return f"{low:.1f} to {high:.1f} {said[0].unit} on {_tasks(said, n_tasks)}"
    told, unit = [], ""
    for each in said:
        amount = f"{each.points:.1f}"
        words = "" if each.unit == unit else " point" if (amount, each.unit) == ("1.0", POINTS) else f" {each.unit}"
        told.append(f"{amount}{words} on {each.task}")
        unit = each.unit
    return _joined(told)


def _tasks(said: Sequence[Said], n_tasks: int) -> str:
    if len(said) > MOST_TASKS:
        return f"{'all' if len(said) == n_tasks else f'{len(said)} of'} {n_tasks} tasks"
    return _joined([each.task for each in said])


def _all_named(groups: Sequence[str], weights: Mapping[str, Mapping[str, float]], base: Mapping[str, float]) -> str:
    """'hidden states and attention maps'; 'hidden states, with or without attention maps,' of a group and a larger one;
    'hidden states, attention maps, and both together'."""
    signals = {group: tuple(_further(weights[group], base)) for group in groups}
    distinct = list(dict.fromkeys(signals.values()))
    if len(distinct) == 2 and set(distinct[0]) < set(distinct[1]):
        rest = [SIGNALS[each] for each in distinct[1] if each not in distinct[0]]
        return f"{_named(distinct[0], groups[0])}, with or without {_joined(rest)},"
    single = [each[0] for each in distinct if len(each) == 1]
    names = []
    for group, found in signals.items():
        both = len(single) == 2 and set(found) == {*single}
        names.append("both together" if both else _named(found, group))
    return _joined(list(dict.fromkeys(names)))


def _named(signals: Sequence[str], group: str) -> str:
    """'hidden states', 'logits and hidden states together', or the group's name where it has no signal of its own."""
    words = [SIGNALS[each] for each in signals]
    return f"{_joined(words)}{' together' * (len(words) > 1)}" if words else group


def _further(own: Mapping[str, float], base: Mapping[str, float]) -> list[str]:
    """The signals that a group has and the one that it is compared with has not, those with words first."""
    order = dict.fromkeys((*SIGNALS, *own))
    return [each for each in order if each in own and each != "task" and each not in base]


def _joined(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b, and c' where a part holds an 'and' itself."""
    if len(parts) < 2:
        return "".join(parts)
    comma = "," if len(parts) > 2 or any(" and " in part for part in parts[:-1]) else ""
    return f"{', '.join(parts[:-1])}{comma} and {parts[-1]}"


def _opening(results: Mapping[str, Any]) -> str:
    """'Exploratory: on these miniature tasks, where one label in ten is known, '.

    A single task is named by what is said of it.
    """
    miniature = "miniature " if all(task["embedded"] for task in results["tasks"]) else ""
    known = _labels(results.get("labelled", 1.0))
    several = len(results["tasks"]) > 1
    if several or miniature:
        tasks = f"these {miniature}tasks" if several else f"this {miniature}task"
        place = f"on {tasks}{known and f', where {known},'} "
    else:
        place = known and f"where {known}, "
    return f"Exploratory: {place}" if _is_exploratory(results) else place


def _labels(share: float) -> str:
    """'one label in ten is known'; empty where all are."""
    if share >= 1:
        return ""
    words = FRACTIONS.get(round(1 / share)) if share and abs(1 / share - round(1 / share)) < 1e-9 else None
    return f"{words} is known" if words else f"{100 * share:g} % of the labels are known"


def _is_exploratory(results: Mapping[str, Any]) -> bool:
    return results["plan"]["state"] != AS_PLANNED or any(each.startswith(EXPLORATORY) for each in results["banners"])


def _unfinished(results: Mapping[str, Any]) -> list[str]:
    """'33 of 35 trials', and what diverged."""
    found = results["integrity"]
    told = []
    if found["missing"]:
        told.append(f"{found['planned'] - len(found['missing'])} of {found['planned']} trials so far")
    counts: dict[str, int] = {}
    for name in found["diverged"]:
        group = name.rsplit("/", 1)[0]
        counts[group] = counts.get(group, 0) + 1
    of = f"of {len(results['seeds'])} seeds"
    if counts and len(counts) <= MOST_TASKS:
        told.append(f"{_joined([f'{group} diverged on {count} {of}' for group, count in counts.items()])}")
    elif counts:
        told.append(f"{sum(counts.values())} of {found['planned']} trials diverged")
    return told


def _nothing(results: Mapping[str, Any]) -> str:
    """Why no sentence can be said."""
    groups, seeds = [entry["group"] for entry in results["groups"]], results["seeds"]
    if len(groups) < 2:
        return f"Not tested: only {''.join(groups) or 'nothing'} ran, and a comparison needs a second group."
    if len(seeds) < 2:
        return "Not tested: one seed has no spread; a comparison needs two seeds or more."
    if any(row["status"] == "run" for row in results["contrasts"]):
        return "No signal was compared with the group without it; the questions below say what was."
    reasons = dict.fromkeys(row["reason"] for row in results["contrasts"] if row["reason"])
    return f"Not tested: {next(iter(reasons), 'no contrast could be formed')}."


def _limits(results: Mapping[str, Any]) -> Iterator[str]:
    yield _of_the_plan(results)
    yield _of_the_trials(results)
    if results["assay"]["text"]:
        yield f"No group beats {results['plan']['control']}: this study has not shown that it can see any benefit."
    yield from (note for note in results["notes"] if note.startswith(("The teacher is ", "The teacher cannot ")))
    yield _of_the_signals(results["faint"])
    if results["sensitivity_changes"]:
        yield "Another analysis of the same scores does not show every direction found here."
    if embedded := [task["task"] for task in results["tasks"] if task["embedded"]]:
        named = f"benchmark that {embedded[0]} is" if len(embedded) == 1 else f"benchmarks that {_joined(embedded)} are"
        yield f"Miniature tasks: nothing is said of the public {named} named for."
    yield _of_the_seeds(results)
    if not results["pairing"]["verified"]:
        yield "Pairing of seeds is not verified: groups are compared as independent."


def _of_the_plan(results: Mapping[str, Any]) -> str:
    state, banners = results["plan"]["state"], results["banners"]
    words = {
        AS_PLANNED: "",
        "no plan": "no plan was fixed before the trials",
        "no plan of these tasks": "no plan was fixed for these tasks",
    }
    known = state.removesuffix(": exploratory").removeprefix("exploratory: ")
    told = [said] if (said := str(words.get(known, known))) else []
    told += ["groups or seeds of the plan did not run"] if any(each.startswith("Partial") for each in banners) else []
    told += ["seeds are not the plan's"] if any(each.startswith("Beyond") for each in banners) else []
    return f"Exploratory: {'; '.join(told)}." if told else ""


def _of_the_trials(results: Mapping[str, Any]) -> str:
    found = results["integrity"]
    counts = {name: len(found[name]) for name in ("missing", "diverged") if found[name]}
    told = [
        f"{count} {'is ' if count == 1 else 'are '}missing" if name == "missing" else f"{count} diverged"
        for name, count in counts.items()
    ]
    return f"Of {found['planned']} trials, {_joined(told)}." if told else ""


def _of_the_signals(faint: Sequence[Mapping[str, Any]]) -> str:
    """'Signals under 5 % of the gradient: hidden states in hidden_state and combined (1.8 %).'"""
    told = []
    for component in dict.fromkeys(row["component"] for row in faint):
        rows = [row for row in faint if row["component"] == component]
        shares = list(dict.fromkeys(f"{100 * row['share']:.1f}" for row in (rows[0], rows[-1])))
        groups = _joined([row["group"] for row in rows])
        told.append(f"{SIGNALS[component]} in {groups} ({' to '.join(sorted(shares, key=float))} %)")
    return f"Signals under 5 % of the gradient, of which little can be said: {'; '.join(told)}." if told else ""


def _of_the_seeds(results: Mapping[str, Any]) -> str:
    """The number of seeds, and what the tests of the primary family would have missed; empty where none was run."""
    n, primary = len(results["seeds"]), results["multiplicity"]["primary"]
    least: dict[str, list[tuple[float, str]]] = {}
    for row in results["contrasts"]:
        if row["family"] == primary and _is_plain(row) and (row["minimum_detectable"] or {}).get("holm_first"):
            in_nats = row["scale"] == "nats"
            size = _size(row["minimum_detectable"]["holm_first"], in_nats)
            least.setdefault(PERPLEXITY if in_nats else POINTS, []).append((size, _place(row)))
    seeds = f"{n} {'seed' if n == 1 else 'seeds'}"
    if n <= 2:
        return f"{seeds}: no difference can be told from chance with so few."
    if not least:
        return ""
    told = [_missed(found, unit) for unit, found in least.items()]
    return f"{seeds}: effects under {' and under '.join(told)} may be missed."


def _missed(found: Sequence[tuple[float, str]], unit: str) -> str:
    """'1.1 points on sst2 and 0.9 on mmlu', or of many tasks '0.5 to 2.0 points, by task,'."""
    if len(found) > MOST_TASKS:
        smallest, *_, largest = sorted(size for size, _ in found)
        return f"{smallest:.1f} to {largest:.1f} {unit}, by task,"
    (size, place), *others = found
    return _joined([f"{size:.1f} {unit} on {place}", *(f"{size:.1f} on {place}" for size, place in others)])
