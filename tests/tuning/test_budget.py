"""The budget in environment steps: what counts, who goes first, that it is never exceeded."""

import random

import optuna
import pytest
from optuna.trial import TrialState

from tuning.worker.budget import Limits, steps_used, whole_rollouts

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING


def trial(number, state, **attributes):
    made = optuna.trial.create_trial(state=state, value=1.0 if state is COMPLETE else None, user_attrs=attributes)
    made.number = number
    return made


def limits(env_steps=100, max_trials=None, timeout=None, n_reruns=2, least=10):
    return Limits(env_steps, max_trials, timeout, n_reruns, least)


def test_pruned_failed_and_running_trials_count():
    trials = [trial(i, state, env_steps=10**i) for i, state in enumerate((COMPLETE, PRUNED, FAIL, RUNNING))]
    assert steps_used(trials) == 1111


def test_whole_rollouts_are_what_a_run_takes():
    assert [whole_rollouts(total, 256) for total in (1, 256, 257, 5000)] == [256, 256, 512, 5120]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(env_steps=None), "^budget must be given, or max_trials, or timeout"),
        (dict(env_steps=0), "^budget must be >= 1, got 0"),
        (dict(env_steps=-5), "^budget must be >= 1, got -5"),
        (dict(env_steps=29), "^budget must be >= 30 environment steps"),
        (dict(max_trials=0), "^max_trials must be >= 1, got 0"),
        (dict(timeout=0.0), "^timeout must be > 0 seconds, got 0"),
        (dict(timeout=-1.0), "^timeout must be > 0"),
        (dict(timeout=float("nan")), "^timeout must be > 0"),
        (dict(timeout=float("inf")), "^timeout must be > 0"),
    ],
)
def test_limits_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        limits(**options)


def test_steps_are_kept_back_for_the_finalists():
    # 100 steps, 2 reruns of 10: trials may use 80.
    assert limits().allow([trial(0, COMPLETE, env_steps=70, planned=10, admitted=True)], 1, 10)
    assert not limits().allow([trial(0, COMPLETE, env_steps=71, planned=10, admitted=True)], 1, 10)


def test_more_is_kept_back_once_a_longer_trial_may_become_a_finalist():
    before = trial(0, COMPLETE, env_steps=30, planned=30, admitted=True)
    assert not limits().allow([before], 1, 20)  # 30 + 20 + 2 * 30
    assert limits().allow([before], 1, 10)
    # One that was turned away for its length is no finalist.
    turned_away = trial(1, FAIL, env_steps=0, planned=90, reason="budget")
    assert limits().allow([before, turned_away], 2, 10)


def test_what_the_finalists_have_taken_already_is_not_kept_back_twice():
    before = trial(0, COMPLETE, env_steps=70, planned=10, admitted=True)
    assert limits().allow([before], 1, 10, used_by_finalists=20)
    assert not limits().allow([before], 1, 11, used_by_finalists=20)


def test_of_trials_that_ask_at_once_the_lower_number_goes_first():
    done = trial(0, COMPLETE, env_steps=60, planned=10, admitted=True)
    one, two, three = (trial(n, RUNNING, planned=10) for n in (1, 2, 3))
    together = [done, one, two, three]
    assert [limits().allow(together, t.number, 10) for t in (one, two, three)] == [True, True, False]


def test_a_running_trial_that_has_not_said_what_it_needs_counts_as_the_longest():
    assert not limits().allow([trial(0, COMPLETE, env_steps=55, admitted=True), trial(1, RUNNING)], 2, 10)
    assert limits().allow([trial(0, COMPLETE, env_steps=50, admitted=True), trial(1, RUNNING)], 2, 10)


