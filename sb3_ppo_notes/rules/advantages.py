"""The slots before the update: advantages, value targets, and the normalisation of advantages."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch as th

from sb3_ppo_notes.formulas import advantages as formulas
from sb3_ppo_notes.formulas.advantages import FloatArray
from sb3_ppo_notes.formulas.checks import (
    InvalidValueError,
    check_choice,
    check_flag,
    check_fraction,
    check_integer,
    check_real,
)
from sb3_ppo_notes.formulas.objectives import normalize_advantages


class RolloutArrays(NamedTuple):
    """A rollout as an estimator sees it; all reward units but the last.

    :param rewards: ``[T, B]``, with γ·V(terminal observation) added where a time limit cut an episode, unless the rule
        calls that a terminal state.
    :param values: ``[T, B]``, V(sₜ).
    :param following_values: ``[T, B]``, V(sₜ₊₁); the last row is V(s_T).
    :param nonterminal: ``[T, B]``, 0 where sₜ₊₁ starts another episode; dimensionless.
    """

    rewards: FloatArray
    values: FloatArray
    following_values: FloatArray
    nonterminal: FloatArray


class AdvantageEstimator(Protocol):
    """Estimates how good each action was."""

    def advantages(self, rollout: RolloutArrays, gamma: float) -> FloatArray:
        """Â of every step.

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :return: ``[T, B]``; reward units.
        """


class ValueTarget(Protocol):
    """The critic's target."""

    def returns(self, rollout: RolloutArrays, gamma: float, advantages: FloatArray) -> FloatArray:
        """Ĝ of every step.

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :param advantages: ``[T, B]`` of the estimator, before normalisation.
        :return: ``[T, B]``; reward units.
        """


@dataclass(frozen=True)
class GAE:
    """Generalised advantage estimation: :func:`~sb3_ppo_notes.formulas.advantages.gae`.

    :param gae_lambda: λ in [0, 1]; 1 is return − V, 0 the TD residual.
    """

    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        check_fraction("gae_lambda", self.gae_lambda)

    def advantages(self, rollout: RolloutArrays, gamma: float) -> FloatArray:
        """Â of every step: GAE(λ).

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :return: ``[T, B]``; reward units.
        """
        deltas = formulas.td_residuals(*rollout, gamma)
        return formulas.gae(deltas, rollout.nonterminal, gamma, self.gae_lambda)


@dataclass(frozen=True)
class NStep:
    """n rewards and the critic's word for the rest, minus V(s):
    :func:`~sb3_ppo_notes.formulas.advantages.n_step_returns`.

    :param n: number of rewards, at least 1; environment steps.
    """

    n: int = 5

    def __post_init__(self) -> None:
        check_integer("n", self.n, minimum=1)

    def advantages(self, rollout: RolloutArrays, gamma: float) -> FloatArray:
        """Â of every step: n-step return − V.

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :return: ``[T, B]``; reward units.
        """
        return NStepReturn(self.n).returns(rollout, gamma, rollout.values) - rollout.values


@dataclass(frozen=True)
class MonteCarlo:
    """All rewards to go, minus V(s): :func:`~sb3_ppo_notes.formulas.advantages.monte_carlo_returns`.

    :param bootstrap: close an episode that the rollout cuts with V(s_T); ``False`` counts only the rewards seen.
    :param chunk: cut the sums also after every so many steps of an episode: less variance, and blind for what comes
        later. ``None`` for no such cut; batch-ppo cuts only the critic's target, see :class:`MonteCarloReturn`.
    """

    bootstrap: bool = True
    chunk: int | None = None

    def __post_init__(self) -> None:
        _check_monte_carlo(self.bootstrap, self.chunk)

    def advantages(self, rollout: RolloutArrays, gamma: float) -> FloatArray:
        """Â of every step: Monte-Carlo return − V.

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :return: ``[T, B]``; reward units.
        """
        return MonteCarloReturn(self.bootstrap, self.chunk).returns(rollout, gamma, rollout.values) - rollout.values


