"""How often the comparison's intervals hold the truth and its tests are wrong, where the truth is known.

    python benchmarks/coverage.py [--repetitions 20000] [--json FILE]

Every estimate, interval, p-value and adjustment is made by glassbox.comparison.statistics and the contrasts of
conf/analysis.yaml; only the scores are drawn here. Prints the table of docs/statistics.md and writes its figures;
exit code 1 if one misses its bar.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import norm

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

from glassbox.comparison.inference.contrasts import Contrast, planned_contrasts  # noqa: E402
from glassbox.comparison.plan import Plan, read_plan  # noqa: E402
from glassbox.comparison.statistics.equivalence import equivalence, minimum_effect_p  # noqa: E402
from glassbox.comparison.statistics.estimates import (  # noqa: E402
    Estimate,
    mean_estimate,
    t_interval,
    t_test,
    welch_estimate,
)
from glassbox.comparison.statistics.multiplicity import holm, intersection_union  # noqa: E402
from glassbox.comparison.statistics.power import equivalence_power  # noqa: E402
from glassbox.comparison.statistics.scopes import item_variance, scope_interval, two_scopes  # noqa: E402

SEEDS = 7
CHUNK = 250
CHEAP = 10  # times as many repetitions where one costs next to nothing, so that chance does not decide near a bar
COVERAGE = (0.945, 0.955)
FAMILY = (0.0, 0.05 + 1e-9)
TOST = (0.0, 0.05)
SCOPE = (0.93, 0.975)
MOST_WIDTH = 6.0  # 99 % quantile of the widths over their median
NO_BAR = None


@dataclass(frozen=True)
class Figure:
    """share: of the repetitions. error: its own standard error, sqrt(share (1 - share) / repetitions).

    widths: of intervals, median, 95 % and 99 % quantile, in points; own: the same of the intervals over seeds alone.
    """

    section: str
    case: str
    repetitions: int
    share: float
    error: float
    bar: tuple[float, float] | None
    passed: bool
    widths: tuple[float, ...] = ()
    own: tuple[float, ...] = ()


def figure(
    section: str,
    case: str,
    hits: np.ndarray,
    bar: tuple[float, float] | None,
    widths: np.ndarray | None = None,
    own: np.ndarray | None = None,
) -> Figure:
    """TOST's bar is its exact size, which half of all simulations exceed: it is missed three standard errors above.

    A family's bar is 5 % and two standard errors. Intervals with a bar miss it by their widths too.
    """
    share = float(np.mean(hits))
    error = math.sqrt(share * (1 - share) / np.size(hits))
    slack = {TOST: 3 * error, FAMILY: 2 * error}.get(bar, 0.0) if bar else 0.0
    passed = bar is None or bar[0] <= share <= bar[1] + slack
    quantiles = () if widths is None else _quantiles(widths)
    if quantiles and bar:
        passed = passed and quantiles[2] <= MOST_WIDTH * quantiles[0]
    return Figure(
        section,
        case,
        int(np.size(hits)),
        share,
        error,
        bar,
        passed,
        quantiles,
        () if own is None else _quantiles(own),
    )


def _quantiles(widths: np.ndarray) -> tuple[float, ...]:
    return tuple(100 * float(each) for each in np.quantile(widths[np.isfinite(widths)], (0.5, 0.95, 0.99)))


def covered(estimate: Estimate, truth: np.ndarray | float) -> np.ndarray:
    return _within(t_interval(estimate), truth)


def _within(limits: tuple[np.ndarray, np.ndarray], truth: np.ndarray | float) -> np.ndarray:
    return (limits[0] <= truth) & (truth <= limits[1])


# --- intervals over seeds -------------------------------------------------------------------------------------


def intervals(repetitions: int, generator: np.random.Generator) -> Iterator[Figure]:
    for n in (3, 5, 7, 10):
        values = generator.normal(0.3, 0.02, (repetitions, n))
        yield figure("t interval, normal scores", f"mean of {n} seeds", covered(mean_estimate(values), 0.3), COVERAGE)
    shared = generator.normal(0, 0.02, (repetitions, SEEDS))
    first, second = (shared + generator.normal(0, 0.01, shared.shape) for _ in range(2))
    yield figure(
        "t interval, normal scores", "paired difference, r = 0.8", covered(mean_estimate(first - second), 0), COVERAGE
    )
    own = [generator.normal(0, deviation, (repetitions, n)) for deviation, n in ((0.02, 7), (0.02, 7))]
    yield figure("t interval, normal scores", "Welch, equal deviations", covered(welch_estimate(own), 0), NO_BAR)
    own = [generator.normal(0, deviation, (repetitions, n)) for deviation, n in ((0.01, 7), (0.03, 5))]
    yield figure(
        "t interval, normal scores", "Welch, deviations 1:3, n = 7 and 5", covered(welch_estimate(own), 0), NO_BAR
    )


# --- families -------------------------------------------------------------------------------------------------


def families(plan: Plan, repetitions: int, generator: np.random.Generator) -> Iterator[Figure]:
    """False claims where every tested contrast is null, and where one task's is not (the rest must still hold)."""
    tested = [each for each in planned_contrasts(plan) if each.test not in ("descriptive", "equivalence")]
    members: dict[str, list[Contrast]] = defaultdict(list)
    for contrast in tested:
        if contrast.scale == "points":
            members[contrast.counted].append(contrast)
    groups = sorted({group for each in tested for group in each.groups})
    scores = _scores(repetitions, groups, plan, generator)
    counted_in: list[str] = []
    report = np.zeros(repetitions, dtype=bool)
    optional = set(plan.optional_groups)
    for counted, family in members.items():
        p = np.stack([_p(contrast, scores, groups, plan) for contrast in family], axis=-1)
        wrong = (holm(p) <= plan.alpha).any(axis=-1)
        yield figure("false direction, all null", f"{counted} ({len(family)} tests)", wrong, FAMILY)
        if not any(optional & set(contrast.groups) for contrast in family):
            report |= wrong
            counted_in.append(counted)
        found = p.copy()
        found[:, 0] = 0.0
        rest = (holm(found)[:, 1:] <= plan.alpha).any(axis=-1)
        if len(family) > 1:
            yield figure("false direction, first test not null", f"{counted} ({len(family)} tests)", rest, FAMILY)
    yield figure("any false direction in a report", f"{len(counted_in)} families of five groups", report, NO_BAR)


