"""Every point of the space builds a model, and what is tuned is what is trained."""

import inspect

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.configs.rules import rule_as_data
from sb3_ppo_notes.rules import ClippedSurrogate, EarlyStop, HuberValueError, KLPenalty, UpdateRule
from tuning.space import Space
from tuning.space.defaults import CLASSES
from tuning.space.rules import rule_choices, rule_of
from tuning.space.setup import baseline_setup, constructor_arguments, make_setup
from tuning.worker.settings import rollout_of

ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1")


@pytest.mark.slow
@pytest.mark.parametrize("n_envs", [1, 3, 8])
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
@pytest.mark.parametrize("algo", ["notes_ppo", "notes_a2c"])
def test_every_sampled_point_constructs_a_model(algo, env_id, n_envs):
    space = Space.default(algo).vary([f"rule.{slot}" for slot in rule_choices(algo)])
    env, rng = make_vec_env(env_id, n_envs=n_envs), np.random.default_rng(n_envs)
    base = {"n_envs": n_envs, "policy_kwargs": {"ortho_init": False}}
    for _ in range(60):
        configuration = space.random(rng)
        arguments = constructor_arguments(configuration, n_envs, base, algo)
        model = CLASSES[algo](env=env, device="cpu", **arguments)
        if algo == "notes_ppo":
            assert (model.n_steps * n_envs) % model.batch_size == 0
            assert 2 <= model.batch_size <= 2 ** configuration["batch_size_pow"]
        assert model.gamma == pytest.approx(1 - configuration["one_minus_gamma"])


@pytest.mark.slow
@pytest.mark.parametrize("slot", list(rule_choices("notes_ppo")))
def test_every_choice_of_the_rule_trains(slot):
    space = Space.default("notes_ppo").vary([f"rule.{slot}"])
    base = space.random(np.random.default_rng(0)) | dict(n_steps_pow=6, batch_size_pow=5, n_epochs=4, net_arch="tiny")
    for name in rule_choices("notes_ppo")[slot]:
        arguments = constructor_arguments(base | {f"rule.{slot}": name}, 2)
        NotesPPO(env=make_vec_env("CartPole-v1", n_envs=2), device="cpu", **arguments).learn(256)


def point(algo="notes_ppo", **changes):
    return Space.default(algo).random(np.random.default_rng(0)) | changes


def test_flaw_5_the_batch_divides_the_rollout_whatever_the_number_of_environments():
    for n_envs in range(1, 14):
        for n_steps_pow in range(3, 9):
            for batch_size_pow in range(4, 12):
                arguments = constructor_arguments(point(n_steps_pow=n_steps_pow, batch_size_pow=batch_size_pow), n_envs)
                size = 2**n_steps_pow * n_envs
                assert size % arguments["batch_size"] == 0
                assert 2 <= arguments["batch_size"] <= min(size, 2**batch_size_pow)
    assert constructor_arguments(point(n_steps_pow=5, batch_size_pow=7), 6)["batch_size"] == 96
    assert constructor_arguments({"n_steps_pow": 0, "batch_size_pow": 2}, 7)["batch_size"] == 7


def test_flaw_3_the_normaliser_has_the_sampled_gamma():
    setup = make_setup("x", "notes_ppo", point(one_minus_gamma=0.05), {"n_envs": 2, "normalize": True, "gamma": 0.999})
    assert setup.normalize == {"gamma": 0.95}
    assert setup.arguments["gamma"] == 0.95
    setup = make_setup("x", "notes_ppo", point(one_minus_gamma=0.05), {"normalize": {"norm_obs": False, "gamma": 0.9}})
    assert setup.normalize == {"norm_obs": False, "gamma": 0.95}
    assert make_setup("x", "notes_ppo", point(), {"normalize": False}).normalize is None
    assert baseline_setup("x", "notes_ppo", {"normalize": True}).normalize == {"gamma": 0.99}


def test_flaw_4_policy_kwargs_are_merged():
    base = {"policy_kwargs": {"log_std_init": -2, "ortho_init": False, "activation_fn": "ReLU", "net_arch": [9]}}
    arguments = constructor_arguments(point(net_arch="small", activation_fn="tanh"), 8, base)
    assert arguments["policy_kwargs"] == {
        "log_std_init": -2,
        "ortho_init": False,
        "activation_fn": nn.Tanh,
        "net_arch": {"pi": [64, 64], "vf": [64, 64]},
    }
    assert base["policy_kwargs"]["activation_fn"] == "ReLU"


