"""SupervisedVecEnv without faults: every value as from SubprocVecEnv."""

import copy
import multiprocessing
import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.rollouts import EnvWorkerError, EnvWorkerTimeoutError, SupervisedVecEnv
from tests import environments
from tests.envs.faulty import FaultyEnv
from tests.envs.test_lean_vec_env import MAKERS, NAMES, Painted, assert_same, info_env

SMALL = dict(n_steps=32, seed=0, device="cpu", learning_rate=1e-2, ent_coef=0.01)
FORK = dict(start_method="fork")


def maker(name):
    return MAKERS.get(name, partial(info_env, name))


def as_lists(result):
    observations, rewards, dones, infos = result
    return observations, rewards, dones, list(infos)


def both(name, n_envs=3):
    pair = [cls([maker(name)] * n_envs, start_method="fork") for cls in (SupervisedVecEnv, SubprocVecEnv)]
    for env in pair:
        env.seed(5)
        env.set_options({"some": "option"} if name not in MAKERS else None)
    return pair


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_that_of_subproc_vec_env(name):
    ours, theirs = both(name)
    assert_same(ours.reset(), theirs.reset(), "reset")
    assert_same(ours.reset_infos, list(theirs.reset_infos), "reset_infos")
    assert ours.render_mode == theirs.render_mode
    assert ours.observation_space == theirs.observation_space
    ours.action_space.seed(0)
    ends = 0
    for step in range(120):
        actions = np.array([ours.action_space.sample() for _ in range(3)])
        mine, reference = ours.step(actions), theirs.step(actions)
        assert_same(as_lists(mine), as_lists(reference), f"step {step}")
        assert_same(ours.reset_infos, list(theirs.reset_infos), f"reset_infos {step}")
        ends += mine[2].sum()
        if step == 70:
            ours.seed(9), theirs.seed(9)
            assert_same(ours.reset(), theirs.reset(), f"reset {step}")
    assert ends >= 5
    ours.close(), theirs.close()


def test_attributes_methods_and_pictures_are_those_of_subproc_vec_env():
    for cls in (SupervisedVecEnv, SubprocVecEnv):
        env = cls([maker("CartPole")] * 2, start_method="fork")
        env.reset()
        assert env.env_is_wrapped(Monitor) == [True, True]
        assert env.env_is_wrapped(gym.wrappers.FlattenObservation, indices=1) == [False]
        assert env.get_attr("gravity", indices=1) == [9.8]
        env.set_attr("colour", "red")
        env.set_attr("colour", "blue", indices=[1])
        assert env.get_attr("colour") == ["red", "blue"]
        assert env.env_method("get_total_steps") == [0, 0]
        assert env.has_attr("gravity")
        assert not env.has_attr("action_masks")
        env.close()
        pictures = cls([lambda: Painted(*environments.SPACES["discrete"])] * 2, start_method="fork")
        assert pictures.render().shape == (8, 4, 3)
        assert [picture.shape for picture in pictures.get_images()] == [(4, 4, 3)] * 2
        pictures.close()


def test_an_attribute_that_is_not_there_is_an_attribute_error_and_harms_nothing():
    env = SupervisedVecEnv([FaultyEnv] * 2, **FORK)
    env.reset()
    with pytest.raises(AttributeError, match="^shape: environment 0 raised AttributeError in get_attr"):
        env.get_attr("shape")
    with pytest.raises(EnvWorkerError, match=r"^environment 0 raised KeyError in refuse\(\): 'not here'") as caught:
        env.env_method("refuse")
    assert "def refuse" not in str(caught.value)
    assert 'raise KeyError("not here")' in caught.value.traceback
    # Both environments have answered, and both answers were read.
    assert len(set(env.env_method("work"))) == 2
    assert env.step(np.zeros(2, dtype=int))[0][:, 0].tolist() == [1, 1]
    with pytest.warns(UserWarning, match="render mode must be 'rgb_array'"):
        assert env.get_images() == [None, None]
    env.close()


class SlowEnv(FaultyEnv):
    """Waits for the others: three of them at one barrier can only be stepped at the same time."""

    def __init__(self, barrier):
        super().__init__()
        self.barrier = barrier

    def step(self, action):
        self.barrier.wait(60)
        return super().step(action)


def test_a_step_is_begun_everywhere_before_any_is_awaited():
    barrier = multiprocessing.get_context("fork").Barrier(4)
    env = SupervisedVecEnv([partial(SlowEnv, barrier)] * 3, **FORK)
    env.reset()
    env.step_async(np.zeros(3, dtype=int))
    # This process is the fourth: it gets here while all three are in the middle of their step.
    barrier.wait(60)
    assert env.step_wait()[0][:, 0].tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match="^step_wait must follow step_async"):
        env.step_wait()
    env.close()


def test_nothing_may_be_asked_in_the_middle_of_a_step_and_a_reset_drops_it():
    env = SupervisedVecEnv([FaultyEnv] * 2, **FORK)
    env.reset()
    env.step_async(np.zeros(2, dtype=int))
    with pytest.raises(RuntimeError, match="^get_attr must not come between step_async and step_wait"):
        env.get_attr("count")
    assert env.reset()[:, 0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="^actions must be one for each of 2 environments, got 3"):
        env.step(np.zeros(3, dtype=int))
    assert env.step(np.zeros(2, dtype=int))[0][:, 0].tolist() == [1, 1]
    env.close()


