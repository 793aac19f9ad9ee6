"""LeanVecEnv: every value as from DummyVecEnv, and nothing returned is ever written to again."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.rollouts import FiniteGuard, LeanVecEnv
from tests import environments

SMALL = dict(n_steps=64, batch_size=32, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2, ent_coef=0.01)
TUPLE = spaces.Tuple((environments.BOX, spaces.Discrete(4)))


class InfoEnv(environments.SpaceEnv):
    """Says what it was reset with, and reports numbers, arrays and dictionaries."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, {"seed": seed, "options": options, "length": self.length}

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"count": self.count, "array": np.full(2, self.count), "nested": {"action": np.copy(action)}}
        # Sometimes both at once, which is no truncation.
        return observation, reward, terminated, truncated or (terminated and self.length == 8), info


def info_env(name):
    # Environments that shared a space would share its random numbers.
    observation_space, action_space = (TUPLE, spaces.Discrete(3)) if name == "tuple" else environments.SPACES[name]
    return InfoEnv(copy.deepcopy(observation_space), copy.deepcopy(action_space))


MAKERS = {
    "CartPole": lambda: Monitor(gym.make("CartPole-v1", max_episode_steps=25)),
    "Pendulum": lambda: Monitor(gym.make("Pendulum-v1", max_episode_steps=25)),
    "CartPole without Monitor": lambda: gym.make("CartPole-v1"),
}
NAMES = [*MAKERS, *environments.SPACES, "tuple"]


def maker(name):
    return MAKERS.get(name, lambda: info_env(name))


def assert_same(ours, theirs, where):
    assert type(ours) is type(theirs), where
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key in theirs:
            if key != "t":  # the clock, in Monitor's episode
                assert_same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        np.testing.assert_array_equal(ours, theirs, where)
    else:
        assert ours == theirs, where


def both(name, n_envs=3):
    pair = [cls([maker(name)] * n_envs) for cls in (LeanVecEnv, DummyVecEnv)]
    for env in pair:
        env.seed(5)
        env.set_options({"some": "option"} if name not in MAKERS else None)
    return pair


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_that_of_dummy_vec_env(name):
    ours, theirs = both(name)
    assert_same(ours.reset(), theirs.reset(), "reset")
    assert_same(ours.reset_infos, theirs.reset_infos, "reset_infos")
    ours.action_space.seed(0)
    ends, cuts = 0, 0
    for step in range(300):
        actions = np.array([ours.action_space.sample() for _ in range(3)])
        mine, reference = ours.step(actions), theirs.step(actions)
        assert_same(mine, reference, f"step {step}")
        assert_same(ours.reset_infos, theirs.reset_infos, f"reset_infos {step}")
        ends += mine[2].sum()
        cuts += sum(info["TimeLimit.truncated"] for info in mine[3])
        if step in (150, 200):
            if step == 150:
                ours.seed(9), theirs.seed(9)
            assert_same(ours.reset(), theirs.reset(), f"reset {step}")
            assert_same(ours.reset_infos, theirs.reset_infos, f"reset_infos {step}")
    assert ends >= 10
    assert cuts >= 1 or name == "CartPole without Monitor"


@pytest.mark.parametrize("name", ["CartPole", "dict", "tuple", "discrete_observation"])
def test_nothing_that_was_returned_is_written_to_again(name):
    env, _ = both(name)
    returned, copies = [], []
    env.action_space.seed(0)
    for step in range(80):
        actions = np.array([env.action_space.sample() for _ in range(3)])
        returned.append(env.reset() if step in (0, 1, 40) else env.step(actions))
        copies.append(copy.deepcopy(returned[-1]))
    for index, pair in enumerate(zip(returned, copies, strict=True)):
        assert_same(*pair, f"step {index}")


