"""Bit for bit stock SB3: parameters, optimiser state and every logged value, with settings under which a deleted clip would be noticed."""

import warnings

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from tests import environments

# With default settings the ratio never leaves the clip range and half of the branches are never taken.
AGGRESSIVE = dict(
    n_steps=32,
    batch_size=24,  # ragged: 128 = 5·24 + 8
    n_epochs=4,
    learning_rate=1e-2,
    gamma=0.9,
    clip_range=0.1,
    clip_range_vf=0.1,
    ent_coef=0.01,
    vf_coef=0.3,  # no power of two: a mean reduced in another way would differ in the last bit
    max_grad_norm=0.3,
)
A2C_AGGRESSIVE = dict(
    n_steps=6, learning_rate=3e-3, gamma=0.9, gae_lambda=0.9, ent_coef=0.01, vf_coef=0.3, normalize_advantage=True
)


class Recorder(KVWriter):
    """Keeps every dump."""

    def __init__(self):
        self.dumps = []

    def write(self, key_values, key_excluded, step=0):
        self.dumps.append(
            {key: value for key, value in key_values.items() if not key.startswith("time/")} | {"step": step}
        )

    def close(self):
        pass


class TinyCnn(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 16)
        channels = observation_space.shape[0]
        self.net = th.nn.Sequential(
            th.nn.Conv2d(channels, 4, 8, 4), th.nn.ReLU(), th.nn.Flatten(), th.nn.Linear(4 * 8 * 8, 16), th.nn.ReLU()
        )

    def forward(self, observations):
        return self.net(observations)


def train(algorithm, env, steps, policy="MlpPolicy", learn=None, **arguments):
    recorder = Recorder()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*mini-batch.*")
        model = algorithm(policy, env(), seed=7, device="cpu", **arguments)
    model.set_logger(Logger(None, [recorder]))
    model.learn(steps, log_interval=1, **(learn or {}))
    return model, recorder.dumps


def assert_identical(ours, stock):
    for (name, mine), theirs in zip(ours.policy.state_dict().items(), stock.policy.state_dict().values(), strict=True):
        assert th.equal(mine, theirs), f"{name} differs by {(mine - theirs).abs().max().item():.3g}"
    mine, theirs = (model.policy.optimizer.state_dict()["state"] for model in (ours, stock))
    assert mine.keys() == theirs.keys()
    for index, state in theirs.items():
        for key, value in state.items():
            assert th.equal(th.as_tensor(mine[index][key]), th.as_tensor(value)), f"optimizer state {index} {key}"
    assert ours._n_updates == stock._n_updates
    assert ours.num_timesteps == stock.num_timesteps


def assert_same_log(ours, stock):
    """Every dump of stock's equals ours; after them we log the last update once more."""
    assert len(ours) == len(stock) + 1
    for mine, theirs in zip(ours, stock, strict=False):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert np.array_equal(mine[key], value, equal_nan=True), f"{key}: {mine[key]!r} != {value!r}"


def vectorised(make, n_envs):
    return lambda: make_vec_env(make, n_envs=n_envs, seed=11)


def normalised(make, n_envs):
    return lambda: VecNormalize(make_vec_env(make, n_envs=n_envs, seed=11), gamma=0.9)


def space(name):
    return vectorised(lambda: environments.make(name), 4)


