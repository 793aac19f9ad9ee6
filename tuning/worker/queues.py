"""The three stages as queues of trials that any worker, on any machine, takes the next one of.

Search is an Optuna study of its own; the runs of the finalists and of the test are trials of two more, each with the
arm and the seed in its attributes. So all three have the same heartbeats, retries and checkpoints.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tuning.selection.trials import key_of
from tuning.space.setup import Setup
from tuning.storage.requeue import MOST_DEATHS
from tuning.worker.budget import NEVER_RAN
from tuning.worker.reaper import process_identity

FINALISTS, TEST = ".finalists", ".test"
#: Workers that look for a run at the same moment take one of the next so many.
MOST_APART = 8
#: Attribute of a failed trial: an environment's own error, in one line.
ENVIRONMENT_ERROR = "environment_error"
#: A run that failed so often will not succeed.
MOST_FAILURES = 3


@dataclass(frozen=True)
class Job:
    """One run of the finalists or of the test; an arm is ``"trial 12"`` or a baseline's name."""

    arm: str
    seed: int
    setup: Setup

    @property
    def key(self) -> tuple[str, int]:
        """Arm and seed, which no other run shares."""
        return self.arm, self.seed


def create_or_load_study(name: str, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """A study, made unless it is there."""
    return optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)


def find_study(name: str, storage: optuna.storages.BaseStorage) -> optuna.Study | None:
    """The study of that name, ``None`` if there is none."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def ask_trial(study: optuna.Study) -> optuna.Trial:
    """The next trial, the first that is queued or a new one: running, nothing suggested yet."""
    with warnings.catch_warnings():
        # Optuna beats its hearts in Study.optimize only; ours beat on their own.
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        return study.ask()


def claim_trial(study: optuna.Study, storage: optuna.storages.BaseStorage) -> FrozenTrial | None:
    """The first queued trial that no other worker was faster to take, now running."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        try:
            if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return storage.get_trial(trial._trial_id)
        except UpdateFinishedTrialError:
            continue
    return None


def never_ran(trial: FrozenTrial) -> bool:
    """True if a trial was given up before it took a step, and says nothing about the objective."""
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason") in NEVER_RAN


def is_queued(trial: FrozenTrial) -> bool:
    """True if a trial waits to be run, or runs."""
    return trial.state in (TrialState.WAITING, TrialState.RUNNING)


def missing_jobs(jobs: Sequence[Job], trials: Sequence[FrozenTrial]) -> list[Job]:
    """Runs that have no result and that nobody is at."""
    busy = {key_of(trial) for trial in trials if is_queued(trial) or trial.state is TrialState.COMPLETE}
    return [job for job in jobs if job.key not in busy]


class StudyStoppedError(Exception):
    """The objective fails: nothing is gained by running it again. Its message is the traceback."""

    def __init__(self, text: str, by_environment: bool = False):
        super().__init__(text)
        self.by_environment = by_environment


def stop_error(trial: FrozenTrial) -> StudyStoppedError:
    """The error that a failed trial stops its study with."""
    return StudyStoppedError(trial.user_attrs["error"], ENVIRONMENT_ERROR in trial.user_attrs)


def environment_failure(trials: Sequence[FrozenTrial]) -> str | None:
    """The newest error of an environment's own, in one line."""
    ended = [trial for trial in trials if has_error(trial) and trial.datetime_complete is not None]
    ended.sort(key=lambda trial: trial.datetime_complete)  # type: ignore[arg-type, return-value]
    return next((str(t.user_attrs[ENVIRONMENT_ERROR]) for t in ended[::-1] if ENVIRONMENT_ERROR in t.user_attrs), None)


def repeated_failure(jobs: Sequence[Job], trials: Sequence[FrozenTrial]) -> StudyStoppedError | None:
    """The error of a run that keeps failing, or whose workers keep dying; ``trials`` ended since this worker began."""
    for job in jobs:
        ended = [trial for trial in trials if trial.state is TrialState.FAIL and key_of(trial) == job.key]
        failures = [trial for trial in ended if has_error(trial)]
        if len(failures) >= MOST_FAILURES:
            return stop_error(failures[-1])
        if any(trial.user_attrs.get("deaths", 0) >= MOST_DEATHS and lost_its_worker(trial) for trial in ended):
            return StudyStoppedError(
                f"the workers that ran {job.arm} on seed {job.seed} died, {MOST_DEATHS + 1} times (out of memory?)"
            )
    return None


def has_error(trial: FrozenTrial) -> bool:
    """True if a trial failed by an error of its own, and not because its worker went away."""
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason") == "error"


def lost_its_worker(trial: FrozenTrial) -> bool:
    """True if a trial ended with its worker: nobody told a reason."""
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason", "stale") == "stale"


def start_job(study: optuna.Study, storage: optuna.storages.BaseStorage, missing: Sequence[Job]) -> FrozenTrial:
    """A trial for one of the missing runs; workers that look at once mostly take different ones."""
    job = missing[os.getpid() % min(len(missing), MOST_APART)]
    attributes: dict[str, Any] = {"arm": job.arm, "seed": job.seed, "worker": process_identity()}
    template = optuna.create_trial(state=TrialState.RUNNING, user_attrs=attributes)
    return storage.get_trial(storage.create_new_trial(study._study_id, template))


def is_surplus(trial: FrozenTrial, trials: Sequence[FrozenTrial], jobs: Sequence[Job]) -> bool:
    """True if a run is another's already, or its arm is no finalist any more."""
    key = key_of(trial)
    if key not in {job.key for job in jobs}:
        return True
    rivals = [other for other in trials if key_of(other) == key and other.number != trial.number]
    return any(
        other.state is TrialState.COMPLETE or (is_queued(other) and other.number < trial.number) for other in rivals
    )
