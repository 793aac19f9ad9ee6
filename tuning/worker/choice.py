"""Who goes on: from the trials of a stage to the runs of the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from tuning.selection import Candidate, Choice, Protocol, choose, finalist_round, pick_finalists, run_score
from tuning.space.setup import Setup
from tuning.worker.queues import Job, arm_of, key_of
from tuning.worker.trial import in_order


def search_scores(trials: Sequence[FrozenTrial]) -> dict[int, float]:
    """Scores of the completed trials of the search; one that diverged is no candidate, whatever its floor is."""
    return {
        trial.number: float(trial.values[0])
        for trial in trials
        if trial.state is TrialState.COMPLETE and not trial.user_attrs.get("diverged") and trial.values
    }


def job_scores(trials: Sequence[FrozenTrial], protocol: Protocol) -> dict[tuple[str, int], float]:
    """Scores of the finished runs of a stage, by arm and seed."""
    scores = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE and trial.values:
            whole = len(trial.intermediate_values) == len(protocol.marks) and not trial.user_attrs.get("diverged")
            value = run_score(in_order(trial.intermediate_values), protocol) if whole else trial.values[0]
            scores[key_of(trial)] = float(value)
    return scores


def candidates(search: Sequence[FrozenTrial], finalists: Sequence[FrozenTrial], protocol: Protocol) -> list[Candidate]:
    """The finalists with their scores so far, the search's best first."""
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
    """The runs of the second stage that are due now; none when the winner can be chosen."""
    by_number = {trial.number: trial for trial in search}
    due = finalist_round(candidates(search, finalists, protocol), protocol)
    return [Job(arm_of(number), seed, setup(by_number[number])) for number, seed in due]


def chosen(search: Sequence[FrozenTrial], finalists: Sequence[FrozenTrial], protocol: Protocol) -> Choice | None:
    """The winner, a trial's number as its key; ``None`` until all finalists have run."""
    found = candidates(search, finalists, protocol)
    return choose(found, protocol) if found and not finalist_round(found, protocol) else None


def test_jobs(arms: Sequence[tuple[str, Setup]], seeds: Sequence[int]) -> list[Job]:
    """The runs of the third stage, seed by seed, so that all arms get as far when it is cut short."""
    return [Job(arm, seed, setup) for seed in seeds for arm, setup in arms]