@dataclass(frozen=True)
class LambdaReturn:
    """Advantage + V(s): the λ-return of GAE(λ). With another estimator it is the return that estimator compared with
    V.
    """

    def returns(self, rollout: RolloutArrays, gamma: float, advantages: FloatArray) -> FloatArray:
        """Ĝ = Â + V of every step.

        :param rollout: arrays ``[T, B]``.
        :param gamma: not needed: it is in the advantages already.
        :param advantages: ``[T, B]`` of the estimator, before normalisation.
        :return: ``[T, B]``; reward units.
        """
        return formulas.lambda_returns(advantages, rollout.values)


@dataclass(frozen=True)
class MonteCarloReturn:
    """All rewards to go: :func:`~sb3_ppo_notes.formulas.advantages.monte_carlo_returns`.

    :param bootstrap: close an episode that the rollout cuts with V(s_T); ``False`` counts only the rewards seen.
    :param chunk: cut the sums also after every so many steps of an episode, counted from its first step in the rollout,
        as batch-ppo does: less variance, and blind for what comes later. ``None`` for no such cut.
    """

    bootstrap: bool = True
    chunk: int | None = None

    def __post_init__(self) -> None:
        _check_monte_carlo(self.bootstrap, self.chunk)

    def returns(self, rollout: RolloutArrays, gamma: float, advantages: FloatArray) -> FloatArray:
        """Ĝ of every step.

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :param advantages: not needed.
        :return: ``[T, B]``; reward units.
        """
        last_values = rollout.following_values[-1] if self.bootstrap else np.zeros_like(rollout.following_values[-1])
        nonterminal = rollout.nonterminal
        if self.chunk is not None:
            nonterminal = formulas.cut_into_chunks(nonterminal, self.chunk)
        return formulas.monte_carlo_returns(rollout.rewards, last_values, nonterminal, gamma)


@dataclass(frozen=True)
class NStepReturn:
    """n rewards and the critic's word for the rest: :func:`~sb3_ppo_notes.formulas.advantages.n_step_returns`.

    :param n: number of rewards, at least 1; environment steps. 1 is the TD(0) target r + γ·V(sₜ₊₁).
    """

    n: int = 5

    def __post_init__(self) -> None:
        check_integer("n", self.n, minimum=1)

    def returns(self, rollout: RolloutArrays, gamma: float, advantages: FloatArray) -> FloatArray:
        """Ĝ of every step.

        :param rollout: arrays ``[T, B]``.
        :param gamma: γ in [0, 1].
        :param advantages: not needed.
        :return: ``[T, B]``; reward units.
        """
        following, nonterminal = rollout.following_values, rollout.nonterminal
        return formulas.n_step_returns(rollout.rewards, following, nonterminal, gamma, self.n)


@dataclass(frozen=True)
class TDZero(NStepReturn):
    """The one-step target r + γ·V(sₜ₊₁): :class:`NStepReturn` of one reward."""

    n: int = field(default=1, init=False, repr=False)


@dataclass(frozen=True)
class AdvantageNormalization:
    """The samples over which advantages are brought to mean 0 and deviation 1.

    :param scope: ``"minibatch"`` (SB3), ``"rollout"`` (once before the epochs) or ``"none"``.
    :param ddof: 1 divides the variance by N−1, 0 by N.
    :param eps: added to the standard deviation.
    """

    scope: Literal["none", "minibatch", "rollout"] = "minibatch"
    ddof: int = 1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, ("none", "minibatch", "rollout"))
        check_choice("ddof", self.ddof, (0, 1))
        check_real("eps", self.eps, ">= 0", is_allowed=not isinstance(self.eps, int | float) or self.eps >= 0)

    def normalize(self, advantages: th.Tensor) -> th.Tensor:
        """Mean 0 and deviation 1 over the samples of each row, see
        :func:`~sb3_ppo_notes.formulas.objectives.normalize_advantages`.

        :param advantages: ``[..., N]``; reward units.
        :return: ``[..., N]``; standard deviations.
        """
        return normalize_advantages(advantages, self.eps, self.ddof)


def _check_monte_carlo(bootstrap: bool, chunk: int | None) -> None:
    check_flag("bootstrap", bootstrap)
    if chunk is not None:
        check_integer("chunk", chunk, minimum=1)
        if bootstrap:
            raise InvalidValueError("bootstrap must be False with a chunk, got True (no value closes a chunk)")
