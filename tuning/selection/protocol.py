"""The rules of a study, fixed before its first trial: which seeds are for what, when is measured, who goes on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The rules of a study; three disjoint sets of seeds above all. Checked when it is made.

    :param search_seeds: of the search, whose trials all take the first: with different ones they could not be compared.
    :param finalist_seeds: on which the finalists run again.
    :param test_seeds: of the winner and its baselines, used for nothing else; at least 10 make a headline.
    :param n_finalists: how many configurations run again.
    :param marks: fractions of the steps at which a run is evaluated, rising; the last is 1.
    :param n_averaged: a run's score is the mean of its last so many evaluations.
    :param prune_from: no run is pruned before this fraction of its steps; at least 0.3, earlier cuts lost more than
        they saved on every table of results we have replayed.
    :param n_startup: no run is pruned before so many others have got as far.
    :param caution: among finalists, standard errors that are taken off a mean.
    :raises ValueError: for a value out of range, or seeds that are used twice: "test seeds [3] also used for tuning".
    """

    search_seeds: tuple[int, ...] = (0,)
    finalist_seeds: tuple[int, ...] = (1, 2, 3, 4)
    test_seeds: tuple[int, ...] = tuple(range(100, 110))
    n_finalists: int = 5
    marks: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    n_averaged: int = 3
    prune_from: float = 0.3
    n_startup: int = 8
    caution: float = 0.5

    def __post_init__(self) -> None:
        for field in ("search_seeds", "finalist_seeds", "test_seeds"):
            _check_seeds(field, getattr(self, field), may_be_empty=field != "search_seeds")
        _check_disjoint(self.search_seeds, self.finalist_seeds, "finalist seeds {} also used for the search")
        tuning = self.search_seeds + self.finalist_seeds
        _check_disjoint(tuning, self.test_seeds, "test seeds {} also used for tuning")
        for field, low in (("n_finalists", 1), ("n_averaged", 1), ("n_startup", 1)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{field} must be an int >= {low}, got {value!r}")
        rising = all(low < high for low, high in itertools.pairwise((0.0, *self.marks)))
        if not self.marks or not rising or self.marks[-1] != 1:
            raise ValueError(f"marks must rise within (0, 1] and end at 1, got {self.marks}")
        if not 0.3 <= self.prune_from <= 1:
            raise ValueError(f"prune_from must be in [0.3, 1], got {self.prune_from}")
        if not 0 <= self.caution < math.inf:
            raise ValueError(f"caution must be >= 0 and finite, got {self.caution}")

    def finalists_at(self, place: int) -> int:
        """The number of finalists on a fresh seed, counted from 0: one fewer on each, down to two."""
        return max(self.n_finalists - place, min(self.n_finalists, 2))

    @property
    def finalist_runs(self) -> int:
        """Full runs that the finalists cost."""
        return sum(self.finalists_at(place) for place in range(len(self.finalist_seeds)))

    def fitted(self, full_runs: float) -> Protocol:
        """The same rules with fewer finalists or seeds, where the finalists would take more than 30 % of the compute.

        ``full_runs`` is the compute of search and finalists together; below two runs of finalists there are none.
        """
        for n_finalists in range(self.n_finalists, 1, -1):
            for n_seeds in range(len(self.finalist_seeds), 0, -1):
                smaller = dataclasses.replace(
                    self, n_finalists=n_finalists, finalist_seeds=self.finalist_seeds[:n_seeds]
                )
                if smaller.finalist_runs <= 0.3 * full_runs:
                    return smaller
        return dataclasses.replace(self, n_finalists=1, finalist_seeds=())

    def marks_in_steps(self, total_timesteps: int) -> tuple[int, ...]:
        """The marks in environment steps, so that runs with other rollouts are measured at the same ones.

        The last is exactly ``total_timesteps``; two marks on one step are refused.
        """
        steps = tuple(round(mark * total_timesteps) for mark in self.marks)
        if steps[0] < 1 or len(set(steps)) < len(steps):
            raise ValueError(
                f"total_timesteps must be >= {len(self.marks)} for {len(self.marks)} marks, got {total_timesteps}"
            )
        return steps

    def fingerprint(self) -> dict[str, Any]:
        """The protocol as JSON-able values: a resumed study compares them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_fingerprint(cls, values: dict[str, Any]) -> Protocol:
        """The protocol that a fingerprint was taken of."""
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**settings)


def _check_seeds(name: str, seeds: tuple[int, ...], *, may_be_empty: bool) -> None:
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"{name} must be ints in [0, 2**32-1], got {seed!r}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name} must hold each seed once, got {list(seeds)}")
    if not seeds and not may_be_empty:
        raise ValueError(f"{name} must hold at least 1 seed, got none")


def _check_disjoint(others: tuple[int, ...], seeds: tuple[int, ...], message: str) -> None:
    twice = sorted(set(others) & set(seeds))
    if twice:
        raise ValueError(message.format(twice))
