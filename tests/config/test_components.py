"""The table of components: every part of the house that lists components has an entry for each of them."""

from __future__ import annotations

import pytest
from sections import PARAMS

from glassbox.config.components import COMPONENTS, SIGNALS, TUNED
from glassbox.config.settings import Group, Positions, TuningSettings, Weights, load_settings
from glassbox.objective.definitions import DEFINITIONS


def test_every_component_is_defined_weighed_and_placed() -> None:
    assert list(COMPONENTS) == list(DEFINITIONS) == list(Weights.model_fields) == list(Positions.model_fields)
    committed = load_settings(PARAMS).model_dump()
    assert set(TUNED) <= set(SIGNALS) and set(TUNED) <= set(TuningSettings.model_fields)
    assert set(committed["weights"]) == set(committed["objective"]["positions"]) == set(COMPONENTS)


def test_a_component_is_computed_in_one_way_and_letters_differ() -> None:
    letters = [component.letter for component in COMPONENTS.values()]
    assert len(set(letters)) == len(letters)
    for name, component in COMPONENTS.items():
        definition = DEFINITIONS[name]
        assert component.of_logits == (definition.values is None), name
        assert component.projects == (definition.project is not None), name
        assert (name in SIGNALS) == (definition.values is not None or definition.target is not None), name


def test_a_weight_that_is_not_named_is_zero_and_a_task_loss_cannot_be_shuffled() -> None:
    group = Group.model_validate({"task": 1.0, "hidden": 0.5, "shuffled": ["hidden"]})
    assert group.active == {"task": 1.0, "hidden": 0.5}
    assert group.needs("reads") == {"hidden"} and group.needs("files") == {"channels"} and not group.needs("asks")
    for refused in ({"shuffled": ["task"]}, {"positions": {"nothing": "all"}}, {"nothing": 1.0}):
        with pytest.raises(ValueError, match=r"nothing|shuffled"):
            Group.model_validate(refused)
