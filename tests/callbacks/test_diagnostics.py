"""Each warning of DiagnosticsCallback fires on a run built to deserve it, and on healthy runs none does."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from PIL import Image
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import DiagnosticsCallback, TrainingWarning
from sb3_ppo_notes.callbacks.symptoms import SYMPTOMS
from tests import environments

SMALL = dict(n_steps=64, batch_size=32, n_epochs=3, seed=0, device="cpu", learning_rate=3e-4)


class Paid(gym.Wrapper):
    """Rewards through a function of the step's number and the reward."""

    def __init__(self, env, pay):
        super().__init__(env)
        self.pay, self.count = pay, 0

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.count += 1
        return observation, float(self.pay(self.count, reward)), terminated, truncated, info


class Scaled(gym.ObservationWrapper):
    """Observations times a factor, in a space that knows of it, or does not."""

    def __init__(self, env, factor, is_known):
        super().__init__(env)
        self.factor = factor
        if is_known:
            self.observation_space = spaces.Box(-factor, factor, env.observation_space.shape, dtype=np.float32)

    def observation(self, observation):
        return (self.factor * observation).astype(np.float32)


class Greedy(ActorCriticPolicy):
    """Acts by the mode and calls it a sample."""

    def forward(self, obs, deterministic=False):
        return super().forward(obs, deterministic=True)


class Liar(ActorCriticPolicy):
    """Says another log-probability when acting than when learning."""

    def forward(self, obs, deterministic=False):
        actions, values, log_probs = super().forward(obs, deterministic)
        return actions, values, log_probs + 0.1


class Change(BaseCallback):
    """Changes the weights by hand when the given rollout begins."""

    def __init__(self, change, at=0):
        super().__init__()
        self.change, self.at, self.count = change, at, 0

    def _on_rollout_start(self):
        if self.count == self.at:
            with th.no_grad():
                self.change(self.model.policy)
        self.count += 1

    def _on_step(self):
        return True


def silent_units(policy):
    policy.mlp_extractor.policy_net[0].bias[:40] = -100.0


def one_direction(policy):
    policy.mlp_extractor.policy_net[2].weight[1:] = policy.mlp_extractor.policy_net[2].weight[0]
    policy.mlp_extractor.policy_net[2].bias[:] = 0.0


def wild_critic(policy):
    policy.value_net.weight *= 50


def flat_critic(policy):
    policy.value_net.weight[:] = 0.0


def decided(policy):
    policy.action_net.bias[0] = 12.0


def free(env):
    return env


#: For each symptom a run that deserves it: the environment, what is wrapped around it, what is changed, arguments, and further symptoms that
#: come along by necessity.
DESERVING = {
    "policy_moves_too_far": dict(learning_rate=3e-2),
    "policy_hardly_moves": dict(learning_rate=1e-10, updates=21),
    "kl_estimate_is_off": dict(policy=Greedy, learning_rate=3e-2, n_steps=512, updates=4),
    "stops_at_once": dict(target_kl=1e-7, learning_rate=1e-3, updates=11),
    "first_ratio_is_not_one": dict(policy=Liar, updates=1),
    "few_samples_count": dict(learning_rate=0.1),
    "clips_too_much": dict(learning_rate=1e-2, clip_range=0.01, updates=6),
    "never_clips": dict(learning_rate=1e-10, updates=21),
    "entropy_collapses": dict(env="discrete", change=Change(decided)),
    "deviation_vanishes": dict(policy_kwargs=dict(log_std_init=-4.0)),
    "deviation_explodes": dict(policy_kwargs=dict(log_std_init=2.0)),
    "critic_is_worse_than_a_mean": dict(vf_coef=0.0, change=Change(wild_critic), updates=8),
    "gradients_are_cut_short": dict(wrap=lambda env: Paid(env, lambda count, reward: 1e4 * reward), updates=6),
    "weights_are_rewritten": dict(learning_rate=lambda progress: 0.1 * 1000 ** (1 - progress)),
    "advantages_are_flat": dict(
        wrap=lambda env: Paid(env, lambda count, reward: 0.0), change=Change(flat_critic), vf_coef=0.0
    ),
    "advantages_have_outliers": dict(
        wrap=lambda env: Paid(env, lambda count, reward: 1e3 * (count % 512 == 250)),
        n_steps=512, gamma=0.0, gae_lambda=0.0, updates=8,
    ),
    "returns_are_large": dict(wrap=lambda env: Paid(env, lambda count, reward: 1e4 * reward)),
    "units_are_dormant": dict(policy_kwargs=dict(activation_fn=th.nn.ReLU), change=Change(silent_units)),
    "units_are_saturated": dict(wrap=lambda env: Scaled(env, 1e3, is_known=True)),
    "features_lose_rank": dict(
        # Three small numbers span three directions whatever happens; large ones bend more.
        wrap=lambda env: Scaled(env, 10.0, is_known=True), change=Change(one_direction, at=1), learning_rate=1e-6,
    ),
    "actions_are_out_of_bounds": dict(policy_kwargs=dict(log_std_init=1.0)),
    "observations_are_out_of_space": dict(wrap=lambda env: Scaled(env, 2.0, is_known=False), updates=1),
}  # fmt: skip


