"""The slots inside the loss: the objective that the policy ascends and the error that the critic descends."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch as th

from sb3_ppo_notes.formulas import objectives as formulas
from sb3_ppo_notes.formulas.adaptation import adapted_penalty
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice, check_positive, check_real
from sb3_ppo_notes.formulas.divergences import kl_cutoff, kl_penalized
from sb3_ppo_notes.rules.schedules import Schedule, check_schedule

#: The band in which β stays, times the target, and the factor by which it changes outside it.
PENALTY_ADAPTATIONS = {"batch_ppo": ((0.7, 1.3), 1.5), "paper": ((1 / 1.5, 1.5), 2.0)}


class PolicyTerms(NamedTuple):
    """The part of a minibatch that a policy objective may use.

    :param log_probs: ``[N]``, log π(a|s) of the policy being trained; nats.
    :param old_log_probs: ``[N]``, log π_old(a|s) stored with the rollout; nats.
    :param advantages: ``[N]``, normalised or not, without gradient.
    :param kl: ``[N]``, exact KL(old ‖ new) in each state, with gradient; ``None`` unless the rule needs it. Nats.
    :param kl_coef: the present coefficient of a KL penalty.
    """

    log_probs: th.Tensor
    old_log_probs: th.Tensor
    advantages: th.Tensor
    kl: th.Tensor | None = None
    kl_coef: float = 0.0


class PolicyObjective(Protocol):
    """The objective that the policy ascends."""

    def objective(self, terms: PolicyTerms) -> th.Tensor:
        """The objective of each sample.

        :param terms: one minibatch.
        :return: ``[N]``, larger is better.
        """


class ValueObjective(Protocol):
    """The error that the critic descends."""

    def loss(self, values: th.Tensor, old_values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """The mean error of a minibatch.

        :param values: ``[N]``, V(s) being trained; reward units.
        :param old_values: ``[N]``, V_old(s) stored with the rollout; reward units.
        :param returns: ``[N]``, the targets; reward units.
        :return: scalar, smaller is better.
        """


@dataclass(frozen=True)
class ClippedSurrogate:
    """PPO's clipped objective: :func:`~sb3_ppo_notes.formulas.objectives.clipped_surrogate`.

    :param clip_range: ε ≥ 0, or a schedule of it; infinite for no clip.
    """

    clip_range: float | Schedule = 0.2

    def __post_init__(self) -> None:
        check_schedule("clip_range", self.clip_range)

    def objective(self, terms: PolicyTerms) -> th.Tensor:
        """min(ρ·Â, clip(ρ, 1−ε, 1+ε)·Â) of each sample.

        :param terms: one minibatch.
        :return: ``[N]``, larger is better.
        """
        ratio = formulas.probability_ratio(terms.log_probs, terms.old_log_probs)
        return formulas.clipped_surrogate(ratio, terms.advantages, self.clip_range)  # type: ignore[arg-type]


@dataclass(frozen=True)
class KLPenalty:
    """The unclipped surrogate minus β times the exact KL: :func:`~sb3_ppo_notes.formulas.divergences.kl_penalized`.

    Its cut-off is no mean over samples: in a training on several processes each shard's part of a minibatch has a wall
    at a mean KL of its own. All else, and all of it with ``cutoff_coef=0``, is what one process would compute.

    :param coefficient: β at the start, > 0.
    :param target: the KL(old ‖ new) an update aims at, > 0; nats.
    :param adaptation: how β follows the KL after each update: ``"fixed"``, ``"batch_ppo"`` (·1.5 above 1.3·target, /1.5
        below 0.7·target) or ``"paper"`` (·2 above 1.5·target, /2 below target/1.5).
    :param bounds: smallest and largest β. A floor above 0, because β = 0 could never grow again.
    :param cutoff_factor: the wall of :func:`~sb3_ppo_notes.formulas.divergences.kl_cutoff` stands at this times the
        target.
    :param cutoff_coef: its steepness, 0 for no wall.
    """

    coefficient: float = 1.0
    target: float = 0.01
    adaptation: Literal["fixed", "batch_ppo", "paper"] = "batch_ppo"
    bounds: tuple[float, float] = (1e-6, 1e6)
    cutoff_factor: float = 2.0
    cutoff_coef: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("coefficient", "target", "cutoff_factor"):
            check_positive(name, getattr(self, name))
        check_real("cutoff_coef", self.cutoff_coef, ">= 0", is_allowed=self.cutoff_coef >= 0)
        check_choice("adaptation", self.adaptation, ("fixed", *PENALTY_ADAPTATIONS))
        low, high = self.bounds
        if not 0 < low <= self.coefficient <= high < math.inf:
            raise InvalidValueError(f"bounds must satisfy 0 < low <= coefficient <= high, got {self.bounds}")

    def objective(self, terms: PolicyTerms) -> th.Tensor:
        """ρ·Â − β·KL of each sample, minus the cut-off of the minibatch's mean KL.

        :param terms: one minibatch, with the exact KL.
        :return: ``[N]``, larger is better.
        """
        if terms.kl is None:
            raise InvalidValueError("kl must be given for a KL penalty, got None (UpdateRule.needs_exact_kl says when)")
        ratio = formulas.probability_ratio(terms.log_probs, terms.old_log_probs)
        penalized = kl_penalized(formulas.surrogate(ratio, terms.advantages), terms.kl, terms.kl_coef)
        # batch-ppo cuts off on the mean over a sequence; a minibatch of shuffled steps has only its own mean.
        return penalized - kl_cutoff(terms.kl.mean(), self.cutoff_factor * self.target, self.cutoff_coef)

    def next_coefficient(self, coefficient: float, kl: float) -> float:
        """β for the next update.

        :param coefficient: β of this one.
        :param kl: mean exact KL(old ‖ new) over the rollout, after the update; nats.
        :return: the new β.
        """
        if self.adaptation == "fixed":
            return coefficient
        band, factor = PENALTY_ADAPTATIONS[self.adaptation]
        return adapted_penalty(coefficient, kl, self.target, band, factor, self.bounds)


@dataclass(frozen=True)
class PolicyGradient:
    """The plain policy gradient of A2C: :func:`~sb3_ppo_notes.formulas.objectives.policy_gradient`."""

    def objective(self, terms: PolicyTerms) -> th.Tensor:
        """Â·log π(a|s) of each sample.

        :param terms: one minibatch.
        :return: ``[N]``, larger is better.
        """
        return formulas.policy_gradient(terms.log_probs, terms.advantages)


@dataclass(frozen=True)
class SquaredValueError:
    """Mean squared error: :func:`~sb3_ppo_notes.formulas.objectives.squared_value_error`."""

    def loss(self, values: th.Tensor, old_values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """mean((V − Ĝ)²).

        :param values: ``[N]``, V(s) being trained; reward units.
        :param old_values: not needed.
        :param returns: ``[N]``, the targets; reward units.
        :return: scalar; reward units squared.
        """
        return formulas.mean_squared_error(values, returns)


@dataclass(frozen=True)
class ClippedValueError:
    """SB3's ``clip_range_vf``: the squared error of :func:`~sb3_ppo_notes.formulas.objectives.clipped_values`.

    :param clip_range_vf: ε > 0 in reward units, or a schedule of it; infinite for no clip.
    """

    clip_range_vf: float | Schedule = 0.2

    def __post_init__(self) -> None:
        check_schedule("clip_range_vf", self.clip_range_vf, is_exclusive=True)

    def loss(self, values: th.Tensor, old_values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """mean((V_clip − Ĝ)²).

        :param values: ``[N]``, V(s) being trained; reward units.
        :param old_values: ``[N]``, V_old(s) stored with the rollout; reward units.
        :param returns: ``[N]``, the targets; reward units.
        :return: scalar; reward units squared.
        """
        clipped = formulas.clipped_values(values, old_values, self.clip_range_vf)  # type: ignore[arg-type]
        return formulas.mean_squared_error(clipped, returns)


@dataclass(frozen=True)
class PessimisticValueError:
    """The larger of plain and clipped error: :func:`~sb3_ppo_notes.formulas.objectives.pessimistic_value_error`.

    :param clip_range_vf: ε > 0 in reward units, or a schedule of it; infinite for no clip.
    """

    clip_range_vf: float | Schedule = 0.2

    def __post_init__(self) -> None:
        check_schedule("clip_range_vf", self.clip_range_vf, is_exclusive=True)

    def loss(self, values: th.Tensor, old_values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """mean(max((V − Ĝ)², (V_clip − Ĝ)²)).

        :param values: ``[N]``, V(s) being trained; reward units.
        :param old_values: ``[N]``, V_old(s) stored with the rollout; reward units.
        :param returns: ``[N]``, the targets; reward units.
        :return: scalar; reward units squared.
        """
        return formulas.pessimistic_value_error(values, old_values, returns, self.clip_range_vf).mean()  # type: ignore[arg-type]


@dataclass(frozen=True)
class HuberValueError:
    """Squared near the target, linear far from it: :func:`~sb3_ppo_notes.formulas.objectives.huber_value_error`.

    :param beta: where the line begins, > 0; reward units.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def loss(self, values: th.Tensor, old_values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """mean(huber(V − Ĝ)).

        :param values: ``[N]``, V(s) being trained; reward units.
        :param old_values: not needed.
        :param returns: ``[N]``, the targets; reward units.
        :return: scalar; reward units.
        """
        return formulas.huber_value_error(values, returns, self.beta).mean()
