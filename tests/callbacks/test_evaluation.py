"""Evaluations end: episodes that do not are cut, and a signal is heard at every step."""

import random
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.callbacks import (
    EvaluationStoppedError,
    Evaluator,
    MaskableEvalCallback,
    Phase,
    PhasesCallback,
    StopWhenSolved,
    evaluate_episodes,
    evaluation,
)
from sb3_ppo_notes.persistence import ExactCheckpoint, GracefulStop, load_checkpoint
from sb3_ppo_notes.rollouts import LeanVecEnv
from tests.callbacks.counting import CountingEnv, counting, equal_parameters

NEVER = 10**9
SETTINGS = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu", policy_kwargs=dict(net_arch=[4]))


def model_of(env=None):
    return NotesPPO("MlpPolicy", counting(2) if env is None else env, **SETTINGS)


@pytest.fixture
def limit(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_EPISODE_STEPS", 20)


ENVIRONMENTS = {
    "one": lambda: counting(1, length=NEVER),
    "several": lambda: counting(3, length=NEVER),
    "without a monitor": lambda: counting(2, monitor=False, length=NEVER),
    "normalised": lambda: VecNormalize(counting(2, length=NEVER), training=False, norm_reward=False),
    "lean": lambda: make_vec_env(lambda: CountingEnv(NEVER), 2, vec_env_cls=LeanVecEnv),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_episode_that_does_not_end_is_cut_at_the_limit_and_the_limit_is_named(name, limit):
    with pytest.warns(UserWarning, match="was cut after MAX_EPISODE_STEPS = .* the environment has no time limit"):
        assert evaluate_episodes(model_of(), ENVIRONMENTS[name](), 4) == ([20.0] * 4, [20] * 4)


def test_an_episode_that_does_not_end_is_cut_in_other_processes_too(limit):
    env = SubprocVecEnv([lambda: Monitor(CountingEnv(NEVER))] * 2, "fork")
    with pytest.warns(UserWarning, match="was cut after"):
        assert evaluate_episodes(model_of(), env, 2) == ([20.0] * 2, [20] * 2)
    env.close()


def test_what_a_wrapper_makes_of_rewards_is_not_the_return_of_an_episode_that_was_cut(limit):
    env = DummyVecEnv([lambda: gym.wrappers.TransformReward(Monitor(CountingEnv(NEVER)), lambda reward: 7 * reward)])
    with pytest.warns(UserWarning, match="was cut after"):
        assert evaluate_episodes(model_of(), env, 1) == ([20.0], [20])


def test_a_time_limit_of_the_environments_own_counts(limit):
    env = DummyVecEnv([lambda: Monitor(gym.wrappers.TimeLimit(CountingEnv(NEVER), 50))])
    assert evaluate_episodes(model_of(), env, 2) == ([50.0] * 2, [50] * 2)


def test_an_episode_that_a_wrapper_around_the_monitor_ends_is_one():
    """The Monitor does not see its end: an evaluation would wait for ever."""
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Monitor(CountingEnv(NEVER)), 7)] * 2)
    assert evaluate_episodes(model_of(), env, 4) == ([7.0] * 4, [7] * 4)


class Lives(gym.Wrapper):
    """Says every fourth step that the episode is over, and is reset only when it is: SB3's EpisodicLifeEnv."""

    def __init__(self, env):
        super().__init__(env)
        self.is_over = True

    def step(self, action):
        observation, reward, self.is_over, truncated, info = self.env.step(action)
        return observation, reward, self.is_over or self.unwrapped.steps % 4 == 0, truncated, info

    def reset(self, **kwargs):
        if self.is_over:
            return self.env.reset(**kwargs)
        observation, *_ = self.env.step(self.action_space.sample())
        return observation, {}


def test_the_loss_of_a_life_ends_no_episode():
    returns, lengths = evaluate_episodes(model_of(), DummyVecEnv([lambda: Lives(Monitor(CountingEnv(10)))]), 3)
    assert returns == [10.0] * 3
    assert lengths == [10] * 3


def test_episodes_beside_one_that_is_cut_begin_anew_and_those_that_end_count(limit):
    env = DummyVecEnv([lambda: Monitor(CountingEnv(NEVER)), lambda: Monitor(CountingEnv(7))])
    with pytest.warns(UserWarning, match="was cut after"):
        returns, lengths = evaluate_episodes(model_of(), env, 8)
    assert sorted(lengths) == [7] * 4 + [20] * 4
    assert returns == lengths


