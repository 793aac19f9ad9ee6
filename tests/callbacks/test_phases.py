"""Phases: batch-ppo's loop, number by number, and a training that does not notice being evaluated."""

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import Phase, PhasesCallback
from sb3_ppo_notes.callbacks.phases import PhaseLoop
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from tests.callbacks.counting import CountingEnv, counting, equal_parameters

SIZES = dict(n_steps=8, batch_size=8, n_epochs=2, device="cpu", seed=3)


def driven(phases, score, done, max_step, batch=1, step=0):
    """batch-ppo's Loop.run: (mean, step) of every report."""
    loop = PhaseLoop(phases, step)
    reports = []
    while loop.step < max_step:
        report = loop.advance(batch, np.atleast_1d(score(loop)), np.atleast_1d(done(loop)))
        if report is not None:
            reports.append(report)
    return reports, loop


def of_phase(loop):
    return float(loop.position.phase.name)


# -- the loop: the five tests of batch-ppo's loop_test.py, and what it does not test -------------------------


def test_reports_every_third_step_of_a_phase_of_one_step():
    reports, _ = driven([Phase("a", 1, report_every=3)], lambda loop: 0.0, lambda loop: True, max_step=9)
    assert [report.step for report in reports] == [3, 6, 9]


def test_phases_take_turns():
    phases = [Phase("1", 1, report_every=1), Phase("2", 3, report_every=1), Phase("3", 2, report_every=1)]
    reports, _ = driven(phases, of_phase, lambda loop: True, max_step=15)
    assert [report.mean for report in reports] == [1, 2, 2, 2, 3, 3, 1, 2, 2, 2, 3, 3, 1, 2, 2]


def test_a_phases_steps_and_scores_are_counted_over_its_turns():
    phases = [Phase("1", 1, report_every=2), Phase("2", 2, report_every=5)]
    reports, _ = driven(phases, of_phase, lambda loop: True, max_step=17)
    assert [report.mean for report in reports] == [1, 2, 1, 2, 1]
    assert [report.step for report in reports] == [4, 8, 10, 15, 16]
    assert [report.n_episodes for report in reports] == [2, 5, 2, 5, 2]


def test_the_mean_is_over_finished_episodes_only():
    phases = [Phase("a", 1, report_every=3)]
    reports, _ = driven(phases, lambda loop: loop.step, lambda loop: loop.step % 2 == 1, max_step=9)
    assert [report.mean for report in reports] == [1, 4, 7]  # 1; (3+5)/2; 7


def test_a_batch_makes_as_many_steps_and_counts_every_finished_one():
    reports, loop = driven(
        [Phase("a", 1, report_every=8)],
        lambda loop: (loop.step, loop.step**2),
        lambda loop: (loop.step % 3 == 0, loop.step % 4 == 0),
        max_step=8,
        batch=2,
    )
    assert [report.mean for report in reports] == [(0 + 0 + 16 + 6) / 4]
    assert loop.step == 8


def test_a_report_without_a_finished_episode_has_no_mean():
    reports, _ = driven([Phase("a", 3)], lambda loop: 7.0, lambda loop: False, max_step=6)
    assert [(report.mean, report.n_episodes) for report in reports] == [(None, 0), (None, 0)]


@pytest.mark.parametrize("step", range(13))
def test_a_loop_that_is_given_the_step_goes_on_in_the_same_phase(step):
    phases = [Phase("1", 1, report_every=1), Phase("2", 3, report_every=1), Phase("3", 2, report_every=1)]
    straight, _ = driven(phases, of_phase, lambda loop: True, max_step=20)
    resumed, _ = driven(phases, of_phase, lambda loop: True, max_step=20, step=step)
    assert resumed == straight[step:]


def test_the_step_of_a_loop_follows_from_the_steps_that_were_trained():
    loop = PhaseLoop([Phase("warm", 2, is_training=True), Phase("eval", 5), Phase("train", 3, is_training=True)])
    assert [loop.step_after_training(n) for n in range(9)] == [0, 1, 7, 8, 9, 10, 11, 17, 18]


# -- the callback ----------------------------------------------------------------------------------------------


def phases(train=20, evaluate=12, **kwargs):
    return [Phase("train", train, is_training=True, **kwargs), Phase("eval", evaluate)]


