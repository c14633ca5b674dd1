"""Sentences about the selection itself: banners that stand over every table, and notes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.plan import Plan
from glassbox.comparison.selection import Selection
from glassbox.tracking.manifest import TrialRecord

AS_PLANNED = "as planned"
FAINT = 0.05  # share of the gradient under which a signal is named beside every answer about it
SURE_OF_LABELS = 0.98
MANY_CUT_OFF = 0.05  # of a task's answers
USUAL_SHARES = (0.01, 0.9)  # of a component in the gradient; outside, the group is hardly what its name says
CHANGED = "plan changed after the data: exploratory"
NO_PLAN = "no plan: exploratory"
OTHER_TASKS = "no plan of these tasks: exploratory"
SEEN = "exploratory: these seeds' scores were known when the plan was made"


def plan_state(plan: Plan, selection: Selection) -> str:
    """Whether every trial carries the digest of the plan as it is now, no run of the same trial began under an earlier
    one, and none has a seed that the plan had seen."""
    trials = selection.trials
    if plan.derived:
        return NO_PLAN
    if plan.is_of_other_tasks:
        return OTHER_TASKS
    if any(trial.plan != plan.digest for trial in trials) or _earlier(plan, selection):
        return CHANGED
    return SEEN if _seen(plan, trials) else AS_PLANNED


def _earlier(plan: Plan, selection: Selection) -> list[str]:
    """Cells of which the store holds a run that began under another plan than the present one."""
    return [name for name, digests in selection.earlier_plans.items() if set(digests) - {plan.digest}]


def _seen(plan: Plan, trials: Sequence[TrialRecord]) -> list[int]:
    return sorted({trial.seed for trial in trials} & set(plan.seen_seeds))


def banners(plan: Plan, selection: Selection) -> list[str]:
    found = []
    if plan.derived:
        found.append(
            f"N{NO_PLAN[1:]}. No conf/analysis.yaml was read; the contrasts are made from the groups that ran. "
            "`python src/compare.py` prints the lines that would make them a plan."
        )
    if selection.missing:
        missing = ", ".join(selection.missing)
        found.append(
            f"Incomplete: {len(selection.missing)} trials are missing ({missing}). Means are over what there is."
        )
    if plan.is_of_other_tasks:
        found.append(
            f"N{OTHER_TASKS[1:]}. conf/analysis.yaml names none of them; its questions are asked of them all the same, "
            "and seeds and groups that it holds for other tasks are not missing here. `python src/compare.py` prints "
            "the lines of a plan."
        )
    else:
        found += _beside_the_plan(plan, selection)
    if plan_state(plan, selection) == CHANGED:
        found.append(_changed_plan(plan, selection))
    if seen := _seen(plan, selection.trials):
        found.append(f"E{SEEN[1:]}: {', '.join(map(str, seen))}.")
    return found


def _beside_the_plan(plan: Plan, selection: Selection) -> list[str]:
    """What the plan holds and did not run, and what ran and it does not hold."""
    found = []
    left_out = [f"seed {seed}" for seed in plan.seeds if seed not in selection.seeds]
    left_out += [f"group {group}" for group in selection.absent_groups if group in plan.groups]
    left_out += [name for name in selection.gaps if name.rsplit("/", 1)[0] in plan.groups]
    if left_out:
        found.append(f"Partial, exploratory: the plan also holds {', '.join(left_out)}.")
    beyond = [str(seed) for seed in selection.seeds if seed not in plan.seeds]
    if beyond:
        found.append(f"Beyond the plan, exploratory: it does not hold the seeds {', '.join(beyond)}.")
    named = {*plan.groups, *plan.optional_groups}
    if others := [group for group in selection.groups if group not in named]:
        found.append(
            f"Beyond the plan, exploratory: it does not hold the groups {', '.join(others)}. Each is compared with "
            "black_box, a shuffled one with its original (family `exploratory`)."
        )
    return found


def _changed_plan(plan: Plan, selection: Selection) -> str:
    trials = selection.trials
    without = sum(not trial.plan for trial in trials)
    other = sum(trial.plan not in ("", plan.digest) for trial in trials)
    told = []
    if other:
        told.append(f"{other} of {len(trials)} trials began under another plan than the present conf/analysis.yaml")
    if without:
        told.append(f"{without} of {len(trials)} trials carry no plan, so that nothing shows that it came first")
    if earlier := _earlier(plan, selection):
        told.append(
            f"the store holds runs of {_some(earlier, selection)} that began under an earlier plan, so that their "
            "scores may have been known when the present one was made"
        )
    return f"P{CHANGED[1:]}. {'; '.join(told)}."


def notes(plan: Plan, scale: str, selection: Selection, checked: Mapping[str, Any]) -> list[str]:
    """A sentence for everything out of the ordinary. checked: what `integrity` found."""
    found = []
    own = [task for task in plan.unplanned if not plan.derived]
    if own:
        found.append(
            f"conf/analysis.yaml does not name {', '.join(own)}; the questions of each task are asked there too, with "
            "the default margin of 2 points (of perplexity 2 %). Add it under `tasks` and `margins` to set another."
        )
    if plan.margin_scale != scale and not plan.derived:
        margins = ", ".join(
            f"{task} {margin:g} nats" if plan.tasks[task].in_nats else f"{task} {100 * margin:g}"
            for task, margin in plan.margins.items()
        )
        found.append(
            f"Scale {scale} has no margins of its own in conf/analysis.yaml; the {plan.margin_scale} ones are used "
            f"(points: {margins})."
        )
    if selection.store_groups:
        names = ", ".join(selection.store_groups)
        found.append(
            f"From the store: {names}. Not selected now; their trials of this same study were found in MLflow."
        )
    if selection.store_cells:
        found.append(
            f"From the store: {', '.join(selection.store_cells)}. Without a manifest under runs/; their trials of this "
            "same study were found in MLflow. `dvc repro` writes the manifests again."
        )
    if selection.lost_runs:
        found.append(
            f"The MLflow store misses the runs of {_some(selection.lost_runs, selection)}. Their results are in this "
            "report; `python src/restore.py` writes them into the store again."
        )
    if selection.cut_off:
        names = ", ".join(f"{name} ({status})" for name, status in selection.cut_off.items())
        found.append(
            f"MLflow shows another end of these runs than their manifests, which hold all results: {names}. "
            "Look at their log before you rely on them."
        )
    if repeated := {name: ends for name, ends in selection.attempts.items() if len(set(ends)) > 1}:
        names = "; ".join(f"{name}: {_counted(ends)}" for name, ends in repeated.items())
        found.append(f"More than one attempt, with different ends ({names}). The comparison takes one of them.")
    if selection.out_of_date:
        found.append(
            f"Trained under other settings or code than the present ones: {_some(selection.out_of_date, selection)}. "
            "`dvc repro` trains them again."
        )
    if checked["diverged"]:
        found.append(
            f"Diverged: {', '.join(checked['diverged'])}. They have no score; means are over the finished trials."
        )
    if selection.ignored_files:
        names = ", ".join(f"runs/{name}" for name in selection.ignored_files)
        found.append(f"Not part of this grid, ignored: {names}.")
    if checked["without_items"]:
        found.append(f"Without results by question: {_some(checked['without_items'], selection)}.")
    if len(checked["precision"]) > 1:
        by_precision = {
            each: _some([trial.name for trial in selection.trials if trial.precision == each], selection)
            for each in checked["precision"]
        }
        told = "; ".join(f"{precision}: {names}" for precision, names in by_precision.items())
        found.append(f"Trials ran in different precisions, the same for all groups of a seed. {told}.")
    return found + [_unusual_share(row) for row in checked["liveness"] if _is_unusual(row)]


def _counted(ends: Sequence[str]) -> str:
    """'3 attempts, 1 finished and 2 diverged'."""
    counts = Counter(ends)
    order = sorted(counts, key=lambda end: (end != "finished", end))
    return f"{len(ends)} attempts, {' and '.join(f'{counts[end]} {end}' for end in order)}"


def faint_components(liveness: Sequence[Mapping[str, Any]], groups: Collection[str]) -> list[str]:
    """'hidden has 1.8 % of the gradient of hidden_state', of signals that these groups hardly learn from."""
    return [
        f"{row['component']} has {100 * row['share']:.1f} % of the gradient of {row['group']}"
        for row in faint(liveness)
        if row["group"] in groups
    ]


def faint(liveness: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Component, group and share of every signal under FAINT."""
    return [
        {name: row[name] for name in ("component", "group", "share")}
        for row in liveness
        if row["component"] != "task" and row.get("share") is not None and row["share"] < FAINT
    ]


