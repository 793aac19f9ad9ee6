"""A worker: what it does with trials that end well, badly, not at all, or twice."""

import dataclasses
import signal

import gymnasium as gym
import optuna
import pytest
from optuna.trial import TrialState

from sb3_ppo_notes.formulas.checks import NonFiniteEnvironmentError
from tests.tuning import worker_objectives as objectives
from tests.tuning.worker_objectives import made_settings
from tuning.report.record import read_record, summary
from tuning.selection.trials import search_scores
from tuning.storage import Address, open_storage
from tuning.storage.database import Patience
from tuning.storage.requeue import MOST_DEATHS, requeue
from tuning.worker.budget import steps_used
from tuning.worker.identity import create_or_join
from tuning.worker.queues import StudyStoppedError, environment_failure
from tuning.worker.reaper import Reaper, process_identity
from tuning.worker.settings import check_sampler, sampler_seed
from tuning.worker.signals import StopSignals
from tuning.worker.worker import Worker

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Nobody pulls the plug during these tests, and waiting for the disk is most of what they would do."""
    monkeypatch.setattr("tuning.storage.journal.os.fsync", lambda descriptor: None)


def opened(settings):
    return open_storage(Address(settings.storage), settings.heartbeat, Patience(1.0))


def created(settings, starts=()):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return create_or_join(settings, opened(settings), starts)


def worked(settings, signals=None, stages=("search", "finalists", "test")):
    """A study after one worker has worked on it."""
    created(settings)
    signals = signals or StopSignals()
    Worker(settings, signals).work(stages)
    return loaded(settings)


def loaded(settings):
    return optuna.load_study(study_name=settings.study, storage=opened(settings))


def results(study):
    """Trials as they ended, those that were run again once."""
    trials = [trial for trial in study.trials if trial.state is not FAIL]
    return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in trials]


def test_a_worker_goes_through_search_finalists_and_test(tmp_path):
    settings = made_settings(tmp_path)
    study = worked(settings)
    record = read_record(study, opened(settings), "here")
    complete = [trial for trial in record.trials if trial.state == "complete"]
    assert len(complete) >= 5
    # Nobody suggests anything twice, as one seed for all trials would.
    assert len({trial.configuration["learning_rate"] for trial in record.trials}) == len(record.trials)
    assert any(trial.state == "pruned" and trial.reason == "median" for trial in record.trials)
    finalists = sorted(complete, key=lambda trial: -trial.score)[:2]
    assert [len(trial.finalist_scores) for trial in finalists] == [2, 2]
    assert record.winner in [trial.number for trial in finalists]
    winner = next(trial for trial in record.trials if trial.number == record.winner)
    assert abs(record.tuning_score - sum(winner.finalist_scores.values()) / 2) < 1e-9
    assert [arm.name for arm in record.tested] == ["tuned", "SB3 defaults"]
    assert all(set(arm.scores) == {100, 101, 102} for arm in record.tested)
    # A score is the mean of the last three evaluations.
    for trial in complete:
        assert trial.score == pytest.approx(sum(list(trial.evaluations.values())[-3:]) / 3)
        assert list(trial.evaluations) == list(range(100, 1001, 100))  # environment steps, the end included
    assert not list(settings.folder.rglob("*"))  # no checkpoint is left behind


def test_the_budget_counts_every_trial_and_is_kept(tmp_path):
    settings = made_settings(tmp_path, budget=15_500)
    record = read_record(worked(settings), opened(settings), "here")
    assert record.env_steps <= 15_500
    assert record.env_steps > 15_500 - 1000
    assert record.env_steps == sum(trial.env_steps for trial in record.trials) + 4 * 1000
    assert any(trial.env_steps < 1000 for trial in record.trials)  # a pruned trial pays for what it took only


def test_max_trials_counts_what_is_complete_or_pruned_and_no_zombie(tmp_path):
    settings = made_settings(tmp_path, budget=None, max_trials=6)
    study = created(settings)
    zombie = study.ask()  # of a worker that was killed long ago
    study._storage.set_trial_user_attr(zombie._trial_id, "worker", {**process_identity(), "pid": 2**22 + 1})
    study = worked(settings)
    done = [trial for trial in study.trials if trial.state in (COMPLETE, PRUNED)]
    assert len(done) == 6
    assert study.trials[zombie.number].state is FAIL


def test_a_timeout_ends_the_search_and_not_the_finalists(tmp_path, monkeypatch):
    monkeypatch.setattr("tuning.worker.budget.Limits.is_time_over", lambda self: len(loaded(settings).trials) >= 4)
    settings = made_settings(tmp_path, budget=None, timeout=1.0)
    record = read_record(worked(settings), opened(settings), "here")
    assert len(record.trials) == 4
    assert record.winner is not None


#: By number and not by steps: the cheap objective has no checkpoint, and takes the steps of a stopped trial twice.
FEW = dict(budget=None, max_trials=14)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A study that nobody interrupted: its trials, and what it found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuning.storage.journal.os.fsync", lambda descriptor: None)
        settings = made_settings(tmp_path_factory.mktemp("straight"), **FEW)
        study = worked(settings)
    record = read_record(study, opened(settings), "")
    return results(study), study.best_params, (record.tuning_score, record.tested)


def test_the_same_seed_and_one_worker_is_the_same_study_twice(tmp_path, straight):
    assert results(worked(made_settings(tmp_path, **FEW), stages=("search",))) == straight[0]
    other = made_settings(tmp_path, storage=str(tmp_path / "other.journal"), seed=1, **FEW)
    assert results(worked(other, stages=("search",))) != straight[0]


class StopAfter(StopSignals):
    """SIGINT in the middle of a trial: after so many questions whether to stop."""

    def __init__(self, questions):
        super().__init__()
        self.questions = questions

    def is_stopping(self):
        self.questions -= 1
        if self.questions == 0:
            self.stop(signal.SIGINT)
        return super().is_stopping()


@pytest.mark.parametrize("questions", [1, 17, 53, 90])
def test_a_study_that_is_interrupted_and_taken_up_again_finds_the_same_best(tmp_path, straight, questions):
    settings = made_settings(tmp_path, **FEW)
    signals = StopAfter(questions)
    interrupted = worked(settings, signals)
    assert signals.exit_code == 130
    assert not [trial for trial in interrupted.trials if trial.state is RUNNING]
    resumed = worked(settings)
    assert resumed.best_params == straight[1]
    # Not only the best: no suggestion is repeated, none is different.
    assert results(resumed) == straight[0]
    record = read_record(resumed, opened(settings), "")
    assert (record.tuning_score, record.tested) == straight[2]


def test_an_interrupted_trial_is_failed_as_preempted_and_queued_again(tmp_path):
    settings = made_settings(tmp_path)
    study = worked(settings, StopAfter(10))
    *_, preempted, retry = study.trials
    assert (preempted.state, preempted.user_attrs["reason"]) == (FAIL, "preempted")
    assert preempted.user_attrs["env_steps"] > 0
    assert (retry.state, retry.params, retry.user_attrs["retry_of"]) == (WAITING, preempted.params, preempted.number)


def test_every_trial_has_its_own_seed_of_suggestions():
    seeds = {sampler_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) > 9_990
    assert sampler_seed(0, 1) != sampler_seed(1, 0)


def test_a_sampler_without_its_package_says_what_to_install(monkeypatch):
    import builtins

    original = builtins.__import__

    def without(name, *arguments, **keywords):
        if name in ("scipy", "cmaes"):
            raise ModuleNotFoundError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    for name, package in (("gp", "scipy"), ("cma", "cmaes"), ("qmc", "scipy")):
        with pytest.raises(ValueError, match=f"^sampler '{name}' needs {package}: pip install {package}"):
            check_sampler(name)
    with pytest.raises(ValueError, match="^sampler must be one of tpe, random"):
        check_sampler("simulated annealing")


# What ends badly ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [objectives.diverges_above_the_best, objectives.wants_torchs_error])
def test_a_diverged_run_is_complete_with_a_floor_score_and_never_best(tmp_path, objective):
    settings = made_settings(tmp_path, objective=objective, sampler="random")
    study = worked(settings, stages=("search", "finalists"))
    diverged = [trial for trial in study.trials if trial.user_attrs.get("diverged")]
    sound = [trial for trial in study.trials if trial.state in (COMPLETE, PRUNED) and trial not in diverged]
    assert diverged
    assert sound
    for trial in diverged:
        assert trial.state is COMPLETE
        assert trial.user_attrs["reason"] == "diverged"
        assert abs(trial.value) < float("inf")
        assert trial.value <= min(other.value for other in sound if other.number < trial.number or other.value > 20)
    assert study.best_trial not in diverged
    assert not set(search_scores(study.trials)) & {trial.number for trial in diverged}
    record = read_record(study, opened(settings), "here")
    assert record.winner not in [trial.number for trial in diverged]


def infinite_once(run, control):
    control.resume(objectives.Progress())
    control.report(run.marks[0], float("inf") if control.trial.number else float("nan"))


def test_an_infinite_score_is_never_told(tmp_path):
    settings = made_settings(tmp_path, objective=infinite_once, budget=None, max_trials=2)
    study = worked(settings, stages=("search",))
    assert all(trial.state is COMPLETE and trial.user_attrs["diverged"] for trial in study.trials)
    assert all(abs(trial.value) < 1e9 for trial in study.trials)


PAYING_NAN = set()


def pays_nan_sometimes(run, control):
    if control.trial.number in PAYING_NAN:
        raise NonFiniteEnvironmentError("reward must be finite, got nan from environment 0 at step 1")
    objectives.cheap(run, control)


def test_three_trials_in_a_row_whose_environment_gives_nan_stop_the_study_and_two_do_not(tmp_path):
    """Whatever the configuration is, there is nothing to search for; a policy that diverges is another matter."""
    PAYING_NAN.clear()
    PAYING_NAN.update({0, 1, 3, 4, 5})
    settings = made_settings(tmp_path, objective=pays_nan_sometimes, budget=None, max_trials=20)
    with pytest.raises(StudyStoppedError, match="(?s)^reward must be finite, got nan .*3 trials in a row"):
        worked(settings)
    assert [trial.state for trial in loaded(settings).trials] == [COMPLETE] * 6
    PAYING_NAN.clear()
    assert len(worked(settings, stages=("search",)).trials) >= 20


def pays_nan_in_the_evaluation(run, control):
    control.resume(objectives.Progress())
    control.report(run.marks[0], float("nan"))


def test_an_environment_that_pays_nan_where_it_is_evaluated_stops_the_study_too(tmp_path):
    settings = made_settings(tmp_path, objective=pays_nan_in_the_evaluation, budget=None, max_trials=20)
    with pytest.raises(StudyStoppedError, match="^return must be finite, got nan in the evaluation"):
        worked(settings)
    assert len(loaded(settings).trials) == 3


def test_the_first_trials_failure_stops_the_study_with_its_traceback(tmp_path):
    settings = made_settings(tmp_path, objective=objectives.broken)
    with pytest.raises(StudyStoppedError, match="(?s)Traceback.*the environment has a bug"):
        worked(settings)
    study = loaded(settings)
    # An AssertionError is a bug, and no reason to prune.
    assert [trial.state for trial in study.trials] == [FAIL]
    assert study.trials[0].user_attrs["reason"] == "error"
    assert "the environment has a bug" in study.trials[0].user_attrs["error"]
    assert summary(study, opened(settings))["failed"] == 1


class Failing(gym.Env):
    def step(self, action):
        raise KeyError("no such joint")


def steps_a_failing_environment(run, control):
    Failing().step(0)


def test_an_environments_own_error_stops_the_study_and_is_kept_in_one_line(tmp_path):
    settings = made_settings(tmp_path, objective=steps_a_failing_environment)
    with pytest.raises(StudyStoppedError) as caught:
        worked(settings)
    assert caught.value.by_environment
    line = environment_failure(loaded(settings).trials)
    assert line.startswith("env 'Failing': KeyError: 'no such joint' (test_worker.py:")
    assert "\n" not in line


def test_another_error_is_no_environments(tmp_path):
    settings = made_settings(tmp_path, objective=objectives.broken)
    with pytest.raises(StudyStoppedError) as caught:
        worked(settings)
    assert not caught.value.by_environment
    assert environment_failure(loaded(settings).trials) is None


FAILING = set()


def fails_sometimes(run, control):
    if control.trial.number in FAILING:
        raise RuntimeError(f"trial {control.trial.number} failed")
    objectives.cheap(run, control)


def test_three_failures_in_a_row_stop_the_study_and_two_do_not(tmp_path, monkeypatch):
    FAILING.clear()
    FAILING.update({2, 3, 5, 6, 7})
    settings = made_settings(tmp_path, objective=fails_sometimes)
    with pytest.raises(StudyStoppedError, match="trial 7 failed"):
        worked(settings)
    assert [trial.number for trial in loaded(settings).trials if trial.state is FAIL] == [2, 3, 5, 6, 7]
    # Once the fault is put right the same study goes on: old failures are no reason to stop again.
    FAILING.clear()
    record = read_record(worked(settings), opened(settings), "here")
    assert record.winner is not None


def test_a_finalist_that_keeps_failing_stops_the_study(tmp_path):
    def fails_on_fresh_seeds(run, control):
        if run.seed == 2:
            raise RuntimeError("seed 2 is cursed")
        objectives.cheap(run, control)

    settings = made_settings(tmp_path, objective=fails_on_fresh_seeds)
    with pytest.raises(StudyStoppedError, match="seed 2 is cursed"):
        worked(settings)


# Who takes over -------------------------------------------------------------------------------------------------------


def test_a_trial_that_another_worker_took_over_does_not_crash_the_first(tmp_path, capsys):
    settings = made_settings(tmp_path, budget=None, max_trials=4)
    taken = []

    def taken_over(run, control):
        if control.trial.number == 1 and not taken:
            taken.append(1)
            other = opened(settings)
            other.set_trial_state_values(control.trial._trial_id, FAIL)
        objectives.cheap(run, control)

    study = worked(dataclasses.replace(settings, objective=taken_over), stages=("search",))
    assert "trial 1 of s was taken over by another worker" in capsys.readouterr().err
    assert study.trials[1].state is FAIL
    assert sum(trial.state in (COMPLETE, PRUNED) for trial in study.trials) == 4
    retries = [trial for trial in study.trials if trial.user_attrs.get("retry_of") == 1]
    assert [(t.params, t.state) for t in retries] == [(study.trials[1].params, COMPLETE)]


def test_a_result_that_comes_after_the_takeover_is_dropped(tmp_path, capsys):
    settings = made_settings(tmp_path, budget=None, max_trials=3)

    def taken_at_the_end(run, control):
        objectives.cheap(run, control)
        if control.trial.number == 1:
            opened(settings).set_trial_state_values(control.trial._trial_id, FAIL)

    study = worked(dataclasses.replace(settings, objective=taken_at_the_end), stages=("search",))
    assert study.trials[1].state is FAIL
    assert "taken over" in capsys.readouterr().err


DEAD = {"host": "elsewhere", "boot": "b", "namespace": "n", "pid": 1, "started": 0.0}


def running(settings, worker):
    study = created(settings)
    trial = study.ask()
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    if worker is not None:
        study._storage.set_trial_user_attr(trial._trial_id, "worker", worker)
    return study, trial


def reaper_of(study, grace=180.0):
    return Reaper(study, study._storage, grace)


def test_the_trial_of_a_process_that_is_gone_is_reaped_at_once_and_queued_again(tmp_path):
    settings = made_settings(tmp_path)
    study, trial = running(settings, {**process_identity(), "pid": 2**22 + 1})
    assert reaper_of(study).reap() == [0]
    stale, retry = study.trials
    assert (stale.state, stale.user_attrs["reason"]) == (FAIL, "stale")
    assert (retry.state, retry.params) == (WAITING, trial.params)
    assert retry.user_attrs["retry_of"] == 0
    assert retry.system_attrs == {"failed_trial": 0, "retry_history": [0]}  # where Optuna's own tools look
    assert reaper_of(study).reap() == []  # once


def test_a_process_id_that_was_given_again_is_another_process(tmp_path):
    settings = made_settings(tmp_path)
    study, _ = running(settings, {**process_identity(), "started": 1.0})
    assert reaper_of(study).reap() == [0]


def test_the_trial_of_a_living_process_is_left_alone(tmp_path):
    settings = made_settings(tmp_path)
    study, _ = running(settings, process_identity())
    reaper = reaper_of(study, grace=1e9)
    assert reaper.reap() == []
    assert reaper.reap() == []


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"boot": "before"}, {"namespace": "pid:[1]"}])
def test_of_another_machine_or_container_a_process_id_says_nothing(tmp_path, monkeypatch, other):
    settings = made_settings(tmp_path)
    study, trial = running(settings, {**process_identity(), "pid": 2**22 + 1, "beat": 0, **other})
    clock = [0.0]
    monkeypatch.setattr("tuning.worker.reaper.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("tuning.worker.reaper.time.time", lambda: 1e12, raising=False)
    reaper = reaper_of(study)
    assert reaper.reap() == []
    clock[0] = 170.0
    assert reaper.reap() == []
    study._storage.set_trial_user_attr(trial._trial_id, "worker", {**process_identity(), **other, "beat": 1})
    clock[0] = 190.0  # it has given a sign of life since
    assert reaper.reap() == []
    clock[0] = 190.0 + 181.0
    assert reaper.reap() == [0]


def test_a_trial_whose_worker_died_before_it_said_who_it_is_is_reaped_too(tmp_path, monkeypatch):
    settings = made_settings(tmp_path)
    study, _ = running(settings, None)
    clock = [0.0]
    monkeypatch.setattr("tuning.worker.reaper.time.monotonic", lambda: clock[0])
    reaper = reaper_of(study)
    assert reaper.reap() == []
    clock[0] = 181.0
    assert reaper.reap() == [0]


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path):
    settings = made_settings(tmp_path)
    study, _ = running(settings, {**process_identity(), "pid": 2**22 + 1})
    for deaths in range(MOST_DEATHS + 1):
        reaper_of(study).reap()
        waiting = [trial for trial in study.trials if trial.state is WAITING]
        assert len(waiting) == (deaths < MOST_DEATHS)
        for trial in waiting:
            study._storage.set_trial_state_values(trial._trial_id, RUNNING)
            study._storage.set_trial_user_attr(trial._trial_id, "worker", {**process_identity(), "pid": 2**22 + 1})
    assert [trial.state for trial in study.trials] == [FAIL] * (MOST_DEATHS + 1)


def test_what_its_ender_did_not_live_to_queue_is_queued(tmp_path):
    settings = made_settings(tmp_path)
    study, trial = running(settings, process_identity())
    study._storage.set_trial_user_attr(trial._trial_id, "reason", "preempted")
    study._storage.set_trial_state_values(trial._trial_id, FAIL)  # and here it was killed
    reaper_of(study).reap()
    assert [t.user_attrs.get("retry_of") for t in study.trials] == [None, 0]


def test_a_trial_that_two_workers_queued_again_is_run_once(tmp_path):
    settings = made_settings(tmp_path)
    study, trial = running(settings, process_identity())
    study._storage.set_trial_user_attr(trial._trial_id, "reason", "stale")
    study._storage.set_trial_state_values(trial._trial_id, FAIL)
    frozen = study.trials[0]
    requeue(study, frozen, "stale")
    requeue(study, frozen, "stale")
    study = worked(settings, stages=("search",))
    assert [t.state for t in study.trials[:3]] == [FAIL, COMPLETE, FAIL]
    assert study.trials[2].user_attrs["reason"] == "duplicate"
    assert steps_used(study.trials[2:3]) == 0


# Two studies in one file ----------------------------------------------------------------------------------------------


def test_two_studies_in_one_journal_keep_out_of_each_others_way(tmp_path, straight):
    settings = made_settings(tmp_path, **FEW)
    other = made_settings(tmp_path, study="other", seed=5)
    signals = StopAfter(40)
    worked(settings, signals)
    worked(other)
    assert results(worked(settings)) == straight[0]
    assert len(loaded(other).trials) > 4


def test_the_signal_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.wait(5.0)
        assert signals.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)  # for whoever cannot wait
    assert signal.getsignal(signal.SIGTERM) is before