def _scores(repetitions: int, groups: list[str], plan: Plan, generator: np.random.Generator) -> np.ndarray:
    """[repetitions, groups, tasks, seeds]: a seed's own level, shared by groups and in part by tasks, and noise."""
    shape = (repetitions, len(groups), len(plan.tasks), SEEDS)
    seeds = generator.normal(0, 0.01, (repetitions, 1, 1, SEEDS)) + generator.normal(
        0, 0.01, (repetitions, 1, *shape[2:])
    )
    return 0.5 + seeds + generator.normal(0, 0.01, shape)


def _p(contrast: Contrast, scores: np.ndarray, groups: list[str], plan: Plan) -> np.ndarray:
    """An intersection-union test errs most where one leg is null and the others surely true: so it is drawn here."""
    if contrast.legs:
        sure = 1.0 * np.eye(len(contrast.legs))[0]
        legs = [_values(leg, scores, groups, plan) + far for leg, far in zip(contrast.legs, sure, strict=True)]
        return _directed([mean_estimate(each) for each in legs])
    side = "greater" if contrast.test == "greater" else "two_sided"
    return t_test(mean_estimate(_values(contrast, scores, groups, plan)), side)[1]


def _directed(legs: list[Estimate]) -> np.ndarray:
    """The two-sided p of "all positive" or "one negative", as `directed_p` of the inference, for arrays."""
    gains, losses = (np.stack([t_test(leg, side)[1] for leg in legs], axis=-1) for side in ("greater", "less"))
    return np.minimum(2 * gains.max(axis=-1), 2 * len(legs) * losses.min(axis=-1))


def _values(contrast: Contrast, scores: np.ndarray, groups: list[str], plan: Plan) -> np.ndarray:
    by_group = np.asarray([contrast.weights.get(group, 0.0) for group in groups])
    by_task = np.asarray([contrast.tasks.get(task, 0.0) for task in plan.tasks])
    return np.einsum("g,t,rgts->rs", by_group, by_task, scores)


# --- equivalence ----------------------------------------------------------------------------------------------


