"""One trial: run it, and tell the study what became of it, whatever that is."""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from sb3_ppo_notes.formulas.checks import NonFiniteEnvironmentError
from sb3_ppo_notes.rollouts import environment_error
from tuning.selection import Protocol, run_score, should_prune
from tuning.selection.trials import in_order
from tuning.storage import is_database
from tuning.storage.database import is_away
from tuning.storage.requeue import requeue
from tuning.worker.checkpoints import Checkpoints, Progress
from tuning.worker.objective import Objective, PreemptedError, TrainingRun, is_divergence
from tuning.worker.queues import ENVIRONMENT_ERROR
from tuning.worker.reaper import process_identity
from tuning.worker.signals import StopSignals

#: Characters of a traceback that are kept: its end says what happened. MySQL takes 64 KiB.
TRACEBACK_CHARACTERS = 6000


class Heartbeat(threading.Thread):
    """Shows that a trial's worker lives, however long a step takes, and whatever the storage answers.

    If the process that started this one is gone (``is_orphaned``), the signals are told to stop.
    """

    def __init__(
        self, storage: BaseStorage, trial_id: int, seconds: float, is_orphaned: Callable[[], bool], signals: StopSignals
    ):
        super().__init__(daemon=True, name=f"heart of trial {trial_id}")
        self._storage, self._trial_id, self._seconds = storage, trial_id, seconds
        self._is_orphaned, self._signals = is_orphaned, signals
        self._ended = threading.Event()
        self._worker = process_identity()

    def __enter__(self) -> Heartbeat:
        self._storage.set_trial_user_attr(self._trial_id, "worker", {**self._worker, "beat": 0})
        if is_database(self._storage):
            self._storage.record_heartbeat(self._trial_id)  # type: ignore[attr-defined]
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self.join(timeout=self._seconds)

    def run(self) -> None:
        """Beat until the trial ends. A storage that fails is asked again at the next beat."""
        beat = 0
        while not self._ended.wait(self._seconds):
            beat += 1
            if self._is_orphaned():
                self._signals.stop()
            try:
                if is_database(self._storage):
                    self._storage.record_heartbeat(self._trial_id)  # type: ignore[attr-defined]
                else:
                    self._storage.set_trial_user_attr(self._trial_id, "worker", {**self._worker, "beat": beat})
            except UpdateFinishedTrialError:
                return  # taken over: the next report says so
            except Exception:
                continue


class TrialControl:
    """The trial that a run reports to."""

    def __init__(
        self,
        storage: BaseStorage,
        study: optuna.Study,
        trial: FrozenTrial,
        run: TrainingRun,
        protocol: Protocol,
        checkpoints: Checkpoints,
        signals: StopSignals,
        prunes: bool,
    ):
        self.storage, self.study, self.trial, self.planned_run = storage, study, trial, run
        self.protocol, self.checkpoints, self.signals, self.prunes = protocol, checkpoints, signals, prunes
        self.evaluations: dict[int, float] = {}
        self.env_steps = 0
        self.resumed_at = 0

    def attribute(self, name: str, value: Any) -> None:
        """Store something JSON-able about the trial."""
        self.storage.set_trial_user_attr(self.trial._trial_id, name, value)

    def resume(self, progress: Progress) -> None:
        """The run goes on from a checkpoint: what it reported then is this trial's too."""
        self.resumed_at = progress.env_steps
        if progress.env_steps:
            self.attribute("resumed_at", progress.env_steps)
        for step, value in sorted(progress.evaluations.items()):
            self.evaluations[step] = value
            self.storage.set_trial_intermediate_value(self.trial._trial_id, step, value)

    def count(self, env_steps: int) -> None:
        """Environment steps taken since the very beginning; a retry counts its own."""
        self.env_steps = max(0, env_steps - self.resumed_at)

    def report(self, step: int, value: float) -> None:
        """Store an evaluation; raises if it is not finite, before anybody is told, or if the run is pruned."""
        if not math.isfinite(value):
            raise NonFiniteEnvironmentError(f"return must be finite, got {value} in the evaluation at step {step}")
        self.evaluations[step] = value
        self.storage.set_trial_intermediate_value(self.trial._trial_id, step, value)
        self.attribute("env_steps", self.env_steps)
        if self.prunes and step != self.planned_run.marks[-1] and self._is_worse():
            raise optuna.TrialPruned(f"worse than the median at step {step}")

    def _is_worse(self) -> bool:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = self.study.get_trials(deepcopy=False, states=states)
        others = [in_order(other.intermediate_values) for other in trials if other.number != self.trial.number]
        return should_prune(in_order(self.evaluations), others, self.protocol)

    def is_stopping(self) -> bool:
        """True if the run shall stop at the next place where it can go on."""
        return self.signals.is_stopping()

    def score(self) -> float:
        """The run's score, once all its evaluations are there."""
        missing = [mark for mark in self.planned_run.marks if mark not in self.evaluations]
        if missing:
            raise RuntimeError(f"the objective ended without an evaluation at the environment steps {missing}")
        return float(run_score(in_order(self.evaluations), self.protocol))