def teacher_notes(
    scores: Mapping[str, Mapping[str, float]],
    chance: Mapping[str, float | None],
    questions: Mapping[str, int],
    label_probability: Mapping[str, float],
) -> list[str]:
    """A sentence for each task on which the teacher has little to teach.

    scores: of `teacher` and `initial_student` by task. chance: None of a task whose score is a perplexity, of which
    less is better. label_probability: the teacher's mean probability of the training labels, by task.
    """
    found = []
    for task, score in scores["teacher"].items():
        student, n, guessed = scores["initial_student"].get(task), questions.get(task), chance[task]
        if guessed is None:
            if student is not None and score > student:
                told = f"{score:.4g} against {student:.4g}"
                found.append(f"The teacher's perplexity on {task} is above the untrained student's ({told}).")
            continue
        if student is not None and score < student:
            told = f"{100 * score:.1f} % against {100 * student:.1f} %"
            found.append(f"The teacher is below the student before distillation on {task} ({told}).")
        if n and score <= guessed + 2 * math.sqrt(guessed * (1 - guessed) / n):
            found.append(_at_chance(task, score, guessed, n))
    for task, probability in label_probability.items():
        if probability > SURE_OF_LABELS:
            found.append(
                f"The teacher gives the training labels of {task} a mean probability of {probability:.4f}: where "
                "samples have their label, its logits at the answer say hardly more."
            )
    return found


