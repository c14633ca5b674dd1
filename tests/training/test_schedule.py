"""The order of the samples and the learning rate."""

from dataclasses import replace

import pytest
import sections

from glassbox.config.settings import TrainSettings
from glassbox.randomness import data_order, derived_seed
from glassbox.training.schedule import learning_rate_factor, make_schedule

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
    rates = [learning_rate_factor(update, 100, settings(schedule=schedule, warmup=0.1)) for update in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_a_constant_learning_rate_stays() -> None:
    assert learning_rate_factor(99, 100, settings(schedule="constant", warmup=0.0)) == 1.0


def test_a_step_is_cut_into_micro_batches_of_like_length() -> None:
    for step in make_schedule(LENGTHS, settings(micro_batch_size=4), seed=2).steps:
        lengths = [LENGTHS[sample_id] for batch in step for sample_id in batch]
        assert lengths == sorted(lengths)


LABELLED = frozenset(IDS[::4])
FEW = {"labelled": 0.3, "labelled_per_step": 3, "epochs": 7}


def test_every_step_holds_as_many_labelled_samples_as_the_settings_say_and_none_twice() -> None:
    plan = make_schedule(LENGTHS, settings(**FEW), 0, LABELLED)
    assert len(plan.order) == len(plan.steps) == 7 * 3
    for order, step in zip(plan.order, plan.steps, strict=True):
        assert sum(sample_id in LABELLED for sample_id in order) == 3
        assert len(order) == 8
        assert sorted(i for batch in step for i in batch) == sorted(order)


@pytest.mark.parametrize("chosen", [LABELLED, frozenset(IDS) - LABELLED], ids=["labelled", "unlabelled"])
def test_either_kind_comes_round_evenly_each_time_in_another_order(chosen: frozenset[str]) -> None:
    order = make_schedule(LENGTHS, settings(**FEW), 0, LABELLED).order
    seen = [sample_id for step in order for sample_id in step if sample_id in chosen]
    rounds = [tuple(seen[at : at + len(chosen)]) for at in range(0, len(seen) - len(chosen) + 1, len(chosen))]
    assert len(rounds) > 3 and len(set(rounds)) == len(rounds)
    assert all(set(each) == chosen for each in rounds)


def test_the_control_sees_the_same_labelled_samples_in_the_same_steps_and_nothing_else() -> None:
    whole, control = (
        make_schedule(LENGTHS, settings(**FEW, micro_batch_size=2), 5, LABELLED, labels_alone=alone)
        for alone in (False, True)
    )
    assert control.digest() == whole.digest()
    assert (control.order, control.steps_per_epoch, control.epoch_ends) == (
        whole.order,
        whole.steps_per_epoch,
        whole.epoch_ends,
    )
    for step, own in zip(whole.steps, control.steps, strict=True):
        assert {i for batch in own for i in batch} == {i for batch in step for i in batch} & LABELLED
        assert [len(batch) for batch in own] == [2, 1]


def test_an_epoch_is_as_many_steps_as_hold_every_sample_once_and_steps_can_be_limited() -> None:
    plan = make_schedule(LENGTHS, settings(**FEW), 0, LABELLED)
    assert plan.steps_per_epoch == make_schedule(LENGTHS, settings(**FEW), 0).steps_per_epoch == 3
    few = make_schedule(LENGTHS, settings(**FEW, max_steps=4), 0, LABELLED)
    assert few.order == plan.order[:4] and few.epoch_ends == {3, 4}


def test_where_all_samples_are_labelled_nothing_changes() -> None:
    plain = make_schedule(LENGTHS, settings(), 0)
    assert make_schedule(LENGTHS, settings(), 0, frozenset(IDS)) == plain
    assert make_schedule(LENGTHS, settings(), 0, frozenset(IDS), labels_alone=True) == plain
    assert make_schedule(LENGTHS, settings(**FEW), 0, LABELLED).digest() != plain.digest()
