"""Runs to be cut and resumed: what is built, and how two models are compared to the last bit."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.envs.wrappers import StreamingNormalize, VecRewardScale
from sb3_ppo_notes.persistence import ExactCheckpoint, GracefulStop, StopOnSignal, load_checkpoint
from sb3_ppo_notes.rollouts import LeanVecEnv, make_gymnasium_vec
from sb3_ppo_notes.rules import (
    AdaptiveLearningRate,
    KLPenalty,
    Optimization,
    OptimizerSettings,
    SeparateOptimizers,
    UpdateRule,
)
from tests.environments import make

SMALL = dict(n_steps=32, batch_size=16, n_epochs=2, seed=3, device="cpu", learning_rate="lin_1e-2")
NET = dict(policy_kwargs=dict(net_arch=[8]))


class Doors(gym.Env):
    """Three doors, one of them locked each time; episodes of 5 to 9 steps."""

    observation_space, action_space = spaces.Box(0, 1, (3,)), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(5, 10))
        return self._shut(), {}

    def _shut(self):
        self.open = self.np_random.permutation([True, True, False])
        return self.open.astype(np.float32)

    def action_masks(self):
        return self.open

    def step(self, action):
        assert self.open[action]
        self.left -= 1
        return self._shut(), float(action), self.left == 0, False, {}


def cart_poles(**settings):
    return make_vec_env("CartPole-v1", n_envs=2, seed=7, **settings)


def spinning_separate():
    settings = OptimizerSettings(learning_rate=1e-2, n_epochs=2)
    return UpdateRule(optimization=Optimization(separate=SeparateOptimizers(settings, settings)))


def space_env(name):
    return make_vec_env(lambda: make(name), n_envs=2, seed=7)


def float16():
    model = NotesPPO("MlpPolicy", cart_poles(), **SMALL, **NET, precision="float16")
    return model


#: Each builds the same run every time. ``env`` of the model is what a resumed run is given.
CASES = {
    "mlp": lambda: NotesPPO("MlpPolicy", cart_poles(), **SMALL, **NET, target_kl=0.5),
    "lean": lambda: NotesPPO("MlpPolicy", cart_poles(vec_env_cls=LeanVecEnv), **SMALL, **NET),
    "pendulum": lambda: NotesPPO("MlpPolicy", make_vec_env("Pendulum-v1", n_envs=2, seed=7), **SMALL, **NET),
    "cnn": lambda: NotesPPO("CnnPolicy", space_env("image"), **SMALL),
    "dict": lambda: NotesPPO("MultiInputPolicy", space_env("dict"), **SMALL, **NET),
    "lstm": lambda: NotesPPO("MlpLstmPolicy", cart_poles(), **SMALL, policy_kwargs=dict(lstm_hidden_size=8)),
    "lstm_in_c": lambda: NotesPPO("MlpLstmPolicy", cart_poles(), **SMALL, policy_kwargs=dict(lstm_hidden_size=64)),
    "masked": lambda: NotesPPO("MlpPolicy", make_vec_env(Doors, 2, seed=7), **SMALL, **NET, action_masking=True),
    "normalize": lambda: NotesPPO("MlpPolicy", VecNormalize(cart_poles()), **SMALL, **NET),
    "streaming": lambda: NotesPPO("MlpPolicy", VecRewardScale(StreamingNormalize(cart_poles()), 0.5), **SMALL, **NET),
    "gsde": lambda: NotesPPO(
        "MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=7), **SMALL, **NET, use_sde=True, sde_sample_freq=5
    ),
    "gsde_once": lambda: NotesPPO("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=7), **SMALL, **NET, use_sde=True),
    "gsde_lstm": lambda: NotesPPO(
        "MlpLstmPolicy",
        make_vec_env("Pendulum-v1", 2, seed=7),
        **SMALL,
        policy_kwargs=dict(lstm_hidden_size=8, net_arch=[8]),
        use_sde=True,
        sde_sample_freq=5,
    ),
    "kl_penalty": lambda: NotesPPO(
        "MlpPolicy", cart_poles(), **SMALL, **NET, rule=UpdateRule(policy_objective=KLPenalty(target=1e-4))
    ),
    "adaptive": lambda: NotesPPO(
        "MlpPolicy",
        cart_poles(),
        **SMALL | dict(learning_rate=1e-3),
        **NET,
        rule=UpdateRule(kl_controls=(AdaptiveLearningRate(threshold=1e-3),)),
    ),
    "every_epoch": lambda: NotesPPO(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", 2, seed=7, wrapper_class=lambda env: gym.wrappers.TimeLimit(env, 11)),
        **SMALL,
        **NET,
        rule=UpdateRule(computed="every_epoch"),
    ),
    "separate": lambda: NotesPPO(
        "MlpPolicy",
        cart_poles(),
        n_steps=32,
        batch_size=16,
        seed=3,
        device="cpu",
        rule=spinning_separate(),
        policy_kwargs=dict(net_arch=dict(pi=[8], vf=[8])),
    ),
    "float16": float16,
    "a2c": lambda: NotesA2C("MlpPolicy", cart_poles(), seed=3, device="cpu", learning_rate="lin_1e-2", **NET),
    "vector": lambda: NotesPPO("MlpPolicy", make_gymnasium_vec("CartPole-v1", 2, seed=7), **SMALL, **NET),
    "sync": lambda: NotesPPO(
        "MlpPolicy", make_gymnasium_vec("CartPole-v1", 2, seed=7, vectorization_mode="sync"), **SMALL, **NET
    ),
    "compiled": lambda: NotesPPO("MlpPolicy", cart_poles(), **SMALL, **NET, compile=True),
}
TOTAL = 32 * 2 * 5


class Rows(KVWriter):
    """Keeps what is logged, but the clock's part."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        clock = ("time/fps", "time/time_elapsed")
        self.rows.append({key: value for key, value in key_values.items() if key not in clock} | {"step": step})

    def close(self):
        pass