def _at_chance(task: str, score: float, chance: float, n: int) -> str:
    told = f"{100 * score:.1f} % of {n} questions, where guessing gets {100 * chance:g} %"
    if score > chance:
        return f"The teacher cannot be told from chance on {task} ({told}): whether its signals hold anything is open."
    return f"The teacher is at chance on {task} ({told}): its signals hold little to learn."


def unscored_notes(trials: Sequence[TrialRecord], questions: Mapping[str, int]) -> list[str]:
    """A sentence for each task on which students tied exactly, or many of their answers were cut off."""
    kinds = {
        "ties": (0.0, "are exact ties, which count as wrong"),
        "cut_off": (MANY_CUT_OFF, "ran into evaluation.max_new_tokens without an end"),
    }
    found = []
    for task, n in questions.items():
        for kind, (least, told) in kinds.items():
            counts = [trial.metrics.get(f"test/{kind}_{task}", 0.0) for trial in trials if trial.finished]
            if counts and max(counts) > least * n:
                mean = f"{sum(counts) / len(counts):.1f} on average over {len(counts)} trials"
                found.append(f"On {task}, up to {max(counts):.0f} of {n} answers of a student {told} ({mean}).")
    return found


def _is_unusual(row: Mapping[str, Any]) -> bool:
    """Whether a component of several has next to no share in the gradient, or nearly all of it."""
    share, (least, most) = row.get("share"), USUAL_SHARES
    return share is not None and share != 1.0 and not least <= share <= most


def _unusual_share(row: Mapping[str, Any]) -> str:
    least, most = (f"{100 * share:g}" for share in USUAL_SHARES)
    share = f"{100 * row['share']:.3g} %"
    return (
        f"Warning: {row['component']} has {share} of the gradient of {row['group']} in its first steps "
        f"(median of {row['n']} trials), outside {least} to {most} %."
    )


def _some(names: Sequence[str], selection: Selection) -> str:
    return f"all {len(names)} trials" if len(names) == len(selection.trials) else ", ".join(names)


def integrity(selection: Selection, evidence: Evidence) -> dict[str, Any]:
    trials = selection.trials
    shared = {name: sorted({str(trial.digests[name]) for trial in trials}) for name in ("snapshot", "tasks")}
    missing = [*selection.missing, *selection.gaps]
    return {
        "planned": len(trials) + len(missing),
        "finished": sum(trial.finished for trial in trials),
        "diverged": [trial.name for trial in trials if not trial.finished],
        "missing": missing,
        "from_store": [trial.name for trial in trials if trial.source == "store"],
        "lost_runs": list(selection.lost_runs),
        "cut_off": dict(selection.cut_off),
        "attempts": {name: dict(sorted(Counter(ends).items())) for name, ends in selection.attempts.items()},
        "earlier_plans": {name: list(digests) for name, digests in selection.earlier_plans.items()},
        "out_of_date": list(selection.out_of_date),
        "ignored_files": list(selection.ignored_files),
        "without_items": without_items(selection, evidence),
        "precision": sorted({trial.precision for trial in trials}),
        "digests": shared,
        "liveness": liveness(trials),
        "seconds": math.fsum(trial.seconds for trial in trials if trial.seconds is not None),
    }


def without_items(selection: Selection, evidence: Evidence) -> list[str]:
    """Finished trials that have no results by question for some task."""
    absent = []
    for trial in (trial for trial in selection.trials if trial.finished):
        row, column = evidence.groups.index(trial.group), evidence.seeds.index(trial.seed)
        tables = [evidence.items.get(task) for task in evidence.tasks]
        if any(table is None or np.isnan(table.correct[row, column]).any() for table in tables):
            absent.append(trial.name)
    return absent


def liveness(trials: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """A row per group and component whose trials recorded it: medians over seeds of each figure."""
    by_cell: dict[tuple[str, str], list[Mapping[str, float | None]]] = defaultdict(list)
    for trial in trials:
        for component, figures in (trial.liveness or {}).items():
            by_cell[trial.group, component].append(figures)
    return [
        {"group": group, "component": component, "n": len(recorded), **_medians(recorded)}
        for (group, component), recorded in by_cell.items()
    ]


def _medians(recorded: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    values = {name: [each[name] for each in recorded if each.get(name) is not None] for name in recorded[0]}
    return {name: median(known) if known else None for name, known in values.items()}  # type: ignore[type-var]
