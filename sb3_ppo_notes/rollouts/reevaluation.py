"""Evaluating a policy on a whole rollout again: before an update, between its epochs, after it."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import obs_as_tensor

from sb3_ppo_notes.policies.actor_critic import formulas_of, parameters_of
from sb3_ppo_notes.policies.modes import set_training_mode
from sb3_ppo_notes.rollouts.minibatches import MinibatchSampler

#: Rows that are evaluated at once if the whole rollout is one minibatch.
PORTION = 4096


def store_old_distribution(buffer: Any, policy: Any, batch_size: int | None) -> None:
    """Keep π_old(·|s) of every state of a rollout, before anything has been stepped.

    :param buffer: of ours, complete.
    :param policy: that gathered it, unchanged since.
    :param batch_size: rows that are evaluated at once, ``None`` for many.
    """
    buffer.store_old_distribution(distribution_of(buffer, policy, batch_size))


def distribution_of(buffer: Any, policy: Any, batch_size: int | None) -> tuple[th.Tensor, ...]:
    """The parameters of π(·|s) of every state of a rollout, as while it was gathered: without dropout.

    :param buffer: of ours, complete.
    :param policy: that is asked.
    :param batch_size: rows that are evaluated at once, ``None`` for many.
    :return: ``[T·B, ...]`` each, in the buffer's order.
    """
    set_training_mode(policy, False)
    sampler = MinibatchSampler(buffer, batch_size or PORTION)
    portions = [portion for part in buffer.parts for portion in sampler.portions(part)]
    chunks = [parameters_of(policy, part.observations, part.action_masks, part.recurrence) for part in portions]
    set_training_mode(policy, True)
    back = th.argsort(th.cat([part.rows for part in portions]))
    return tuple(th.cat(parts)[back] for parts in zip(*chunks, strict=True))


def mean_kl_from_old(buffer: Any, policy: Any, batch_size: int | None) -> float:
    """Mean exact KL(old ‖ new) over a rollout; batch-ppo and the paper measure it after the last step.

    :param buffer: with :func:`store_old_distribution`'s parameters.
    :param policy: after the update.
    :param batch_size: rows that are evaluated at once, ``None`` for many.
    :return: nats.
    """
    formulas: Any = formulas_of(policy)
    kl: th.Tensor = formulas.kl(buffer.old_parameters, distribution_of(buffer, policy, batch_size))
    return buffer.mean_over_shards(kl)  # type: ignore[no-any-return]


def recompute_advantages(buffer: Any, policy: Any) -> None:
    """Compute advantages and returns again, with the critic as it is now.

    :param buffer: of ours, complete.
    :param policy: whose critic.
    """

    def value_of(observations: Any) -> np.ndarray:
        with th.no_grad():
            values: np.ndarray = policy.predict_values(obs_as_tensor(observations, policy.device)).cpu().numpy()
        return values.reshape(-1)

    set_training_mode(policy, False)
    buffer.recompute(value_of)
    set_training_mode(policy, True)
