"""A worker: one process that takes the next trial of a study until there is none, and leaves nothing behind."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence

import optuna
import torch as th
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tuning.selection import finalist_round
from tuning.selection.trials import arm_of, candidates, choose_winner, key_of
from tuning.space.names import optuna_names
from tuning.space.setup import Setup, environment_of
from tuning.storage import Address, open_storage
from tuning.storage.database import GRACE_BEATS, Patience
from tuning.worker.budget import steps_used
from tuning.worker.checkpoints import Checkpoints
from tuning.worker.objective import TrainingRun, evaluation_seed, random_floor
from tuning.worker.queues import (
    FINALISTS,
    TEST,
    Job,
    StudyStoppedError,
    ask_trial,
    claim_trial,
    create_or_load_study,
    find_study,
    has_error,
    is_surplus,
    missing_jobs,
    never_ran,
    repeated_failure,
    start_job,
    stop_error,
)
from tuning.worker.reaper import Reaper, is_duplicate
from tuning.worker.settings import Settings, make_sampler, sampler_seed, setup_of
from tuning.worker.signals import StopSignals
from tuning.worker.trial import Heartbeat, TrialControl, finish, lowest_evaluation, run_trial, store_error

#: So many failures one after another, or the very first trial's, stop a study; so do as many trials that ended because
#: of an environment's NaN.
FAILURES_IN_A_ROW = 3
#: Seconds to wait for trials that asked before to say how many steps they need.
ADMISSION_SECONDS = 30.0
STAGES = ("search", "finalists", "test")


class Worker:
    """One process's part of a study. ``is_orphaned`` says whether the process that started this one is gone."""

    def __init__(self, settings: Settings, signals: StopSignals, is_orphaned: Callable[[], bool] = lambda: False):
        self.settings, self.signals, self.is_orphaned = settings, signals, is_orphaned
        self.address = Address(settings.storage)
        patience = Patience(settings.patience, signals.is_stopping)
        self.storage = open_storage(self.address, settings.heartbeat, patience, was_open=True)
        self.search = optuna.load_study(study_name=settings.study, storage=self.storage)
        # Through the study, whose cache of finished trials saves most of the traffic with a database.
        self.storage = self.search._storage
        self.limits = settings.limits()
        self._first_new: dict[str, int] = {}
        self._ended_when_full = -1

    def work(self, stages: Sequence[str] = STAGES) -> None:
        """Go through the stages until nothing is left to do, or a signal comes."""
        th.set_num_threads(1)
        if "search" in stages:
            self._run_stage(self.search, self._next_search_trial)
        if "finalists" in stages:
            study = create_or_load_study(self.settings.study + FINALISTS, self.storage)
            self._run_stage(study, lambda: self._next_job(study, 1, self._finalist_jobs()))
        if "test" in stages:
            study = create_or_load_study(self.settings.study + TEST, self.storage)
            self._run_stage(study, lambda: self._next_job(study, 2, self._test_jobs()))

    def _run_stage(self, study: optuna.Study, step: Callable[[], bool]) -> None:
        reaper = Reaper(study, self.storage, GRACE_BEATS * self.settings.heartbeat)
        self._first_new.setdefault(study.study_name, len(study.get_trials(deepcopy=False)))
        while not self.signals.is_stopping():
            reaper.reap()
            self._check_failures(study)
            try:
                goes_on = step()
            except UpdateFinishedTrialError:
                # Its result was stored by the worker that took it over; there will be another trial for us.
                print(f"a trial of {study.study_name} was taken over by another worker", file=sys.stderr, flush=True)
                continue
            if not goes_on:
                # Others are still at it; one of them may die and leave its trial to us.
                if not any(trial.state is TrialState.RUNNING for trial in study.get_trials(deepcopy=False)):
                    break
                self.signals.wait(self.settings.poll_seconds)
        reaper.reap()

    def _check_failures(self, study: optuna.Study) -> None:
        trials = study.get_trials(deepcopy=False)
        # Failures of an earlier run are no reason: what was wrong may have been put right since.
        recent = [t for t in trials[self._first_new[study.study_name] :] if t.state.is_finished()]
        recent = [t for t in recent if t.state is not TrialState.FAIL or has_error(t)]
        recent.sort(key=lambda trial: (trial.datetime_complete is None, trial.datetime_complete))
        last = recent[-FAILURES_IN_A_ROW:]
        is_full = len(last) == FAILURES_IN_A_ROW
        if is_full and all(trial.user_attrs.get("by_environment") for trial in last):
            error = last[-1].user_attrs["error"]
            raise StudyStoppedError(f"{error}\nso ended {FAILURES_IN_A_ROW} trials in a row: see to the environment")
        if not recent or not has_error(recent[-1]):
            return
        is_first = not any(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
        if is_first or (is_full and all(map(has_error, last))):
            raise stop_error(recent[-1])

    # Search ------------------------------------------------------------------------------------------------------

    def _next_search_trial(self) -> bool:
        trials = self.search.get_trials(deepcopy=False)
        waiting = any(trial.state is TrialState.WAITING for trial in trials)
        # Once a trial did not fit, asking again makes sense only when another has ended, perhaps earlier than it might.
        ended = sum(trial.state.is_finished() and not never_ran(trial) for trial in trials)
        has_room = ended != self._ended_when_full and self.limits.has_room(trials, self._used_by_finalists())
        if self.limits.is_time_over() or not (waiting or has_room):
            return False
        trial = ask_trial(self.search)
        with Heartbeat(self.storage, trial._trial_id, self.settings.heartbeat, self.is_orphaned, self.signals):
            if not self._search_trial(trial):
                self._ended_when_full = ended
        return True

    def _search_trial(self, trial: optuna.Trial) -> bool:
        """False if the steps left did not suffice for it."""
        settings, number = self.settings, trial.number
        earlier = [t for t in self.search.get_trials(deepcopy=False) if t.number < number]
        index = sum("retry_of" not in t.user_attrs for t in earlier)
        self.search.sampler = make_sampler(settings.sampler, sampler_seed(settings.seed, index), settings.seed)
        try:
            configuration = settings.space.sample(trial, optuna_names(settings.space.dimensions, earlier))
            setup = setup_of(settings, number, configuration)
        except (ValueError, TypeError, KeyError):
            # Such as a choice that a worker with another configuration has made meanwhile.
            store_error(self.storage, trial._trial_id, self.address.hide(traceback.format_exc()))
            return True
        control = self._control(self.search, trial._trial_id, setup, settings.protocol.search_seeds[0], 0)
        planned = settings.planned(setup)
        control.attribute("configuration", configuration)
        control.attribute("planned", planned)
        trials = self._wait_for_earlier_trials(number)
        own = next(t for t in trials if t.number == number)
        if is_duplicate(own, trials):
            finish(control, TrialState.FAIL, reason="duplicate")
            return True
        left = planned - control.checkpoints.env_steps()
        if not self.limits.allow(trials, number, left, self._used_by_finalists()):
            finish(control, TrialState.FAIL, reason="budget")
            return False
        control.attribute("admitted", True)
        self._run(control)
        return True

    def _wait_for_earlier_trials(self, number: int) -> list[FrozenTrial]:
        """All trials, as soon as every one with a lower number has said what it needs: the lower one goes first."""
        deadline = time.monotonic() + ADMISSION_SECONDS
        while True:
            trials = self.search.get_trials(deepcopy=False)
            undecided = [
                t
                for t in trials
                if t.number < number and t.state is TrialState.RUNNING and "admitted" not in t.user_attrs
            ]
            if not undecided or time.monotonic() > deadline or self.signals.wait(0.05):
                return trials

    def _used_by_finalists(self) -> int:
        study = find_study(self.settings.study + FINALISTS, self.storage)
        return 0 if study is None else steps_used(study.get_trials(deepcopy=False))

    # Finalists and test ------------------------------------------------------------------------------------------

    def _setup(self, trial: FrozenTrial) -> Setup:
        return setup_of(self.settings, trial.number, trial.user_attrs["configuration"])

    def _finalist_jobs(self) -> list[Job]:
        trials, finalists = self._search_and_finalists()
        by_number = {trial.number: trial for trial in trials}
        protocol = self.settings.protocol
        due = finalist_round(candidates(trials, finalists, protocol), protocol)
        return [Job(arm_of(number), seed, self._setup(by_number[number])) for number, seed in due]

    def _search_and_finalists(self) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        finalists = find_study(self.settings.study + FINALISTS, self.storage)
        return self.search.get_trials(deepcopy=False), finalists.get_trials(deepcopy=False) if finalists else []

    def _test_jobs(self) -> list[Job]:
        trials, finalists = self._search_and_finalists()
        choice = choose_winner(trials, finalists, self.settings.protocol)
        if choice is None:
            return []
        winner = next(trial for trial in trials if trial.number == choice.key)
        arms = [(arm_of(winner.number), self._setup(winner))]
        arms += [(baseline.name, baseline) for baseline in self.settings.baselines]
        # Seed by seed, so that all arms get as far when the test is cut short.
        return [Job(arm, seed, setup) for seed in self.settings.protocol.test_seeds for arm, setup in arms]

    def _next_job(self, study: optuna.Study, stage: int, jobs: list[Job]) -> bool:
        trials = study.get_trials(deepcopy=False)
        if (error := repeated_failure(jobs, trials[self._first_new[study.study_name] :])) is not None:
            raise error
        own = claim_trial(study, self.storage)
        if own is None:
            missing = missing_jobs(jobs, study.get_trials(deepcopy=False))
            if not missing:
                return False
            own = start_job(study, self.storage, missing)
        with Heartbeat(self.storage, own._trial_id, self.settings.heartbeat, self.is_orphaned, self.signals):
            setup = next((job.setup for job in jobs if job.key == key_of(own)), None)
            if setup is None or is_surplus(own, study.get_trials(deepcopy=False), jobs):
                self.storage.set_trial_user_attr(own._trial_id, "reason", "duplicate")
                self.storage.set_trial_state_values(own._trial_id, TrialState.FAIL)
            else:
                control = self._control(study, own._trial_id, setup, key_of(own)[1], stage)
                control.attribute("planned", self.settings.planned(setup))
                self._run(control)
        return True

    # One trial ---------------------------------------------------------------------------------------------------

    def _control(self, study: optuna.Study, trial_id: int, setup: Setup, seed: int, stage: int) -> TrialControl:
        settings, trial = self.settings, self.storage.get_trial(trial_id)
        run = TrainingRun(
            setup,
            settings.env_id,
            seed,
            settings.total_timesteps,
            settings.protocol.marks_in_steps(settings.total_timesteps),
            settings.n_eval_episodes,
            evaluation_seed(stage, seed),
            settings.compiles(setup),
        )
        folder = settings.folder / study.study_name
        history = trial.user_attrs.get("retry_history", [])
        checkpoints = Checkpoints(folder, trial.number, history, settings.checkpoint_seconds)
        return TrialControl(
            self.storage, study, trial, run, settings.protocol, checkpoints, self.signals, prunes=stage == 0
        )

    def _run(self, control: TrialControl) -> None:
        outcome = run_trial(control, self.settings.objective, self._floor, self.address.hide)
        if outcome == "taken over":
            what = f"trial {control.trial.number} of {control.study.study_name}"
            print(f"{what} was taken over by another worker", file=sys.stderr, flush=True)

    def _floor(self) -> float:
        """The score of a run that diverged: no better than acting at random, and than any run so far."""
        floor = self.search.user_attrs.get("floor")
        if floor is None:
            floor = random_floor(self.settings.env_id, environment_of(self.settings.base))
            self.search.set_user_attr("floor", floor)
        return min(floor, lowest_evaluation(self.search.get_trials(deepcopy=False)))
