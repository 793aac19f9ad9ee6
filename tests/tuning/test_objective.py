"""One run: seeds that nobody shares, evaluations at fixed steps, nothing left open, nothing lost when it is stopped."""

import dataclasses
import gc
import itertools
import signal
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch as th

from sb3_ppo_notes.callbacks import Evaluator
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.persistence import GracefulStop
from tests.tuning.worker_objectives import made_settings, small_space
from tuning.space.setup import Setup
from tuning.worker.checkpoints import Checkpoints, Progress
from tuning.worker.objective import (
    PreemptedError,
    TrainingRun,
    evaluation_seed,
    is_divergence,
    random_floor,
    train,
    training_environments,
)
from tuning.worker.settings import compiling_pays

SMALL = Setup("small", "notes_ppo", 2, {"policy": "MlpPolicy", "n_steps": 64, "batch_size": 32, "n_epochs": 2})
A2C = Setup("a2c", "notes_a2c", 2, {"policy": "MlpPolicy"})
NORMALIZED = Setup("normalized", "notes_ppo", 2, SMALL.arguments, {"gamma": 0.9, "norm_reward": True})
MARKS = (100, 200, 300, 400, 500, 1000)


class Listener:
    """The worker's side of a run, with a memory."""

    def __init__(self, folder, stop_after=None, every_seconds=1e9, number=0, history=()):
        self.checkpoints = Checkpoints(folder, number, history, every_seconds)
        self.reports, self.env_steps, self.resumed = {}, 0, None
        self.stop_after = stop_after

    def resume(self, progress):
        self.resumed = progress
        self.reports.update(progress.evaluations)

    def report(self, step, value):
        assert step not in self.reports
        self.reports[step] = value

    def count(self, env_steps):
        self.env_steps = env_steps

    def is_stopping(self):
        return self.stop_after is not None and self.env_steps >= self.stop_after


def run(setup=SMALL, seed=0, **changes):
    return TrainingRun(setup, "CartPole-v1", seed, 1000, MARKS, n_eval_episodes=3, **changes)


