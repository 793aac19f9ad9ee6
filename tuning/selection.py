"""Selection that holds up: search on one seed, the finalists again on fresh ones, the winner on seeds nobody tuned on.

Pure functions of any evaluator ``(configuration, seed, fraction of the steps) -> score``; no Optuna, no training.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Evaluator = Callable[[Any, int, float], float]


@dataclass(frozen=True)
class Protocol:
    """The rules of a study. Checked when it is made: "test seeds [3] also used for tuning".

    :param search_seeds: of the search, one each trial (the first; more only when asked for).
    :param finalist_seeds: of the finalists, fresh.
    :param test_seeds: of the winner and its baselines, used for nothing else.
    :param n_finalists: how many configurations are run again.
    :param marks: fractions of the steps at which a run is evaluated; the last is 1.
    :param n_averaged: a run's score is the mean of its last so many evaluations.
    :param prune_from: no run is pruned before this fraction of its steps.
    :param n_startup: no run is pruned before so many others have got as far.
    """

    search_seeds: tuple[int, ...] = (0,)
    finalist_seeds: tuple[int, ...] = (1, 2, 3, 4)
    test_seeds: tuple[int, ...] = tuple(range(100, 110))
    n_finalists: int = 5
    marks: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    n_averaged: int = 3
    prune_from: float = 0.3
    n_startup: int = 8

    def marks_in_steps(self, total_timesteps: int) -> tuple[int, ...]:
        """The marks in environment steps; the last is exactly ``total_timesteps``."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able values by name: what a resumed study compares."""
        raise NotImplementedError


def run_score(evaluations: Sequence[float], protocol: Protocol) -> float:
    """The mean of a run's last three evaluations."""
    raise NotImplementedError


def should_prune(evaluations: Sequence[float], others: Sequence[Sequence[float]], protocol: Protocol) -> bool:
    """Whether a run that has these evaluations so far (one a mark) is to stop; ``others`` are the other runs'."""
    raise NotImplementedError


@dataclass(frozen=True)
class Candidate:
    """A finalist: its key (trial number), score in the search, and scores on the finalists' seeds, in their order."""

    key: Hashable
    search_score: float
    finalist_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The winner among the candidates.

    :param key: of the winner.
    :param score: its honest tuning score: shrunk towards the other finalists, so that it is not too optimistic.
    :param mean: the plain mean of its scores.
    :param standard_error: of that mean.
    """

    key: Hashable
    score: float
    mean: float
    standard_error: float


def pick_finalists(scores: Mapping[Hashable, float], protocol: Protocol) -> list[Hashable]:
    """The keys of the best ``n_finalists`` completed runs, best first."""
    raise NotImplementedError


def choose(candidates: Sequence[Candidate], search_scores: Sequence[float], protocol: Protocol) -> Choice:
    """The winner. ``search_scores``: of every completed run of the search, which say how much scores are worth."""
    raise NotImplementedError


@dataclass(frozen=True)
class Selected:
    """What :func:`select` found: index of the configuration, its honest score, and the compute used in full runs."""

    index: int
    choice: Choice
    used: float


def select(
    configurations: Sequence[Any], evaluator: Evaluator, budget: float, protocol: Protocol, rng: np.random.Generator
) -> Selected:
    """Search and finalists together, with the compute of ``budget`` full runs."""
    raise NotImplementedError