def equivalences(plan: Plan, repetitions: int, generator: np.random.Generator) -> Iterator[Figure]:
    margin = 0.01
    for deviation in (0.002, 0.005, 0.02):
        values = generator.normal(margin, deviation, (repetitions, SEEDS))
        wrong = equivalence(mean_estimate(values), margin, plan.alpha).p <= plan.alpha
        yield figure("TOST size, true difference = margin", f"margin of {margin / deviation:g} s_d", wrong, TOST)
    values = generator.normal(margin, 0.004, (repetitions, 3, SEEDS))
    p = equivalence(mean_estimate(values), margin, plan.alpha).p
    yield figure(
        "TOST size, true difference = margin", "three tasks, Holm, any wrong", (holm(p) <= plan.alpha).any(-1), FAMILY
    )
    for deviation in (0.004, 0.006, 0.008):
        values = generator.normal(0, deviation, (repetitions, 3, SEEDS))
        p = holm(equivalence(mean_estimate(values), margin, plan.alpha).p)[:, 0]
        planned = equivalence_power(margin * math.sqrt(SEEDS) / deviation, SEEDS - 1, plan.alpha / 3)
        case = f"margin of {margin / deviation:.2g} s_d, one of three (planned {100 * planned:.0f} %)"
        yield figure("TOST power under Holm, no difference", case, p <= plan.alpha, NO_BAR)


def hypotheses(plan: Plan, repetitions: int, generator: np.random.Generator) -> Iterator[Figure]:
    """The conjunction at its edge: six pairs of four groups on one task, four gains."""
    margin, deviation = 0.01, 0.002
    scores = generator.normal(0, deviation, (repetitions, 4, SEEDS)) + np.asarray([0, 0, 0, margin])[:, None]
    pairs = mean_estimate(np.stack([scores[:, b] - scores[:, a] for a, b in combinations(range(4), 2)], axis=1))
    for case, gain in (("gains certain", 0.05), ("gains 0", 0.0)):
        gains = mean_estimate(generator.normal(gain, deviation, (repetitions, 4, SEEDS)))
        legs = np.concatenate([equivalence(pairs, margin, plan.alpha).p, t_test(gains, "greater")[1]], axis=-1)
        against = np.concatenate([minimum_effect_p(pairs, margin), t_test(gains, "less")[1]], axis=-1)
        supported = intersection_union(legs) <= plan.alpha
        refuted = (holm(against) <= plan.alpha).any(axis=-1)
        yield figure("hypothesis, three pairs at the margin", f"called supported, {case}", supported, FAMILY)
        yield figure("hypothesis, three pairs at the margin", f"called refuted, {case}", refuted, FAMILY)


