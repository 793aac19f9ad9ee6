"""A few states of a rollout, on which the policy is asked again after it has changed."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.utils import obs_as_tensor

from sb3_ppo_notes.algorithms.report import KLEstimates
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.actor_critic import formulas_of, has_known_distribution, parameters_of
from sb3_ppo_notes.rollouts.buffers import NotesRolloutBuffer
from sb3_ppo_notes.rollouts.minibatches import MinibatchSampler
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS

#: A policy is asked again after each epoch and a few times more: on a twenty-fifth of the rollout that costs 2 to 3 %
#: of learning from all of it. The mean KL of 1,024 states is known to a few per cent; fewer than 40 say little.
SHARE = 25
FEWEST, MOST = 40, 1024


def n_states(n_samples: int) -> int:
    """The number of states of a rollout that are probed.

    :param n_samples: steps of all environments in it.
    :return: a twenty-fifth, between 40 and 1,024, and never more than there are.
    """
    return min(max(n_samples // SHARE, FEWEST), MOST, n_samples)


class States(NamedTuple):
    """Some states of a rollout, and the actions taken in them.

    :param observations: ``[N, ...]`` tensor or dict of tensors.
    :param actions: ``[N]`` (Discrete) or ``[N, d]``.
    :param action_masks: ``[N, n]``, ``None`` for no masks.
    :param recurrence: how the rows lie in sequences; ``None`` for a policy without memory.
    """

    observations: Any
    actions: th.Tensor
    action_masks: th.Tensor | None
    recurrence: Any


class Probe:
    """Some states of a rollout, and the policy's distributions there before the update.

    No random number is drawn: a run with probes is the same run.

    :param policy: the policy that gathered the rollout, unchanged since.
    :param states: some of the rollout's.
    """

    def __init__(self, policy: Any, states: States):
        self.policy = policy
        self.states = states
        self.before = self.parameters()

    @classmethod
    def of(cls, policy: Any, buffer: RolloutBuffer) -> "Probe | None":
        """A probe of a rollout that is complete.

        :param policy: that gathered it.
        :param buffer: stock SB3's or ours; a stock one before its first minibatch was taken.
        :return: ``None`` if the policy's distribution cannot be read, or if it is recurrent and not ours.
        """
        if not has_known_distribution(policy):
            return None
        if isinstance(buffer, NotesRolloutBuffer):
            n = n_states(buffer.buffer_size * buffer.n_envs)
            return cls(policy, States(*MinibatchSampler(buffer, n).some_states()))
        if hasattr(buffer, "hidden_states_pi") or buffer.generator_ready:
            return None
        return cls(policy, _stock_states(policy, buffer))

    def parameters(self) -> Parameters:
        """The policy's present distribution.

        :return: parameters of π(·|s), ``[N, ...]`` each.
        """
        is_training = self.policy.training
        self.policy.set_training_mode(False)
        states = self.states
        parameters = parameters_of(self.policy, states.observations, states.action_masks, states.recurrence)
        self.policy.set_training_mode(is_training)
        return parameters

    def kl(self) -> KLEstimates:
        """The distance that the policy has moved since.

        :return: KL(old ‖ new) by every estimator, and the standard error of k3 − exact.
        """
        formulas: Any = formulas_of(self.policy)
        with th.no_grad():
            now = self.parameters()
            before, after = (formulas.log_prob(each, self.states.actions) for each in (self.before, now))
            exact = formulas.kl(self.before, now)
            samples = {name: estimator(after - before) for name, estimator in SAMPLE_ESTIMATORS.items()}
            error = (samples["k3"] - exact).std() / len(exact) ** 0.5
        means = {name: values.mean().item() for name, values in samples.items()}
        return KLEstimates(**means, exact=exact.mean().item(), standard_error=error.item())


def _stock_states(policy: Any, buffer: RolloutBuffer) -> States:
    n_samples = buffer.buffer_size * buffer.n_envs
    rows = np.linspace(0, n_samples - 1, n_states(n_samples)).astype(np.int64)
    steps, environments = rows % buffer.buffer_size, rows // buffer.buffer_size

    def select(array: Any) -> Any:
        if isinstance(array, dict):
            return {key: part[steps, environments] for key, part in array.items()}
        return array[steps, environments]

    actions = th.as_tensor(select(buffer.actions), device=policy.device)
    actions = actions.long().flatten() if isinstance(buffer.action_space, spaces.Discrete) else actions.float()
    masks = getattr(buffer, "action_masks", None)
    if masks is not None:
        masks = th.as_tensor(select(masks.reshape(buffer.buffer_size, buffer.n_envs, -1)), device=policy.device).bool()
    return States(obs_as_tensor(select(buffer.observations), policy.device), actions, masks, None)
