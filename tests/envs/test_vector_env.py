"""GymnasiumVecEnv: the episodes of DummyVecEnv, whichever way the vector environment resets."""

import copy
import json

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.wrappers.vector import (
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    TransformObservation,
)
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.rollouts import FiniteGuard, GymnasiumVecEnv, make_gymnasium_vec
from tests import environments

SMALL = dict(n_steps=64, batch_size=32, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2)
N_ENVS = 3
TUPLE = spaces.Tuple((environments.BOX, spaces.Discrete(4)))


class InfoEnv(environments.SpaceEnv):
    """Reports what it was reset with, and numbers, arrays, words and dictionaries, some of them only at times."""

    def __init__(self, name):
        observation_space, action_space = (TUPLE, spaces.Discrete(3)) if name == "tuple" else environments.SPACES[name]
        # Environments that shared a space would share its random numbers.
        super().__init__(copy.deepcopy(observation_space), copy.deepcopy(action_space))

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, {"length": self.length} | ({"word": options["word"]} if options else {})

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"count": self.count, "array": np.full(2, self.count), "nested": {"even": self.count % 2 == 0}}
        if self.count > 9:
            info["long"] = "yes"
        return observation, reward / 3, terminated, truncated or (terminated and self.length == 8), info

    def action_masks(self):
        return np.arange(3) < 2


MAKERS = {
    "CartPole": lambda: gym.make("CartPole-v1", max_episode_steps=25),
    "Pendulum": lambda: gym.make("Pendulum-v1", max_episode_steps=25),
}


def maker(name):
    return MAKERS.get(name, lambda: InfoEnv(name))


