"""The slots inside the loss: what the policy ascends and what the critic descends."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch as th

from sb3_ppo_notes.formulas import objectives as formulas
from sb3_ppo_notes.rules.schedules import Schedule, check_schedule


class PolicyTerms(NamedTuple):
    """What a policy objective may use of one minibatch.

    :param log_probs: ``[N]``, log π(a|s) of the policy being trained; nats.
    :param old_log_probs: ``[N]``, log π_old(a|s) stored with the rollout; nats.
    :param advantages: ``[N]``, normalised or not, without gradient.
    """

    log_probs: th.Tensor
    old_log_probs: th.Tensor
    advantages: th.Tensor


class PolicyObjective(Protocol):
    """Slot 6: what the policy ascends."""

    def objective(self, terms: PolicyTerms) -> th.Tensor:
        """The objective of each sample.

        :param terms: one minibatch.
        :return: ``[N]``, larger is better.
        """


class ValueObjective(Protocol):
    """Slot 7: what the critic descends."""

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

    :param clip_range: ε > 0, or a schedule of it.
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

    :param clip_range_vf: ε > 0 in reward units, or a schedule of it.
    """

    clip_range_vf: float | Schedule = 0.2

    def __post_init__(self) -> None:
        check_schedule("clip_range_vf", self.clip_range_vf)

    def loss(self, values: th.Tensor, old_values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """mean((V_clip − Ĝ)²).

        :param values: ``[N]``, V(s) being trained; reward units.
        :param old_values: ``[N]``, V_old(s) stored with the rollout; reward units.
        :param returns: ``[N]``, the targets; reward units.
        :return: scalar; reward units squared.
        """
        clipped = formulas.clipped_values(values, old_values, self.clip_range_vf)  # type: ignore[arg-type]
        return formulas.mean_squared_error(clipped, returns)
