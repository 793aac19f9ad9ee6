"""Rules in files: every recipe's and every choice's comes back equal, and nothing in a file is looked up at will."""

import json

import pytest
from stable_baselines3.common.utils import LinearSchedule

from sb3_ppo_notes.configs.rules import rule_as_data, rule_from_data
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules import ClippedSurrogate, EarlyStop, KLPenalty, UpdateRule


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_equal_by_way_of_json(name):
    words = json.loads(json.dumps(rule_as_data(RECIPES[name].rule)))
    assert rule_from_data(words) == RECIPES[name].rule


def test_stock_is_nothing_and_a_line_is_a_word():
    assert rule_as_data(UpdateRule()) == {}
    rule = UpdateRule(policy_objective=ClippedSurrogate(LinearSchedule(0.2, 0.0, 1.0)), kl_controls=(EarlyStop(0.01),))
    words = rule_as_data(rule)
    assert words["policy_objective"] == {"ClippedSurrogate": {"clip_range": "lin_0.2"}}
    assert words["kl_controls"][0]["EarlyStop"]["target"] == 0.01
    assert rule_from_data(words).at(0.25).policy_objective.clip_range == pytest.approx(0.05)
    assert rule_from_data({"policy_objective": {"KLPenalty": {"coefficient": 2.0}}}).policy_objective == KLPenalty(2.0)


def test_other_schedules_are_refused():
    for schedule in (lambda progress: 0.1, LinearSchedule(0.2, 0.1, 1.0), LinearSchedule(0.2, 0.0, 0.5)):
        with pytest.raises(ValueError, match="schedules of a rule must be numbers or lines to 0"):
            rule_as_data(UpdateRule(policy_objective=ClippedSurrogate(schedule)))


@pytest.mark.parametrize(
    "words",
    [
        {"objective": {"ClippedSurrogate": {}}},
        {"policy_objective": {"os.system": {}}},
        {"policy_objective": {"UpdateRule": {}}},
        {"policy_objective": {"ClippedSurrogate": {"epsilon": 1}}},
        {"policy_objective": {"ClippedSurrogate": {"clip_range": -1}}},
        {"policy_objective": {"ClippedSurrogate": {}, "KLPenalty": {}}},
        ["policy_objective"],
        "stock",
    ],
)
def test_what_is_no_rule_is_refused(words):
    with pytest.raises(ValueError, match="rule must map slots to choices of sb3_ppo_notes.rules, got"):
        rule_from_data(words)
