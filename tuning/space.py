"""What is searched: names, ranges and choices, by rl_zoo3's names, and what the update rules add to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Configuration = dict[str, Any]
"""A point of the space: flat, JSON-able values by the parameter's name (``learning_rate``, ``n_steps_pow``, ...)."""


class Suggests(Protocol):
    """The part of an ``optuna.Trial`` that sampling needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """As Optuna's."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """As Optuna's."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As Optuna's."""


@dataclass(frozen=True)
class Dimension:
    """One parameter: a range of numbers, or a list of choices. A single choice is fixed and not asked of the trial."""

    name: str
    kind: str  # "float", "int" or "choice"
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Space:
    """The parameters of one algorithm.

    :param algo: ``"notes_ppo"`` or ``"notes_a2c"``.
    :param dimensions: in the order in which they are asked of a trial.
    """

    algo: str
    dimensions: tuple[Dimension, ...]

    @classmethod
    def default(cls, algo: str) -> Space:
        """rl_zoo3's space, widened so that SB3's defaults and rl_zoo3's tuned values lie in it, plus what we add."""
        raise NotImplementedError

    @classmethod
    def from_yaml(cls, path: str | Path, algo: str) -> Space:
        """The default space narrowed, widened or replaced by a YAML file."""
        raise NotImplementedError

    def vary(self, slots: Sequence[str]) -> Space:
        """The space with further dimensions, such as ``"rule.policy_objective"``, ``"rule.value_objective"``."""
        raise NotImplementedError

    def fit(self, n_envs: int, total_timesteps: int) -> Space:
        """The space without rollouts so long that a trial of ``total_timesteps`` holds fewer than two of them."""
        raise NotImplementedError

    def sample(self, trial: Suggests) -> Configuration:
        """Ask a trial for a point."""
        raise NotImplementedError

    def random(self, rng: np.random.Generator) -> Configuration:
        """A point drawn uniformly (on the logarithm, where ``log``)."""
        raise NotImplementedError

    def validate(self, configuration: Mapping[str, Any], what: str = "configuration") -> None:
        """Refuse a point outside: ``ValueError`` "warm start 'one_minus_gamma'=-0.2 outside [0.0001, 0.1]"."""
        raise NotImplementedError

    def contains(self, configuration: Mapping[str, Any]) -> bool:
        """Whether :meth:`validate` accepts it."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """The space as JSON-able values by parameter name: what a resumed study compares, key by key."""
        raise NotImplementedError
