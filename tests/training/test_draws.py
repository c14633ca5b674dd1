"""Which samples a seed trains on, and which of them have labels."""

from __future__ import annotations

import pytest

from glassbox.training.draws import draw

SIZES = {"sst2": 200, "mmlu": 100, "gsm8k": 40}
POOL = {f"{task}/train/{number:03d}": task for task, size in SIZES.items() for number in range(size)}
SHARES = (0.03, 0.1, 0.3, 1.0)


def by_task(sample_ids: frozenset[str] | list[str]) -> dict[str, int]:
    return {task: sum(POOL[each] == task for each in sample_ids) for task in SIZES}


@pytest.mark.parametrize("count", [None, 40])
def test_the_labels_of_a_small_share_are_among_those_of_a_larger_one(count: int | None) -> None:
    drawn = [draw(POOL, count, share, seed=4).labelled for share in SHARES]
    assert all(small < large for small, large in zip(drawn, drawn[1:], strict=False))
    assert draw(POOL, count, 1.0, seed=4).all_labelled


@pytest.mark.parametrize("share", SHARES)
def test_every_task_has_its_share_of_the_labels_and_at_least_one(share: float) -> None:
    expected = {task: max(1, round(share * size)) for task, size in SIZES.items()}
    assert by_task(draw(POOL, None, share, seed=0).labelled) == expected


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_pool() -> None:
    backwards = dict(reversed(POOL.items()))
    for count in (None, 20):
        draws = [draw(POOL, count, 0.1, seed) for seed in range(4)]
        assert len({each.labelled for each in draws}) == len({each.digest() for each in draws}) == 4
        again = draw(backwards, count, 0.1, 0)
        assert (again.labelled, again.digest()) == (draws[0].labelled, draws[0].digest())
        assert set(again.samples) == set(draws[0].samples)


def test_the_digest_is_that_of_the_rank_whatever_share_of_it_has_labels() -> None:
    assert len({draw(POOL, 20, share, seed=1).digest() for share in SHARES}) == 1
    assert draw(POOL, 20, 0.1, seed=1).digest() != draw(POOL, 21, 0.1, seed=1).digest()


def test_samples_are_drawn_from_the_pool_by_task_and_the_labels_among_them() -> None:
    chosen = draw(POOL, 40, 0.1, seed=2)
    assert by_task(chosen.samples) == dict.fromkeys(SIZES, 40) and len(set(chosen.samples)) == 120
    assert by_task(chosen.labelled) == dict.fromkeys(SIZES, 4) and chosen.labelled <= set(chosen.samples)
    overlap = set(chosen.samples) & set(draw(POOL, 40, 0.1, seed=3).samples)
    assert 40 < len(overlap) < 90, "all of gsm8k, and of the others what chance gives"
    assert set(draw(POOL, None, 0.1, seed=2).samples) == POOL.keys()