SDE = dict(use_sde=True, sde_sample_freq=4)
PPO_CASES = {
    "cartpole_1_env": (vectorised("CartPole-v1", 1), dict(n_steps=100)),
    "cartpole_4_envs": (vectorised("CartPole-v1", 4), {}),
    "pendulum_1_env": (vectorised("Pendulum-v1", 1), dict(n_steps=100)),
    "pendulum_4_envs": (vectorised("Pendulum-v1", 4), {}),
    "pendulum_time_limits": (vectorised("Pendulum-v1", 2), dict(n_steps=150)),
    "acrobot_1_env": (vectorised("Acrobot-v1", 1), dict(n_steps=100)),
    "acrobot_4_envs": (vectorised("Acrobot-v1", 4), {}),
    "box": (space("box"), {}),
    "discrete_observation": (space("discrete_observation"), {}),
    "multi_discrete": (space("multi_discrete"), {}),
    "multi_binary": (space("multi_binary"), {}),
    "dict": (space("dict"), dict(policy="MultiInputPolicy")),
    "image_shared": (space("image"), dict(policy="CnnPolicy", policy_kwargs=dict(features_extractor_class=TinyCnn))),
    "image_separate": (
        space("image"),
        dict(policy="CnnPolicy", policy_kwargs=dict(features_extractor_class=TinyCnn, share_features_extractor=False)),
    ),
    "image_nature_cnn": (space("image"), dict(policy="CnnPolicy", n_steps=16, n_epochs=2)),
    "gsde": (vectorised("Pendulum-v1", 4), SDE),
    "gsde_squashed": (vectorised("Pendulum-v1", 4), SDE | dict(policy_kwargs=dict(squash_output=True))),
    "gsde_expln_one_std": (
        vectorised("Pendulum-v1", 4),
        SDE | dict(policy_kwargs=dict(full_std=False, use_expln=True)),
    ),
    "vec_normalize": (normalised("Pendulum-v1", 4), {}),
    "vec_normalize_cartpole": (normalised("CartPole-v1", 4), {}),
    "target_kl_reached": (vectorised("CartPole-v1", 4), dict(target_kl=0.003)),
    "target_kl_not_reached": (vectorised("CartPole-v1", 4), dict(target_kl=10.0)),
    "no_value_clip": (vectorised("CartPole-v1", 4), dict(clip_range_vf=None)),
    "no_normalisation": (vectorised("CartPole-v1", 4), dict(normalize_advantage=False)),
    "no_entropy": (vectorised("Pendulum-v1", 4), dict(ent_coef=0.0, vf_coef=0.5)),
    "batch_of_one_left_over": (vectorised("CartPole-v1", 4), dict(batch_size=127)),
    "linear_schedules": (
        vectorised("CartPole-v1", 4),
        dict(
            learning_rate=LinearSchedule(1e-2, 1e-4, 1.0),
            clip_range=LinearSchedule(0.2, 0.01, 1.0),
            clip_range_vf=lambda p: 0.1 + p,
        ),
    ),
    "custom_optimizer": (
        vectorised("CartPole-v1", 4),
        dict(policy_kwargs=dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9))),
    ),
    "relu_net": (
        vectorised("CartPole-v1", 4),
        dict(policy_kwargs=dict(net_arch=dict(pi=[32], vf=[16, 16]), activation_fn=th.nn.ReLU)),
    ),
}


@pytest.mark.parametrize("name", PPO_CASES)
def test_ppo_is_bit_for_bit_stock(name):
    env, options = PPO_CASES[name]
    arguments = AGGRESSIVE | options
    ours, our_log = train(NotesPPO, env, 512, **arguments)
    stock, stock_log = train(PPO, env, 512, **arguments)
    assert_identical(ours, stock)
    assert_same_log(our_log, stock_log)


def test_early_stop_case_does_stop_early():
    env, options = PPO_CASES["target_kl_reached"]
    model, _ = train(NotesPPO, env, 500, **AGGRESSIVE | options)
    assert model.last_report.stopped_in_epoch is not None
    assert model._n_updates < 4 * model.n_epochs


A2C_CASES = {
    "cartpole_rmsprop": (vectorised("CartPole-v1", 4), {}),
    "cartpole_tf_like": (
        vectorised("CartPole-v1", 4),
        dict(policy_kwargs=dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-5))),
    ),
    "cartpole_adam": (vectorised("CartPole-v1", 4), dict(use_rms_prop=False)),
    "pendulum": (vectorised("Pendulum-v1", 4), {}),
    "gsde": (vectorised("Pendulum-v1", 4), SDE | dict(n_steps=8)),
    "defaults": (vectorised("CartPole-v1", 4), dict(normalize_advantage=False, gae_lambda=1.0, n_steps=5)),
    "multi_discrete": (space("multi_discrete"), {}),
    "multi_binary": (space("multi_binary"), {}),
    "dict": (space("dict"), dict(policy="MultiInputPolicy")),
    "image": (space("image"), dict(policy="CnnPolicy", policy_kwargs=dict(features_extractor_class=TinyCnn))),
    "vec_normalize": (normalised("Pendulum-v1", 4), {}),
}


@pytest.mark.parametrize("name", A2C_CASES)
def test_a2c_is_bit_for_bit_stock(name):
    env, options = A2C_CASES[name]
    arguments = A2C_AGGRESSIVE | options
    ours, our_log = train(NotesA2C, env, 512, **arguments)
    stock, stock_log = train(A2C, env, 512, **arguments)
    assert_identical(ours, stock)
    assert_same_log(our_log, stock_log)


