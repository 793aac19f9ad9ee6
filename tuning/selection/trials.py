"""The decisions of a selection, on the trials of a study as Optuna stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from tuning.selection import Candidate, Choice, Protocol, choose, finalist_round, pick_finalists, run_score


def key_of(trial: FrozenTrial) -> tuple[str, int]:
    """Arm and seed of a run of the finalists or the test."""
    return trial.user_attrs["arm"], trial.user_attrs["seed"]


def arm_of(number: int) -> str:
    """The name of a trial of the search as an arm."""
    return f"trial {number}"


def in_order(evaluations: Mapping[int, float]) -> list[float]:
    """Evaluations by environment step as a list, the first one first."""
    return [evaluations[step] for step in sorted(evaluations)]


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
    finalist_candidates = []
    for number in pick_finalists(scores, protocol):
        keys = [(arm_of(number), seed) for seed in protocol.finalist_seeds]
        # Seeds are run in their order; those after a missing one do not count yet.
        done = keys[: next((place for place, key in enumerate(keys) if key not in reruns), len(keys))]
        evaluations = [by_number[number].intermediate_values, *(curves[key] for key in done)]
        area = float(np.mean([np.mean(in_order(curve)) for curve in evaluations if curve]))
        finalist_candidates.append(Candidate(number, scores[number], tuple(reruns[key] for key in done), area))
    return finalist_candidates


def choose_winner(search: Sequence[FrozenTrial], finalists: Sequence[FrozenTrial], protocol: Protocol) -> Choice | None:
    """The winner, a trial's number as its key; ``None`` until all finalists have run."""
    rivals = candidates(search, finalists, protocol)
    return choose(rivals, protocol) if rivals and not finalist_round(rivals, protocol) else None
