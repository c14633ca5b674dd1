"""The wider scope, "on questions like these": seeds and questions both vary. From per-item results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from glassbox.comparison.statistics.estimates import DEGENERATE_DEVIATION, Array, Estimate, t_interval

Table = Float[np.ndarray, "... seeds items"]


@dataclass(frozen=True, eq=False)
class ItemVariance:
    """What one task's questions add: V_I and V_E of the contrast's mean, each with its degrees of freedom."""

    items: Array
    items_df: float
    residual: Array
    residual_df: float


def item_variance(tables: Sequence[Table], clusters: Int[np.ndarray, " items"] | None = None) -> ItemVariance:
    """V_I and V_E of one task from D[s, i], the contrast of the item scores.

    tables: one table where seeds are paired. Where they are not, one per group, its weight multiplied in, so that each
    may have seeds of its own; the items are shared. With I items, S seeds, d_i the sum over tables of the mean over
    seeds, and r_si = D_si - D_s. - D_.i + D_.. :

        V_I = sum_i (d_i - d)^2 / (I (I - 1)),                                         df I - 1
        V_E = MS_E / (S I) = sum r_si^2 / ((S - 1)(I - 1) S I), summed over tables,    df (S - 1)(I - 1)

    E V_I = (item variance)/I + (residual variance)/(S I), so V_I - V_E is the questions' own share (the two-way random
    model: Cornfield and Tukey 1956; Searle, Casella and McCulloch, Variance Components, ch. 4).

    clusters numbers related questions from 0, two clusters at least. Then the square of each cluster's sum, over
    1 - n_g / I, takes the place of its items' squares in both, and df that of Bell and McCaffrey (2002), which the
    size of the clusters decides: CR2 for a mean. It is the formula above where every cluster has one question. The
    plainer factor G / (G - 1) with df G - 1 covered 88 to 94 % where clusters differ in size as subjects of MMLU do
    or more, this one 94 to 97 %.
    """
    if clusters is not None and not (np.isfinite(clusters).all() and (clusters >= 0).all()):
        raise ValueError("clusters are numbered from 0: NaN or a negative number stands for no cluster of its own")
    item_means = np.sum([table.mean(axis=-2) for table in tables], axis=0)
    size = item_means.shape[-1]
    members = np.ones(size) if clusters is None else np.bincount(clusters).astype(np.float64)
    if members.size < 2:
        raise ValueError("the variance over questions needs two questions, or two clusters of them")
    kept = (1 - members / size) * size**2
    centred = item_means - item_means.mean(axis=-1, keepdims=True)
    items = (np.square(_sums(centred, clusters)) / kept).sum(axis=-1)
    df, residual, residual_df = _cluster_df(members), np.zeros_like(items), 0.0
    for table in tables:
        seeds = table.shape[-2]
        rows = table - table.mean(axis=-1, keepdims=True)
        leftover = _sums(rows - rows.mean(axis=-2, keepdims=True), clusters)
        residual = residual + (np.square(leftover) / kept).sum(axis=(-2, -1)) / ((seeds - 1) * seeds)
        residual_df += (seeds - 1) * df
    return ItemVariance(items, df, residual, residual_df)


def two_scopes(seeds: Estimate, tasks: Sequence[ItemVariance]) -> Estimate:
    """The estimate on questions like these: the same value, with the variance that the questions add.

    seeds: the estimate over seeds alone, whose squared standard error is V_S. Over tasks V_I and V_E add up (tables
    hold the weights, so these come in squared). SE^2 = V_S + max(V_I - V_E, 0); V_S already holds the residual once.
    df by Satterthwaite (1946): SE^4 / sum (V_k^2 / df_k) over the parts used, subtracted ones included; where the
    questions add nothing, that is the seeds' own. It is never taken as less than the least df of any part, which bounds
    Satterthwaite's where nothing is subtracted: with few clusters and seeds it fell under 1, and t quantiles to
    limits that no score can reach. Its interval is `scope_interval`'s.
    """
    own = np.square(seeds.standard_error)
    added = sum(part.items - part.residual for part in tasks)
    used = added > 0
    total = own + np.where(used, added, 0.0)
    spread = np.divide(np.square(own), seeds.df, out=np.zeros_like(total), where=own > 0)
    for part in tasks:
        spread = spread + np.where(used, np.square(part.items) / part.items_df, 0.0)
        spread = spread + np.where(used, np.square(part.residual) / part.residual_df, 0.0)
    df = np.divide(np.square(total), spread, out=np.full_like(total, np.nan), where=spread > 0)
    df = np.fmax(df, np.fmin(seeds.df, min((part.items_df for part in tasks), default=np.inf)))
    error = np.sqrt(total)
    return Estimate(seeds.value, np.where(error < DEGENERATE_DEVIATION, 0.0, error), df)


def scope_interval(seeds: Estimate, both: Estimate, confidence: float = 0.95) -> tuple[Array, Array]:
    """The t interval of two_scopes, and never a narrower one than the seeds' own, which lies about the same value.

    It answers: where would the mean lie over other seeds and other questions drawn like these? With few seeds the
    questions can add more to Satterthwaite's degrees of freedom than to the error, so that knowing less would seem
    to say more; the seeds' own limits then stand.
    """
    (low, high), (wide_low, wide_high) = t_interval(seeds, confidence), t_interval(both, confidence)
    return np.fmin(low, wide_low), np.fmax(high, wide_high)


def _cluster_df(members: Float[np.ndarray, " clusters"]) -> float:
    """(tr M)^2 / tr M^2 of the quadratic form that CR2 is, under independent items: I - 1 for clusters of one."""
    size = members.sum()
    shares = np.square(members) / (size - members)
    return float(size**2 / (np.square(members).sum() + shares.sum() ** 2 - np.square(shares).sum()))


def _sums(values: Float[np.ndarray, "... items"], clusters: Int[np.ndarray, " items"] | None) -> np.ndarray:
    """values where every item is a cluster of its own, otherwise their sums within clusters on the last axis."""
    if clusters is None:
        return values
    members = np.zeros((values.shape[-1], int(clusters.max()) + 1))
    members[np.arange(values.shape[-1]), clusters] = 1.0
    return values @ members