def with_rows(model):
    rows = Rows()
    model.set_logger(Logger(None, [rows]))
    return model, rows


class CutAt(BaseCallback):
    """Asks for an end after so many environment steps."""

    def __init__(self, stop, at):
        super().__init__()
        self.stop, self.at = stop, at

    def _on_step(self):
        if self.model.num_timesteps >= self.at:
            self.stop.requested = 15
        return True


def run_to(model, at, folder, total=TOTAL, callbacks=(), every=10**9, log_interval=1):
    """Learn until a step, leave a checkpoint there."""
    stop = GracefulStop()
    done = model.num_timesteps
    keeping = ExactCheckpoint(every, keep=2, path=folder)
    everything = [keeping, CutAt(stop, at), StopOnSignal(stop), *callbacks]
    model.learn(total - done, everything, log_interval=log_interval, reset_num_timesteps=done == 0)
    return keeping.last_path


def disturb():
    """Another process has other random numbers."""
    import random

    random.seed(99)
    np.random.seed(99)
    th.manual_seed(99)


def resumed(name, folder, **arguments):
    disturb()
    fresh = CASES[name]().env
    disturb()
    return load_checkpoint(folder, fresh, device="cpu", **arguments)


def assert_equal(mine, theirs):
    """Weights, optimiser, counters and the next random number: to the bit."""
    state, expected = mine.policy.state_dict(), theirs.policy.state_dict()
    assert state.keys() == expected.keys()
    for key in state:
        np.testing.assert_array_equal(state[key].numpy(), expected[key].numpy(), err_msg=key)
    for one, other in zip(
        mine.policy.optimizer.state_dict()["state"].values(),
        theirs.policy.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        for key in one:
            np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]), err_msg=key)
    for name in ("num_timesteps", "_n_updates", "rule_state", "_current_progress_remaining", "_episode_num"):
        assert getattr(mine, name) == getattr(theirs, name), name
    episodes = [[(info["r"], info["l"]) for info in model.ep_info_buffer] for model in (mine, theirs)]
    assert episodes[0] == episodes[1]


def falling_name(progress):
    return 1e-2 * progress
