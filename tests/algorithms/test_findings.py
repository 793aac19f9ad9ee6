"""What a reviewer broke, one test each, so that it stays mended."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, NonFiniteError
from sb3_ppo_notes.rules import (
    AdaptiveLearningRate,
    AdvantageNormalization,
    ClippedSurrogate,
    EarlyStop,
    Optimization,
    OptimizerSettings,
    SeparateOptimizers,
    UpdateRule,
)
from tests import environments

SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")


def same(one, other):
    return all(
        th.equal(*pair)
        for pair in zip(one.policy.state_dict().values(), other.policy.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("stacked", [False, True])
def test_eval_callback_works_with_vec_normalize_and_changes_nothing(stacked):
    models = []
    for algorithm in (NotesPPO, PPO):
        env, evaluation = make_vec_env("CartPole-v1", 2), make_vec_env("CartPole-v1", 1)
        if stacked:
            env, evaluation = VecFrameStack(env, 2), VecFrameStack(evaluation, 2)
        evaluation = VecNormalize(evaluation, training=False)
        model = algorithm("MlpPolicy", VecNormalize(env), **SMALL)
        models.append(model.learn(128, callback=EvalCallback(evaluation, eval_freq=32, verbose=0)))
    assert same(*models)


def test_a_rule_with_a_schedule_can_be_saved_and_loaded(tmp_path):
    rule = UpdateRule(policy_objective=ClippedSurrogate(LinearSchedule(0.2, 0.05, 1.0)))
    NotesPPO("MlpPolicy", "CartPole-v1", rule=rule, **SMALL).learn(64).save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    assert loaded.clip_range(0.0) == pytest.approx(0.05)
    loaded.learn(32)


class Change(BaseCallback):
    def __init__(self, **attributes):
        super().__init__()
        self.attributes = attributes

    def _on_step(self):
        vars(self.model).update(self.attributes)
        return True


def test_changing_what_a_rule_overrides_is_refused_and_without_a_rule_it_counts():
    rule = UpdateRule(truncation="terminal")
    for name, value in dict(clip_range=lambda progress: 0.02, target_kl=0.001, normalize_advantage=False).items():
        with pytest.raises(InvalidValueError, match=f"^{name} must stay as rule has it"):
            NotesPPO("MlpPolicy", "CartPole-v1", rule=rule, **SMALL).learn(64, callback=Change(**{name: value}))
    changes = dict(clip_range=lambda progress: 0.02, target_kl=0.001, ent_coef=0.1, normalize_advantage=False)
    models = [
        algorithm("MlpPolicy", "CartPole-v1", **SMALL).learn(128, callback=Change(**changes))
        for algorithm in (NotesPPO, PPO)
    ]
    assert same(*models)


def test_drop_last_counts_for_recurrent_policies():
    env = make_vec_env("CartPole-v1", 2)
    rule = UpdateRule(optimization=Optimization(drop_last=True))
    model = NotesPPO(
        "MlpLstmPolicy", env, rule=rule, policy_kwargs=dict(lstm_hidden_size=8), **SMALL | dict(batch_size=48)
    )
    model.learn(64)
    assert [len(batch.actions) >= 48 for batch in model.rollout_buffer.get(48)] == [True]


def test_contradictions_are_seen_in_subclasses_too():
    class My(NotesPPO):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    with pytest.raises(InvalidValueError, match="^clip_range must agree with rule"):
        My("MlpPolicy", "CartPole-v1", clip_range=0.4, rule=UpdateRule(policy_objective=ClippedSurrogate(0.1)), **SMALL)


def test_a_rule_can_be_given_to_load(tmp_path):
    NotesPPO("MlpPolicy", "CartPole-v1", **SMALL).save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", rule=UpdateRule(truncation="terminal"))
    assert loaded.rule.truncation == "terminal"


def test_one_sample_is_enough_for_a_rule_that_does_not_normalise():
    rule = UpdateRule(advantage_normalization=AdvantageNormalization("none"))
    NotesPPO("MlpPolicy", "CartPole-v1", rule=rule, **SMALL | dict(batch_size=1)).learn(32)


def test_recipes_count_the_episodes_of_a_single_environment():
    assert (
        len(NotesPPO.from_recipe("skrl", gym.make("CartPole-v1"), device="cpu", seed=0).learn(256).ep_info_buffer) > 0
    )


def test_the_buffers_lambda_is_the_one_that_counts_as_in_stock():
    models = []
    for algorithm in (NotesPPO, PPO):
        model = algorithm("MlpPolicy", "CartPole-v1", **SMALL)
        model.rollout_buffer.gae_lambda = 0.3
        model.gae_lambda = 0.6
        models.append(model.learn(64))
    assert same(*models)


class BadEnd(environments.SpaceEnv):
    def __init__(self):
        super().__init__(*environments.SPACES["box"])

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return (observation * np.nan if truncated else observation), reward, terminated, truncated, info


def test_a_bad_terminal_observation_is_named():
    with pytest.raises(NonFiniteError, match="^terminal_observation must be finite, got nan from environment [01]"):
        NotesPPO("MlpPolicy", VecNormalize(make_vec_env(BadEnd, 2)), **SMALL).learn(200)


def test_scope_update_stops_the_critic_too():
    settings = SeparateOptimizers(OptimizerSettings(n_epochs=5, learning_rate=1e-2), OptimizerSettings(n_epochs=7))
    steps = {}
    for scope in ("update", "policy"):
        rule = UpdateRule(
            kl_controls=(EarlyStop(1e-9, factor=1.0, estimator="k2", scope=scope),),
            optimization=Optimization(separate=settings),
        )
        model = NotesPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, device="cpu", rule=rule).learn(
            32
        )
        steps[scope] = model.last_report.n_gradient_steps
    assert steps == {"update": 1, "policy": 1 + 7}


def test_lin_strings_and_new_learning_rates_at_load(tmp_path):
    rule = UpdateRule(kl_controls=(AdaptiveLearningRate(),))
    NotesPPO("MlpPolicy", "CartPole-v1", rule=rule, **SMALL).learn(64).save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"), learning_rate="lin_1e-5")
    assert loaded.rule_state.learning_rate is None
    loaded.learn(32)
    assert loaded.policy.optimizer.param_groups[0]["lr"] < 1e-4


class Dumps(KVWriter):
    def __init__(self):
        self.steps = []

    def write(self, key_values, key_excluded, step=0):
        self.steps.append((step, key_values.get("train/n_updates")))

    def close(self):
        pass


class Stop(BaseCallback):
    def _on_step(self):
        return False


def test_an_update_is_not_logged_again_when_nothing_was_learned():
    model, writer = NotesPPO("MlpPolicy", "CartPole-v1", **SMALL), Dumps()
    model.set_logger(Logger(None, [writer]))
    model.learn(64)
    model.learn(64, callback=Stop(), reset_num_timesteps=False)
    assert writer.steps == [(32, None), (64, 2), (64, 4)]


@pytest.mark.parametrize(
    ("build", "begins"),
    [
        (lambda: NotesPPO("MlpPolicy", "CartPole-v1", rule="x"), "rule must be an UpdateRule or None"),
        (lambda: NotesPPO("MlpPolicy", "CartPole-v1", rule=UpdateRule), "rule must be an UpdateRule or None"),
        (lambda: SeparateOptimizers(1, 2), "actor must be OptimizerSettings"),
        (lambda: Optimization(separate="yes"), "separate must be SeparateOptimizers or None"),
        (lambda: AdvantageNormalization(eps="a"), "eps must be >= 0"),
        (lambda: NotesPPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(net_arch=dict(p=[8]))), "net_arch must be"),
        (
            lambda: NotesPPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(activation_fn=th.nn.ReLU())),
            "activation_fn must be a class",
        ),
        (
            lambda: NotesPPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(optimizer_class="adam")),
            "optimizer_class must be a class",
        ),
    ],
)
def test_more_bad_input(build, begins):
    with pytest.raises((InvalidValueError, InvalidTypeError), match="^" + begins):
        build()


def test_numpys_numbers_are_numbers():
    NotesPPO("MlpPolicy", "CartPole-v1", learning_rate=np.float32(1e-3), clip_range=np.float64(0.1), **SMALL).learn(32)
