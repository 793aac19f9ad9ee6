"""The end of training once a mean return reaches its threshold."""

import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import StopWhenSolved
from sb3_ppo_notes.callbacks.stopping import spec_threshold
from tests.callbacks.counting import CountingEnv, counting, equal_parameters

SIZES = dict(n_steps=8, device="cpu", seed=3)


@pytest.mark.parametrize("algorithm", [PPO, A2C, NotesPPO, NotesA2C])
def test_stops_at_the_step_at_which_the_last_episodes_reach_the_threshold(algorithm, capsys):
    sizes = SIZES if "A2C" in algorithm.__name__ else dict(SIZES, batch_size=8)
    # Every episode has 5 steps and a return of 5: the third ends at step 15, in the middle of a rollout.
    model = algorithm("MlpPolicy", counting(), **sizes)
    callback = StopWhenSolved(5.0, n_episodes=3, verbose=1)
    model.learn(1000, callback=callback)
    assert (model.num_timesteps, callback.is_solved) == (15, True)
    assert model.logger.name_to_value["notes/solved/mean_return"] == 5.0
    assert "solved after 15 steps: mean return 5.0 of 3 episodes, threshold 5" in capsys.readouterr().out


def test_goes_on_below_the_threshold():
    model = PPO("MlpPolicy", counting(), batch_size=8, **SIZES)
    callback = StopWhenSolved(5.001, n_episodes=3)
    model.learn(40, callback=callback)
    assert (model.num_timesteps, callback.is_solved) == (40, False)


def test_the_mean_is_over_the_last_episodes_only():
    class Improving(CountingEnv):
        lengths = iter([1, 1, 9, 9, 9])

        def reset(self, **kwargs):
            self.length = next(self.lengths)
            return super().reset(**kwargs)

    model = PPO("MlpPolicy", Improving(), batch_size=8, **SIZES)
    model.learn(100, callback=StopWhenSolved(9.0, n_episodes=2))
    # Returns 1, 1, 9, 9: the last two reach 9 at step 20; all four have a mean of 5.
    assert model.num_timesteps == 20


@pytest.mark.parametrize("algorithm", [PPO, NotesPPO])
def test_deterministic_episodes_decide_where_an_environment_is_given(algorithm):
    def learned(callback):
        model = algorithm("MlpPolicy", counting(n_envs=2), batch_size=8, **SIZES | dict(n_steps=16))
        return model.learn(64, callback=callback)

    # The training's episodes have a return of 5, those that decide one of 7.
    solved = StopWhenSolved(7.0, n_episodes=4, env=lambda: CountingEnv(length=7), every=21)
    assert learned(solved).num_timesteps == 22  # the first multiple of 2 from 21 on
    assert solved.is_solved
    unsolved = StopWhenSolved(7.5, n_episodes=4, env=lambda: CountingEnv(length=7), every=5)
    watched = learned(unsolved)
    assert not unsolved.is_solved
    assert equal_parameters(watched, learned(None))


def test_the_threshold_is_the_environments_own():
    assert spec_threshold(make_vec_env("CartPole-v1")) == 475.0


@pytest.mark.parametrize("env", ["Pendulum-v1", "unregistered"])
def test_an_environment_that_states_no_threshold_is_refused_when_training_starts(env):
    model = PPO("MlpPolicy", counting() if env == "unregistered" else env, batch_size=8, **SIZES)
    name = "this environment" if env == "unregistered" else env
    with pytest.raises(ValueError, match=f"threshold must be given for {name}, whose spec states no reward_threshold"):
        model.learn(8, callback=StopWhenSolved())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(threshold="high"), "threshold must be a finite number or None"),
        (dict(threshold=float("nan")), "threshold must be a finite number or None"),
        (dict(n_episodes=0), "n_episodes must be an int >= 1, got 0"),
        (dict(every=0), "every must be an int >= 1, got 0"),
        (dict(seed=-1), "seed must be an int >= 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        StopWhenSolved(**arguments)