def composed(name, kind, mode, **kwargs):
    return {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[kind]([maker(name)] * N_ENVS, autoreset_mode=mode, **kwargs)


def assert_same(ours, theirs, where):
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(theirs, tuple):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        np.testing.assert_array_equal(ours, theirs, where)
    else:
        assert ours == theirs, where


def assert_same_infos(ours, theirs, dones, where):
    for index, done in enumerate(dones):
        mine, reference = ours[index], theirs[index]
        assert (mine == {}) or done, where
        if done:
            assert mine["episode"].pop("t") >= 0
            reference["episode"].pop("t")
            assert_same(mine, reference, f"{where}, info of environment {index}")


def assert_same_episodes(ours, theirs, steps=250, options=None):
    """Lockstep with DummyVecEnv and Monitor; how many episodes ended, how many of them by the limit."""
    for env in (ours, theirs):
        env.seed(5)
        env.set_options(options)
    assert_same(ours.reset(), theirs.reset(), "reset")
    assert ours.reset_infos == theirs.reset_infos
    ours.action_space.seed(0)
    ends, cuts = 0, 0
    for step in range(steps):
        actions = np.array([ours.action_space.sample() for _ in range(N_ENVS)])
        mine, reference = ours.step(actions), theirs.step(actions)
        assert_same(mine[:3], reference[:3], f"step {step}")
        assert_same_infos(mine[3], reference[3], reference[2], f"step {step}")
        for info in ours.reset_infos:
            info.pop("episode", None)  # where RecordEpisodeStatistics leaves it in SAME_STEP
        assert ours.reset_infos == theirs.reset_infos
        if step == steps // 2:
            # Seeds and options are used once.
            assert_same(ours.reset(), theirs.reset(), "second reset")
            assert ours.reset_infos == theirs.reset_infos
        ends += int(reference[2].sum())
        cuts += sum(info["TimeLimit.truncated"] for info in reference[3])
    ours.close()
    return ends, cuts


def dummy(name):
    return DummyVecEnv([lambda: Monitor(maker(name)())] * N_ENVS)


COMPOSITIONS = [("sync", mode, {}) for mode in AutoresetMode] + [
    ("async", AutoresetMode.SAME_STEP, {}),
    ("async", AutoresetMode.SAME_STEP, {"shared_memory": False}),
    ("async", AutoresetMode.NEXT_STEP, {}),
    ("async", AutoresetMode.DISABLED, {"shared_memory": False}),
    ("async", AutoresetMode.DISABLED, {"copy": False}),
    ("sync", AutoresetMode.SAME_STEP, {"copy": False}),
    ("sync", AutoresetMode.DISABLED, {"copy": False}),
]


@pytest.mark.parametrize(("kind", "mode", "kwargs"), COMPOSITIONS)
@pytest.mark.parametrize("name", ["CartPole", "dict"])
def test_episodes_are_those_of_dummy_vec_env(name, kind, mode, kwargs):
    ours = GymnasiumVecEnv(composed(name, kind, mode, **kwargs))
    options = {"word": "hello"} if name == "dict" else None
    ends, cuts = assert_same_episodes(ours, dummy(name), options=options)
    assert ends - cuts >= 5
    assert cuts >= 3


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("name", [name for name in [*environments.SPACES, "Pendulum", "tuple"] if name != "dict"])
def test_every_space_has_the_episodes_of_dummy_vec_env(name, mode):
    ours = GymnasiumVecEnv(composed(name, "sync", mode))
    assert assert_same_episodes(ours, dummy(name))[1] >= 3


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_wrapper_around_the_vector_environment_is_honoured(mode):
    class Negated(VectorWrapper):
        """A wrapper of observations that works in every mode; Gymnasium's refuse SAME_STEP."""

        def reset(self, **kwargs):
            observations, infos = super().reset(**kwargs)
            return -observations, infos

        def step(self, actions):
            observations, *others, infos = super().step(actions)
            for index in np.flatnonzero(infos.get("_final_obs", [])):
                infos["final_obs"][index] = -infos["final_obs"][index]
            return -observations, *others, infos

    wrapped = RecordEpisodeStatistics(Negated(composed("CartPole", "sync", mode)))
    theirs = DummyVecEnv(
        [lambda: gym.wrappers.TransformObservation(Monitor(MAKERS["CartPole"]()), np.negative, None)] * N_ENVS
    )
    assert_same_episodes(GymnasiumVecEnv(wrapped), theirs)


def test_monitors_inside_report_their_own_episodes():
    class EveryOther(Monitor):
        """As with one life of several: an end that is no end of the game."""

        def step(self, action):
            *others, info = super().step(action)
            if info.get("episode", {"l": 0})["l"] % 2:
                del info["episode"]
            return *others, info

    fns = [lambda: EveryOther(InfoEnv("discrete"))] * N_ENVS
    for env in (SyncVectorEnv(fns, autoreset_mode="SameStep"), AsyncVectorEnv(fns, autoreset_mode="NextStep")):
        ours, ended = GymnasiumVecEnv(env), []
        ours.reset()
        for _ in range(100):
            _, _, dones, infos = ours.step(np.zeros(N_ENVS, dtype=int))
            ended += [infos[index] for index in np.flatnonzero(dones)]
        assert all((info["count"] % 2 == 0) == ("episode" in info) for info in ended)
        assert all(info["episode"]["l"] == info["count"] for info in ended if "episode" in info)
        assert len({"episode" in info for info in ended}) == 2
        ours.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", ["box", "dict"])
def test_nothing_that_was_returned_is_written_to_again(name, kind):
    # copy=False: the environment gives out the memory in which it builds the next batch.
    env = GymnasiumVecEnv(composed(name, kind, AutoresetMode.NEXT_STEP, copy=False))
    returned = [(env.reset(),)]
    copies = copy.deepcopy(returned)
    for _ in range(40):
        step = env.step(np.array([env.action_space.sample() for _ in range(N_ENVS)]))
        returned.append(step[:3] + tuple(step[3]))
        copies.append(copy.deepcopy(returned[-1]))
    for index, pair in enumerate(zip(returned, copies, strict=True)):
        assert_same(*pair, f"step {index}")
    assert len({id(info) for info in env.step(np.array([env.action_space.sample()] * N_ENVS))[3]}) == N_ENVS
    env.close()


# --- CartPole's own vector implementation -----------------------------------------------------------------------------


def single_poles(env):
    """One ordinary CartPole for each pole of the vector environment, in the same state."""
    poles = [CartPoleEnv() for _ in range(env.num_envs)]
    for index, pole in enumerate(poles):
        pole.reset()
        pole.state = tuple(env.env.unwrapped.state[:, index])
    return poles


def test_vector_cart_poles_move_as_single_ones_through_every_end():
    env = make_gymnasium_vec("CartPole-v1", 16, seed=0, max_episode_steps=20)
    observations = env.reset()
    assert np.abs(observations).max() <= 0.05
    poles = single_poles(env)
    rewards_so_far, ends, cuts = [[] for _ in range(16)], 0, 0
    for _ in range(300):
        actions = np.array([env.action_space.sample() for _ in range(16)])
        observations, rewards, dones, infos = env.step(actions)
        for index, (pole, action) in enumerate(zip(poles, actions, strict=True)):
            expected, _, fell, _, _ = pole.step(action)
            rewards_so_far[index].append(rewards[index])
            cut = len(rewards_so_far[index]) == 20 and not fell
            assert dones[index] == (fell or cut)
            if not dones[index]:
                assert infos[index] == {}
                np.testing.assert_allclose(observations[index], expected, rtol=1e-5, atol=1e-7)
                continue
            info = infos[index]
            np.testing.assert_allclose(info["terminal_observation"], expected, rtol=1e-5, atol=1e-7)
            assert info["terminal_observation"].dtype == np.float32
            assert info["TimeLimit.truncated"] is cut
            assert info["episode"]["r"] == sum(rewards_so_far[index]) == info["episode"]["l"]
            assert np.abs(observations[index]).max() <= 0.05
            rewards_so_far[index], ends, cuts = [], ends + 1, cuts + cut
            pole.reset()
            pole.state = tuple(env.env.unwrapped.state[:, index])
    assert ends - cuts >= 100
    assert cuts >= 50


def test_a_pole_that_is_held_up_is_cut_at_500():
    env = make_gymnasium_vec("CartPole-v1", 4, seed=0)
    observations = env.reset()
    for step in range(1, 1001):
        observations, rewards, dones, infos = env.step((observations @ [1, 1, 10, 2] > 0).astype(int))
        assert rewards.tolist() == [1, 1, 1, 1]
        assert dones.tolist() == [step in (500, 1000)] * 4
    assert [info["TimeLimit.truncated"] for info in infos] == [True] * 4
    assert [info["episode"]["r"] for info in infos] == [500] * 4
    # Near the top, far from where it began.
    assert all(np.abs(info["terminal_observation"][2]) < 0.21 for info in infos)


def test_a_reset_of_some_poles_draws_what_gymnasium_draws_one_step_later():
    env = make_gymnasium_vec("CartPole-v1", 4, seed=3)
    theirs = CartPoleVectorEnv(4)
    assert_same(env.reset(), theirs.reset(seed=3)[0], "reset")
    actions = np.array([1, 1, 1, 0])
    for _ in range(50):
        observations, _, dones, infos = env.step(actions)
        reference = theirs.step(actions)
        assert_same(dones, reference[2] | reference[3], "dones")
        if dones.any():
            break
    assert not dones.all()
    for index in np.flatnonzero(dones):
        assert_same(infos[index]["terminal_observation"], reference[0][index], "terminal observation")
    one_later = theirs.step(actions)[0]
    assert_same(observations[dones], one_later[dones], "first observations")
    # And from there the reset pole takes its first step, while Gymnasium's has just been reset.
    assert np.abs(env.step(actions)[0][dones] - one_later[dones]).max() > 1e-3


def test_both_at_once_is_no_truncation():
    class Both(environments.ConstantRewardEnv):
        def step(self, action):
            return *super().step(action)[:2], self.count >= 8, self.count >= 8, {}

    for mode in AutoresetMode:
        env = GymnasiumVecEnv(SyncVectorEnv([Both], autoreset_mode=mode))
        env.reset()
        steps = [env.step(np.zeros(1, dtype=int)) for _ in range(8)]
        assert steps[-1][3][0]["TimeLimit.truncated"] is False
        assert steps[-1][2].tolist() == [True]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [NotesPPO, PPO])
