"""How arms are written, and what each is trained with."""

import pytest
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.configs.tuned import DEFAULT_TIMESTEPS, SCALES, ZOO, budget, scale, zoo_entry
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.runs.compare.arms import Arm, arm_class, family_of, parse_arms
from sb3_ppo_notes.runs.compare.models import build, check_buildable, describe_settings, settings_of


def test_options_may_hold_commas_of_their_own():
    arms = parse_arms("sb3, notes:clip_range=0.1,policy_kwargs={'net_arch': [8, 8]},recipe:skrl:gamma=0.9,trpo", "ppo")
    assert [arm.target for arm in arms] == [
        "stable_baselines3:PPO",
        "sb3_ppo_notes:NotesPPO",
        "recipe:skrl",
        "sb3_contrib:TRPO",
    ]
    assert arms[1].overrides == {"clip_range": 0.1, "policy_kwargs": {"net_arch": [8, 8]}}
    assert arms[2].overrides == {"gamma": 0.9}
    assert arms[2].recipe == "skrl"


def test_an_arm_may_be_any_class_with_options():
    arm = parse_arms("sb3,stable_baselines3.ppo.ppo:PPO:learning_rate=lin_1e-3,n_steps=8", "ppo")[1]
    assert arm.target == "stable_baselines3.ppo.ppo:PPO"
    assert arm.overrides == {"learning_rate": "lin_1e-3", "n_steps": 8}
    assert arm_class(arm) is PPO


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        ("sb3,notes", [PPO, NotesPPO]),
        ("recurrent-ppo,maskable-ppo", [RecurrentPPO, MaskablePPO]),
        ("notes-a2c,recipe:tsukurinagara", [NotesA2C, NotesA2C]),
    ],
)
def test_names_of_arms(words, classes):
    assert [arm_class(arm) for arm in parse_arms(words, "ppo")] == classes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("sb3", "arms must be at least two, separated by commas, got 'sb3'"),
        ("sb3,sb3", "arms must differ, got 'sb3' twice"),
        ("sb3,notse", "got 'notse' (did you mean 'notes'?)"),
        ("sb3,recipe:skl", "got 'recipe:skl' (did you mean 'recipe:skrl'?)"),
        ("sb3,notes:clip_range", "arms must have options of the form name=value, got 'notes:clip_range'"),
        ("sb3,notes:clip_range=", "arms must have options of the form name=value, got 'clip_range='"),
        ("sb3,no.such:Class", "arms: no.such:Class cannot be imported: No module named 'no'"),
        ("sb3,math:pi", "arms must be algorithms of Stable-Baselines3's kind, got 'math:pi': 3.14"),
        (
            "sb3,notes:clip_rage=0.1",
            "arms: notes:clip_rage=0.1 has no argument 'clip_rage' (did you mean 'clip_range'?)",
        ),
        ("sb3,notes:seed=3", "arms: seed is the same for all arms and no option of one"),
        ("sb3,notes:n_envs=0", "arms: n_envs of notes:n_envs=0 must be an int >= 1, got 0"),
        ("sb3,notes:policy_kwargs=3", "arms: policy_kwargs must be a dict, got 3"),
        ("sb3,notes:gamma=2", "arms: notes:gamma=2 cannot be trained on CartPole-v1: gamma must be in [0, 1], got 2"),
        (
            "sb3,sb3:n_steps=0",
            "arms: sb3:n_steps=0 cannot be trained on CartPole-v1: `batch_size` must be greater than 1",
        ),
        (
            "sb3,maskable-ppo",
            "arms: maskable-ppo needs environments with a method action_masks(), CartPole-v1 has none",
        ),
    ],
)
def test_a_wrong_arm_is_refused_in_one_line(words, line):
    def build_all():
        for arm in parse_arms(words, "ppo"):
            check_buildable(arm, "CartPole-v1")

    with pytest.raises((ValueError, TypeError)) as error:
        build_all()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_both_arms_have_the_zoos_values():
    stock, ours = (settings_of(arm, "CartPole-v1") for arm in parse_arms("sb3,notes", "ppo"))
    assert stock == ours
    assert stock.arguments["learning_rate"] == "lin_0.001"
    assert (stock.n_envs, stock.policy, stock.normalize) == (8, "MlpPolicy", None)
    assert stock.source == "rl_zoo3 2.9.2, ppo.yml, CartPole-v1"


def test_schedules_and_classes_are_made_from_their_names():
    model = build(Arm("sb3", "stable_baselines3:PPO"), "CartPole-v1", settings_of(PPO_ARM, "CartPole-v1"), seed=0)
    assert model.lr_schedule(0.5) == pytest.approx(5e-4)
    assert isinstance(model.learning_rate, LinearSchedule)
    # The zoo's own goes below 0 where the last rollout overshoots: gradient ascent.
    assert model.lr_schedule(-0.01) == 0.0
    lstm = Arm("recurrent-ppo", "sb3_contrib:RecurrentPPO")
    policy = build(lstm, "CartPole-v1", settings_of(lstm, "CartPole-v1"), seed=0).policy
    assert any(isinstance(module, nn.ReLU) for module in policy.modules())