@pytest.mark.parametrize("algorithm", [PPO, A2C, NotesPPO, NotesA2C])
def test_trains_and_evaluates_in_turns(algorithm):
    sizes = SIZES if algorithm in (PPO, NotesPPO) else dict(n_steps=8, device="cpu", seed=3)
    model = algorithm("MlpPolicy", counting(), **sizes)
    callback = PhasesCallback(phases(), lambda: CountingEnv(length=4))
    model.learn(40, callback=callback)
    # Episodes of 5 steps in training; of 4 in evaluation, three of which fit into 12 steps.
    assert [(r.phase, r.step, r.mean, r.n_episodes) for r in callback.reports] == [
        ("train", 20, 5.0, 4),
        ("eval", 32, 4.0, 3),
        ("train", 52, 5.0, 4),
        ("eval", 64, 4.0, 3),
    ]


def test_an_episode_that_the_end_of_an_evaluation_cuts_does_not_count():
    callback = PhasesCallback(phases(evaluate=11), lambda: CountingEnv(length=4))
    PPO("MlpPolicy", counting(), **SIZES).learn(40, callback=callback)
    # The third episode is cut after 3 of 4 steps, and does not go on in the next turn.
    assert [r.n_episodes for r in callback.reports if r.phase == "eval"] == [2, 2]
    assert {r.mean for r in callback.reports if r.phase == "eval"} == {4.0}


def test_several_environments_overshoot_a_phase_and_the_next_has_its_whole_length():
    reports = []
    callback = PhasesCallback(phases(train=20, evaluate=12), counting(n_envs=5, length=4), on_report=reports.append)
    PPO("MlpPolicy", counting(n_envs=3), **SIZES).learn(48, callback=callback)
    # Training reports after 21 and 42 steps (the first multiples of 3 from 20 and 40 on). Evaluation makes 3 times 5
    # steps: 5 environments of 3 steps each finish no episode of 4.
    assert [(r.phase, r.n_episodes, r.mean) for r in reports] == [
        ("train", 3, 5.0),  # each environment one episode in 7 steps
        ("eval", 0, None),
        ("train", 3, 5.0),  # 14 steps: one more each
        ("eval", 0, None),
    ]
    assert callback.loop.step == 48 + 2 * 12


def test_an_evaluation_that_comes_first_is_made_before_anything_is_trained():
    seen = []
    model = PPO("MlpPolicy", counting(), **SIZES)
    order = [Phase("eval", 4), Phase("train", 8, is_training=True)]
    callback = PhasesCallback(
        order, lambda: CountingEnv(length=4), on_report=lambda r: seen.append((r.phase, model.num_timesteps))
    )
    model.learn(16, callback=callback)
    assert seen == [("eval", 0), ("train", 8), ("eval", 8), ("train", 16), ("eval", 16)]


@pytest.mark.parametrize(("stop", "is_loaded"), [(8, False), (16, True), (24, False), (32, True)])
def test_the_right_phase_after_a_resume(stop, is_loaded, tmp_path):
    def learned(model, steps, seen, **kwargs):
        note = seen.append
        callback = PhasesCallback(
            [
                Phase("train", 16, is_training=True),
                Phase("eval", 4),
                Phase("fine", 8, is_training=True),
                Phase("test", 8),
            ],
            lambda: CountingEnv(length=4),
            on_report=lambda report: note((report.phase, report.step, model.num_timesteps)),
        )
        model.learn(steps, callback=callback, **kwargs)
        return model

    def new():
        return PPO("MlpPolicy", counting(), **SIZES)

    straight, resumed = [], []
    learned(new(), 48, straight)
    model = learned(new(), stop, resumed)
    if is_loaded:
        model.save(tmp_path / "model")
        model = PPO.load(tmp_path / "model", env=counting(), device="cpu")
    learned(model, 48 - stop, resumed, reset_num_timesteps=False)
    assert resumed == straight
    assert [phase for phase, _, _ in straight] == ["train", "eval", "fine", "test"] * 2


def test_learning_on_with_the_same_callback_goes_on_where_it_stopped():
    callback = PhasesCallback(phases(train=16, evaluate=4), lambda: CountingEnv(length=4))
    model = PPO("MlpPolicy", counting(), **SIZES).learn(8, callback=callback)
    model.learn(8, callback=callback, reset_num_timesteps=False)
    # The episode that ended before learn() returned is in the mean.
    assert [(r.phase, r.n_episodes) for r in callback.reports] == [("train", 3), ("eval", 1)]


