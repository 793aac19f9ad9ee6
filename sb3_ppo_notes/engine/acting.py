"""How a policy acts while a rollout is gathered: found out once a rollout, done at every step."""

from typing import Any, NamedTuple

import torch as th

from sb3_ppo_notes.engine.fingerprint import Fingerprint
from sb3_ppo_notes.engine.plain_networks import PlainNetworks, plain_networks_of
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.actor_critic import (
    Action,
    act,
    formulas_of,
    parameters_from_output,
    values_of,
)
from sb3_ppo_notes.policies.memory import States


class Choice(NamedTuple):
    """Actions, before anybody has asked how good or how likely they are.

    :param actions: ``[B, ...]``, in the shape of the action space.
    :param drawn: the same as the distribution gave them, ``[B]`` or ``[B, d]``.
    :param features: ``[B, k]``, what the critic will look at; ``None`` if it already has.
    :param parameters: of the distribution that they were drawn from.
    :param action: actions, values and log-probabilities, where all came together.
    :param states: what a recurrent policy is to remember.
    """

    actions: th.Tensor
    drawn: th.Tensor
    features: th.Tensor | None
    parameters: Parameters
    action: Action | None
    states: States | None = None


class EagerActor:
    """Chooses actions, and says afterwards how good the state and how likely the action was.

    The second can wait until the environments have been told what to do: they compute in the meantime. It can only be
    split so where the networks are plain; any other policy is asked for everything at once.

    :param policy: any actor-critic policy.
    """

    def __init__(self, policy: Any):
        self.policy = policy
        self.action_shape = (-1, *(policy.action_space.shape or ()))
        self.fingerprint = Fingerprint()
        self.networks: PlainNetworks | None = None
        self.formulas: Any = None

    def begin(self) -> None:
        """Find out how to act: before a rollout, and whenever somebody may have changed the policy."""
        now = Fingerprint.of_policy(self.policy)
        if not now.is_same(self.fingerprint):
            self.fingerprint = now
            self.look()

    def look(self) -> None:
        """Look how the policy is made now."""
        self.networks = plain_networks_of(self.policy)
        self.formulas = formulas_of(self.policy) if self.networks else None

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Choice:
        """Draw actions.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: for :meth:`assess`.
        """
        if self.networks is None:
            action = act(self.policy, observations, action_masks, recurrence)
            return Choice(action.actions, action.actions, None, (), action)
        features = self.networks.features(observations, recurrence)
        parameters = parameters_from_output(self.policy, self.networks.action_output(features.pi), action_masks)
        drawn = self.formulas.sample(parameters)
        return Choice(drawn.reshape(self.action_shape), drawn, features.vf, parameters, None, features.states)

    def values(self, observations: Any, recurrence: Any = None) -> th.Tensor:
        """V(s), where nobody acts.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: ``[B, 1]``; reward units.
        """
        if self.networks is None:
            return values_of(self.policy, observations, recurrence)
        return self.networks.values(self.networks.features(observations, recurrence).vf)

    def assess(self, choice: Choice) -> Action:
        """Values and log-probabilities.

        :param choice: of :meth:`choose`.
        :return: the same actions, with what the policy says of them.
        """
        if choice.action is not None or choice.features is None or self.networks is None:
            return choice.action  # type: ignore[return-value]
        values = self.networks.values(choice.features)
        log_probs = self.formulas.log_prob(choice.parameters, choice.drawn)
        return Action(choice.actions, values, log_probs, choice.states)
