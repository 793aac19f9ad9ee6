"""The three stages as queues of trials that any worker, on any machine, takes the next one of.

Search is an Optuna study of its own; the runs of the finalists and of the test are trials of two more, each with the
arm and the seed in its attributes. So all three have the same heartbeats, retries and checkpoints.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tuning.budget import NEVER_RAN
from tuning.selection import Candidate, Choice, Protocol, choose, finalist_round, pick_finalists, run_score
from tuning.space_arguments import Setup
from tuning.worker_requeue import MOST_DEATHS
from tuning.worker_trial import in_order

FINALISTS, TEST = ".finalists", ".test"
#: A run that failed so often will not succeed.
MOST_FAILURES = 3


@dataclass(frozen=True)
class Job:
    """One run of the finalists or of the test.

    :param arm: ``"trial 12"`` or a baseline's name.
    :param seed: of the run.
    :param setup: what is trained.
    """

    arm: str
    seed: int
    setup: Setup

    @property
    def key(self) -> tuple[str, int]:
        """Arm and seed, which no other run shares."""
        return self.arm, self.seed


def key_of(trial: FrozenTrial) -> tuple[str, int]:
    """Which run a trial is.

    :param trial: of the finalists or the test.
    :return: arm and seed.
    """
    return trial.user_attrs["arm"], trial.user_attrs["seed"]


def arm_of(number: int) -> str:
    """The name of a trial of the search as an arm.

    :param number: of the trial.
    :return: ``"trial 12"``.
    """
    return f"trial {number}"


def joined_study(name: str, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """A study, made unless it is there.

    :param name: of the study.
    :param storage: opened.
    :return: the study, which maximises.
    """
    return optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)


def existing_study(name: str, storage: optuna.storages.BaseStorage) -> optuna.Study | None:
    """A study that need not be there.

    :param name: of the study.
    :param storage: opened.
    :return: the study, ``None`` if there is none.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def asked_trial(study: optuna.Study) -> optuna.Trial:
    """The next trial: the first that is queued, or a new one.

    :param study: of the trial.
    :return: running, nothing suggested yet.
    """
    with warnings.catch_warnings():
        # Optuna beats its hearts in Study.optimize only; ours beat on their own.
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        return study.ask()


def claimed_trial(study: optuna.Study, storage: optuna.storages.BaseStorage) -> FrozenTrial | None:
    """The first queued trial that no other worker was faster to take.

    :param study: of the trial.
    :param storage: of the study.
    :return: running, ``None`` if none is queued.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        try:
            if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return storage.get_trial(trial._trial_id)
        except UpdateFinishedTrialError:
            continue
    return None


def never_ran(trial: FrozenTrial) -> bool:
    """Whether a trial was given up before it took a step: the budget did not suffice, or another was the same.

    :param trial: any.
    :return: ``True`` if it says nothing about the objective.
    """
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason") in NEVER_RAN


def is_queued(trial: FrozenTrial) -> bool:
    """Whether a trial waits to be run, or runs.

    :param trial: any.
    :return: ``False`` if it has ended.
    """
    return trial.state in (TrialState.WAITING, TrialState.RUNNING)


def missing_jobs(jobs: Sequence[Job], trials: Sequence[FrozenTrial]) -> list[Job]:
    """Runs that have no result and that nobody is at.

    :param jobs: all runs.
    :param trials: of the stage.
    :return: those to queue.
    """
    taken = {key_of(trial) for trial in trials if is_queued(trial) or trial.state is TrialState.COMPLETE}
    return [job for job in jobs if job.key not in taken]


def failed_too_often(jobs: Sequence[Job], trials: Sequence[FrozenTrial]) -> str | None:
    """The last traceback of a run that keeps failing.

    :param jobs: all runs.
    :param trials: of the stage that ended since this worker began.
    :return: ``None`` if there is none.
    """
    for job in jobs:
        ended = [trial for trial in trials if trial.state is TrialState.FAIL and key_of(trial) == job.key]
        errors = [trial.user_attrs["error"] for trial in ended if failed(trial)]
        if len(errors) >= MOST_FAILURES:
            return str(errors[-1])
        if any(trial.user_attrs.get("deaths", 0) >= MOST_DEATHS and died(trial) for trial in ended):
            return f"the workers that ran {job.arm} on seed {job.seed} died, {MOST_DEATHS + 1} times (out of memory?)"
    return None


def failed(trial: FrozenTrial) -> bool:
    """Whether a trial failed by an error of its own, and not because its worker went away.

    :param trial: any.
    :return: ``True`` for an error.
    """
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason") == "error"


def died(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker.

    :param trial: any.
    :return: ``True`` if nobody told a reason.
    """
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason", "stale") == "stale"