def test_returns_are_summed_where_there_is_no_monitor():
    callback = PhasesCallback(phases(), lambda: CountingEnv(length=4))
    PPO("MlpPolicy", counting(monitor=False, n_envs=2), **SIZES).learn(20, callback=callback)
    assert (callback.reports[0].mean, callback.reports[0].n_episodes) == (5.0, 4)


def test_reports_are_logged_under_our_own_names_and_printed(capsys):
    model = PPO("MlpPolicy", counting(), **SIZES)
    logged = {}
    callback = PhasesCallback(phases(8, 4), lambda: CountingEnv(length=4), verbose=1)
    callback._on_rollout_end = lambda: logged.update(model.logger.name_to_value)
    model.learn(8, callback=callback)
    assert logged["notes/phases/train/mean_return"] == 5.0
    assert logged["notes/phases/eval/mean_return"] == 4.0
    assert logged["notes/phases/eval/n_episodes"] == 1
    assert "phase eval, step 12: mean return 4.0 (1 episodes)" in capsys.readouterr().out


def normalized(wrapper):
    if wrapper is None:
        return counting(n_envs=2, continuous=True)
    return wrapper(counting(n_envs=2, continuous=True))


@pytest.mark.parametrize("wrapper", [None, VecNormalize, StreamingNormalize])
@pytest.mark.parametrize("algorithm", [PPO, NotesPPO])
def test_the_training_does_not_notice_being_evaluated(algorithm, wrapper):
    # Aggressive settings, noise that depends on the state, an environment that draws from the global generators.
    settings = dict(SIZES, learning_rate=1e-2, use_sde=True, sde_sample_freq=3)

    def learned(callback):
        return algorithm("MlpPolicy", normalized(wrapper), **settings).learn(64, callback=callback)

    callback = PhasesCallback(phases(7, 9), lambda: CountingEnv(continuous=True))
    assert equal_parameters(learned(None), learned(callback))
    assert len(callback.reports) > 12


@pytest.mark.parametrize("wrapper", [VecNormalize, StreamingNormalize])
def test_an_evaluation_sees_observations_normalised_as_in_training(wrapper):
    model = PPO("MlpPolicy", normalized(wrapper), **SIZES)
    callback = PhasesCallback(phases(16, 5), lambda: CountingEnv(continuous=True))
    model.learn(32, callback=callback)
    own, training = callback._own_env, model.get_env()
    raw = np.array([[3.0, 0.5]], dtype=np.float32)
    normalize = "normalize_obs" if wrapper is VecNormalize else "normalize_observations"
    assert np.array_equal(getattr(own, normalize)(raw), getattr(training, normalize)(raw))
    assert not np.array_equal(getattr(own, normalize)(raw), raw)
    assert not own.training
    assert all(r.mean == 5.0 for r in callback.reports if r.phase == "eval")  # raw rewards


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Phase("a", 0), "steps must be an int >= 1, got 0"),
        (lambda: Phase("a", 5, report_every=0), "report_every must be an int >= 1 or None, got 0"),
        (lambda: Phase("", 5), "name must be a word"),
        (lambda: Phase("a", 5, is_training=2), "is_training must be True or False"),
        (lambda: PhasesCallback([]), "phases must be a sequence of at least one Phase"),
        (lambda: PhasesCallback([Phase("a", 1, is_training=True)] * 2), "phases must have different names"),
        (lambda: PhasesCallback([Phase("a", 1)], "CartPole-v1"), "phases must hold one with is_training=True"),
        (lambda: PhasesCallback(phases()), "env must be given when a phase evaluates"),
    ],
)
def test_bad_arguments_are_refused(build, words):
    with pytest.raises((ValueError, TypeError), match=words.replace("(", r"\(")):
        build()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("Pendulum-v1", "env must have the spaces of the training environments"),
        (counting(n_envs=2), None),
        (VecNormalize(counting()), "env must have the normalisers of the training"),
        (7, "env must be an id, a function that makes an environment, or a VecEnv"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused_when_training_starts(env, words):
    model = PPO("MlpPolicy", counting(), **SIZES)
    if words is None:
        model.learn(8, callback=PhasesCallback(phases(), env))
        return
    with pytest.raises((ValueError, TypeError), match=words):
        model.learn(8, callback=PhasesCallback(phases(), env))


def test_a_training_phase_shorter_than_a_step_is_refused():
    model = PPO("MlpPolicy", counting(n_envs=4), **SIZES)
    with pytest.raises(ValueError, match="steps of phase 'train' must be at least 4"):
        model.learn(8, callback=PhasesCallback(phases(train=3), "CartPole-v1"))
