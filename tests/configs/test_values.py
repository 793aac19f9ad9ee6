"""Names in files: what they stand for, and that no other name is looked up."""

import pytest
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from sb3_ppo_notes.configs.values import constructor_arguments, linear_start, wrap_function
from sb3_ppo_notes.rules import HuberValueError, UpdateRule


def test_plain_data_becomes_arguments_and_arguments_stay_as_they_are():
    data = {
        "gamma": 0.9,
        "learning_rate": "lin_1e-3",
        "policy_kwargs": {"activation_fn": "ReLU", "net_arch": [8]},
        "rule": {"value_objective": {"HuberValueError": {"beta": 2.0}}},
    }
    arguments = constructor_arguments(data)
    assert repr(arguments["learning_rate"]) == repr(LinearSchedule(1e-3, 0.0, 1.0))
    assert arguments["policy_kwargs"] == {"activation_fn": nn.ReLU, "net_arch": [8]}
    assert arguments["rule"] == UpdateRule(value_objective=HuberValueError(2.0))
    assert constructor_arguments(arguments) == arguments
    assert data["learning_rate"] == "lin_1e-3"


@pytest.mark.parametrize("word", ["lin_", "lin_x", "lin_-0.1", "lin_1e-3x", "line_0.1", "0.1", ""])
def test_only_a_number_makes_a_line(word):
    assert linear_start(word) is None
    assert constructor_arguments({"learning_rate": word}) == {"learning_rate": word}


@pytest.mark.parametrize("paths", [["math.sqrt"], ["os.system"], [{"gymnasium.wrappers.TimeLimit": 3}], [3], [{}]])
def test_only_wrappers_are_imported_as_wrappers(paths):
    with pytest.raises(ValueError, match="env_wrapper must be "):
        wrap_function(paths)
