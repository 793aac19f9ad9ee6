"""Acting as lists of operations: the same actions, values and log-probabilities, and the same random numbers after it."""

import copy

import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes.algorithms import script, scripted_acting
from tests import environments
from tests.algorithms.test_compile import CASES, difference, learn
from tests.algorithms.test_scripted_steps import LISTED, RECURRENT, eager

pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")


def both(monkeypatch, make, total_timesteps=128):
    """Trained by asking the policy, and with lists from the first step on; and the generators' states then."""
    trained, states = [], []
    for wait in (10**9, 0):
        monkeypatch.setattr(scripted_acting, "WAIT", wait)
        trained.append(learn(make(), total_timesteps))
        states.append(th.get_rng_state())
    assert th.equal(*states)
    return trained


@pytest.mark.parametrize("name", [*LISTED, "normalized_by_rollout"])
def test_a_listed_run_is_the_run(name, monkeypatch):
    env_name, changes = CASES[name]
    plain, listed = both(monkeypatch, lambda: eager(env_name, **changes))
    assert plain.acting._scripts is None
    assert listed.acting._scripts is not None
    assert difference(plain, listed) == 0.0
    assert (plain.rollout_buffer.log_probs == listed.rollout_buffer.log_probs).all()
    assert (plain.rollout_buffer.values == listed.rollout_buffer.values).all()


@pytest.mark.parametrize("name", list(RECURRENT))
def test_recurrent_policies_too(name, monkeypatch):
    env_name, policy, policy_kwargs = RECURRENT[name]
    kwargs = dict(lstm_hidden_size=64) | policy_kwargs
    changes = dict(policy=policy, masked=name == "masked", policy_kwargs=kwargs)
    plain, listed = both(monkeypatch, lambda: eager(env_name, **changes))
    assert listed.acting._scripts is not None
    assert difference(plain, listed) == 0.0


@pytest.mark.parametrize("name", ["gsde", "dict", "image", "shared_trunk"])
def test_others_are_asked(name, monkeypatch):
    env_name, changes = CASES[name]
    monkeypatch.setattr(scripted_acting, "WAIT", 0)
    model = learn(eager(env_name, **changes), 64)
    assert model.acting._scripts is None


def test_few_steps_are_not_worth_a_list():
    model = learn(eager("box"), 64 * 4)
    assert model.acting._scripts is None
    assert learn(eager("box"), 64 * 5).acting._scripts is not None


def test_a_list_that_gives_other_numbers_is_not_believed(monkeypatch):
    original = script.Script.__call__

    def wrong(self, *arguments):
        first, *rest = original(self, *arguments)
        return (first + 1e-6, *rest)

    monkeypatch.setattr(script.Script, "__call__", wrong)
    plain, listed = both(monkeypatch, lambda: eager("box"))
    assert listed.acting._is_refused
    assert difference(plain, listed) == 0.0


def test_a_list_that_draws_more_is_not_believed(monkeypatch):
    """Everything else would be as it was, but not the next step."""
    original = script.Script.__call__

    def greedy(self, *arguments):
        found = original(self, *arguments)
        th.rand(1)
        return found

    monkeypatch.setattr(script.Script, "__call__", greedy)
    plain, listed = both(monkeypatch, lambda: eager("box"))
    assert listed.acting._is_refused
    assert difference(plain, listed) == 0.0


def test_weights_that_lie_elsewhere_are_found(monkeypatch):
    def run():
        model = learn(eager("box"), 64)
        with th.no_grad():
            weight = model.policy.action_net.weight
            weight.data = weight.data * 3
        return model

    monkeypatch.setattr(scripted_acting, "WAIT", 0)
    plain, listed = run(), run()
    monkeypatch.setattr(scripted_acting, "WAIT", 10**9)
    plain.acting = None
    learn(plain, 64)
    monkeypatch.setattr(scripted_acting, "WAIT", 0)
    learn(listed, 64)
    assert difference(plain, listed) == 0.0


def test_another_number_of_environments_is_another_list(monkeypatch):
    monkeypatch.setattr(scripted_acting, "WAIT", 0)
    acting = learn(eager("multi_discrete"), 64).acting
    others = th.zeros(7, 3)
    first = acting.choose(others, None, None)
    assert len(first.actions) == 7
    assert acting._scripts is None
    again = acting.choose(others, None, None)
    assert acting._scripts is not None
    assert len(acting.assess(again).log_probs) == 7


def test_autocast_is_asked(monkeypatch):
    monkeypatch.setattr(scripted_acting, "WAIT", 0)
    acting = learn(eager("box"), 64).acting
    with th.autocast("cpu"):
        acting.begin()
        acting.choose(th.zeros(4, 3), None, None)
        assert acting._scripts is None


def test_models_with_lists_can_be_copied(monkeypatch, tmp_path):
    monkeypatch.setattr(scripted_acting, "WAIT", 0)
    model = learn(eager("box"), 64)
    assert copy.deepcopy(model.acting)._scripts is None
    model.save(tmp_path / "model.zip")
    env = make_vec_env(lambda: environments.make("box"), 4, seed=0)
    assert type(model).load(tmp_path / "model.zip", env=env).acting is None