def test_both_algorithms_train_on_it_and_log_episodes(algorithm, tmp_path):
    model = algorithm("MlpPolicy", make_gymnasium_vec("CartPole-v1", 4, seed=0), **SMALL)
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(512)
    model.logger.close()
    logged = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    means = [line for line in logged if "rollout/ep_rew_mean" in line]
    assert means[-1]["rollout/ep_rew_mean"] == np.mean([episode["l"] for episode in model.ep_info_buffer])
    assert 8 < means[-1]["rollout/ep_len_mean"] < 100


@pytest.mark.parametrize("mode", AutoresetMode)
def test_training_ends_with_the_weights_of_dummy_vec_env(mode):
    ours, theirs = (
        NotesPPO("MlpPolicy", env, **SMALL).learn(256).policy.state_dict()
        for env in (GymnasiumVecEnv(composed("box", "sync", mode)), dummy("box"))
    )
    assert all(th.equal(ours[key], theirs[key]) for key in theirs)


def test_vec_normalize_its_guard_and_evaluation_work_around_it():
    env = VecNormalize(make_gymnasium_vec("CartPole-v1", 2, seed=0))
    model = NotesPPO("MlpPolicy", env, **SMALL).learn(128)
    assert isinstance(env.venv.step_wait.__self__, FiniteGuard)
    env.training = False
    # Raw returns in spite of VecNormalize, and no warning that a Monitor is missing.
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True)
    assert returns == lengths
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        VecMonitor(make_gymnasium_vec("CartPole-v1", 2))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_gymnasium_vec_composes_what_has_no_vector_implementation(mode):
    env = make_gymnasium_vec("Pendulum-v1", 2, seed=3, vectorization_mode=mode, max_episode_steps=5, g=9.0)
    assert env.env.autoreset_mode is AutoresetMode.SAME_STEP
    assert env.get_attr("g") == [9.0, 9.0]
    reference = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    reference.seed(3)
    assert_same(env.reset(), reference.reset(), "reset")
    env.close()