def run(callback, algorithm=NotesPPO, env="box", wrap=free, change=None, policy="MlpPolicy", updates=5, **arguments):
    settings = SMALL | arguments
    made = make_vec_env(lambda: wrap(environments.make(env)), 2, seed=0)
    model = algorithm(policy, made, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return model.learn(
            updates * 2 * settings["n_steps"], callback=[callback, *([] if change is None else [change])]
        )


def test_every_symptom_has_a_run_that_deserves_it():
    assert set(DESERVING) == set(SYMPTOMS)


@pytest.mark.parametrize("name", DESERVING)
def test_warning_fires_where_it_is_deserved_and_can_be_switched_off(name):
    callback = DiagnosticsCallback(every=1)
    run(callback, **DESERVING[name])
    assert name in callback.warned
    text = callback.warned[name]
    assert "{" not in text
    off = DiagnosticsCallback(every=1, off=[name])
    run(off, **DESERVING[name])
    assert name not in off.warned
    assert set(off.warned) == set(callback.warned) - {name}


def test_a_mild_run_deserves_nothing():
    callback = DiagnosticsCallback(every=1)
    run(callback, env="discrete", updates=10)
    assert callback.warned == {}


def test_patience_and_limits_are_kept_to():
    for updates, expected in ((4, False), (5, True)):
        callback = DiagnosticsCallback(every=1)
        run(callback, updates=updates, learning_rate=3e-2)
        assert ("policy_moves_too_far" in callback.warned) == expected
    callback = DiagnosticsCallback(every=1, limits={"policy_moves_too_far": 1e6})
    run(callback, learning_rate=3e-2)
    assert "policy_moves_too_far" not in callback.warned


def test_a_good_look_in_between_starts_the_count_again():
    callback = DiagnosticsCallback(every=1)
    callback._counts["policy_moves_too_far"] = 4
    callback.model = run(None or DiagnosticsCallback(every=1))
    callback._judge({"kl": 0.0})
    assert callback._counts["policy_moves_too_far"] == 0
    callback._counts["units_are_dormant"] = 1
    callback._judge({"kl": 0.0})
    assert callback._counts["units_are_dormant"] == 1, "not looked at is neither better nor worse"


def test_the_critic_is_not_judged_before_a_fifth_of_the_training():
    callback = DiagnosticsCallback(every=1)
    arguments = dict(vf_coef=0.0, change=Change(wild_critic))
    run(callback, updates=5, **arguments)
    early = {each["explained_variance"] < 0 for each in callback.history[:1]}
    assert early == {True}
    assert "critic_is_worse_than_a_mean" not in callback.warned, "four bad looks after the first fifth, not five"


def test_a_rule_without_a_clip_never_clips_and_is_not_blamed():
    callback = DiagnosticsCallback(every=1)
    model = NotesA2C("MlpPolicy", make_vec_env(lambda: environments.make("box"), 2, seed=0), seed=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        model.learn(400, callback=callback)
    assert "never_clips" not in callback.warned


def test_normalised_rewards_are_not_called_large():
    env = VecNormalize(
        make_vec_env(lambda: Paid(environments.make("box"), lambda count, reward: 1e4 * reward), 2, seed=0)
    )
    callback = DiagnosticsCallback(every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        NotesPPO("MlpPolicy", env, **SMALL).learn(5 * 128, callback=callback)
    assert "returns_are_large" not in callback.warned
    assert "observations_are_out_of_space" not in callback.warned


def test_hooks_on_layers_are_gone_afterwards():
    model = run(DiagnosticsCallback(every=1))
    assert not any(module._forward_hooks for module in model.policy.modules())


def test_the_panel_is_a_picture_with_something_in_it(tmp_path):
    callback = DiagnosticsCallback(every=1)
    run(callback, learning_rate=3e-2)
    path = callback.plot(tmp_path / "panel.png")
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[0] > 700
    assert picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    empty = DiagnosticsCallback(every=1)
    empty.history = [{"timesteps": 1.0}]
    assert empty.plot(tmp_path / "empty.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [NotesPPO, PPO, NotesA2C])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_run_on_cartpole_is_silent(algorithm, seed):
    callback = DiagnosticsCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        model = algorithm("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=seed), seed=seed, device="cpu")
        model.learn(100_000 if algorithm is NotesA2C else 65_536, callback=callback)
    assert len(callback.history) >= 4
    assert np.mean([info["r"] for info in model.ep_info_buffer]) > 100


@pytest.mark.slow
def test_a_healthy_run_on_pendulum_is_silent():
    callback = DiagnosticsCallback()
    env = VecNormalize(make_vec_env("Pendulum-v1", 4, seed=0), gamma=0.9)
    model = NotesPPO("MlpPolicy", env, n_steps=1024, gamma=0.9, learning_rate=1e-3, seed=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        model.learn(80_000, callback=callback)
    assert np.mean([info["r"] for info in model.ep_info_buffer]) > -800