PPO_ARM = Arm("sb3", "stable_baselines3:PPO")


def test_normalisation_has_the_arms_discount():
    arm = Arm("x", "stable_baselines3:PPO", {"gamma": 0.5})
    model = build(arm, "MountainCarContinuous-v0", settings_of(arm, "MountainCarContinuous-v0"), seed=0)
    assert isinstance(model.env, VecNormalize)
    assert model.env.gamma == model.gamma == 0.5
    # A larger batch than the rollout: stock takes what there is, ours would refuse it.
    assert model.batch_size == 8


def test_options_come_on_top_and_policy_kwargs_are_merged():
    arm = Arm("x", "stable_baselines3:PPO", {"policy_kwargs": {"net_arch": [4]}, "n_envs": 2, "normalize": False})
    settings = settings_of(arm, "MountainCarContinuous-v0")
    assert settings.arguments["policy_kwargs"] == {"log_std_init": -3.29, "ortho_init": False, "net_arch": [4]}
    assert (settings.n_envs, settings.normalize) == (2, None)
    assert settings.arguments["batch_size"] == 16


def test_an_environment_the_zoo_does_not_know_gets_the_defaults_and_the_report_says_so():
    settings = settings_of(PPO_ARM, "FrozenLake-v1")
    assert settings.arguments == {}
    assert settings.source == "SB3's defaults: rl_zoo3 has none for FrozenLake-v1"
    assert budget("ppo", "FrozenLake-v1") == DEFAULT_TIMESTEPS
    assert describe_settings(PPO_ARM, settings)["class"] == "stable_baselines3:PPO"


@pytest.mark.parametrize("family", ZOO)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0"])
def test_the_zoos_values_build_a_model(family, env):
    target = {"ppo": "notes-ppo", "a2c": "notes-a2c", "trpo": "trpo", "ppo_lstm": "recurrent-ppo"}[family]
    arm = parse_arms(f"{target},sb3", "ppo")[0]
    assert family_of(arm) == family
    assert "rl_zoo3" in check_buildable(arm, env).source


def test_names_of_newer_environments_find_their_entry():
    assert zoo_entry("ppo", "HalfCheetah-v5")[0] == "HalfCheetah-v4"
    assert zoo_entry("ppo", "ALE/Pong-v5") == ("atari", ZOO["ppo"]["atari"])
    assert zoo_entry("ppo", "Nothing-v0") is None


def test_a_scale_is_published_or_the_environments_own_or_the_best_arms():
    assert (scale("Pendulum-v1").random, scale("Pendulum-v1").reference) == SCALES["Pendulum-v1"]
    assert scale("FrozenLake-v1").reference == 0.70  # Gymnasium's reward_threshold
    assert scale("Taxi-v4").random is None
    assert (scale("Blackjack-v1").reference, scale("Blackjack-v1").source) == (None, "the best arm's mean")


def test_a_recipe_keeps_its_own_values():
    arm = parse_arms("sb3,recipe:minimal_rl", "ppo")[1]
    settings = check_buildable(arm, "CartPole-v1")
    assert settings.source == "recipe minimal_rl: its own"
    assert "TDZero" in describe_settings(arm, settings)["rule"]


def test_an_argument_the_class_lacks_is_left_out_and_named():
    settings = settings_of(Arm("m", "tests.runs.test_compare_arms:NoNoisePPO"), "Pendulum-v1")
    assert "use_sde" not in settings.arguments
    assert "without sde_sample_freq, use_sde, which it does not take" in settings.source


class NoNoisePPO(PPO):
    def __init__(self, policy, env, learning_rate, n_steps, batch_size=64, n_epochs=10, gamma=0.99, gae_lambda=0.95,
                 clip_range=0.2, ent_coef=0.0, seed=None, device="auto"):  # fmt: skip
        arguments = dict(learning_rate=learning_rate, n_steps=n_steps, batch_size=batch_size, n_epochs=n_epochs)
        arguments |= dict(gamma=gamma, gae_lambda=gae_lambda, clip_range=clip_range, ent_coef=ent_coef)
        super().__init__(policy, env, **arguments, seed=seed, device=device)


def test_recurrent_notes_get_the_recurrent_values():
    assert family_of(parse_arms("sb3,notes:policy=MlpLstmPolicy", "ppo")[1]) == "ppo_lstm"


def test_a_missing_package_is_named():
    with pytest.raises(InvalidValueError, match="arms: sb4:PPO cannot be imported: No module named 'sb4'"):
        arm_class(Arm("sb4:PPO", "sb4:PPO"))