# --- in two halves ----------------------------------------------------------------------------------------------------


def test_a_step_of_asynchronous_environments_runs_between_its_halves():
    env = GymnasiumVecEnv(composed("discrete", "async", AutoresetMode.SAME_STEP))
    first = env.reset()
    env.step_async(np.zeros(N_ENVS, dtype=int))
    assert env.env._state is AsyncState.WAITING_STEP
    assert not np.array_equal(env.step_wait()[0], first)
    assert env.env._state is AsyncState.DEFAULT
    # A reset drops the step that was begun.
    env.step_async(np.zeros(N_ENVS, dtype=int))
    env.seed(4)
    observations = env.reset()
    env.seed(4)
    assert_same(env.reset(), observations, "reset")
    assert env._episode_lengths.tolist() == [0] * N_ENVS
    env.close()


def test_a_step_that_was_begun_elsewhere_is_dropped_by_a_reset():
    env = make_gymnasium_vec("CartPole-v1", 2)
    env.reset()
    env.step_async(np.zeros(2, dtype=int))
    env.reset()
    assert env.env.unwrapped.steps.tolist() == [0, 0]


# --- EnvPool, Atari, and vector environments of one's own -------------------------------------------------------------


class Counters(VectorEnv):
    """Counts to 3, 4, ... and begins again at the next step, or at once if asked by mask."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's way)
    rows_of_the_mask_only = False

    def __init__(self, num_envs=3):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0, 100, (1,), dtype=np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.count, self.done = np.zeros(num_envs), np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed=None, options=None):
        mask = np.ones(self.num_envs, dtype=bool) if options is None else options["reset_mask"]
        self.count[mask], self.done[mask] = 0, False
        rows = mask if self.rows_of_the_mask_only else slice(None)
        infos = {"seat": np.arange(self.num_envs)[rows], "nested": {"seat": np.arange(self.num_envs)[rows]}}
        return self.count[rows, np.newaxis], infos

    def step(self, actions):
        ignored = self.done.copy()
        self.count = np.where(ignored, 0, self.count + 1)
        self.done = self.count == 3 + np.arange(self.num_envs)
        infos = {"seat": np.arange(self.num_envs), "nested": {"seat": np.arange(self.num_envs)}}
        no = np.zeros(self.num_envs, dtype=bool)
        return self.count[:, np.newaxis], np.where(ignored, 0.0, 1.0), self.done.copy(), no, infos


class Pool(Counters):
    """As EnvPool: a reset by mask returns the rows of the mask, seeds are fixed, a step is sent and received."""

    rows_of_the_mask_only = True

    def __init__(self, num_envs=3, **config):
        super().__init__(num_envs)
        self.config = {"seed": 42, "batch_size": num_envs, "max_num_players": 1} | config
        self.all_env_ids = np.arange(num_envs)

    def reset(self, *, seed=None, options=None):
        assert seed is None
        return super().reset(options=options)

    def send(self, actions):
        self.sent = actions

    def recv(self):
        return super().step(self.sent)

    def step(self, actions):
        raise AssertionError

    def render(self, env_ids=None):
        return np.zeros((len(env_ids), 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "build", [lambda: GymnasiumVecEnv(Counters(), reset_mask=True), lambda: GymnasiumVecEnv(Pool())]
)
def test_a_reset_by_mask_leaves_no_step_that_never_happened(build):
    env = build()
    assert env.reset().tolist() == [[0], [0], [0]]
    assert env.reset_infos == [{"seat": index, "nested": {"seat": index}} for index in range(3)]
    for step in range(1, 61):
        env.reset_infos = [{}, {}, {}]
        observations, rewards, dones, infos = env.step(np.zeros(3, dtype=int))
        assert rewards.tolist() == [1, 1, 1]
        for index, length in enumerate([3, 4, 5]):
            assert dones[index] == (step % length == 0)
            assert observations[index] == step % length
            if dones[index]:
                assert infos[index].pop("episode").items() >= {"r": length, "l": length}.items()
                terminal = infos[index].pop("terminal_observation")
                assert (terminal.dtype, terminal.tolist()) == (np.float32, [length])
                assert infos[index] == {"seat": index, "nested": {"seat": index}, "TimeLimit.truncated": False}
            assert env.reset_infos[index] == ({"seat": index, "nested": {"seat": index}} if dones[index] else {})


def test_arrays_in_infos_belong_to_the_caller():
    class Tracing(Counters):
        trace = np.zeros((3, 2))

        def step(self, actions):
            self.trace += 1
            *others, _ = super().step(actions)
            return *others, {"trace": self.trace}

    env = GymnasiumVecEnv(Tracing(), reset_mask=True)
    env.reset()
    infos = [env.step(np.zeros(3, dtype=int))[3][0] for _ in range(6)]
    assert [info["trace"].tolist() for info in infos if info] == [[3, 3], [6, 6]]


def test_a_seed_that_does_not_reach_envpool_says_so():
    env = GymnasiumVecEnv(Pool())
    with pytest.warns(UserWarning, match="^seed 7 does not reach EnvPool, which was seeded with 42"):
        assert env.seed(7) == [None] * 3
    assert env.seed(42) == env.seed() == [None] * 3
    env.reset()


def test_envpool_itself():
    envpool = pytest.importorskip("envpool")
    env = GymnasiumVecEnv(envpool.make("CartPole-v1", env_type="gymnasium", num_envs=5, seed=1, max_episode_steps=20))
    observations = env.reset()
    lengths, ends, cuts = np.zeros(5, dtype=int), 0, 0
    env.action_space.seed(0)
    for _ in range(300):
        actions = np.array([env.action_space.sample() for _ in range(5)])
        expected = []
        for observation, action in zip(observations, actions, strict=True):
            pole = CartPoleEnv()
            pole.reset()
            pole.state = tuple(observation)
            expected.append(pole.step(action)[0])
        observations, rewards, dones, infos = env.step(actions)
        lengths += 1
        assert (rewards == 1).all()
        for index in range(5):
            if dones[index]:
                terminal = infos[index]["terminal_observation"]
                np.testing.assert_allclose(terminal, expected[index], atol=1e-4)
                assert infos[index]["TimeLimit.truncated"] == (lengths[index] == 20)
                assert infos[index]["episode"]["l"] == infos[index]["episode"]["r"] == lengths[index]
                assert np.abs(observations[index]).max() <= 0.05
                cuts, ends, lengths[index] = cuts + (lengths[index] == 20), ends + 1, 0
            else:
                np.testing.assert_allclose(observations[index], expected[index], atol=1e-4)
    assert ends - cuts > 10
    assert cuts > 10


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_atari(mode):
    ale = pytest.importorskip("ale_py.vector_env")
    env = GymnasiumVecEnv(
        ale.AtariVectorEnv(
            "breakout",
            3,
            autoreset_mode=mode,
            max_num_frames_per_episode=200,
            img_height=32,
            img_width=32,
            num_threads=1,
        )
    )
    env.seed(0)
    env.reset()
    # It writes into the dictionary of the class it is derived from.
    VectorEnv.metadata.pop("autoreset_mode", None)
    lengths, ends = np.zeros(3, dtype=int), 0
    for _ in range(120):
        env.step_async(np.full(3, 1))
        observations, _, dones, infos = env.step_wait()
        lengths += 1
        assert (observations.dtype, observations.shape) == (np.uint8, (3, 4, 32, 32))
        for index in np.flatnonzero(dones):
            assert infos[index]["episode"]["l"] == lengths[index] > 30
            assert infos[index]["TimeLimit.truncated"]
            assert not np.array_equal(infos[index]["terminal_observation"], observations[index])
            assert env.reset_infos[index]["lives"] == 5
            lengths[index], ends = 0, ends + 1
    assert ends >= 4
    env.close()


# --- attributes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_attributes_and_methods_of_composed_environments(kind):
    env = GymnasiumVecEnv(composed("discrete", kind, AutoresetMode.SAME_STEP))
    env.reset()
    # An AsyncVectorEnv that is asked for what is not there ends its processes.
    assert not env.has_attr("nothing")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        env.get_attr("nothing")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        env.env_method("nothing")
    assert env.has_attr("action_masks")
    assert env.get_attr("count") == [0, 0, 0]
    env.set_attr("count", [1, 2, 3])
    assert env.get_attr("count") == [[1, 2, 3]] * 3
    env.set_attr("count", 4)
    assert env.get_attr("count", indices=[0, 2]) == [4, 4]
    assert [mask.tolist() for mask in env.env_method("action_masks")] == [[True, True, False]] * 3
    assert callable(env.get_attr("action_masks")[0])
    assert env.env_is_wrapped(Monitor, indices=0) == [True]
    assert env.step(np.zeros(3, dtype=int))[1].tolist() == [0, 0, 0]
    env.close()


def test_single_environments_can_be_told_apart_in_this_process():
    env = GymnasiumVecEnv(composed("CartPole", "sync", AutoresetMode.SAME_STEP))
    env.set_attr("gravity", 5.0, indices=1)
    assert env.get_attr("gravity") == [9.8, 5.0, 9.8]
    assert env.env.envs[1].unwrapped.gravity == 5.0
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [True] * 3
    assert env.env_is_wrapped(gym.wrappers.TimeAwareObservation, indices=[0]) == [False]
    assert len(env.env_method("get_wrapper_attr", "gravity", indices=[0, 1])) == 2


def test_attributes_of_a_vector_environment_without_single_ones():
    env = make_gymnasium_vec("CartPole-v1", 2)
    assert env.get_attr("gravity") == [9.8, 9.8]
    env.set_attr("gravity", 5.0)
    assert env.env.unwrapped.gravity == 5.0
    assert not env.has_attr("action_masks")
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False, False]
    with pytest.raises(AttributeError, match="^CartPoleVectorEnv has no attribute 'colour'"):
        env.set_attr("colour", "red")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_action_masks_come_through(kind):
    fns = [lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10)] * 2
    vector = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[kind](fns, autoreset_mode="SameStep")
    model = NotesPPO("MlpPolicy", GymnasiumVecEnv(vector), action_masking=True, **SMALL).learn(128)
    assert model.rollout_buffer.action_masks.shape == (64, 2, 20)
    assert not model.rollout_buffer.action_masks.all()
    vector.close()


class Painted(environments.SpaceEnv):
    render_mode = "rgb_array"

    def __init__(self):
        super().__init__(*environments.SPACES["discrete"])

    def render(self):
        return np.full((4, 4, 3), 7, dtype=np.uint8)


@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
def test_pictures(vector):
    env = GymnasiumVecEnv(vector([Painted] * 2, autoreset_mode="SameStep"))
    env.reset()
    assert env.render_mode == "rgb_array"
    assert env.render().shape == (8, 4, 3)
    assert (env.render() == 7).any()
    env.close()


def test_pictures_of_pools_and_of_nothing():
    pool = Pool()
    pool.render_mode = "rgb_array"
    assert GymnasiumVecEnv(pool).render().shape == (8, 8, 3)
    with pytest.warns(UserWarning, match="^the render mode must be 'rgb_array' for images, got None"):
        assert GymnasiumVecEnv(Pool()).get_images() == [None] * 3


# --- what is refused --------------------------------------------------------------------------------------------------


class Nameless(Counters):
    metadata = VectorEnv.metadata


class Unhelpful(Counters):
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012


def test_the_mode_is_not_read_where_another_environment_left_its_own(monkeypatch):
    monkeypatch.setitem(VectorEnv.metadata, "autoreset_mode", AutoresetMode.DISABLED)
    with pytest.raises(InvalidValueError, match="^env must state how it resets"):
        GymnasiumVecEnv(Nameless())
    named = Nameless()
    named.autoreset_mode = AutoresetMode.NEXT_STEP
    with pytest.raises(InvalidValueError, match="^env must begin an episode in the step that ended the last one"):
        GymnasiumVecEnv(named)


def sync(mode=AutoresetMode.NEXT_STEP):
    return composed("box", "sync", mode)


@pytest.mark.parametrize(
    ("build", "error", "begins"),
    [
        (
            lambda: GymnasiumVecEnv(gym.make("CartPole-v1")),
            InvalidTypeError,
            "env must be a gymnasium.vector.VectorEnv, got",
        ),
        (
            lambda: GymnasiumVecEnv(sync(), reset_mask="no"),
            InvalidTypeError,
            "reset_mask must be True or False, got str 'no'",
        ),
        (
            lambda: GymnasiumVecEnv(sync(AutoresetMode.SAME_STEP), reset_mask=True),
            InvalidValueError,
            "reset_mask must be False for an environment that resets itself in the same step",
        ),
        (
            lambda: GymnasiumVecEnv(Counters()),
            InvalidValueError,
            "env must begin an episode in the step that ended the last one, got Counters, which does so one step later",
        ),
        (lambda: GymnasiumVecEnv(Nameless()), InvalidValueError, "env must state how it resets, in metadata"),
        (
            lambda: GymnasiumVecEnv(NormalizeReward(sync())),
            InvalidValueError,
            "env must keep no running statistics where finished environments are reset by mask, got NormalizeReward",
        ),
        (
            lambda: GymnasiumVecEnv(TransformObservation(NormalizeObservation(sync()), np.negative)),
            InvalidValueError,
            "env must keep no running statistics where finished environments are reset by mask, got NormalizeObs",
        ),
        (
            lambda: GymnasiumVecEnv(Pool(batch_size=2)),
            InvalidValueError,
            "env must answer for all its 3 environments at every step, got batch_size=2",
        ),
        (
            lambda: GymnasiumVecEnv(Pool(max_num_players=2)),
            InvalidValueError,
            "env must have one player an environment, got max_num_players=2",
        ),
        (
            lambda: make_gymnasium_vec("Pendulum-v1"),
            InvalidValueError,
            "vectorization_mode must be 'sync' or 'async' for Pendulum-v1, which has no vector implementation",
        ),
        (
            lambda: make_gymnasium_vec("CartPole-v1", vectorization_mode="parallel"),
            InvalidValueError,
            "vectorization_mode must be one of 'vector_entry_point', 'sync', 'async', got 'parallel'",
        ),
        (lambda: make_gymnasium_vec("CartPole-v1", 0), InvalidValueError, "n_envs must be an int >= 1, got 0"),
        (
            lambda: GymnasiumVecEnv(sync()).set_options([{"word": "a"}, {"word": "b"}, {}]),
            InvalidValueError,
            "options must be the same for all 3 environments",
        ),
        (
            lambda: GymnasiumVecEnv(sync()).set_options({"reset_mask": np.ones(3, dtype=bool)}),
            InvalidValueError,
            "options must not hold 'reset_mask'",
        ),
        (
            lambda: make_gymnasium_vec("CartPole-v1", 2).env_method("step", 1),
            InvalidValueError,
            "method_name must be one that CartPoleVectorEnv can call in each environment, got 'step'",
        ),
        (
            lambda: make_gymnasium_vec("CartPole-v1", 2).set_attr("gravity", 1.0, indices=[0]),
            InvalidValueError,
            "indices must be None for CartPoleVectorEnv, which reaches all environments or none, got ",
        ),
    ],
)
def test_what_cannot_be_done_right_is_refused(build, error, begins):
    with pytest.raises(error, match="^" + begins):
        build()


def test_asynchronous_environments_refuse_what_would_end_them():
    env = GymnasiumVecEnv(composed("discrete", "async", AutoresetMode.SAME_STEP))
    with pytest.raises(InvalidValueError, match="^method_name must be one that AsyncVectorEnv can call"):
        env.env_method("reset")
    with pytest.raises(InvalidValueError, match="^indices must be None for AsyncVectorEnv"):
        env.env_method("action_masks", indices=0)
    with pytest.raises(InvalidValueError, match="^wrapper_class must be Monitor where environments live in other"):
        env.env_is_wrapped(gym.wrappers.TimeLimit)
    env.reset()
    env.close()


def test_asynchronous_environments_that_would_reset_twice_are_refused():
    vector = composed("box", "async", AutoresetMode.NEXT_STEP, shared_memory=False)
    with pytest.raises(
        InvalidValueError, match="^env must begin an episode in the step that ended the last one, got Async"
    ):
        GymnasiumVecEnv(vector)
    vector.close()


def test_a_same_step_environment_without_last_observations_is_refused_at_the_first_end():
    env = GymnasiumVecEnv(Unhelpful())
    env.reset()
    for _ in range(2):
        env.step(np.zeros(3, dtype=int))
    with pytest.raises(InvalidValueError, match="^env must put last observations into its infos as 'final_obs'"):
        env.step(np.zeros(3, dtype=int))
