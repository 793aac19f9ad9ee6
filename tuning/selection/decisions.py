"""The decisions of a selection: what a run is worth, whether it goes on, who is a finalist, who wins."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tuning.selection.protocol import Protocol

Key = TypeVar("Key", bound=Hashable)


def run_score(evaluations: Sequence[float], protocol: Protocol) -> float:
    """The mean of a run's last evaluations: where it arrived, without the noise of any single one."""
    if not len(evaluations):
        raise ValueError("evaluations must hold at least 1 score, got none")
    last = [float(score) for score in evaluations[-protocol.n_averaged :]]
    if not all(map(math.isfinite, last)):
        raise ValueError(f"evaluations must be finite, got {last}")
    return math.fsum(last) / len(last)


def should_prune(evaluations: Sequence[float], others: Sequence[Sequence[float]], protocol: Protocol) -> bool:
    """True if a run is below the median of those that got as far, at any mark from ``prune_from`` on.

    Runs that were stopped earlier do not count at later marks, so that the bar rises. A run that equals the median goes
    on: while a sparse task gives everybody the same score, nobody is stopped. Too early a cut costs more than it saves,
    since learning curves cross.
    """
    reached = len(evaluations)
    if not reached or reached >= len(protocol.marks) or protocol.marks[reached - 1] < protocol.prune_from:
        return False
    first = max(reached - protocol.n_averaged, 0)
    at_this_mark = [other[first:reached] for other in others if len(other) >= reached]
    if len(at_this_mark) < protocol.n_startup:
        return False
    return run_score(evaluations, protocol) < float(np.median(np.mean(at_this_mark, axis=1)))


@dataclass(frozen=True)
class Candidate:
    """A finalist; ``key`` names it, such as a trial's number.

    ``area`` is the mean of all evaluations of its run in the search: it settles what would be a tie, for the one that
    learned sooner.
    """

    key: Any
    search_score: float
    finalist_scores: tuple[float, ...] = ()
    area: float = 0.0

    def cautious_mean(self, caution: float) -> float:
        """The mean of all scores, minus a share of its standard error: of two equals the steadier one is ahead."""
        scores = np.array([self.search_score, *self.finalist_scores])
        return float(scores.mean()) - caution * _standard_error(scores)


@dataclass(frozen=True)
class Choice:
    """The winner among the candidates.

    ``score`` is the mean over the ``n_seeds`` finalists' seeds alone, as it was picked for its search score, which it
    is if there were none; its ``standard_error`` is NaN for a single seed.
    """

    key: Any
    score: float
    standard_error: float
    n_seeds: int


def pick_finalists(scores: Mapping[Key, float], protocol: Protocol) -> list[Key]:
    """The keys of the best completed runs, best first; equal scores keep their order."""
    return sorted(scores, key=lambda key: -scores[key])[: protocol.n_finalists]


def finalist_round(candidates: Sequence[Candidate], protocol: Protocol) -> list[tuple[Any, int]]:
    """Pairs of key and seed of the finalist runs that are due now, until nothing is due and the winner can be chosen.

    All finalists run on the first fresh seed, all but the worst on the second, and so on down to two: seeds go where
    the decision is still open.
    """
    alive = list(candidates)
    for place, seed in enumerate(protocol.finalist_seeds):
        alive = _best(alive, place, protocol)[: protocol.finalists_at(place)]
        due = [(candidate.key, seed) for candidate in alive if len(candidate.finalist_scores) <= place]
        if due:
            return due
    return []


def choose(candidates: Sequence[Candidate], protocol: Protocol) -> Choice:
    """The winner: among those that ran on most seeds, the best cautious mean."""
    if not candidates:
        raise ValueError("candidates must hold at least 1 completed run, got none")
    n_seeds = max(len(candidate.finalist_scores) for candidate in candidates)
    last = [candidate for candidate in candidates if len(candidate.finalist_scores) == n_seeds]
    winner = _best(last, n_seeds, protocol)[0]
    fresh = np.array(winner.finalist_scores or (winner.search_score,))
    standard_error = _standard_error(fresh) if len(fresh) > 1 else math.nan
    return Choice(winner.key, float(fresh.mean()), standard_error, n_seeds)


def optimism(tuning_score: float, test_scores: Sequence[float]) -> float:
    """Tuning score minus mean test score: how much better the winner looked while tuning than it is."""
    return tuning_score - math.fsum(test_scores) / len(test_scores)


def _best(candidates: Sequence[Candidate], n_seeds: int, protocol: Protocol) -> list[Candidate]:
    """The candidates by what was known of them after so many fresh seeds, best first."""

    def rank(candidate: Candidate) -> tuple[float, float]:
        so_far = Candidate(candidate.key, candidate.search_score, candidate.finalist_scores[:n_seeds])
        return -so_far.cautious_mean(protocol.caution), -candidate.area

    return sorted(candidates, key=rank)


def _standard_error(scores: np.ndarray) -> float:
    return float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
