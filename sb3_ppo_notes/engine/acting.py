"""How a policy acts while a rollout is gathered: found out once a rollout, done at every step."""

from typing import Any, NamedTuple

import torch as th

from sb3_ppo_notes.engine.fingerprint import Fingerprint
from sb3_ppo_notes.engine.plain_networks import Towers
from sb3_ppo_notes.engine.stacks import towers_of
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.actor_critic import (
    Action,
    act,
    formulas_of,
    parameters_from_output,
    values_of,
)
from sb3_ppo_notes.policies.memory import States
from sb3_ppo_notes.policies.shipped import keeps_sb3_method


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
    split so where the networks are two plain stacks; any other policy is asked for everything at once.

    :param policy: any actor-critic policy.
    """

    def __init__(self, policy: Any):
        self.policy = policy
        self.action_shape = (-1, *(policy.action_space.shape or ()))
        self.fingerprint = Fingerprint()
        self.towers: Towers | None = None
        self.formulas: Any = None

    def begin(self) -> None:
        """Find out how to act: before a rollout, and whenever somebody may have changed the policy."""
        now = Fingerprint.of_policy(self.policy)
        if not now.is_same(self.fingerprint):
            self.fingerprint = now
            self.look()

    def look(self) -> None:
        """Look how the policy is made now."""
        policy = self.policy
        is_plain = keeps_sb3_method(policy, "forward") and not policy.use_sde
        self.towers = towers_of(policy) if is_plain else None
        # towers_of has made sure that there are some.
        self.formulas = formulas_of(policy) if self.towers else None

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Choice:
        """Draw actions.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: for :meth:`assess`.
        """
        if self.towers is None:
            action = act(self.policy, observations, action_masks, recurrence)
            return Choice(action.actions, action.actions, None, (), action)
        ground = self.towers.ground(observations, recurrence)
        parameters = parameters_from_output(self.policy, self.towers.action_output(ground.pi), action_masks)
        drawn = self.formulas.sample(parameters)
        return Choice(drawn.reshape(self.action_shape), drawn, ground.vf, parameters, None, ground.states)

    def values(self, observations: Any, recurrence: Any = None) -> th.Tensor:
        """V(s), where nobody acts.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: ``[B, 1]``; reward units.
        """
        if self.towers is None:
            return values_of(self.policy, observations, recurrence)
        return self.towers.values(self.towers.ground(observations, recurrence).vf)

    def assess(self, choice: Choice) -> Action:
        """Values and log-probabilities.

        :param choice: of :meth:`choose`.
        :return: the same actions, with what the policy says of them.
        """
        if choice.action is not None or choice.features is None or self.towers is None:
            return choice.action  # type: ignore[return-value]
        values = self.towers.values(choice.features)
        log_probs = self.formulas.log_prob(choice.parameters, choice.drawn)
        return Action(choice.actions, values, log_probs, choice.states)
