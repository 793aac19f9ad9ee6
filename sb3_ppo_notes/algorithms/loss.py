"""The loss of one minibatch: one pure function, the same for every policy, rule and way of stepping."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_notes.policies.actor_critic import Evaluation, evaluate, formulas_of, values_of
from sb3_ppo_notes.policies.towers import Outputs
from sb3_ppo_notes.rules import PolicyTerms, UpdateRule
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS


class LossCoefficients(NamedTuple):
    """c₂ and c₁ of PPO (arXiv:1707.06347) eq. 9 and β of eq. 8, as numbers of this update."""

    ent_coef: float
    vf_coef: float
    kl_coef: float = 0.0

    @property
    def has_bonus(self) -> bool:
        """Whether there is an entropy bonus. A coefficient that is a tensor stands for any number but 0."""
        return isinstance(self.ent_coef, th.Tensor) or self.ent_coef != 0


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


def minibatch_loss(
    policy: ActorCriticPolicy,
    minibatch: Any,
    rule: UpdateRule,
    coefficients: LossCoefficients,
    outputs: Outputs | None = None,
) -> LossTerms:
    """The loss of a minibatch.

        L = −mean(objective) + vf_coef·mean(error) − ent_coef·mean(H)

    One sum for actor and critic: its gradient is the sum of theirs, and weights that only one of them has get only its
    part.

    Source: PPO (arXiv:1707.06347) eq. 9 with the sign flipped; A2C (arXiv:1602.01783) section 4.2.

    :param policy: gives values, log-probabilities and entropy.
    :param minibatch: observations, actions, old values and log-probabilities, advantages, returns; ``[N, ...]`` each.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    :param outputs: of the policy's networks, where they have been run already.
    :return: the loss and its parts.
    """
    actions = minibatch.actions
    if isinstance(policy.action_space, spaces.Discrete) and actions.dtype != th.int64:
        actions = actions.long().flatten()
    masks, recurrence = getattr(minibatch, "action_masks", None), getattr(minibatch, "recurrence", None)
    # A coefficient of 0 would add exact zeros to the gradient, after a quarter of all the work.
    has_bonus = coefficients.has_bonus
    evaluation = evaluate(policy, minibatch.observations, actions, masks, recurrence, has_bonus, outputs)

    advantages = minibatch.advantages
    if rule.advantage_normalization.scope == "minibatch" and not getattr(minibatch, "is_normalized", False):
        advantages = rule.advantage_normalization.normalize(advantages)

    kl = _exact_kl(policy, minibatch, evaluation) if rule.needs_exact_kl else None
    terms = PolicyTerms(evaluation.log_probs, minibatch.old_log_prob, advantages, kl, coefficients.kl_coef)
    policy_loss = -rule.policy_objective.objective(terms).mean()
    value_loss = rule.value_objective.loss(evaluation.values, minibatch.old_values, minibatch.returns)
    # Without a closed form −log π of the old actions stands in for the entropy, as in SB3. Its *value* is an estimate;
    # its gradient is zero on average while π = π_old, so ent_coef hardly regularises a squashed policy.
    entropy = -evaluation.log_probs if evaluation.entropy is None else evaluation.entropy
    entropy_loss = -th.mean(entropy)

    actor_loss = policy_loss + coefficients.ent_coef * entropy_loss if has_bonus else policy_loss
    loss = actor_loss + coefficients.vf_coef * value_loss
    with th.no_grad():
        log_ratio = evaluation.log_probs - minibatch.old_log_prob
        exact_kl = None if kl is None else kl.mean()
    return LossTerms(loss, policy_loss, value_loss, entropy_loss, log_ratio, exact_kl)


def policy_part(terms: LossTerms, coefficients: LossCoefficients) -> th.Tensor:
    """What the actor's own optimiser descends.

    :param terms: of a minibatch.
    :param coefficients: ent_coef.
    :return: scalar.
    """
    if not coefficients.has_bonus:
        return terms.policy_loss
    return terms.policy_loss + coefficients.ent_coef * terms.entropy_loss


def value_part(
    policy: ActorCriticPolicy, minibatch: Any, rule: UpdateRule, coefficients: LossCoefficients
) -> th.Tensor:
    """What the critic descends when the policy is not updated: neither actions nor advantages are looked at.

    :param policy: gives values.
    :param minibatch: observations, old values and returns; ``[N, ...]`` each.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: vf_coef.
    :return: scalar.
    """
    values = values_of(policy, minibatch.observations, getattr(minibatch, "recurrence", None)).flatten()
    return coefficients.vf_coef * rule.value_objective.loss(values, minibatch.old_values, minibatch.returns)


def mean_kl(estimator: str, terms: LossTerms) -> np.float32:
    """Mean KL(old ‖ new) of one minibatch.

    :param estimator: ``"k1"``, ``"k2"``, ``"k3"`` or ``"exact"``.
    :param terms: of the minibatch.
    :return: nats; float32, as SB3 compares it.
    """
    kl = terms.exact_kl if estimator == "exact" else SAMPLE_ESTIMATORS[estimator](terms.log_ratio).mean()
    return np.float32(kl.item())  # type: ignore[union-attr]


def _exact_kl(policy: ActorCriticPolicy, minibatch: Any, evaluation: Evaluation) -> th.Tensor:
    formulas = formulas_of(policy)
    # Whoever builds a model with such a rule has been asked for a policy whose distribution is known.
    return formulas.kl(minibatch.old_parameters, evaluation.parameters)  # type: ignore[union-attr, arg-type]
