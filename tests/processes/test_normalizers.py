"""Normalisers of several shards: after each rollout all have the statistics of everything that all have seen."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.algorithms.normalizers import Normalizers, statistics_of
from sb3_ppo_notes.algorithms.processes import digest_of
from sb3_ppo_notes.envs import ShardedVecEnv
from sb3_ppo_notes.envs.sharded_vec_env import shards_of
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.formulas.normalization import Moments, merged_moments, moments_since, pooled_moments
from sb3_ppo_notes.processes import Alone, Shards
from tests.processes.forked import values

SETTINGS = dict(n_steps=64, batch_size=64, n_epochs=2, seed=1, device="cpu", policy_kwargs=dict(net_arch=[8]))


class TwoKeys(gym.Env):
    """A Dict of two boxes, far from 0."""

    observation_space = spaces.Dict({"near": spaces.Box(-1, 1, (3,)), "far": spaces.Box(900, 1100, (2,))})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._look(), {}

    def _look(self):
        return {
            key: space.low + 0.5 + self.np_random.random(space.shape) for key, space in self.observation_space.items()
        }

    def step(self, action):
        return self._look(), float(action), self.np_random.random() < 0.1, False, {}


def vec_normalize(n_envs=2, **kwargs):
    return VecNormalize(make_vec_env("Pendulum-v1", n_envs), **kwargs)


KINDS = {
    "VecNormalize": vec_normalize,
    "of a Dict": lambda n_envs=2: VecNormalize(make_vec_env(TwoKeys, n_envs)),
    "StreamingNormalize": lambda n_envs=2: StreamingNormalize(make_vec_env("Pendulum-v1", n_envs)),
}


def sharded(make, n):
    return make() if n == 1 else ShardedVecEnv([make() for _ in range(n)])


def policy_of(kind):
    return "MultiInputPolicy" if kind == "of a Dict" else "MlpPolicy"


def trained(group, kind, n_shards=4, total=1024):
    env = sharded(KINDS[kind], n_shards // group.size)
    model = NotesPPO(policy_of(kind), env, processes=group, shards=n_shards, **SETTINGS).learn(total)
    statistics = [statistics_of(each) for each in shards_of(model.env)]
    returns = [getattr(each, "returns", None) for each in shards_of(model.env)]
    return digest_of(model.policy), statistics, returns


def assert_same(one, other, rtol=0.0):
    assert one.keys() == other.keys()
    for name in one:
        for part, its in zip(one[name], other[name], strict=True):
            np.testing.assert_allclose(part, its, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kind", KINDS)
def test_four_shards_end_alike_on_one_process_and_on_two(kind):
    (digest, statistics, returns), *_ = values(trained, 1, kind)
    first, second = values(trained, 2, kind)
    assert first[0] == second[0] == digest
    for mine, its in zip(statistics, [*first[1], *second[1]], strict=True):
        assert_same(mine, statistics[0])
        assert_same(mine, its)
    if returns[0] is not None:
        np.testing.assert_array_equal(np.concatenate(returns), np.concatenate([*first[2], *second[2]]))
        assert len({each.tobytes() for each in returns}) == 4  # those of each environment, not merged


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_four_shards_end_alike_on_four_processes(kind):
    assert {digest for digest, *_ in values(trained, 4, kind)} == {values(trained, 1, kind)[0][0]}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_statistics_are_those_of_one_normaliser_that_has_seen_everything(kind):
    """After several rollouts, each merged; a normaliser that began with the same numbers is given the same steps."""
    shards, env, one = Shards(Alone(), 3, seed=0), sharded(KINDS[kind], 3), KINDS[kind](6)
    normalizers = Normalizers(env, shards)
    generator = np.random.default_rng(0)
    for _ in range(5):
        for _ in range(20):
            observations = [_sample(env, generator) for _ in shards_of(env)]
            rewards = [generator.normal(3.0, 2.0, 2) for _ in shards_of(env)]
            for part, seen, paid in zip(shards_of(env), observations, rewards, strict=True):
                _show(part, seen, paid)
            _show(one, _together(observations), np.concatenate(rewards))
        normalizers.merge()
        for part in shards_of(env):
            assert_same(statistics_of(part), statistics_of(one), rtol=1e-9)


def _sample(env, generator):
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        return {key: 1000.0 + generator.normal(size=(2, *part.shape)) for key, part in space.items()}
    return 5.0 + generator.normal(size=(2, *space.shape))


def _together(parts):
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def _show(normalizer, observations, rewards):
    if isinstance(normalizer, StreamingNormalize):
        normalizer._learn(observations, rewards)
        return
    normalizer._update_reward(rewards)
    running = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {None: normalizer.obs_rms}
    for key, rms in running.items():
        rms.update(observations if key is None else observations[key])


def test_the_variance_of_numbers_far_from_zero_survives_many_mergers():
    """Sums of squares would lose all digits of it."""
    shards, env = Shards(Alone(), 2, seed=0), sharded(lambda: VecNormalize(make_vec_env("Pendulum-v1", 2)), 2)
    normalizers, one = Normalizers(env, shards), RunningMeanStd(shape=(3,))
    generator = np.random.default_rng(0)
    for _ in range(50):
        for part in shards_of(env):
            samples = 1e6 + generator.normal(0.0, 1e-1, (20, 3))
            part.obs_rms.update(samples)
            one.update(samples)
        normalizers.merge()
    np.testing.assert_allclose(shards_of(env)[0].obs_rms.var, one.var, rtol=1e-6)
    assert shards_of(env)[0].obs_rms.count == pytest.approx(one.count, abs=1e-6)


def test_frozen_normalisers_stay_as_they_are():
    shards, env = Shards(Alone(), 2, seed=0), sharded(lambda: vec_normalize(training=False), 2)
    normalizers = Normalizers(env, shards)
    before = statistics_of(shards_of(env)[0])
    shards_of(env)[1].obs_rms.update(np.ones((4, 3)))  # nobody learns from it
    changed = statistics_of(shards_of(env)[1])
    normalizers.merge()
    assert_same(statistics_of(shards_of(env)[0]), before)
    assert_same(statistics_of(shards_of(env)[1]), changed)
    assert_same(normalizers.merged[0], before)


def test_a_rollout_that_is_left_half_way_is_not_merged():
    env = sharded(vec_normalize, 2)
    model = NotesPPO("MlpPolicy", env, processes=Alone(), shards=2, **SETTINGS)
    model.learn(128, callback=lambda *_: False)
    one, other = (statistics_of(each) for each in shards_of(model.env))
    assert one["observation "].mean.tolist() != other["observation "].mean.tolist()


def test_a_single_shard_is_left_as_stock_has_it():
    one = NotesPPO("MlpPolicy", vec_normalize(4), **SETTINGS).learn(512)
    other = NotesPPO("MlpPolicy", vec_normalize(4), processes=Alone(), **SETTINGS)
    before = statistics_of(other.env)
    other._normalizers.merge()
    assert_same(statistics_of(other.env), before)
    assert one.get_vec_normalize_env() is one.env


def test_a_normaliser_around_several_shards_is_refused():
    env = VecNormalize(ShardedVecEnv([make_vec_env("Pendulum-v1", 2) for _ in range(2)]))
    with pytest.raises(ValueError, match="^env must have its normalisers inside ShardedVecEnv"):
        NotesPPO("MlpPolicy", env, processes=Alone(), shards=2, **SETTINGS)


def test_normalisers_that_have_seen_different_things_are_refused():
    env = sharded(vec_normalize, 2)
    env.shards[1].obs_rms.update(np.ones((4, 3)))
    with pytest.raises(ValueError, match="^env must have normalisers of the same kind and statistics in all shards"):
        NotesPPO("MlpPolicy", env, processes=Alone(), shards=2, **SETTINGS)


def test_new_environments_bring_statistics_of_their_own():
    model = NotesPPO("MlpPolicy", sharded(vec_normalize, 2), processes=Alone(), shards=2, **SETTINGS).learn(256)
    model.set_env(sharded(vec_normalize, 2))
    assert model._normalizers.merged[0]["return"].n == pytest.approx(1e-4)
    model.learn(256)
    assert model.get_vec_normalize_env().obs_rms.count == pytest.approx(256 + 4, abs=1e-3)  # and the reset


def test_moments_since_are_the_inverse_of_pooled_moments():
    generator = np.random.default_rng(0)
    before = merged_moments(Moments(0, np.zeros(3), np.zeros(3)), generator.normal(2.0, 1.0, (50, 3)))
    new = merged_moments(Moments(0, np.zeros(3), np.zeros(3)), generator.normal(-1.0, 3.0, (20, 3)))
    for part, expected in zip(moments_since(pooled_moments(before, new), before), new, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)
    assert moments_since(before, before).n == 0
