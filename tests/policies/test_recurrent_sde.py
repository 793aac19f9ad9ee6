"""gSDE with a memory: sb3-contrib's RecurrentPPO on the same minibatches, noise that is drawn when it is due, files."""

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from tests import environments

NET = dict(lstm_hidden_size=16, net_arch=[8])
SMALL = dict(n_steps=32, batch_size=32, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2, ent_coef=0.01)
SDE = dict(use_sde=True, sde_sample_freq=4)


def box():
    return environments.make("box")


def model_of(algorithm=NotesPPO, n_envs=1, policy_kwargs=None, policy="MlpLstmPolicy", **arguments):
    env = make_vec_env(box, n_envs, seed=1)
    return algorithm(policy, env, policy_kwargs=NET | (policy_kwargs or {}), **SMALL | SDE | arguments)


#: Policy's arguments, algorithm's arguments.
VARIANTS = {
    "two_memories": ({}, {}),
    "drawn_once_a_rollout": ({}, dict(sde_sample_freq=-1)),
    "drawn_each_step": (dict(enable_critic_lstm=False), dict(sde_sample_freq=1)),
    "shared": (dict(shared_lstm=True, enable_critic_lstm=False), dict(clip_range=0.1, clip_range_vf=0.1)),
    "one_deviation_expln": (dict(full_std=False, use_expln=True), {}),
    "squashed_two_extractors": (dict(squash_output=True, share_features_extractor=False), {}),
    # rl_zoo3's way with PendulumNoVel-v1; 64 units are run by _lstm.c, where it was built.
    "own_code": (dict(lstm_hidden_size=64, net_arch=[], ortho_init=False, log_std_init=-1.0), {}),
    "two_layers": (dict(n_lstm_layers=2), dict(ent_coef=0.0)),
}


FAST = ("two_memories", "drawn_each_step", "shared", "own_code")


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in VARIANTS]
)
def test_training_equals_recurrent_ppo_on_the_same_minibatches(variant, monkeypatch):
    """One environment, one whole rollout in a minibatch: both draw the same noise and learn from the same sequences."""
    # sb3-contrib cuts its batch at a random place; 0 leaves it whole.
    monkeypatch.setattr("sb3_contrib.common.recurrent.buffers.np.random.randint", lambda *_: 0)
    policy_kwargs, arguments = VARIANTS[variant]
    ours = model_of(policy_kwargs=policy_kwargs, **arguments)
    theirs = model_of(RecurrentPPO, policy_kwargs=policy_kwargs, **arguments)
    before = {key: weight.clone() for key, weight in ours.policy.state_dict().items()}
    for model in (ours, theirs):
        th.manual_seed(3)
        model.learn(96)
    mine = dict(ours.policy.named_parameters())
    for key, weight in theirs.policy.named_parameters():
        assert (weight - mine[key]).abs().max().item() < 1e-5, key
        assert not th.equal(before[key], mine[key]), f"{key} has not moved"
    assert ours.rollout_buffer.episode_starts.sum() > 1


@pytest.mark.parametrize("policy_kwargs", [{}, dict(rnn="gru"), dict(lstm_hidden_size=64), dict(squash_output=True)])
def test_the_first_ratio_is_one_whenever_the_noise_was_drawn(policy_kwargs):
    """Several environments, each with noise of its own, episodes that end inside a rollout."""
    model = model_of(n_envs=3, batch_size=24, policy_kwargs=policy_kwargs)
    errors = []
    for _ in range(3):
        model.learn(96, reset_num_timesteps=False)
        errors.append(model.last_report.first_ratio_error)
    assert max(errors) < 1e-5


def test_noise_is_drawn_when_it_is_due_and_for_each_environment():
    model = model_of(n_envs=2, sde_sample_freq=8)
    drawn = []
    reset = model.policy.reset_noise
    model.policy.reset_noise = lambda n: (drawn.append(model.num_timesteps), reset(n))
    model.learn(64)
    # Once as the rollout begins, then at its steps 0, 8, 16 and 24, of two environments.
    assert drawn == [0, 0, 16, 32, 48]
    buffer = model.rollout_buffer
    assert not np.array_equal(buffer.actions[:, 0], buffer.actions[:, 1])


@pytest.mark.parametrize("policy_kwargs", [{}, dict(rnn="gru")])
def test_a_file_predicts_and_learns_on_as_the_model_did(policy_kwargs, tmp_path):
    model = model_of(n_envs=2, policy_kwargs=policy_kwargs).learn(64)
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env(box, 2, seed=1), device="cpu")
    observation = model.env.reset()
    for deterministic in (True, False):
        actions = []
        for each in (model, loaded):
            each.set_random_seed(5)
            each.policy.reset_noise(2)
            action, state = each.predict(observation, deterministic=deterministic)
            actions.append(np.stack([action, each.predict(observation, state, deterministic=deterministic)[0]]))
        assert np.array_equal(*actions)
        assert not np.array_equal(actions[0][0], actions[0][1])
    for each in (model, loaded):
        each._last_obs = None
        each.set_random_seed(5)
        each.learn(64)
    for mine, theirs in zip(model.policy.state_dict().values(), loaded.policy.state_dict().values(), strict=True):
        assert th.equal(mine, theirs)


def test_images_dicts_and_a2c_too():
    for policy, name in (("CnnLstmPolicy", "image"), ("MultiInputLstmPolicy", "dict")):
        spaces = environments.SPACES[name][0], environments.SPACES["box"][1]
        env = make_vec_env(lambda spaces=spaces: environments.SpaceEnv(*spaces), 2, seed=1)
        NotesPPO(policy, env, policy_kwargs=NET, **SMALL | SDE | dict(n_steps=16, n_epochs=1)).learn(32)
    model = NotesA2C("MlpLstmPolicy", make_vec_env(box, 2), policy_kwargs=NET, seed=0, device="cpu", **SDE).learn(20)
    assert model._n_updates == 2
