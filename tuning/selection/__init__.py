"""Selection that holds up: search on one seed, the finalists again on fresh ones, the winner on seeds nobody tuned on.

Pure functions of any evaluator ``(configuration, seed, fraction of the steps) -> score``: no Optuna and no training, so
that a whole study can be replayed on a table of published results. The best of many noisy scores is a lucky one;
what is done about it, in the order of what it is worth:

1. a run's score is the mean of its last three evaluations, not the last one;
2. the best few run again on fresh seeds, and the winner's score is told from those alone, without the search's luck;
3. at every mark from 30 % on, a run below the median of those that got as far stops, and pays for further ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuning.selection.decisions import (
    Candidate,
    Choice,
    choose,
    finalist_round,
    optimism,
    pick_finalists,
    run_score,
    should_prune,
)
from tuning.selection.protocol import Protocol

ScoreFunction = Callable[[Any, int, float], float]

__all__ = [
    "Candidate",
    "Choice",
    "Protocol",
    "ScoreFunction",
    "SearchRun",
    "Selected",
    "choose",
    "finalist_round",
    "finalists",
    "optimism",
    "pick_finalists",
    "run_score",
    "search",
    "select",
    "should_prune",
    "test",
]


@dataclass(frozen=True)
class SearchRun:
    """One run of the search: an evaluation a mark, as far as it got, and its compute in full runs."""

    index: int
    evaluations: tuple[float, ...]
    used: float
    outcome: str


def search(
    configurations: Sequence[Any], evaluator: ScoreFunction, budget: float, protocol: Protocol, rng: np.random.Generator
) -> list[SearchRun]:
    """Try configurations in random order, each on one seed, until the budget (in full runs) is spent.

    No run is begun that could exceed it.
    """
    runs: list[SearchRun] = []
    used = 0.0
    for place, index in enumerate(rng.permutation(len(configurations))):
        if used + 1 > budget + 1e-9:
            break
        others = [run.evaluations for run in runs]
        seed = protocol.search_seeds[place % len(protocol.search_seeds)]
        run = _run(int(index), configurations[index], seed, evaluator, protocol, others)
        runs.append(run)
        used += run.used
    return runs


def finalists(
    configurations: Sequence[Any], runs: Sequence[SearchRun], evaluator: ScoreFunction, protocol: Protocol
) -> list[Candidate]:
    """Run the best completed runs of the search again on fresh seeds."""
    complete = {run.index: run for run in runs if run.outcome == "complete"}
    scores = {index: run_score(run.evaluations, protocol) for index, run in complete.items()}
    evaluations = {index: [list(complete[index].evaluations)] for index in pick_finalists(scores, protocol)}
    if not evaluations:
        raise ValueError(f"configurations must give at least 1 finite run, got {len(runs)} runs and none")
    floor = min(score for run in runs for score in run.evaluations if math.isfinite(score))
    while True:
        candidates = [_candidate(index, seen, protocol) for index, seen in evaluations.items()]
        due = finalist_round(candidates, protocol)
        if not due:
            return candidates
        for index, seed in due:
            run = _run(index, configurations[index], seed, evaluator, protocol, None)
            evaluations[index].append(list(run.evaluations) if run.outcome == "complete" else [floor])


def test(configuration: Any, evaluator: ScoreFunction, protocol: Protocol) -> tuple[float, ...]:
    """Scores of a configuration on the seeds nobody tuned on, one each."""
    runs = [_run(0, configuration, seed, evaluator, protocol, None) for seed in protocol.test_seeds]
    return tuple(run_score(run.evaluations, protocol) for run in runs)


@dataclass(frozen=True)
class Selected:
    """The winner of :func:`select`: its index, its tuning score, and the compute in full runs that both stages took."""

    index: int
    score: float
    choice: Choice
    used: float


def select(
    configurations: Sequence[Any], evaluator: ScoreFunction, budget: float, protocol: Protocol, rng: np.random.Generator
) -> Selected:
    """Search and finalists together; the test is not part of it, its seeds stay untouched.

    :param configurations: what to try; at most each once.
    :param evaluator: ``(configuration, seed, fraction of the steps) -> score``, called at every mark of a run in turn.
    :param budget: compute, in full runs, of both stages together.
    :param protocol: the rules.
    :param rng: decides the order of the search.
    :return: the winner.
    :raises ValueError: if the budget does not even pay for the finalists, or nothing gave a finite score.
    """
    reserved = protocol.finalist_runs
    if budget < reserved + protocol.n_finalists:
        raise ValueError(
            f"budget must be >= {reserved + protocol.n_finalists} full runs for {protocol.n_finalists} finalists on "
            f"{len(protocol.finalist_seeds)} seeds, got {budget} (Protocol.fitted makes a smaller protocol)"
        )
    runs = search(configurations, evaluator, budget - reserved, protocol, rng)
    candidates = finalists(configurations, runs, evaluator, protocol)
    choice = choose(candidates, protocol)
    used = sum(run.used for run in runs) + sum(len(candidate.finalist_scores) for candidate in candidates)
    return Selected(choice.key, choice.score, choice, used)


def _run(
    index: int,
    configuration: Any,
    seed: int,
    evaluator: ScoreFunction,
    protocol: Protocol,
    others: Sequence[Sequence[float]] | None,
) -> SearchRun:
    """One run, mark by mark; pruned against ``others``, unless they are ``None``."""
    evaluations: list[float] = []
    for mark in protocol.marks:
        score = float(evaluator(configuration, seed, mark))
        if not math.isfinite(score):
            return SearchRun(index, tuple(evaluations), mark, "diverged")
        evaluations.append(score)
        if others is not None and should_prune(evaluations, others, protocol):
            return SearchRun(index, tuple(evaluations), mark, "pruned")
    return SearchRun(index, tuple(evaluations), 1.0, "complete")


def _candidate(index: int, seen: list[list[float]], protocol: Protocol) -> Candidate:
    first, *fresh = (run_score(evaluations, protocol) for evaluations in seen)
    return Candidate(index, first, tuple(fresh), float(np.mean(seen[0])))