@pytest.mark.parametrize("setup", [SMALL, A2C, NORMALIZED], ids=lambda setup: setup.name)
def test_a_run_is_evaluated_at_every_mark_and_at_its_very_end(tmp_path, setup):
    listener = Listener(tmp_path)
    train(run(setup), listener)
    assert tuple(listener.reports) == MARKS
    rollout = 128 if setup.algo == "notes_ppo" else 10
    assert listener.env_steps == -(-1000 // rollout) * rollout  # whole rollouts, all of them counted
    assert all(8 <= value <= 500 for value in listener.reports.values())


def test_the_same_seed_is_the_same_run_and_another_is_another(tmp_path):
    runs = []
    for seed in (0, 0, 1):
        listener = Listener(tmp_path)
        th.manual_seed(123 + len(runs))
        np.random.seed(len(runs))
        train(run(seed=seed), listener)
        runs.append(listener.reports)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_how_often_it_is_evaluated_changes_nothing_that_is_learned(tmp_path):
    ends = []
    for marks in (MARKS, (1000,), tuple(range(50, 1001, 50))):
        listener = Listener(tmp_path)
        train(TrainingRun(NORMALIZED, "CartPole-v1", 0, 1000, marks, n_eval_episodes=3), listener)
        ends.append(listener.reports[1000])
    assert ends[0] == ends[1] == ends[2]


def test_no_seed_of_evaluation_is_one_of_training_or_of_another_stage():
    taken = set()
    for stage, seeds in enumerate((range(5), range(5), range(100, 150))):
        for seed in seeds:
            block = range(evaluation_seed(stage, seed), evaluation_seed(stage, seed) + 16)
            assert not taken & set(block)
            assert block.start > 10_000_000  # training takes 0, 1, ... and a few above
            taken |= set(block)


class Seeds(gym.Wrapper):
    """Remembers with which seeds environments began."""

    seen: ClassVar[list[int]] = []

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seen.append(seed)
        return super().reset(seed=seed, options=options)


OPEN = set()


class Counted(gym.Env):
    """Knows how many of its kind are open, and raises when told to."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, raise_at=None, reward=1.0):
        OPEN.add(id(self))
        self.raise_at, self.reward, self.steps = raise_at, reward, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.raise_at:
            raise RuntimeError("a bug in the environment")
        return np.zeros(2, np.float32), self.reward, self.steps % 10 == 0, False, {}

    def close(self):
        OPEN.discard(id(self))


@pytest.fixture
def environments():
    gym.register("Counted-v0", lambda **kwargs: Counted(**kwargs))
    gym.register("Endless-v0", lambda: gym.wrappers.TransformReward(Endless(), lambda r: r))
    gym.register("Seeds-v0", lambda: Seeds(gym.make("CartPole-v1")))
    OPEN.clear()
    Seeds.seen.clear()
    yield
    for name in ("Counted-v0", "Endless-v0", "Seeds-v0"):
        del gym.registry[name]


class Endless(Counted):
    def step(self, action):
        return np.zeros(2, np.float32), -1.0, False, False, {}


def test_training_and_evaluation_see_different_seeds(tmp_path, environments):
    made = TrainingRun(SMALL, "Seeds-v0", 7, 500, (100, 500), n_eval_episodes=3, eval_seed=evaluation_seed(0, 7))
    train(made, Listener(tmp_path))
    training = {seed for seed in Seeds.seen if seed < 1000}
    evaluation = {seed for seed in Seeds.seen if seed >= 1000}
    assert training == {7, 8}
    assert evaluation == {evaluation_seed(0, 7) + i for i in range(3)}


@pytest.mark.parametrize("raise_at", [None, 30, 400])
def test_every_environment_is_closed_however_a_run_ends(tmp_path, environments, raise_at):
    gym.registry["Counted-v0"].kwargs["raise_at"] = raise_at
    made = TrainingRun(SMALL, "Counted-v0", 0, 1000, MARKS, n_eval_episodes=3)
    if raise_at is None:
        train(made, Listener(tmp_path))
    else:
        with pytest.raises(RuntimeError, match="a bug in the environment"):
            train(made, Listener(tmp_path))
    assert not OPEN


def test_an_environment_that_cannot_be_made_leaves_no_other_open(tmp_path, environments, monkeypatch):
    def fails(*arguments, **settings):
        raise MemoryError("no room")

    monkeypatch.setattr("tuning.worker.objective.Evaluator", fails)
    with pytest.raises(MemoryError):
        train(TrainingRun(SMALL, "Counted-v0", 0, 1000, MARKS), Listener(tmp_path))
    assert not OPEN


def test_only_non_finite_numbers_are_divergence():
    assert is_divergence(NonFiniteError("observations must be finite"))
    with pytest.raises(ValueError, match="constraint") as error:
        th.distributions.Normal(th.tensor(float("nan")), 1.0)
    assert is_divergence(error.value)
    for other in (ValueError("shapes differ"), AssertionError("x"), RuntimeError("nan"), KeyError("y")):
        assert not is_divergence(other)


def test_a_learning_rate_far_too_high_diverges_and_nothing_else_does(tmp_path):
    wild = Setup("wild", "notes_ppo", 2, {**SMALL.arguments, "learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(ValueError) as error:  # noqa: PT011
        train(run(wild), Listener(tmp_path))
    assert is_divergence(error.value)


def test_normalised_training_is_evaluated_in_raw_rewards_and_with_its_statistics():
    env = training_environments("Pendulum-v1", NORMALIZED, 0)
    env.reset()
    for _ in range(50):
        env.step([env.action_space.sample() for _ in range(2)])
    evaluator = Evaluator("Pendulum-v1", env, seed=0, n_episodes=2, n_envs=2)
    before = env.obs_rms.mean.copy(), env.ret_rms.mean

    class Model:
        def predict(self, observation, **kwargs):
            expected = evaluator.env.normalize_obs(evaluator.env.get_original_obs())
            np.testing.assert_array_equal(observation, expected)
            return np.zeros((len(observation), 1), dtype=np.float32), None

    value = evaluator.evaluate(Model()).mean_return
    assert -3000 < value < -100  # 200 steps of raw Pendulum rewards
    np.testing.assert_array_equal(env.obs_rms.mean, before[0])
    assert env.ret_rms.mean == before[1]
    np.testing.assert_array_equal(evaluator.env.obs_rms.mean, before[0])
    assert evaluator.evaluate(Model()).mean_return == value  # the same starts every time
    env.close()
    evaluator.close()


def test_the_floor_is_no_better_than_acting_at_random(environments):
    assert random_floor("CartPole-v1") == random_floor("CartPole-v1")
    assert 5 <= random_floor("CartPole-v1") <= 20
    assert random_floor("Pendulum-v1") < -900
    assert random_floor("Endless-v0") == -10_000  # an environment without a time limit ends too


def test_compiling_pays_for_long_runs_only():
    stock = Setup("stock", "notes_ppo", 1, {})
    assert not compiling_pays(stock, 5_000)
    assert compiling_pays(stock, 1_000_000)
    assert compiling_pays(Setup("a2c", "notes_a2c", 1, {}), 1_000_000)
    # Few minibatches over many environments gain little.
    few = Setup("few", "notes_ppo", 64, {"n_steps": 128, "batch_size": 8192, "n_epochs": 1})
    assert not compiling_pays(few, 100_000)


# Stopped and gone on with -------------------------------------------------------------------------------------------


AT_EVERY_PLACE = [(SMALL, 1), (SMALL, 990), (A2C, 1), (A2C, 990), (NORMALIZED, 1), (NORMALIZED, 990)]


@pytest.mark.parametrize(
    ("setup", "stop_after"),
    [
        (SMALL, 640),
        (A2C, 640),
        (NORMALIZED, 640),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in AT_EVERY_PLACE),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_run_that_was_stopped_goes_on_exactly(tmp_path, setup, stop_after):
    straight = Listener(tmp_path / "straight")
    train(run(setup), straight)
    first = Listener(tmp_path / "cut", stop_after=stop_after)
    with pytest.raises(PreemptedError):
        train(run(setup), first)
    assert first.env_steps < stop_after + 20  # it does not wait for the end of a rollout
    second = Listener(tmp_path / "cut", number=1, history=(0,))
    assert second.checkpoints.env_steps() == first.env_steps
    train(run(setup), second)
    assert second.resumed.env_steps == first.env_steps
    assert second.reports == straight.reports
    assert second.env_steps == straight.env_steps


def test_a_run_that_is_told_to_stop_in_its_last_rollout_ends_well(tmp_path):
    straight, told = Listener(tmp_path / "straight"), Listener(tmp_path / "told", stop_after=1001)
    train(run(), straight)
    train(run(), told)
    assert told.reports == straight.reports
    assert told.env_steps == 1024


@pytest.mark.parametrize("mark", [pytest.param(300, marks=pytest.mark.slow), 990, 1000])
def test_a_signal_in_an_evaluation_stops_the_run_where_it_goes_on_exactly(tmp_path, mark, monkeypatch):
    """In the middle of training, in its last rollout, at its end; the evaluation is made by the run that goes on."""
    made = dataclasses.replace(run(), marks=(*MARKS[:-1], 990, 1000))
    straight, first = Listener(tmp_path / "straight"), Listener(tmp_path / "cut")
    train(made, straight)
    real = Evaluator.evaluate

    def evaluated(evaluator, model):
        if model.num_timesteps >= mark:
            signal.raise_signal(signal.SIGTERM)
        return real(evaluator, model)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", evaluated)
        with GracefulStop(), pytest.raises(PreemptedError):
            train(made, first)
    assert max(first.reports, default=0) < mark
    second = Listener(tmp_path / "cut", number=1, history=(0,))
    train(made, second)
    assert second.resumed.env_steps == first.env_steps
    assert second.reports == straight.reports
    assert second.env_steps == straight.env_steps


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    # A second for each look at the clock, on a machine of any speed.
    monkeypatch.setattr("tuning.worker.objective.time", SimpleNamespace(monotonic=itertools.count().__next__))
    straight = Listener(tmp_path / "straight")
    train(run(), straight)

    class Killed(Listener):
        def report(self, step, value):
            super().report(step, value)
            if step == 500:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run(), Killed(tmp_path / "cut", every_seconds=100))
    second = Listener(tmp_path / "cut", number=4, history=(0, 3))
    train(run(), second)
    assert 0 < second.resumed.env_steps <= 500
    assert second.reports == straight.reports


def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path):
    first = Listener(tmp_path, stop_after=300)
    with pytest.raises(PreemptedError):
        train(run(), first)
    for path in (tmp_path / "trial-0").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    second = Listener(tmp_path, number=1, history=(0,))
    train(run(), second)
    assert second.resumed == Progress()
    straight = Listener(tmp_path / "straight")
    train(run(), straight)
    assert second.reports == straight.reports


def test_checkpoints_are_cleared_with_those_they_came_from(tmp_path):
    with pytest.raises(PreemptedError):
        train(run(), Listener(tmp_path, stop_after=300))
    listener = Listener(tmp_path, number=1, history=(0,))
    assert listener.checkpoints.env_steps() >= 300
    listener.checkpoints.clear()
    assert not list(tmp_path.iterdir())
    assert listener.checkpoints.env_steps() == 0


@pytest.mark.slow
def test_two_hundred_trials_leave_no_file_and_no_process_open(tmp_path, monkeypatch, environments):
    from tuning.storage import Address, open_storage
    from tuning.storage.database import Patience
    from tuning.worker.identity import create_or_join
    from tuning.worker.signals import StopSignals
    from tuning.worker.worker import Worker

    settings = made_settings(
        tmp_path,
        env_id="Counted-v0",  # its episodes are short, whoever acts
        objective=train,
        space=small_space(),
        base={"n_envs": 2, "n_steps": 8, "batch_size": 16},
        total_timesteps=32,
        sampler="random",
        budget=None,
        max_trials=200,
        n_eval_episodes=1,
        checkpoint_seconds=0.0,
    )
    # Nobody pulls the plug, and waiting for the disk is most of what such short trials would do.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    create_or_join(settings, open_storage(Address(settings.storage), 60, Patience(1.0)), [])
    process, seen = psutil.Process(), []

    def counting(run, control):
        if control.trial.number in (10, 199):
            gc.collect()
            seen.append((process.num_fds(), len(process.children(recursive=True)), process.num_threads()))
        train(run, control)

    object.__setattr__(settings, "objective", counting)
    Worker(settings, StopSignals()).work(("search",))
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert not OPEN