# --- two scopes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """Right or wrong by a probit: level + seed + question + (group x question) + (group x subject) + noise of 1.

    levels: of the groups whose scores `weights` combine. The deviations are of the parts; sizes: questions per subject.
    """

    case: str
    levels: tuple[float, ...]
    weights: tuple[float, ...]
    seed: float
    question: float
    own: float
    subject: float = 0.0
    sizes: tuple[int, ...] = ()
    questions: int = 300
    seeds: int = SEEDS
    bar: tuple[float, float] | None = SCOPE

    @property
    def clusters(self) -> np.ndarray | None:
        return np.repeat(np.arange(len(self.sizes)), self.sizes) if self.sizes else None

    @property
    def size(self) -> int:
        return sum(self.sizes) if self.sizes else self.questions

    @property
    def truth(self) -> float:
        """Over seeds and questions: E Phi(level + N(0, v)) = Phi(level / sqrt(1 + v))."""
        spread = math.sqrt(1 + self.seed**2 + self.question**2 + self.own**2 + self.subject**2)
        return float(np.dot(self.weights, norm.cdf(np.asarray(self.levels) / spread)))

    def draw(self, repetitions: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """D[r, s, i], and the truth on the questions drawn, over seeds alone [r]."""
        items = self.size
        normal = lambda *shape: generator.standard_normal(shape, dtype=np.float32)  # noqa: E731
        groups = len(self.levels)
        fixed = np.asarray(self.levels, dtype=np.float32)[:, None] + self.question * normal(repetitions, 1, items)
        fixed = fixed + self.own * normal(repetitions, groups, items)
        if self.sizes:
            fixed = fixed + self.subject * normal(repetitions, groups, len(self.sizes))[..., self.clusters]
        moving = self.seed * normal(repetitions, groups, self.seeds, 1)
        moving = moving + normal(repetitions, groups, self.seeds, items)
        weights = np.asarray(self.weights)
        table = np.einsum("g,rgsi->rsi", weights, (fixed[:, :, None] + moving > 0).astype(np.float64))
        here = norm.cdf(fixed / math.sqrt(1 + self.seed**2)).mean(axis=-1) @ weights
        return table, here


SUBJECTS = tuple(int(size) for size in np.round(np.geomspace(3, 24, 30)))
SKEWED = (4,) * 10 + (12,) * 5 + (25,) * 4 + (100,)
UNEVEN = (200, 40, 30, 20, 10)
EMBEDDED = (103, 100, 96, 70, 69, 31, 31)  # the clusters of the embedded mmlu, on which students score some 57 %
WITH_SUBJECTS = Population("30 subjects of 3 to 24 questions", (0.5, 0.3), (1.0, -1.0), 0.10, 1.0, 0.5, 0.3, SUBJECTS)
POPULATIONS = (
    Population("one group, 0.60", (0.5,), (1.0,), 0.05, 2.0, 0.0),
    Population("one group, 0.98", (3.0,), (1.0,), 0.10, 1.0, 0.0),
    Population("one group, 0.998", (6.5,), (1.0,), 0.10, 2.0, 0.0, bar=NO_BAR),
    Population("difference, questions matter little", (0.5, 0.3), (1.0, -1.0), 0.10, 2.0, 0.0),
    Population("difference, questions matter", (0.5, 0.3), (1.0, -1.0), 0.10, 2.0, 0.5),
    Population("difference, questions matter most", (0.5, 0.3), (1.0, -1.0), 0.02, 2.0, 1.5),
    Population("difference near the ceiling", (3.5, 3.0), (1.0, -1.0), 0.10, 1.0, 0.5),
    Population("Q1 of three groups", (0.5, 0.4, 0.3), (0.5, 0.5, -1.0), 0.10, 2.0, 0.5),
    WITH_SUBJECTS,
    Population("30 subjects that do not matter", (0.5, 0.3), (1.0, -1.0), 0.10, 1.0, 0.5, 0.0, SUBJECTS),
    Population("20 subjects, one of a third", (0.5, 0.3), (1.0, -1.0), 0.10, 1.0, 0.5, 0.3, SKEWED),
    Population("7 subjects, as the embedded mmlu", (0.25, 0.25), (1.0, -1.0), 0.05, 1.0, 0.0, 0.2, EMBEDDED),
    Population("7 subjects that do not matter", (0.25, 0.25), (1.0, -1.0), 0.05, 1.0, 0.0, 0.0, EMBEDDED),
    Population("7 subjects, one group", (0.25,), (1.0,), 0.05, 1.0, 0.0, 0.5, EMBEDDED),
    Population("three seeds, questions matter little", (0.5, 0.3), (1.0, -1.0), 0.10, 2.0, 0.0, seeds=3),
    Population("three seeds, questions matter", (0.5, 0.3), (1.0, -1.0), 0.10, 2.0, 0.5, seeds=3),
    Population("three clusters of 100", (0.5, 0.3), (1.0, -1.0), 0.10, 1.0, 0.5, 0.05, (100,) * 3),
    Population("three clusters of 100, they matter", (0.5, 0.3), (1.0, -1.0), 0.10, 1.0, 0.5, 0.3, (100,) * 3),
    Population("three clusters, three seeds", (0.5, 0.3), (1.0, -1.0), 0.10, 1.0, 0.5, 0.05, (100,) * 3, seeds=3),
    Population("5 clusters, one of 200, three seeds", (0.5, 0.3), (1.0, -1.0), 0.1, 1.0, 0.5, 0.1, UNEVEN, seeds=3),
    Population("equal groups at 99.9 %", (4.5, 4.5), (1.0, -1.0), 0.10, 1.0, 0.0, bar=NO_BAR),
    Population("equal groups at 99.98 %", (5.0, 5.0), (1.0, -1.0), 0.05, 1.0, 0.0, bar=NO_BAR),
)


def scopes(repetitions: int, generator: np.random.Generator) -> Iterator[Figure]:
    for population in POPULATIONS:
        wide, narrow, widths, own, directed = [], [], [], [], []
        resolution = sum(weight**2 for weight in population.weights) / (12 * population.size**2)
        for _ in range(0, repetitions, CHUNK):
            table, here = population.draw(CHUNK, generator)
            seeds = mean_estimate(table.mean(axis=-1), resolution)
            both = two_scopes(seeds, [item_variance([table], population.clusters)])
            limits, inner = scope_interval(seeds, both), t_interval(seeds)
            wide.append(_within(limits, population.truth))
            narrow.append(covered(seeds, here))
            widths.append(limits[1] - limits[0])
            own.append(inner[1] - inner[0])
            directed.append(t_test(seeds)[1] <= 0.05)
        case, spread = population.case, (np.concatenate(widths), np.concatenate(own))
        yield figure("on questions like these, 0/1 answers", case, np.concatenate(wide), population.bar, *spread)
        yield figure("on this benchmark, 0/1 answers", case, np.concatenate(narrow), NO_BAR, spread[1])
        if case.startswith("equal groups"):
            yield figure("false direction at a ceiling, one test", case, np.concatenate(directed), FAMILY)
    yield across_tasks(repetitions, generator)


def across_tasks(repetitions: int, generator: np.random.Generator) -> Figure:
    """Q4: the same gain on two tasks subtracted, one with subjects."""
    first, second = WITH_SUBJECTS, Population("", (1.5, 1.4), (-1.0, 1.0), 0.10, 1.0, 0.4)
    hits = []
    for _ in range(0, repetitions, CHUNK):
        tables = [population.draw(CHUNK, generator)[0] for population in (first, second)]
        seeds = mean_estimate(np.sum([table.mean(axis=-1) for table in tables], axis=0))
        parts = [item_variance([tables[0]], first.clusters), item_variance([tables[1]])]
        hits.append(_within(scope_interval(seeds, two_scopes(seeds, parts)), first.truth + second.truth))
    return figure(
        "on questions like these, 0/1 answers", "difference across two tasks (Q4)", np.concatenate(hits), SCOPE
    )


# --- the table ------------------------------------------------------------------------------------------------


def text_table(figures: list[Figure]) -> str:
    rows = [("what", "case", "repetitions", "measured", "+-", "bar", "", "width 50/95/99 %", "over seeds alone")]
    for each in figures:
        bar = "" if each.bar is None else f"{100 * each.bar[0]:g} to {100 * each.bar[1]:.3g}"
        state = "" if each.bar is None else "holds" if each.passed else "MISSED"
        rows.append(
            (
                each.section,
                each.case,
                f"{each.repetitions:,}",
                f"{100 * each.share:.2f} %",
                f"{100 * each.error:.2f}",
                bar,
                state,
                "/".join(f"{width:.1f}" for width in each.widths),
                "/".join(f"{width:.1f}" for width in each.own),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20_000, help=f"a multiple of {CHUNK}")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"), help="where the figures go")
    arguments = parser.parse_args()
    if arguments.repetitions < CHUNK or arguments.repetitions % CHUNK:
        parser.error(f"--repetitions must be a multiple of {CHUNK}, not {arguments.repetitions}")
    plan = read_plan(REPOSITORY / "conf", "paper")
    started = time.perf_counter()
    parts: list[Callable[[np.random.Generator], Iterator[Figure]]] = [
        lambda generator: intervals(CHEAP * arguments.repetitions, generator),
        lambda generator: families(plan, arguments.repetitions, generator),
        lambda generator: equivalences(plan, CHEAP * arguments.repetitions, generator),
        lambda generator: hypotheses(plan, arguments.repetitions, generator),
        lambda generator: scopes(arguments.repetitions, generator),
    ]
    streams = np.random.SeedSequence(20260).spawn(len(parts))
    figures = [
        each for part, stream in zip(parts, streams, strict=True) for each in part(np.random.default_rng(stream))
    ]
    print(text_table(figures))
    print(f"\n{time.perf_counter() - started:.0f} s")
    content = {"figures": [asdict(each) for each in figures]}
    arguments.json.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0 if all(each.passed for each in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