def queue_job(study: optuna.Study, job: Job) -> None:
    """Queue one run.

    :param study: of the stage.
    :param job: the run.
    """
    attributes: dict[str, Any] = {"arm": job.arm, "seed": job.seed}
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs=attributes))


def is_surplus(trial: FrozenTrial, trials: Sequence[FrozenTrial], jobs: Sequence[Job]) -> bool:
    """Whether nobody needs a run: it is another's already, or its arm is no finalist any more.

    :param trial: just taken.
    :param trials: of the stage.
    :param jobs: all runs that are needed.
    :return: ``True`` if it shall not be run.
    """
    key = key_of(trial)
    if key not in {job.key for job in jobs}:
        return True
    rivals = [other for other in trials if key_of(other) == key and other.number != trial.number]
    return any(
        other.state is TrialState.COMPLETE or (is_queued(other) and other.number < trial.number) for other in rivals
    )


def search_scores(trials: Sequence[FrozenTrial]) -> dict[int, float]:
    """Scores of the completed trials of the search; one that diverged is no candidate, whatever its floor is.

    :param trials: of the search.
    :return: by number.
    """
    return {
        trial.number: float(trial.values[0])
        for trial in trials
        if trial.state is TrialState.COMPLETE and not trial.user_attrs.get("diverged") and trial.values
    }


def job_scores(trials: Sequence[FrozenTrial], protocol: Protocol) -> dict[tuple[str, int], float]:
    """Scores of the finished runs of a stage.

    :param trials: of the stage.
    :param protocol: says how many evaluations are averaged.
    :return: by arm and seed.
    """
    scores = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE and trial.values:
            whole = len(trial.intermediate_values) == len(protocol.marks) and not trial.user_attrs.get("diverged")
            value = run_score(in_order(trial.intermediate_values), protocol) if whole else trial.values[0]
            scores[key_of(trial)] = float(value)
    return scores


def candidates(search: Sequence[FrozenTrial], finalists: Sequence[FrozenTrial], protocol: Protocol) -> list[Candidate]:
    """The finalists with what is known of them.

    :param search: its trials.
    :param finalists: trials of the second stage.
    :param protocol: how many, and on which seeds.
    :return: the search's best first.
    """
    scores, reruns = search_scores(search), job_scores(finalists, protocol)
    curves = {key_of(trial): trial.intermediate_values for trial in finalists if trial.state is TrialState.COMPLETE}
    by_number = {trial.number: trial for trial in search}
    found = []
    for number in pick_finalists(scores, protocol):
        keys = [(arm_of(number), seed) for seed in protocol.finalist_seeds]
        # Seeds are run in their order; those after a missing one do not count yet.
        ran = keys[: next((place for place, key in enumerate(keys) if key not in reruns), len(keys))]
        evaluations = [by_number[number].intermediate_values, *(curves[key] for key in ran)]
        area = float(np.mean([np.mean(in_order(curve)) for curve in evaluations if curve]))
        found.append(Candidate(number, scores[number], tuple(reruns[key] for key in ran), area))
    return found


def finalist_jobs(
    search: Sequence[FrozenTrial],
    finalists: Sequence[FrozenTrial],
    protocol: Protocol,
    setup: Callable[[FrozenTrial], Setup],
) -> list[Job]:
    """The runs of the second stage that are due now.

    :param search: its trials.
    :param finalists: trials of the second stage so far.
    :param protocol: its seeds.
    :param setup: of a trial.
    :return: the runs; none when the winner can be chosen.
    """
    by_number = {trial.number: trial for trial in search}
    due = finalist_round(candidates(search, finalists, protocol), protocol)
    return [Job(arm_of(number), seed, setup(by_number[number])) for number, seed in due]


def chosen(search: Sequence[FrozenTrial], finalists: Sequence[FrozenTrial], protocol: Protocol) -> Choice | None:
    """The winner of the finalists.

    :param search: its trials.
    :param finalists: trials of the second stage.
    :param protocol: of the study.
    :return: its key is a trial's number; ``None`` until all finalists have run.
    """
    found = candidates(search, finalists, protocol)
    return choose(found, protocol) if found and not finalist_round(found, protocol) else None


def test_jobs(arms: Sequence[tuple[str, Setup]], seeds: Sequence[int]) -> list[Job]:
    """The runs of the third stage, seed by seed, so that all arms get as far when it is cut short.

    :param arms: the winner and its baselines.
    :param seeds: on which nobody tuned.
    :return: the runs.
    """
    return [Job(arm, seed, setup) for seed in seeds for arm, setup in arms]
