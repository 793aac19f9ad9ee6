"""A run that a callback ended in the middle of a rollout and that is resumed equals the straight run to the last bit."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import StopWhenSolved
from sb3_ppo_notes.persistence import ExactCheckpoint, load_checkpoint, save_checkpoint
from tests.persistence.cases import CASES, NET, SMALL, assert_equal, cart_poles, disturb, resumed, run_to

#: Of the runs here: three rollouts of 64 steps, or 15 of A2C.
TOTAL = 32 * 2 * 3


class StopAt(BaseCallback):
    """Ends the run at a step, as every callback can."""

    def __init__(self, at=0):
        super().__init__()
        self.at = at

    def _on_step(self):
        return self.num_timesteps < self.at


def finished(model):
    """What is left of a run, with the random numbers of its process."""
    disturb()
    return model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)


def check(name, at, tmp_path):
    expected = CASES[name]().learn(TOTAL)
    CASES[name]().learn(TOTAL, [ExactCheckpoint(10**6, path=tmp_path), StopAt(at)])
    model = resumed(name, tmp_path)
    assert model.num_timesteps == at
    assert model.resume_report.is_exact, model.resume_report
    assert_equal(finished(model), expected)


@pytest.mark.parametrize("name", ["lstm", "masked", "normalize", "gsde", "every_epoch", "a2c"])
def test_a_run_ended_by_a_callback_is_resumed_exactly(name, tmp_path):
    check(name, 100, tmp_path)


# Two environments: a rollout is 64 steps, the first step ends at 2.
PLACES = {"first step": 66, "last step": 128, "last step of all": 192, "first step of all": 2}


@pytest.mark.parametrize(("name", "place"), [*(("mlp", place) for place in PLACES), ("every_epoch", "last step")])
def test_a_callback_may_end_a_run_at_any_step_of_a_rollout(name, place, tmp_path):
    check(name, PLACES[place], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "compiled"])
@pytest.mark.parametrize("place", PLACES)
def test_every_kind_of_run_may_be_ended_at_any_step_of_a_rollout(place, name, tmp_path):
    check(name, PLACES[place], tmp_path)


def evaluating(threshold):
    stopper = StopTrainingOnRewardThreshold(threshold)
    return EvalCallback(cart_poles(), callback_on_new_best=stopper, n_eval_episodes=2, eval_freq=37, verbose=0)


STOPPERS = {
    "a function": lambda: lambda local, _: local["self"].num_timesteps < 90,
    "every so many steps": lambda: EveryNTimesteps(70, StopAt()),
    "the number of episodes": lambda: CallbackList([CallbackList([StopTrainingOnMaxEpisodes(3)])]),
    "the return of an evaluation": lambda: evaluating(1.0),
    "the task is solved": lambda: StopWhenSolved(5.0, n_episodes=2),
    "the end of a rollout, by the next step": lambda: StopAt(128),
}


@pytest.mark.parametrize("who", STOPPERS)
def test_whoever_ends_a_run_a_checkpoint_after_learn_resumes_it_exactly(who, tmp_path):
    expected = CASES["mlp"]().learn(TOTAL)
    model = CASES["mlp"]().learn(TOTAL, STOPPERS[who]())
    assert model.num_timesteps < TOTAL
    save_checkpoint(model, tmp_path)
    again = resumed("mlp", tmp_path)
    assert again.resume_report.is_exact, again.resume_report
    assert_equal(finished(again), expected)


def test_a_run_may_be_ended_again_and_again(tmp_path):
    expected = CASES["lstm"]().learn(TOTAL)
    CASES["lstm"]().learn(TOTAL, [ExactCheckpoint(10**6, path=tmp_path), StopAt(30)])
    for at in (64, 66, 128):
        model = resumed("lstm", tmp_path)
        left = model.resume_report.remaining_timesteps
        model.learn(left, [ExactCheckpoint(10**6, path=tmp_path), StopAt(at)], reset_num_timesteps=False)
        assert model.num_timesteps == at
    assert_equal(finished(resumed("lstm", tmp_path)), expected)


@pytest.mark.parametrize(("ours", "stock", "batch"), [(NotesPPO, PPO, dict(batch_size=8)), (NotesA2C, A2C, {})])
@pytest.mark.parametrize("saves", [False, True])
def test_a_model_that_learns_on_after_a_callback_ended_it_is_stock_to_the_bit(saves, ours, stock, batch, tmp_path):
    """Stock begins a new rollout with the last observation it has stored; a checkpoint in between changes nothing."""
    settings = dict(n_steps=8, seed=3, device="cpu", learning_rate=1e-2, **batch, **NET)
    models = []
    for kind in (ours, stock):
        model = kind("MlpPolicy", VecNormalize(cart_poles()), **settings).learn(64, StopAt(38))
        if saves and kind is ours:
            save_checkpoint(model, tmp_path)
        models.append(model.learn(64, reset_num_timesteps=False))
    weights = [list(model.policy.state_dict().values()) for model in models]
    for mine, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert models[0].num_timesteps == models[1].num_timesteps
    episodes = [[(info["r"], info["l"]) for info in model.ep_info_buffer] for model in models]
    assert episodes[0] == episodes[1]


@pytest.mark.parametrize("name", ["lstm", "masked", "every_epoch"])
def test_a_checkpoint_of_an_ended_run_leaves_the_model_as_it_was(name, tmp_path):
    models = [CASES[name]().learn(TOTAL, StopAt(100)) for _ in range(2)]
    save_checkpoint(models[0], tmp_path)
    for model in models:
        disturb()
        model.learn(TOTAL, reset_num_timesteps=False)
    assert_equal(*models)


@pytest.mark.parametrize("by", ["a callback", "a signal"])
def test_a_rollout_whose_environments_were_replaced_is_said_to_be_lost(by, tmp_path):
    model = CASES["mlp"]()
    if by == "a callback":
        model.learn(TOTAL, StopAt(100))
    else:
        run_to(model, 100, tmp_path / "before", total=TOTAL)
    model.set_env(cart_poles())
    save_checkpoint(model, tmp_path)
    assert "not exact: rollout: its steps are lost" in str(resumed("mlp", tmp_path).resume_report)


class Exhausted(gym.Env):
    """A data set of 40 rows; when they have been played it raises what its iterator does."""

    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

    def __init__(self, rows=40):
        self.rows, self.row = rows, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.row += 1
        if self.row > self.rows:
            raise StopIteration("no rows left")
        return np.full(2, self.row / 100, np.float32), float(action), self.row % 7 == 0, False, {}


def test_a_run_that_an_environments_stop_iteration_ended_resumes_exactly_from_its_last_checkpoint(tmp_path):
    settings = SMALL | NET
    expected = NotesPPO("MlpPolicy", Exhausted(100), **settings).learn(64)
    model = NotesPPO("MlpPolicy", Exhausted(), **settings)
    with pytest.raises(StopIteration, match="no rows left"):
        model.learn(64, ExactCheckpoint(17, path=tmp_path))
    with pytest.raises(ValueError, match="^model must be between two steps"):
        save_checkpoint(model, tmp_path)
    again = load_checkpoint(tmp_path, Exhausted(), device="cpu")
    assert again.num_timesteps == 34
    assert again.resume_report.is_exact, again.resume_report
    # The number of rows is part of what the environment remembers.
    again.env.envs[0].unwrapped.rows = 100
    assert_equal(finished(again), expected)
