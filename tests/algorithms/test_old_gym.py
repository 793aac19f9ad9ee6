"""Environments of OpenAI's Gym, which SB3 wraps by itself: trained as with stock, with its warning. Needs gym and shimmy."""

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.persistence import load_safe

pytest.importorskip("shimmy")
gym = pytest.importorskip("gym")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
S = gym.spaces


class Gym26(gym.Env):
    observation_space, action_space = S.Box(-1, 1, (3,)), S.Discrete(2)

    def observation(self):
        return np.full(3, self.time / 5, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observation(), {}

    def step(self, action):
        self.time += 1
        return (
            self.observation(),
            float(np.sum(action)),
            self.time >= 5,
            self.time == 4 and float(np.sum(action)) > 0,
            {},
        )


class Gym21(gym.Env):
    """``step`` gives four things, ``reset`` one."""

    observation_space, action_space = Gym26.observation_space, Gym26.action_space

    def seed(self, seed=None):
        return [seed]

    def reset(self):
        self.time = 0
        return np.zeros(3, np.float32)

    def step(self, action):
        self.time += 1
        info = {"TimeLimit.truncated": self.time == 5 and bool(action)}
        return np.full(3, self.time / 5, np.float32), float(action), self.time >= 5, info


class Boxed(Gym26):
    action_space = S.Box(-2, 2, (2,))


class Multi(Gym26):
    action_space = S.MultiDiscrete([2, 3])


class Numbers(Gym26):
    observation_space = S.Discrete(6)

    def observation(self):
        return self.time


class Pictures(Gym26):
    observation_space = S.Box(0, 255, (8, 8, 3), np.uint8)

    def observation(self):
        return np.full((8, 8, 3), self.time, np.uint8)


class Dictionary(Gym26):
    observation_space = S.Dict(vector=S.Box(-1, 1, (3,)), number=S.Discrete(6))

    def observation(self):
        return {"vector": np.full(3, self.time / 5, np.float32), "number": self.time}


SMALL = dict(n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu", learning_rate=1e-2)
ENVIRONMENTS = {
    "0.26": Gym26,
    "0.21": Gym21,
    "Box": Boxed,
    "MultiDiscrete": Multi,
    "Discrete observations": Numbers,
    "pictures": Pictures,
    "Dict": Dictionary,
    "wrapped": lambda: gym.Wrapper(Gym26()),
    "in a DummyVecEnv": lambda: DummyVecEnv([Gym26, Gym21]),
    "by make_vec_env": lambda: make_vec_env(Gym21, 2),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_of_gym_trains_as_with_stock(name):
    policy = "MultiInputPolicy" if name == "Dict" else "MlpPolicy"
    stock, notes = (algorithm(policy, ENVIRONMENTS[name](), **SMALL).learn(32) for algorithm in (PPO, NotesPPO))
    assert all(th.equal(*pair) for pair in zip(stock.policy.parameters(), notes.policy.parameters(), strict=True))
    assert isinstance(notes.env.observation_space, gymnasium.spaces.Space)


def test_stocks_warning_is_given():
    with pytest.warns(UserWarning, match="You provided an OpenAI Gym environment"):
        NotesPPO("MlpPolicy", Gym26(), **SMALL)


def test_a_model_is_loaded_set_and_built_from_a_recipe_on_one(tmp_path):
    PPO("MlpPolicy", Gym26(), **SMALL).save(tmp_path / "model")
    for model in (NotesPPO.load(tmp_path / "model", env=Gym26()), load_safe(tmp_path / "model", Gym21())):
        model.set_env(Gym21())
        model.learn(16)
    NotesPPO.from_recipe("minimal_rl", Gym26(), n_steps=8).learn(8)


class Unbounded(Gym26):
    action_space = S.Box(-np.inf, np.inf, (2,))


class Pair(Gym26):
    observation_space = S.Tuple((S.Discrete(2), S.Discrete(2)))


@pytest.mark.parametrize(
    ("env", "words"), [(Unbounded, "finite lower and upper bound"), (Pair, "^env must have an observation space")]
)
def test_spaces_of_gym_are_refused_as_gymnasiums_are(env, words):
    with pytest.raises(AssertionError, match=words):
        NotesPPO("MlpPolicy", env(), **SMALL)