def finish(control: TrialControl, state: TrialState, value: float | None = None, **attributes: Any) -> None:
    """Tell a result.

    Attributes are stored before it: those of a finished trial cannot be changed. A pruned trial has the value of its
    last evaluation, which is what Optuna's samplers expect.
    """
    for name, content in {"env_steps": control.env_steps, **attributes}.items():
        control.attribute(name, content)
    if state is TrialState.PRUNED and control.evaluations:
        value = in_order(control.evaluations)[-1]
    control.storage.set_trial_state_values(control.trial._trial_id, state, None if value is None else [value])


def store_error(storage: BaseStorage, trial_id: int, text: str) -> None:
    """Tell that a trial failed by an error in the code; ``text`` is the traceback, without passwords."""
    storage.set_trial_user_attr(trial_id, "reason", "error")
    storage.set_trial_user_attr(trial_id, "error", text[-TRACEBACK_CHARACTERS:])
    storage.set_trial_state_values(trial_id, TrialState.FAIL)


def run_trial(
    control: TrialControl, objective: Objective, floor: Callable[[], float], hide: Callable[[str], str]
) -> str:
    """Run a trial and tell its result; ``floor`` is the score of a run that diverged.

    Returns ``"complete"``, ``"pruned"``, ``"diverged"``, ``"preempted"``, ``"taken over"``, or the traceback of a
    failure.
    """
    try:
        return _outcome(control, objective, floor, hide)
    except UpdateFinishedTrialError:
        return "taken over"


def _outcome(
    control: TrialControl, objective: Objective, floor: Callable[[], float], hide: Callable[[str], str]
) -> str:
    try:
        objective(control.planned_run, control)
        score = control.score()
    except optuna.TrialPruned:
        finish(control, TrialState.PRUNED, reason="median")
        outcome = "pruned"
    except (PreemptedError, KeyboardInterrupt):
        control.attribute("reason", "preempted")
        control.attribute("env_steps", control.env_steps)
        # First the retry, then the end: a worker that is killed in between leaves one trial too many and none too few.
        requeue(control.study, control.storage.get_trial(control.trial._trial_id), "preempted")
        finish(control, TrialState.FAIL)
        return "preempted"
    except UpdateFinishedTrialError:
        raise
    except Exception as error:
        if is_away(error):
            raise  # nobody can be told; the trial is retried from its checkpoint
        if not is_divergence(error):
            text = hide(traceback.format_exc())
            control.attribute("env_steps", control.env_steps)
            if (line := environment_error(error)) is not None:
                control.attribute(ENVIRONMENT_ERROR, hide(line))
            store_error(control.storage, control.trial._trial_id, text)
            control.checkpoints.clear()
            return text
        why = dict(reason="diverged", diverged=True, error=hide(str(error)))
        why["by_environment"] = isinstance(error, NonFiniteEnvironmentError)
        finish(control, TrialState.COMPLETE, floor(), **why)
        outcome = "diverged"
    else:
        finish(control, TrialState.COMPLETE, score)
        outcome = "complete"
    control.checkpoints.clear()
    return outcome


def lowest_evaluation(trials: Sequence[FrozenTrial]) -> float:
    """The lowest evaluation of any trial, infinity if there is none."""
    values = [value for trial in trials for value in (*trial.intermediate_values.values(), *(trial.values or ()))]
    return min(values, default=float("inf"))