@pytest.mark.parametrize("kind", [PPO, NotesPPO])
def test_where_every_episode_ends_an_evaluation_is_sb3s(kind):
    model = kind("MlpPolicy", "CartPole-v1", **SETTINGS).learn(8)
    results = []
    for _ in range(2):
        env = VecNormalize(make_vec_env("CartPole-v1", 3, seed=1), training=False)
        env.seed(5)
        results.append(env)
    expected = evaluate_policy(model, results[1], n_eval_episodes=5, return_episode_rewards=True)
    assert evaluate_episodes(model, results[0], 5) == tuple(map(list, expected))


class SignalIn(CountingEnv):
    """A signal comes at its n-th step, whoever makes it."""

    def __init__(self, at, length=NEVER):
        super().__init__(length)
        self.left = at

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return super().step(action)


def test_a_signal_ends_an_evaluation_between_two_steps():
    env = DummyVecEnv([lambda: SignalIn(13)])
    with GracefulStop(), pytest.raises(EvaluationStoppedError):
        evaluate_episodes(model_of(), env, 5)
    assert env.envs[0].steps == 13
    # Outside of the block nothing is asked.
    assert evaluate_episodes(model_of(), counting(1), 1) == ([5.0], [5])


def test_a_second_listener_does_not_make_the_first_one_deaf():
    with GracefulStop() as outer:
        with GracefulStop():
            pass
        outer.requested = signal.SIGTERM
        with pytest.raises(EvaluationStoppedError):
            evaluate_episodes(model_of(), counting(1), 1)


#: The threshold is out of reach: five steps of reward 1.
WATCHING = {
    "solved": lambda env: StopWhenSolved(5.5, n_episodes=3, env=env, every=10),
    "phases": lambda env: PhasesCallback([Phase("train", 10, is_training=True), Phase("test", 30)], env, seed=1),
    "evaluation": lambda env: MaskableEvalCallback(DummyVecEnv([lambda: Monitor(env())]), eval_freq=5, verbose=0),
}


@pytest.mark.parametrize("name", WATCHING)
def test_a_signal_while_a_callback_evaluates_ends_the_run_where_it_resumes_exactly(name, tmp_path):
    straight, again = (WATCHING[name](lambda: SignalIn(NEVER, 5)) for _ in range(2))
    expected = model_of().learn(48, straight)
    with GracefulStop() as stop:
        model_of().learn(48, [WATCHING[name](lambda: SignalIn(7, 5)), ExactCheckpoint(NEVER, path=tmp_path)])
        assert stop.requested == signal.SIGTERM
    model = load_checkpoint(tmp_path, counting(2), device="cpu")
    assert model.num_timesteps == 10
    model.learn(model.resume_report.remaining_timesteps, again, reset_num_timesteps=False)
    assert equal_parameters(model, expected)
    assert again.n_calls == straight.n_calls
    if name == "phases":
        assert again.reports == straight.reports
    if name == "solved":
        assert list(again._returns) == list(straight._returns)


# -- an evaluator: environments of its own, seen as in training ---------------------------------------------------


