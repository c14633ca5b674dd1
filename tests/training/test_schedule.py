"""The order of the samples and the learning rate."""

from dataclasses import replace

import pytest
import sections

from glassbox.config.settings import TrainSettings
from glassbox.randomness import data_order, derived_seed
from glassbox.training.schedule import learning_rate, make_schedule

IDS = [f"sst2/train/{number:03d}" for number in range(21)]
LENGTHS = {sample_id: 10 + 7 * number % 11 for number, sample_id in enumerate(IDS)}


def settings(**changes: object) -> TrainSettings:
    values = {"epochs": 3, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 1.0, "threads": 1} | changes
    return TrainSettings.model_validate(sections.COMMITTED.train.model_dump() | values)


def test_every_epoch_holds_every_sample_once_in_another_order() -> None:
    plan = make_schedule(LENGTHS, settings(), seed=0)
    epochs = [plan.steps[at : at + plan.steps_per_epoch] for at in range(0, len(plan.steps), plan.steps_per_epoch)]
    orders = [[i for step in epoch for batch in step for i in batch] for epoch in epochs]
    assert all(sorted(order) == IDS for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_micro_batches_change_neither_the_order_nor_its_digest() -> None:
    whole, split = (make_schedule(LENGTHS, settings(micro_batch_size=size), seed=4) for size in (8, 2))
    assert whole.digest() == split.digest()
    assert [len(step) for step in split.steps[:3]] == [4, 4, 3]


def test_lengths_change_the_micro_batches_but_not_the_order_that_groups_share() -> None:
    others = {sample_id: -length for sample_id, length in LENGTHS.items()}
    first, second = (make_schedule(lengths, settings(micro_batch_size=2), seed=4) for lengths in (LENGTHS, others))
    assert first.steps != second.steps
    assert first.digest() == second.digest()


def test_the_digest_tells_which_samples_share_a_step() -> None:
    plan = make_schedule(LENGTHS, settings(), seed=4)
    swapped = replace(plan, order=(plan.order[1], plan.order[0], *plan.order[2:]))
    assert swapped.digest() != plan.digest()


def test_seeds_give_different_orders_and_the_order_of_the_ids_does_not_matter() -> None:
    assert make_schedule(LENGTHS, settings(), 0).digest() != make_schedule(LENGTHS, settings(), 1).digest()
    assert data_order(IDS, 0, "0") == data_order(IDS[::-1], 0, "0")


def test_every_purpose_has_a_seed_of_its_own() -> None:
    purposes = ("student", "projector", "dropout", "data_order/0", "data_order/1")
    assert len({derived_seed(seed, purpose) for seed in range(7) for purpose in purposes}) == 35


def test_epochs_end_where_their_last_batch_does_also_when_steps_are_limited() -> None:
    assert make_schedule(LENGTHS, settings(), 0).epoch_ends == {3, 6, 9}
    assert make_schedule(LENGTHS, settings(max_steps=5), 0).epoch_ends == {3, 5}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_warms_up_and_comes_down(schedule: str) -> None:
    rates = [learning_rate(update, 100, settings(schedule=schedule, warmup=0.1)) for update in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_a_constant_learning_rate_stays() -> None:
    assert learning_rate(99, 100, settings(schedule="constant", warmup=0.0)) == 1.0


def test_a_step_is_cut_into_micro_batches_of_like_length() -> None:
    for step in make_schedule(LENGTHS, settings(micro_batch_size=4), seed=2).steps:
        lengths = [LENGTHS[sample_id] for batch in step for sample_id in batch]
        assert lengths == sorted(lengths)
