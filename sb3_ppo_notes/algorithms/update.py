"""The update: for each epoch, for each minibatch, evaluate, compute the loss, look at the KL, step, record."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_notes.algorithms.loss import LossCoefficients, LossTerms, minibatch_loss
from sb3_ppo_notes.algorithms.report import UpdateRecord, UpdateReport
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.formulas.diagnostics import clip_fraction, explained_variance
from sb3_ppo_notes.formulas.divergences import kl_k3
from sb3_ppo_notes.rollouts.buffers import NotesRolloutBuffer
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS


class Learner(Protocol):
    """What the update needs of an algorithm."""

    policy: ActorCriticPolicy
    rollout_buffer: RolloutBuffer
    max_grad_norm: Any
    num_timesteps: int
    verbose: int
    _n_updates: int


def update(
    learner: Learner, rule: UpdateRule, coefficients: LossCoefficients, n_epochs: int, batch_size: int | None
) -> UpdateReport:
    """Learn from the rollout that was just gathered.

    :param learner: the algorithm; its policy's weights and ``_n_updates`` change.
    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef and vf_coef.
    :param n_epochs: passes over the rollout.
    :param batch_size: samples in a minibatch, ``None`` for all in one.
    :return: what happened, in numbers.
    :raises NonFiniteError: if a loss or a gradient is not finite; the step it would have made is not taken.
    """
    record = UpdateRecord()
    parameters = list(learner.policy.parameters())
    for epoch in range(n_epochs):
        record.start_epoch()
        for number, minibatch in enumerate(learner.rollout_buffer.get(batch_size)):
            terms = minibatch_loss(learner.policy, minibatch, rule, coefficients)
            kl = _record(record, terms, rule)
            if _kl_limit_is_reached(rule, terms, kl):
                record.stopped_in_epoch = epoch
                if learner.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {kl.item():.2f}")
                break
            place = f"in epoch {epoch}, minibatch {number} of the update at step {learner.num_timesteps}"
            norm = gradient_step(learner.policy.optimizer, parameters, terms.loss, learner.max_grad_norm, place)
            record.gradient_norms.append(norm)
        # SB3 counts epochs here, not optimiser steps, the one that was cut short included.
        learner._n_updates += 1
        if record.stopped_in_epoch is not None:
            break
    return record.report(_explained_variance(learner.rollout_buffer))


def _record(record: UpdateRecord, terms: LossTerms, rule: UpdateRule) -> th.Tensor:
    """Note a minibatch; returns its k3 estimate of KL(old ‖ new)."""
    with th.no_grad():
        clip_range = getattr(rule.policy_objective, "clip_range", math.inf)
        clipped = clip_fraction(th.exp(terms.log_ratio), clip_range).mean()
        kl = kl_k3(terms.log_ratio).mean()
    record.add_minibatch([terms.policy_loss, terms.value_loss, terms.entropy_loss, clipped, terms.loss], kl)
    return kl


def _kl_limit_is_reached(rule: UpdateRule, terms: LossTerms, k3: th.Tensor) -> bool:
    if rule.kl_control is None:
        return False
    estimator = rule.kl_control.estimator
    kl = k3 if estimator == "k3" else SAMPLE_ESTIMATORS[estimator](terms.log_ratio).mean()
    return rule.kl_control.is_exceeded_by(np.float32(kl.item()))


def gradient_step(
    optimizer: th.optim.Optimizer,
    parameters: Sequence[th.Tensor],
    loss: th.Tensor,
    max_grad_norm: float | None,
    place: str,
) -> float:
    """One step down the gradient, its norm bounded.

    The norm is the one of the whole gradient, actor and critic together: a large value error takes length away from the
    policy's step. It has nothing to do with the clip of the objective: that one bounds a reward, this one a step.

    :param optimizer: holds the parameters.
    :param parameters: all that the norm is taken over.
    :param loss: scalar.
    :param max_grad_norm: longest allowed gradient, ``None`` for no limit.
    :param place: where in the training this is, for the error.
    :return: the gradient's norm before clipping.
    :raises NonFiniteError: if loss or gradient is not finite; the weights are then as before.
    """
    loss_value = loss.item()
    if not math.isfinite(loss_value):
        raise NonFiniteError(f"loss must be finite, got {loss_value} {place}; the weights were not touched")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total_norm = th.nn.utils.get_total_norm(gradients)
    norm = total_norm.item()
    if not math.isfinite(norm):
        raise NonFiniteError(f"gradient must be finite, got norm {norm} {place}; the weights were not touched")
    if max_grad_norm is not None:
        th.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, total_norm)
    optimizer.step()
    return norm


def _explained_variance(buffer: RolloutBuffer) -> float:
    """Of the rollout's returns by its values, summed in SB3's order (environment by environment): the order decides the
    last bit.
    """
    if isinstance(buffer, NotesRolloutBuffer):
        return explained_variance(buffer.flat(buffer.values), buffer.flat(buffer.returns))
    return explained_variance(buffer.values.flatten(), buffer.returns.flatten())