def test_a_message_larger_than_any_buffer_passes():
    class Large(FaultyEnv):
        observation_space = spaces.Box(0, 255, (3, 1000, 1000), dtype=np.uint8)

        def observation(self):
            return np.full((3, 1000, 1000), self.count, dtype=np.uint8)

    env = SupervisedVecEnv([Large] * 2, **FORK)
    env.reset()
    assert env.step(np.zeros(2, dtype=int))[0].mean() == 1
    env.step_async(np.zeros(2, dtype=int))
    # The answers are larger than the connections hold, and nobody reads them.
    processes = [worker.process for worker in env._workers]
    env.close()
    assert [process.exitcode for process in processes] == [0, 0]


def weights(model):
    return list(model.policy.state_dict().values())


def trained(algorithm, cls, wrapper=lambda env: env, name="CartPole"):
    # make_vec_env would add a Monitor, which VecMonitor warns of.
    env = (
        cls([maker(name)] * 2, **FORK)
        if wrapper is VecMonitor
        else make_vec_env(maker(name), 2, seed=1, vec_env_cls=cls, vec_env_kwargs=FORK)
    )
    env = wrapper(env)
    sizes = {} if algorithm in (A2C, NotesA2C) else dict(batch_size=32)
    result = weights(algorithm("MlpPolicy", env, **SMALL, **sizes).learn(128))
    env.close()
    return result


@pytest.mark.parametrize("algorithm", [NotesPPO, NotesA2C, PPO, A2C])
def test_training_ends_with_the_weights_of_subproc_vec_env(algorithm):
    pairs = zip(*(trained(algorithm, cls) for cls in (SupervisedVecEnv, SubprocVecEnv)), strict=True)
    assert all(th.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("wrapper", [VecNormalize, VecMonitor])
def test_training_under_wrappers_ends_with_the_weights_of_subproc_vec_env(wrapper):
    name = "Pendulum" if wrapper is VecNormalize else "CartPole without Monitor"
    pairs = zip(*(trained(NotesPPO, cls, wrapper, name) for cls in (SupervisedVecEnv, SubprocVecEnv)), strict=True)
    assert all(th.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
def test_masks_and_memory_work(policy):
    env = make_vec_env(FaultyEnv, 2, vec_env_cls=SupervisedVecEnv, vec_env_kwargs=FORK)
    model = NotesPPO(policy, env, n_steps=16, batch_size=16, n_epochs=1, device="cpu", action_masking=True)
    assert model.learn(64).num_timesteps == 64
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", None])
def test_every_start_method_gives_the_same_values(start_method):
    reference = SubprocVecEnv([maker("CartPole")] * 2, start_method="fork")
    env = SupervisedVecEnv([maker("CartPole")] * 2, start_method=start_method)
    env.seed(3), reference.seed(3)
    assert_same(env.reset(), reference.reset(), "reset")
    for _ in range(30):
        assert_same(as_lists(env.step(np.ones(2, dtype=int))), as_lists(reference.step(np.ones(2, dtype=int))), "step")
    env.close(), reference.close()


BAD = {
    "no list": (dict(env_fns=FaultyEnv), InvalidTypeError, "^env_fns must be a list of functions"),
    "no functions": (dict(env_fns=[3]), InvalidTypeError, "^env_fns must be a list of functions"),
    "none": (dict(env_fns=[]), InvalidValueError, "^env_fns must be at least one"),
    "start_method": (dict(start_method="thread"), InvalidValueError, "^start_method must be one of .*got 'thread'"),
    "step_timeout": (dict(step_timeout=0), InvalidValueError, "^step_timeout must be > 0 and finite, or None, got 0"),
    "reset_timeout": (dict(reset_timeout=np.nan), InvalidValueError, "^reset_timeout must be > 0.*got nan"),
    "restart": (dict(restart="always"), InvalidValueError, "^restart must be one of 'never', 'worker', got 'always'"),
    "max_restarts": (dict(max_restarts=1.5), InvalidTypeError, "^max_restarts must be an int >= 0, got float 1.5"),
    "restart_window": (dict(restart_window=-1.0), InvalidValueError, "^restart_window must be > 0.*got -1.0"),
    "close_timeout": (
        dict(close_timeout=None),
        InvalidTypeError,
        "^close_timeout must be > 0 and finite, got NoneType",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_argument_is_named(name):
    arguments, error, message = BAD[name]
    before = len(multiprocessing.active_children())
    with pytest.raises(error, match=message):
        SupervisedVecEnv(**dict(env_fns=[FaultyEnv]) | arguments)
    assert len(multiprocessing.active_children()) == before


@pytest.mark.parametrize("cls", [EnvWorkerError, EnvWorkerTimeoutError])
def test_an_error_survives_a_process_pool(cls):
    error = cls("environment 3 ...", 3, "Traceback ...", -9, "ValueError")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), again.index, again.traceback, again.signal, again.kind) == (
        str(error),
        3,
        "Traceback ...",
        9,
        "ValueError",
    )
    assert "Traceback ..." in str(again.__cause__)
    assert issubclass(EnvWorkerTimeoutError, TimeoutError)
    assert copy.copy(error).exitcode == -9
