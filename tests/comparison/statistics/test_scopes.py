"""Two scopes: what questions add to the variance, against sums written out and a table of variance by statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formulas
from statsmodels.stats.anova import anova_lm

from glassbox.comparison.statistics.estimates import Estimate, mean_estimate, t_interval
from glassbox.comparison.statistics.scopes import ItemVariance, item_variance, scope_interval, two_scopes

SEEDS, ITEMS = 5, 12


def table(number: int = 1, items: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(number)
    noise = generator.normal(0, 1, (SEEDS, ITEMS))
    return 0.3 + generator.normal(0, 0.5, (SEEDS, 1)) + generator.normal(0, items, ITEMS) + noise


def test_variances_and_degrees_of_freedom_are_those_of_the_analysis_of_variance() -> None:
    values = table()
    rows = [(s, i, values[s, i]) for s in range(SEEDS) for i in range(ITEMS)]
    frame = pd.DataFrame(rows, columns=["seed", "item", "score"])
    anova = anova_lm(formulas.ols("score ~ C(seed) + C(item)", frame).fit())
    squares = anova["sum_sq"] / anova["df"]
    found = item_variance([values])
    assert float(found.items) == pytest.approx(squares["C(item)"] / (SEEDS * ITEMS))
    assert float(found.residual) == pytest.approx(squares["Residual"] / (SEEDS * ITEMS))
    assert (found.items_df, found.residual_df) == pytest.approx((ITEMS - 1, (SEEDS - 1) * (ITEMS - 1)))


def test_the_wider_error_and_its_df_follow_satterthwaite() -> None:
    values = table()
    part, seeds = item_variance([values]), mean_estimate(values.mean(axis=1))
    own, items, residual = float(seeds.standard_error) ** 2, float(part.items), float(part.residual)
    assert items > residual
    found = two_scopes(seeds, [part])
    total = own + items - residual
    df = total**2 / (own**2 / 4 + items**2 / 11 + residual**2 / 44)
    assert (float(found.standard_error), float(found.df)) == pytest.approx((total**0.5, df))


def test_questions_that_add_nothing_leave_the_seeds_own_interval() -> None:
    seeds = mean_estimate(np.asarray([0.1, 0.3, 0.2, 0.4]))
    nothing = ItemVariance(np.asarray(0.001), 11, np.asarray(0.002), 44)
    found = two_scopes(seeds, [nothing])
    assert [float(x) for x in t_interval(found)] == pytest.approx([float(x) for x in t_interval(seeds)])


def test_the_interval_on_other_questions_is_never_the_narrower_one_in_its_error() -> None:
    for number in range(30):
        values = table(number, items=0.2)
        seeds = mean_estimate(values.mean(axis=1))
        assert float(two_scopes(seeds, [item_variance([values])]).standard_error) >= float(seeds.standard_error)


@pytest.mark.parametrize("seeds", [2, 3, 5, 7])
def test_the_wider_scope_is_never_narrower_than_the_seeds_own_and_is_satterthwaites_where_that_is_wider(
    seeds: int,
) -> None:
    narrower = 0
    for number in range(40):
        values = table(number, items=0.6)
        values = np.vstack([values, values[:2] + 0.01])[:seeds]
        own = mean_estimate(values.mean(axis=1))
        both = two_scopes(own, [item_variance([values])])
        lower, upper = (float(limit) for limit in scope_interval(own, both))
        own_limits, both_limits = ([float(limit) for limit in t_interval(each)] for each in (own, both))
        narrower += both_limits[1] < own_limits[1] - 1e-12
        assert (lower, upper) == (min(own_limits[0], both_limits[0]), max(own_limits[1], both_limits[1]))
    assert narrower > 0 or seeds > 3


def test_without_spread_over_seeds_the_interval_is_that_of_the_questions() -> None:
    values = np.tile(np.random.default_rng(1).normal(0, 1, ITEMS), (SEEDS, 1))
    own = mean_estimate(values.mean(axis=1))
    both = two_scopes(own, [item_variance([values])])
    assert scope_interval(own, both) == t_interval(both)


def test_clusters_of_one_question_change_nothing() -> None:
    plain, clustered = item_variance([table()]), item_variance([table()], np.arange(ITEMS))
    assert [clustered.items, clustered.residual] == pytest.approx([plain.items, plain.residual])
    assert [clustered.items_df, clustered.residual_df] == pytest.approx([plain.items_df, plain.residual_df])


def test_clusters_are_bell_and_mccaffreys_cr2_by_matrices() -> None:
    """Bell and McCaffrey 2002; Pustejovsky and Tipton 2018: (I - H_gg)^(-1/2), and df by traces."""
    clusters = np.repeat([0, 1, 2, 3], [1, 2, 3, 6])
    values = table()
    means = values.mean(axis=0)
    annihilator = np.eye(ITEMS) - np.full((ITEMS, ITEMS), 1 / ITEMS)
    residuals, variance, columns = annihilator @ means, 0.0, []
    for cluster in range(4):
        members = clusters == cluster
        own = annihilator[np.ix_(members, members)]
        eigenvalues, vectors = np.linalg.eigh(own)
        root = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
        variance += (np.ones(members.sum()) @ root @ residuals[members] / ITEMS) ** 2
        columns.append(annihilator[:, members] @ root @ np.ones(members.sum()) / ITEMS)
    products = np.asarray(columns) @ np.asarray(columns).T
    found = item_variance([values], clusters)
    assert float(found.items) == pytest.approx(variance)
    assert found.items_df == pytest.approx(np.trace(products) ** 2 / (products**2).sum())


def test_unpaired_groups_keep_seeds_of_their_own() -> None:
    first, second = table(1), -table(2)[:3]
    found = item_variance([first, second])
    means = first.mean(axis=0) + second.mean(axis=0)
    assert float(found.items) == pytest.approx(means.var(ddof=1) / ITEMS)
    alone = [float(item_variance([each]).residual) for each in (first, second)]
    assert float(found.residual) == pytest.approx(sum(alone))
    assert found.residual_df == pytest.approx((4 + 2) * (ITEMS - 1))


def test_tasks_add_up() -> None:
    tables = [table(1), -table(2)]
    seeds = mean_estimate(np.sum([each.mean(axis=1) for each in tables], axis=0))
    parts = [item_variance([each]) for each in tables]
    total = float(seeds.standard_error) ** 2 + sum(float(part.items) - float(part.residual) for part in parts)
    assert float(two_scopes(seeds, parts).standard_error) == pytest.approx(total**0.5)


def test_seeds_that_never_differ_leave_the_questions_variance() -> None:
    item = np.random.default_rng(1).normal(0, 1, ITEMS)
    values = np.tile(item, (SEEDS, 1))
    seeds = mean_estimate(values.mean(axis=1))
    found = two_scopes(seeds, [item_variance([values])])
    assert not seeds.testable and found.testable
    assert (float(found.standard_error), float(found.df)) == pytest.approx((item.std(ddof=1) / ITEMS**0.5, ITEMS - 1))


def test_many_tables_at_once_give_what_each_gives_alone() -> None:
    tables = np.stack([table(number) for number in range(6)])
    together = two_scopes(mean_estimate(tables.mean(axis=-1)), [item_variance([tables])])
    for number, each in enumerate(tables):
        alone = two_scopes(mean_estimate(each.mean(axis=-1)), [item_variance([each])])
        assert together.standard_error[number] == pytest.approx(float(alone.standard_error))


def test_one_question_or_one_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="two clusters"):
        item_variance([table()], np.zeros(ITEMS, dtype=int))
    assert isinstance(two_scopes(mean_estimate(table().mean(axis=1)), []), Estimate)


@pytest.mark.parametrize(
    ("seeds", "sizes"), [(3, (4, 4, 4)), (3, (2, 4, 6)), (7, (10, 1, 1)), (2, (3, 9)), (7, (6, 6))]
)
def test_few_clusters_and_seeds_give_no_limits_that_scores_cannot_reach(seeds: int, sizes: tuple[int, ...]) -> None:
    """Satterthwaite's df alone falls under 1 here, and its quantiles to limits of thousands of points."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    for number in range(200):
        generator = np.random.default_rng([number, seeds])
        values = (generator.random((seeds, ITEMS)) < 0.6 + 0.1 * generator.normal(0, 1, ITEMS)).astype(float)
        own, part = mean_estimate(values.mean(axis=1)), item_variance([values], clusters)
        if own.testable:
            both = two_scopes(own, [part])
            assert float(both.df) >= min(seeds - 1, part.items_df) - 1e-9