def test_the_ends_that_stand_for_zero_are_zero():
    arguments = constructor_arguments(point(ent_coef=1e-8, one_minus_gae_lambda=1e-4), 8)
    assert (arguments["ent_coef"], arguments["gae_lambda"]) == (0.0, 1.0)
    assert constructor_arguments(point(ent_coef=1e-7), 8)["ent_coef"] == 1e-7


def test_a_linear_schedule_is_written_as_both_loaders_read_it():
    assert constructor_arguments(point(learning_rate=1e-3, lr_schedule="linear"), 8)["learning_rate"] == "lin_0.001"
    assert constructor_arguments(point(learning_rate=1e-3, lr_schedule="constant"), 8)["learning_rate"] == 1e-3
    NotesPPO(env="CartPole-v1", **constructor_arguments(point(lr_schedule="linear", clip_range="lin_0.2"), 1))


@pytest.mark.parametrize("algo", ["notes_ppo", "notes_a2c"])
def test_what_nobody_says_is_the_constructors_default_everywhere(algo):
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(CLASSES[algo].__init__).parameters.items()
    }
    falling = constructor_arguments({"lr_schedule": "linear"}, 1, {}, algo)
    assert falling["learning_rate"] == f"lin_{defaults['learning_rate']!r}"
    setup = make_setup("s", algo, {}, {"normalize": True, "n_envs": 3})
    assert setup.normalize["gamma"] == defaults["gamma"]
    assert rollout_of(setup) == 3 * defaults["n_steps"]
    rule = rule_of({"value_objective": "huber" if algo == "notes_ppo" else "clipped"}, {}, algo)
    assert rule.advantage_estimator.gae_lambda == defaults["gae_lambda"]
    assert (rule.advantage_normalization.scope == "minibatch") is defaults["normalize_advantage"]


def test_what_is_not_searched_is_as_the_base_says_and_else_as_in_sb3():
    arguments = constructor_arguments({"vf_coef": 0.3}, 4, {"gamma": 0.9, "vf_coef": 0.7, "n_envs": 4})
    assert arguments == {"policy": "MlpPolicy", "batch_size": 64, "gamma": 0.9, "vf_coef": 0.3, "policy_kwargs": {}}
    with pytest.raises(ValueError, match="^base must hold arguments of NotesPPO, got 'bogus'"):
        constructor_arguments({}, 1, {"bogus": 1})
    with pytest.raises(ValueError, match="^activation_fn must be one of .*, got 'os.system'"):
        constructor_arguments({}, 1, {"policy_kwargs": {"activation_fn": "os.system"}})


def test_an_empty_entry_is_sb3s_defaults():
    setup = baseline_setup("SB3 defaults", "notes_a2c", {})
    assert (setup.n_envs, setup.normalize) == (1, None)
    model, stock = NotesA2C(env="CartPole-v1", **setup.arguments), NotesA2C("MlpPolicy", "CartPole-v1")
    for name in ("learning_rate", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "rule"):
        assert getattr(model, name) == getattr(stock, name)


def test_the_rule_holds_what_sb3s_arguments_said():
    arguments = constructor_arguments(
        point(target_kl=0.03, clip_range=0.3, one_minus_gae_lambda=0.1) | {"rule.value_objective": "huber"}, 8
    )
    rule = arguments["rule"]
    assert rule.value_objective == HuberValueError(1.0)
    assert rule.policy_objective == ClippedSurrogate(0.3)
    assert rule.kl_controls == (EarlyStop(0.03),)
    assert rule.advantage_estimator.gae_lambda == 0.9
    assert not {"clip_range", "target_kl", "gae_lambda"} & set(arguments)
    assert "rule" not in constructor_arguments(point() | {"rule.value_objective": "stock"}, 8)


def test_recipes_are_choices():
    choices = rule_choices("notes_ppo")
    assert isinstance(choices["policy_objective"]["batch_ppo"], KLPenalty)
    assert "skrl" not in choices["policy_objective"]  # it is stock's there
    assert all(choice is None for slot in choices.values() for name, choice in slot.items() if name == "stock")
    assert "reward_scaling" not in choices


def test_a_rule_as_yaml_names_its_classes():
    slots = {"rule.value_objective": "huber", "rule.kl_controls": "exact_early_stop", "rule.truncation": "skrl"}
    words = rule_as_data(constructor_arguments(point() | slots, 8)["rule"])
    assert words["value_objective"] == {"HuberValueError": {"beta": 1.0}}
    assert words["kl_controls"][0]["EarlyStop"]["estimator"] == "exact"
    assert words["truncation"] == "terminal"
    assert rule_as_data(UpdateRule()) == {}