def test_steps_are_kept_for_a_trial_that_waits_to_be_retried():
    killed = trial(0, FAIL, env_steps=4, planned=10, admitted=True, reason="stale")
    done = trial(1, COMPLETE, env_steps=60, planned=10, admitted=True)
    retry = trial(2, WAITING, retry_of=0, planned=10)
    assert not limits().allow([killed, done, retry], 3, 10)
    assert limits().allow([killed, done, retry], 2, 6)  # the retry itself, which goes on from step 4


def test_a_retry_owes_only_what_its_checkpoint_has_not():
    retry = trial(1, RUNNING, retry_of=0, planned=10, resumed_at=4, env_steps=1, admitted=True)
    killed = trial(0, FAIL, env_steps=4, planned=10, admitted=True)
    assert limits().allow([killed, retry], 2, 65)  # 4 + 1 + 5 still to come + 65 + 2 * 10... of a trial as short as 10
    assert not limits().allow([killed, retry], 2, 71)


def test_max_trials_counts_complete_and_pruned_ones():
    few = limits(env_steps=None, max_trials=3)
    done = [trial(0, COMPLETE), trial(1, PRUNED)]
    assert few.allow([*done, trial(2, FAIL)], 3, 10)
    assert not few.allow([*done, trial(2, PRUNED)], 3, 10)
    assert not few.allow([*done, trial(2, RUNNING)], 3, 10)  # it may become the third
    queued = [*done, trial(2, FAIL), trial(3, WAITING, retry_of=2)]
    assert not few.allow(queued, 4, 10)  # the third is the retry
    assert few.allow(queued, 3, 10)


def test_a_timeout_runs_by_a_clock_that_nobody_can_set_back(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.time", lambda: 0.0)
    limit = limits(timeout=5.0)
    assert not limit.is_time_over()
    clock[0] = 104.9
    assert not limit.is_time_over()
    clock[0] = 105.0
    assert limit.is_time_over()


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_is_never_exceeded_however_workers_interleave(seed):
    """Four workers, trials of every length, some pruned, some killed and retried from a checkpoint."""
    rng = random.Random(seed)
    limit = limits(env_steps=2000, n_reruns=5, least=20)
    trials = []
    for _ in range(400):
        running = [t for t in trials if t.state is RUNNING]
        asking = [t for t in running if "admitted" not in t.user_attrs]
        if asking and rng.random() < 0.6:
            one = asking[0]  # the others wait for it
            if limit.allow(trials, one.number, one.user_attrs["planned"] - one.user_attrs["checkpoint"]):
                one.user_attrs["admitted"] = True
                one.user_attrs["resumed_at"] = one.user_attrs["checkpoint"]
            else:
                one.state, one.user_attrs["reason"] = FAIL, "budget"
        elif len(running) < 4 and rng.random() < 0.6:
            waiting = [t for t in trials if t.state is WAITING]
            if waiting:
                waiting[0].state = RUNNING
            elif limit.has_room(trials):
                trials.append(trial(len(trials), RUNNING, planned=rng.choice([20, 24, 30]), checkpoint=0))
        elif admitted := [t for t in running if "admitted" in t.user_attrs]:
            one = rng.choice(admitted)
            left = one.user_attrs["planned"] - one.user_attrs["resumed_at"] - one.user_attrs.get("env_steps", 0)
            one.user_attrs["env_steps"] = one.user_attrs.get("env_steps", 0) + min(left, rng.randint(1, 10))
            reached = one.user_attrs["resumed_at"] + one.user_attrs["env_steps"]
            if reached == one.user_attrs["planned"]:
                one.state = COMPLETE
            elif rng.random() < 0.1:
                one.state = PRUNED
            elif rng.random() < 0.1:
                one.state = FAIL
                kept = dict(planned=one.user_attrs["planned"], checkpoint=reached, retry_of=one.number)
                trials.append(trial(len(trials), WAITING, **kept))
    longest = max((t.user_attrs["planned"] for t in trials if "admitted" in t.user_attrs), default=0)
    assert steps_used(trials) + 5 * longest <= 2000
    assert steps_used(trials) > 1000  # and it is used
