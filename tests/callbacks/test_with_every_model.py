"""The three callbacks beside every kind of model and environment: nothing of the training changes, nothing is missed."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import Phase, PhasesCallback, StopWhenSolved, VideoCallback
from sb3_ppo_notes.callbacks.evaluation import own_environment
from sb3_ppo_notes.callbacks.updates import UpdateCallback
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.rollouts import GymnasiumVecEnv, LeanVecEnv, make_gymnasium_vec
from tests.callbacks.counting import CountingEnv, equal_parameters


class Doors(CountingEnv):
    """A door is locked at each step; to try it is an error. The picture gets brighter with every step."""

    def __init__(self, length=5, render_mode=None):
        super().__init__(length, render_mode)
        self.action_space = spaces.Discrete(3)

    def action_masks(self):
        return np.arange(3) != self.steps % 3

    def step(self, action):
        assert action != self.steps % 3, "a locked door"
        return super().step(action)


SIZES = dict(n_steps=8, device="cpu", seed=3, learning_rate=1e-2)
MINIBATCHES = dict(batch_size=8, n_epochs=2)
SMALL_LSTM = dict(policy_kwargs=dict(lstm_hidden_size=8))

MODELS = {
    "stock PPO": (PPO, "MlpPolicy", CountingEnv, MINIBATCHES),
    "stock A2C": (A2C, "MlpPolicy", CountingEnv, {}),
    "contrib's MaskablePPO": (MaskablePPO, "MlpPolicy", Doors, MINIBATCHES),
    "contrib's RecurrentPPO": (RecurrentPPO, "MlpLstmPolicy", CountingEnv, MINIBATCHES | SMALL_LSTM),
    "NotesPPO": (NotesPPO, "MlpPolicy", CountingEnv, MINIBATCHES),
    "NotesA2C": (NotesA2C, "MlpPolicy", CountingEnv, {}),
    "masked": (NotesPPO, "MlpPolicy", Doors, MINIBATCHES | dict(action_masking=True)),
    "recurrent": (NotesPPO, "MlpLstmPolicy", CountingEnv, MINIBATCHES | SMALL_LSTM),
    "recurrent and masked": (
        NotesPPO,
        "MlpLstmPolicy",
        Doors,
        MINIBATCHES | SMALL_LSTM | dict(action_masking=True),
    ),
}


def gymnasium_vec(makers):
    return GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))


ENVIRONMENTS = {
    "dummy": DummyVecEnv,
    "lean": LeanVecEnv,
    "gymnasium": gymnasium_vec,
    "normalised lean": lambda makers: VecNormalize(LeanVecEnv(makers)),
    "normalised gymnasium": lambda makers: VecNormalize(gymnasium_vec(makers), gamma=0.9),
    "streaming gymnasium": lambda makers: StreamingNormalize(gymnasium_vec(makers)),
}
PAIRS = [(model, "lean") for model in MODELS] + [(model, "normalised gymnasium") for model in MODELS]
PAIRS += [("NotesPPO", env) for env in ENVIRONMENTS] + [("stock PPO", env) for env in ENVIRONMENTS]


def built(model, env):
    random.seed(1)
    algorithm, policy, environment, settings = MODELS[model]
    vec_env = ENVIRONMENTS[env]([lambda: Monitor(environment())] * 2)
    return algorithm(policy, vec_env, **SIZES, **settings)


def watchers(environment, folder):
    """All three, the last of which never stops the training."""
    return [
        PhasesCallback([Phase("train", 14, is_training=True), Phase("eval", 9)], lambda: environment(length=4)),
        VideoCallback(lambda: environment(render_mode="rgb_array"), folder, every=20, run="run"),
        StopWhenSolved(8.0, n_episodes=2, env=lambda: environment(length=7), every=15),
        StopWhenSolved(5.5, n_episodes=2),
    ]


def generators(model):
    """The states of all random generators that a training draws from."""
    environment = [env.bit_generator.state for env in model.get_env().get_attr("np_random")]
    return random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist(), environment


@pytest.mark.parametrize(("model", "env"), sorted(set(PAIRS)))
def test_nothing_of_a_training_changes_and_nothing_is_missed(model, env, tmp_path):
    environment = MODELS[model][2]
    callbacks = watchers(environment, tmp_path)
    alone = built(model, env).learn(64)
    drawn_alone = generators(alone)
    watched = built(model, env).learn(64, callback=callbacks)
    assert generators(watched) == drawn_alone
    assert equal_parameters(alone, watched)
    ours, theirs = (one.policy.optimizer.state_dict()["state"] for one in (alone, watched))
    assert all(th.equal(ours[key][name], theirs[key][name]) for key in ours for name in ours[key])
    assert np.array_equal(alone._last_obs, watched._last_obs)
    for one, other in zip(*(statistics(each.get_env()) for each in (alone, watched)), strict=True):
        assert np.array_equal(one, other)
    phases, video, with_env, of_training = callbacks
    # Steps 14, 28, 42, 56 end a phase; two episodes of 4 fit into 9 steps. In training, 2 environments in 7 steps each.
    assert [(r.phase, r.mean, r.n_episodes) for r in phases.reports] == [
        ("train", 5.0, 2),
        ("eval", 4.0, 2),
        ("train", 5.0, 2),
        ("eval", 4.0, 2),
        ("train", 5.0, 4),
        ("eval", 4.0, 2),
        ("train", 5.0, 2),
        ("eval", 4.0, 2),
    ]
    assert [(episode.episode_return, episode.length) for episode in video.episodes] == [(5.0, 5)] * 3
    assert list(with_env._returns) == [7.0, 7.0]
    assert list(of_training._returns) == [5.0, 5.0]  # raw, though the training sees normalised ones
    assert [with_env.is_solved, of_training.is_solved] == [False, False]


def statistics(env):
    if isinstance(env, VecNormalize):
        return [env.obs_rms.mean, env.obs_rms.var, env.obs_rms.count, env.ret_rms.var, env.ret_rms.count, env.returns]
    if isinstance(env, StreamingNormalize):
        moments = (env.observation_moments, env.reward_moments)
        return [part for m in moments for part in (m.n, m.mean, m.deviations)]
    return []


@pytest.mark.parametrize("model", ["stock PPO", "masked", "recurrent and masked"])
@pytest.mark.parametrize("env", ["lean", "normalised gymnasium"])
def test_stops_when_solved(model, env):
    environment = MODELS[model][2]
    for callback, steps in (
        (StopWhenSolved(5.0, n_episodes=4), 20),
        (StopWhenSolved(7.0, n_episodes=4, env=lambda: environment(length=7), every=15), 16),
    ):
        trained = built(model, env).learn(64, callback=callback)
        assert (trained.num_timesteps, callback.is_solved) == (steps, True)


def test_an_environment_that_computes_all_at_once_is_watched_in_single_ones(tmp_path):
    def learned(callback):
        env = make_gymnasium_vec("CartPole-v1", n_envs=2, seed=0)
        return NotesPPO("MlpPolicy", env, **SIZES, **MINIBATCHES).learn(64, callback=callback)

    phases = PhasesCallback([Phase("train", 32, is_training=True), Phase("eval", 40)], "CartPole-v1")
    video = VideoCallback("CartPole-v1", tmp_path, every=32, run="run", max_steps=5)
    solved = StopWhenSolved(n_episodes=2)
    assert equal_parameters(learned(None), learned([phases, video, solved]))
    assert solved._threshold == 475.0
    assert [report.phase for report in phases.reports] == ["train", "eval"] * 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"run-CartPole-v1-step-{step:09d}-episode-1.mp4" for step in (32, 64)
    ]


@pytest.mark.parametrize("env", ["normalised lean", "normalised gymnasium", "streaming gymnasium"])
def test_all_normalise_with_what_the_training_has_learned_so_far(env, tmp_path):
    model = built("NotesPPO", env)
    phases = PhasesCallback([Phase("train", 32, is_training=True), Phase("eval", 5)], CountingEnv)
    video = VideoCallback(lambda: CountingEnv(render_mode="rgb_array"), tmp_path, every=32)
    solved = StopWhenSolved(100.0, n_episodes=1, env=CountingEnv, every=32)
    model.learn(32, callback=[phases, video, solved])
    for own in (phases._own_env, video._stage.env, solved._own_env):
        for ours, theirs in zip(statistics(own)[:3], statistics(model.get_env())[:3], strict=True):
            assert np.array_equal(ours, theirs)


class Recorded(CountingEnv):
    """Always the same observation; it remembers what was done."""

    def __init__(self, actions, render_mode=None):
        super().__init__(render_mode=render_mode, continuous=True)
        self.actions = actions

    def _observation(self):
        return np.full(2, 0.5, np.float32)

    def step(self, action):
        self.actions.append(float(action[0]))
        return super().step(action)


def test_all_play_the_deterministic_policy(tmp_path):
    training, phased, filmed, solving = [], [], [], []
    env = DummyVecEnv([lambda: Recorded(training)])
    model = PPO("MlpPolicy", env, **SIZES | dict(learning_rate=0.0), **MINIBATCHES)
    callbacks = [
        PhasesCallback([Phase("train", 16, is_training=True), Phase("eval", 6)], lambda: Recorded(phased)),
        VideoCallback(lambda: Recorded(filmed, "rgb_array"), tmp_path, every=16),
        StopWhenSolved(100.0, n_episodes=1, env=lambda: Recorded(solving), every=16),
    ]
    model.learn(16, callback=callbacks)
    action = float(np.clip(model.predict(np.full(2, 0.5, np.float32), deterministic=True)[0][0], -1, 1))
    assert (phased, filmed, solving) == ([action] * 6, [action] * 5, [action] * 5)
    assert len(set(training)) > 10


class Pictures(gym.Env):
    """Its observation is a picture, brighter with every step."""

    def __init__(self, shape=(36, 36, 3), as_part=False):
        picture = spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = spaces.Dict(picture=picture, number=spaces.Box(-1, 1, (1,))) if as_part else picture
        self.action_space, self.shape, self.as_part, self.steps = spaces.Discrete(2), shape, as_part, 0

    def _observation(self):
        picture = np.full(self.shape, min(20 * self.steps, 255), np.uint8)
        return dict(picture=picture, number=np.zeros(1, np.float32)) if self.as_part else picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), 1.0, self.steps >= 5, False, {}


@pytest.mark.parametrize(
    ("make", "stack"),
    [
        (Pictures, lambda env: env),
        (Pictures, lambda env: VecFrameStack(env, 3)),
        (Pictures, lambda env: VecTransposeImage(VecFrameStack(env, 3))),
        (Pictures, lambda env: VecFrameStack(VecTransposeImage(env), 3)),
        (Pictures, lambda env: VecFrameStack(env, 2, channels_order="first")),
        (lambda: Pictures((8,)), lambda env: VecFrameStack(env, 3)),
        (lambda: Pictures(as_part=True), lambda env: VecNormalize(VecFrameStack(env, 3), norm_obs_keys=["number"])),
        (lambda: Pictures(as_part=True), lambda env: VecFrameStack(env, 3, channels_order={"number": None, "picture": "first"})),
    ],
)  # fmt: skip
def test_an_environment_of_its_own_shows_what_the_training_sees(make, stack):
    training = stack(DummyVecEnv([make]))
    own = own_environment(make, training, seed=0)
    ours, theirs = own.reset(), training.reset()
    for _ in range(7):
        for key in theirs if isinstance(theirs, dict) else [...]:
            assert np.allclose(ours[key], theirs[key], atol=1e-6)
        if isinstance(training, VecNormalize):
            training.training = False
        ours, theirs = own.step([0])[0], training.step([0])[0]


def test_an_environment_of_its_own_is_seeded():
    training = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    for seed in (3, 4):
        own = own_environment("Pendulum-v1", training, seed=seed)
        assert np.array_equal(own.reset()[0], gym.make("Pendulum-v1").reset(seed=seed)[0])


@pytest.mark.parametrize(
    "settings", [dict(clip_obs=0.5), dict(epsilon=3.0), dict(norm_obs=False), dict(norm_reward=False, gamma=0.5)]
)
def test_an_environment_of_its_own_normalises_with_the_trainings_settings(settings):
    training = VecNormalize(DummyVecEnv([CountingEnv] * 2), **settings)
    training.reset()
    for _ in range(9):
        training.step([0, 0])
    own = own_environment(CountingEnv, training, seed=0)
    raw = np.array([[70.0, -3.0]], np.float32)
    assert np.array_equal(own.normalize_obs(raw), training.normalize_obs(raw))
    own.reset()
    assert own.step([0])[1] == 1.0  # rewards as they are


class Reports(UpdateCallback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def _watch(self, report):
        self.seen.append(report)


@pytest.mark.parametrize(("stock", "ours"), [(PPO, NotesPPO), (A2C, NotesA2C)])
def test_a_report_of_stock_holds_the_losses_that_ours_would_have(stock, ours):
    pair = []
    for algorithm in (stock, ours):
        reports = Reports()
        sizes = MINIBATCHES if algorithm in (PPO, NotesPPO) else {}
        algorithm("MlpPolicy", "CartPole-v1", **SIZES | sizes).learn(24, callback=reports)
        pair.append(reports.seen)
    for theirs, own in zip(*pair, strict=True):
        for name in ("policy_loss", "value_loss", "entropy_loss"):
            assert getattr(theirs, name) == pytest.approx(getattr(own, name), rel=1e-6), name