class Recorder:
    """Acts at random by a generator of its own, and keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        self.seen.append(
            {k: v.copy() for k, v in observation.items()} if isinstance(observation, dict) else observation
        )
        return np.zeros(len(episode_start), dtype=int), state


class Levels(gym.Env):
    """Two parts of very different size; the reward is the step."""

    observation_space = gym.spaces.Dict(
        {"level": gym.spaces.Box(-1e3, 1e3, (2,)), "other": gym.spaces.Box(-1e3, 1e3, (1,))}
    )
    action_space = gym.spaces.Discrete(2)

    def _observation(self):
        return {
            key: np.full(space.shape, 10.0 * self.steps, np.float32) for key, space in self.observation_space.items()
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), float(self.steps), self.steps == 4, False, {}


@pytest.mark.parametrize(
    "settings", [dict(), dict(norm_obs=False), dict(norm_obs_keys=["level"]), dict(epsilon=10.0), dict(clip_obs=0.01)]
)
def test_an_evaluator_sees_observations_as_the_training_has_learned_to(settings):
    training = VecNormalize(DummyVecEnv([Levels] * 2), **settings)
    evaluator, model = Evaluator(Levels, training, seed=0, n_episodes=1), Recorder()
    training.reset()
    for _ in range(7):
        training.step([0, 0])
    before = repr(training.__getstate__())
    assert evaluator.evaluate(model) == ([10.0], [4]), "raw rewards"
    assert repr(training.__getstate__()) == before
    for number, seen in enumerate(model.seen):
        raw = {"level": np.full((1, 2), 10.0 * number, np.float32), "other": np.full((1, 1), 10.0 * number, np.float32)}
        expected = training.normalize_obs(raw)
        assert all(np.array_equal(seen[key], expected[key]) for key in raw)


def test_environments_that_draw_from_global_generators_leave_them_as_they_were():
    model = model_of()
    before = random.getstate(), th.get_rng_state(), np.random.get_state()[1].copy()
    Evaluator(CountingEnv, model.env, seed=0, n_episodes=2).evaluate(model)
    assert random.getstate() == before[0]
    assert th.equal(th.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_an_evaluator_plays_the_same_episodes_again():
    model = NotesPPO("MlpPolicy", make_vec_env("CartPole-v1", 2), **SETTINGS)
    evaluator = Evaluator("CartPole-v1", model.env, seed=3, n_episodes=5, n_envs=2)
    first = evaluator.evaluate(model)
    assert evaluator.evaluate(model) == first
    assert first == tuple(
        map(list, evaluate_policy(model, make_vec_env("CartPole-v1", 2, seed=3), 5, return_episode_rewards=True))
    )
    assert (first.mean_return, first.std_return) == (np.mean(first.returns), np.std(first.returns))
    assert Evaluator("CartPole-v1", model.env, seed=4, n_episodes=5).evaluate(model) != first
    evaluator.close()


class Forbidding(CountingEnv):
    """Only action 1 is ever allowed; the other pays nothing."""

    def action_masks(self):
        return np.array([False, True])

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward * float(action), *rest


def test_an_evaluator_asks_for_masks_unless_told_otherwise():
    model = model_of(DummyVecEnv([lambda: Monitor(Forbidding())]))
    with th.no_grad():
        model.policy.action_net.bias.copy_(th.tensor([9.0, 0.0]))
    masked, bare = (Evaluator(Forbidding, model.env, seed=0, n_episodes=2, masks=masks) for masks in (True, False))
    assert masked.evaluate(model).returns == [5.0, 5.0]
    assert bare.evaluate(model).returns == [0.0, 0.0]


def test_an_evaluator_keeps_a_recurrent_policys_state_within_an_episode_and_not_beyond():
    env = make_vec_env(Levels, 2, env_kwargs={})
    model = NotesPPO("MultiInputLstmPolicy", env, **SETTINGS | dict(policy_kwargs=dict(lstm_hidden_size=4)))
    states, predict = [], model.policy.predict

    def predicted(observation, state=None, episode_start=None, *args, **kwargs):
        states.append((state, np.array(episode_start)))
        return predict(observation, state, episode_start, *args, **kwargs)

    model.policy.predict = predicted
    Evaluator(Levels, model.env, seed=0, n_episodes=2).evaluate(model)
    starts = [bool(start[0]) for _, start in states]
    assert starts == [True, False, False, False] * 2
    assert [state is None for state, _ in states] == [True] + [False] * 7


def test_an_endless_evaluation_ends_at_a_signal():
    model = model_of()
    evaluator = Evaluator(lambda: SignalIn(13), model.env, seed=0, n_episodes=1)
    with GracefulStop(), pytest.raises(EvaluationStoppedError):
        evaluator.evaluate(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(env=3), "env must be an id"),
        (dict(n_episodes=0), "n_episodes must be an int >= 1"),
        (dict(n_envs=0), "n_envs must be an int >= 1"),
        (dict(env="Pendulum-v1"), "env must have the spaces of the training environments"),
    ],
)
def test_an_evaluator_refuses_what_it_cannot_use(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Evaluator(**dict(env=CountingEnv, training_env=counting(1), seed=0, n_episodes=1) | arguments)