class OneArrayEnv(gym.Env):
    """Counts to 3 in one array and reports in one dictionary, both the same objects for ever."""

    observation_space = spaces.Box(0, 3, (1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.state, self.info = np.zeros(1, dtype=np.float32), {}

    def reset(self, *, seed=None, options=None):
        self.state[0] = 0
        return self.state, {}

    def step(self, action):
        self.state += 1
        return self.state, 1.0, bool(self.state[0] == 3), False, self.info


def test_the_terminal_observation_survives_an_environment_that_overwrites_it():
    env = LeanVecEnv([OneArrayEnv])
    kept = [env.reset()] + [env.step(np.zeros(1, dtype=int))[0] for _ in range(2)]
    observations, _, dones, infos = env.step(np.zeros(1, dtype=int))
    assert dones[0]
    assert infos[0]["terminal_observation"].tolist() == [3]
    assert observations.tolist() == [[0]]
    assert [array.item() for array in kept] == [0, 1, 2]


def test_infos_are_the_dictionaries_of_the_environment():
    env = LeanVecEnv([OneArrayEnv])
    env.reset()
    _, _, _, infos = env.step(np.zeros(1, dtype=int))
    assert infos[0] is env.envs[0].info


def test_infos_that_cannot_be_copied_pass():
    class Uncopyable(OneArrayEnv):
        def step(self, action):
            return *super().step(action)[:4], {"handle": (number for number in range(3))}

    ours, theirs = LeanVecEnv([Uncopyable]), DummyVecEnv([Uncopyable])
    ours.reset(), theirs.reset()
    with pytest.raises(TypeError):
        theirs.step(np.zeros(1, dtype=int))
    assert next(ours.step(np.zeros(1, dtype=int))[3][0]["handle"]) == 0


@pytest.mark.parametrize("name", ["box", "discrete", "multi_discrete", "multi_binary"])
def test_actions_arrive_as_dummy_vec_env_hands_them_over(name):
    arrived = []

    class Arrivals(environments.SpaceEnv):
        def step(self, action):
            arrived.append(action)
            return super().step(action)

    for cls in (LeanVecEnv, DummyVecEnv):
        env = cls([lambda: Arrivals(*environments.SPACES[name])] * 2)
        env.reset()
        env.step(np.array([env.action_space.sample()] * 2))
        with pytest.raises(IndexError):
            env.step(np.array([env.action_space.sample()]))
    for ours, theirs in zip(arrived[:2], arrived[3:5], strict=True):
        assert type(ours) is type(theirs)
        assert np.shape(ours) == np.shape(theirs)


def weights(model):
    return list(model.policy.state_dict().values())


@pytest.mark.parametrize("algorithm", [NotesPPO, PPO])
@pytest.mark.parametrize("name", ["CartPole", "box", "dict"])
def test_training_ends_with_the_same_weights_bit_by_bit(algorithm, name):
    policy = "MultiInputPolicy" if name == "dict" else "MlpPolicy"
    trained = [
        weights(algorithm(policy, make_vec_env(maker(name), 2, seed=1, vec_env_cls=cls), **SMALL).learn(256))
        for cls in (LeanVecEnv, DummyVecEnv)
    ]
    assert all(th.equal(*pair) for pair in zip(*trained, strict=True))


def test_training_under_vec_normalize_ends_with_the_same_weights():
    trained = []
    for cls in (LeanVecEnv, DummyVecEnv):
        env = VecNormalize(make_vec_env(maker("Pendulum"), 2, seed=1, vec_env_cls=cls))
        trained.append([*weights(NotesPPO("MlpPolicy", env, **SMALL).learn(256)), th.tensor(env.obs_rms.mean)])
    assert all(th.equal(*pair) for pair in zip(*trained, strict=True))


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_the_guard_under_vec_normalize_watches_it(what):
    env = VecNormalize(LeanVecEnv([lambda: environments.PoisonEnv(what, np.nan)]))
    model = NotesPPO("MlpPolicy", env, **SMALL)
    assert isinstance(env.venv.step_wait.__self__, FiniteGuard)
    with pytest.raises(NonFiniteError, match=f"^{what} must be finite, got nan"):
        model.learn(64)
    assert np.isfinite(env.obs_rms.mean).all()


def test_everything_else_is_dummy_vec_envs():
    env = LeanVecEnv([maker("CartPole"), maker("CartPole")])
    env.reset()
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.get_attr("gravity", indices=1) == [9.8]
    env.set_attr("colour", "red")
    assert env.get_attr("colour") == ["red", "red"]
    assert env.env_method("get_total_steps") == [0, 0]
    assert env.has_attr("gravity")
    assert not env.has_attr("action_masks")
    pictures = LeanVecEnv([lambda: Painted(*environments.SPACES["discrete"])] * 2)
    assert pictures.render().shape == (8, 4, 3)
    one = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="same instance"):
        LeanVecEnv([lambda: one] * 2)
    env.close()


class Painted(environments.SpaceEnv):
    render_mode = "rgb_array"

    def render(self):
        return np.zeros((4, 4, 3), dtype=np.uint8)
