"""Trials that ended without a result are run again: who is dead, and what becomes of their trials."""

from __future__ import annotations

import os
import platform
import socket
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tuning.storage import is_database
from tuning.storage.requeue import requeue


def process_identity() -> dict[str, Any]:
    """The machine and the process that run a trial: enough to tell there whether the process still lives."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        # Of a container or a machine that was restarted the process ids mean nothing.
        "boot": boot.read_text().strip() if boot.exists() else str(psutil.boot_time()),
        "namespace": os.readlink(namespace) if namespace.exists() else platform.system(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def is_dead(worker: dict[str, Any]) -> bool:
    """True if a worker's process is gone, or its number now another's; unknown (False) of another machine."""
    here = process_identity()
    if any(worker.get(key) != here[key] for key in ("host", "boot", "namespace")):
        return False
    try:
        process = psutil.Process(worker["pid"])
        return bool(process.status() == psutil.STATUS_ZOMBIE or process.create_time() != worker["started"])
    except psutil.NoSuchProcess:
        return True


class Reaper:
    """Ends the trials of dead workers and queues them again.

    A worker on another machine counts as dead after ``grace`` seconds without a sign of life.
    """

    def __init__(self, study: optuna.Study, storage: optuna.storages.BaseStorage, grace: float):
        self.study, self.storage, self.grace = study, storage, grace
        # By our own monotonic clock since when a trial shows the same sign of life. Other machines' clocks are wrong.
        self._seen: dict[int, tuple[Any, float]] = {}

    def reap(self) -> list[int]:
        """Do it once; returns the numbers of the trials that were ended."""
        if is_database(self.storage):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
        dead = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_stale(trial):
                continue
            try:
                self.storage.set_trial_user_attr(trial._trial_id, "reason", "stale")
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            except UpdateFinishedTrialError:
                continue  # another worker was faster
            dead.append(trial.number)
        self._queue_the_lost()
        return dead

    def _is_stale(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is not None and is_dead(worker):
            return True
        if worker is not None and is_database(self.storage):
            return False  # the database's clock decides
        now, sign = time.monotonic(), worker
        before, since = self._seen.get(trial.number, (None, now))
        if trial.number not in self._seen or before != sign:
            self._seen[trial.number] = (sign, now)
            return False
        return now - since > self.grace

    def _queue_the_lost(self) -> None:
        """Queue what whoever ended a trial did not live to queue."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs}
        for trial in trials:
            reason = trial.user_attrs.get("reason", "stale")
            if trial.state is TrialState.FAIL and reason in ("stale", "preempted") and trial.number not in retried:
                requeue(self.study, trial, reason)


def is_duplicate(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> bool:
    """True if an earlier trial is the same retry: two workers that clean up at once may queue one trial twice."""
    retry_of = trial.user_attrs.get("retry_of")
    return retry_of is not None and any(
        other.number < trial.number and other.user_attrs.get("retry_of") == retry_of for other in trials
    )