@pytest.mark.parametrize("pair", [(NotesPPO, PPO, AGGRESSIVE), (NotesA2C, A2C, A2C_AGGRESSIVE)], ids=["ppo", "a2c"])
def test_save_load_continue_is_bit_for_bit_stock(pair, tmp_path):
    ours_class, stock_class, arguments = pair
    models = []
    for algorithm in (ours_class, stock_class):
        model, _ = train(algorithm, vectorised("Pendulum-v1", 4), 300, **arguments)
        model.save(tmp_path / algorithm.__name__)
        loaded = algorithm.load(tmp_path / algorithm.__name__, env=make_vec_env("Pendulum-v1", 4, seed=3), device="cpu")
        loaded.learn(300, reset_num_timesteps=False)
        models.append(loaded)
    assert_identical(*models)


@pytest.mark.parametrize("pair", [(NotesPPO, PPO, AGGRESSIVE), (NotesA2C, A2C, A2C_AGGRESSIVE)], ids=["ppo", "a2c"])
def test_learning_on_without_reset_is_bit_for_bit_stock(pair):
    models = []
    for algorithm in pair[:2]:
        model, _ = train(algorithm, vectorised("CartPole-v1", 4), 300, **pair[2])
        models.append(model.learn(300, reset_num_timesteps=False))
    assert_identical(*models)


@pytest.mark.parametrize("pair", [(NotesPPO, PPO, AGGRESSIVE), (NotesA2C, A2C, A2C_AGGRESSIVE)], ids=["ppo", "a2c"])
def test_models_load_across_the_two_packages(pair, tmp_path):
    ours_class, stock_class, arguments = pair
    env = make_vec_env("CartPole-v1", 4, seed=3)
    for writer, reader in ((ours_class, stock_class), (stock_class, ours_class)):
        model, _ = train(writer, vectorised("CartPole-v1", 4), 300, **arguments)
        model.save(tmp_path / "model")
        other = reader.load(tmp_path / "model", env=env, device="cpu")
        same = writer.load(tmp_path / "model", env=env, device="cpu")
        assert_identical(other, same)
        results = [loaded.learn(200, reset_num_timesteps=False) for loaded in (other, same)]
        assert results[0].num_timesteps == results[1].num_timesteps


def test_a2c_is_ppo_with_one_epoch_over_the_whole_batch():
    env = vectorised("CartPole-v1", 4)
    rms_prop = dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.99, eps=1e-5, weight_decay=0))
    a2c, _ = train(NotesA2C, env, 800, learning_rate=7e-4)
    shared = dict(n_steps=5, batch_size=20, n_epochs=1, learning_rate=7e-4, gae_lambda=1.0, normalize_advantage=False)
    ppo, _ = train(NotesPPO, env, 800, **shared, policy_kwargs=rms_prop)
    assert_identical(ppo, a2c)


def test_stock_buffer_class_gives_the_same_numbers():
    from stable_baselines3.common.buffers import RolloutBuffer

    env = vectorised("CartPole-v1", 4)
    with_ours, _ = train(NotesPPO, env, 500, **AGGRESSIVE)
    with_stock, log = train(NotesPPO, env, 500, **AGGRESSIVE, rollout_buffer_class=RolloutBuffer)
    assert type(with_stock.rollout_buffer) is RolloutBuffer
    assert_identical(with_ours, with_stock)
    assert np.isfinite(log[-1]["train/explained_variance"])


def test_rollout_data_equal_stocks():
    """Observations, actions, rewards, values, advantages, returns: not only what is learned from them."""
    ours, _ = train(NotesPPO, vectorised("Pendulum-v1", 2), 300, **AGGRESSIVE | dict(n_steps=150))
    stock, _ = train(PPO, vectorised("Pendulum-v1", 2), 300, **AGGRESSIVE | dict(n_steps=150))
    for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
        theirs = getattr(stock.rollout_buffer, name)
        mine = ours.rollout_buffer.flat(getattr(ours.rollout_buffer, name))
        assert np.array_equal(mine.reshape(theirs.shape), theirs), name
    assert np.array_equal(ours.rollout_buffer.rewards, stock.rollout_buffer.rewards)
    assert isinstance(ours.env, DummyVecEnv)


class Alike(environments.ConstantRewardEnv):
    """Never ends: advantages differ in their last digits only."""

    def step(self, action):
        return np.zeros(1, dtype=np.float32), 1.0, False, False, {}


def test_nearly_constant_advantages_are_normalised_as_stock_does():
    weights = []
    for kind in (NotesPPO, PPO):
        settings = dict(n_steps=2048, n_epochs=2, seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]))
        model = kind("MlpPolicy", make_vec_env(Alike, 1, seed=0), **settings)
        weights.append(list(model.learn(2048).policy.parameters()))
    assert all(map(th.equal, *weights))
