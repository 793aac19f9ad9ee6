"""The loss of one minibatch: a pure function of the policy's outputs. No policy, no SB3."""

from typing import Any, NamedTuple

import torch as th

from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.rules.objectives import PolicyTerms
from sb3_ppo_notes.rules.update_rule import UpdateRule


class Evaluation(NamedTuple):
    """A policy's values, log-probabilities and entropy for actions that were taken in given states.

    :param values: ``[N]``, V(s); reward units.
    :param log_probs: ``[N]``, log π(a|s); nats.
    :param entropy: ``[N]``, H(π(·|s)) in nats; ``None`` if the distribution has no closed form.
    :param parameters: of π(·|s), if they are known.
    :param kl: ``[N]``, exact KL(old ‖ new), for a rule that needs it; nats.
    """

    values: th.Tensor
    log_probs: th.Tensor
    entropy: th.Tensor | None
    parameters: Parameters | None
    kl: th.Tensor | None = None


class LossCoefficients(NamedTuple):
    """c₂ and c₁ of PPO (arXiv:1707.06347) eq. 9 and β of eq. 8, as numbers of this update."""

    ent_coef: float
    vf_coef: float
    kl_coef: float = 0.0

    @property
    def has_bonus(self) -> bool:
        """``True`` if there is an entropy bonus. A coefficient that is a tensor stands for any number but 0."""
        return isinstance(self.ent_coef, th.Tensor) or self.ent_coef != 0


#: Names of :attr:`LossTerms.losses`; the last one only where the rule needs an exact KL.
LOSSES = ("loss", "policy_loss", "value_loss", "entropy_loss", "exact")


class LossTerms(NamedTuple):
    """A minibatch's loss and what it is made of: scalars, except for the log-ratio.

    :param loss: what is differentiated.
    :param policy_loss: −mean(objective), before any coefficient.
    :param value_loss: mean error of the critic, before any coefficient.
    :param entropy_loss: −mean(entropy), before any coefficient; nats.
    :param log_ratio: ``[N]``, log π − log π_old, without gradient; nats.
    :param exact_kl: mean exact KL(old ‖ new), without gradient, if the rule needs it; nats.
    """

    loss: th.Tensor
    policy_loss: th.Tensor
    value_loss: th.Tensor
    entropy_loss: th.Tensor
    log_ratio: th.Tensor
    exact_kl: th.Tensor | None

    @property
    def losses(self) -> th.Tensor:
        """``[4]`` or ``[5]``, without a graph, so that those of a whole epoch can be kept: see :data:`LOSSES`."""
        scalars = self[:4] if self.exact_kl is None else (*self[:4], self.exact_kl)
        return th.stack(scalars).detach()

    def pack(self) -> list[th.Tensor]:
        """The terms that there are."""
        return [term for term in self if term is not None]

    @classmethod
    def unpack(cls, tensors: Any) -> "LossTerms":
        """The terms again.

        :param tensors: of :meth:`pack`.
        :return: with ``None`` for an exact KL that the rule does not ask for.
        """
        return cls(*tensors, *([None] if len(tensors) < len(cls._fields) else []))


def minibatch_loss(
    evaluation: Evaluation, minibatch: Any, rule: UpdateRule, coefficients: LossCoefficients
) -> LossTerms:
    """The loss of a minibatch.

        L = −mean(objective) + vf_coef·mean(error) − ent_coef·mean(H)

    One sum for actor and critic: its gradient is the sum of theirs, and weights that only one of them has get only its
    part.

    Source: PPO (arXiv:1707.06347) eq. 9 with the sign flipped; A2C (arXiv:1602.01783) section 4.2.

    :param evaluation: values, log-probabilities and entropy of the minibatch's states and actions, with their graph.
    :param minibatch: old values and log-probabilities, advantages (normalised already), returns; ``[N]`` each.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    :return: the loss and its parts.
    """
    terms = PolicyTerms(
        evaluation.log_probs, minibatch.old_log_prob, minibatch.advantages, evaluation.kl, coefficients.kl_coef
    )
    policy_loss = -rule.policy_objective.objective(terms).mean()  # ratio and clip: rules/objectives.py
    value_loss = rule.value_objective.loss(evaluation.values, minibatch.old_values, minibatch.returns)
    # Without a closed form −log π of the old actions stands in for the entropy, as in SB3. Its *value* is an estimate;
    # its gradient is zero on average while π = π_old, so ent_coef hardly regularises a squashed policy.
    entropy = -evaluation.log_probs if evaluation.entropy is None else evaluation.entropy
    entropy_loss = -th.mean(entropy)

    # A coefficient of 0 would add exact zeros to the gradient, after a quarter of all the work.
    has_bonus = coefficients.has_bonus
    actor = policy_loss + coefficients.ent_coef * entropy_loss if has_bonus else policy_loss
    loss = actor + coefficients.vf_coef * value_loss
    with th.no_grad():
        log_ratio = evaluation.log_probs - minibatch.old_log_prob
        exact_kl = None if evaluation.kl is None else evaluation.kl.mean()
    return LossTerms(loss, policy_loss, value_loss, entropy_loss, log_ratio, exact_kl)


def actor_loss(terms: LossTerms, coefficients: LossCoefficients) -> th.Tensor:
    """The loss that the actor's own optimiser descends.

    :param terms: of a minibatch.
    :param coefficients: ent_coef.
    :return: scalar.
    """
    if not coefficients.has_bonus:
        return terms.policy_loss
    return terms.policy_loss + coefficients.ent_coef * terms.entropy_loss


def critic_loss(values: th.Tensor, minibatch: Any, rule: UpdateRule, coefficients: LossCoefficients) -> th.Tensor:
    """The loss that the critic descends when the policy is not updated: neither actions nor advantages are looked at.

    :param values: ``[N]``, V(s) with its graph; reward units.
    :param minibatch: old values and returns; ``[N]`` each.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: vf_coef.
    :return: scalar.
    """
    return coefficients.vf_coef * rule.value_objective.loss(values, minibatch.old_values, minibatch.returns)
