"""Acting as lists of operations: what the networks say, what is drawn, and what is thought of it."""

from typing import Any

import torch as th

from sb3_ppo_notes.algorithms.script import CannotScript, Script
from sb3_ppo_notes.algorithms.tracing import Traceable
from sb3_ppo_notes.policies.acting import Acting, Choice
from sb3_ppo_notes.policies.actor_critic import Action, parameters_from_output

#: Steps that are taken eagerly before the next is written down.
WAIT = 64


class ScriptedActing(Acting):
    """Acts as its base class does, with the same random numbers and to the same bit.

    What the networks stand on (the observations made ready, or a memory) is found as it is there; from then on two
    lists of operations do: up to the actions, and from them to values and log-probabilities. They are believed when
    they have given the same bits once.

    :param policy: any actor-critic policy.
    """

    def __init__(self, policy: Any):
        self._key: Any = None
        self._forget()
        super().__init__(policy)

    def __reduce__(self) -> Any:
        return type(self), (self.policy,)

    def _forget(self) -> None:
        self._n_seen = 0
        self._is_refused = False
        self._scripts: tuple[Script, Script] | None = None

    def begin(self) -> None:
        """Begin a rollout: look how the policy is made now, and whether its weights lie where they lay."""
        super().begin()
        is_looking = th.is_anomaly_enabled() or th.is_autocast_enabled(self.policy.device.type)
        key = (
            None if self.towers is None or is_looking else (self.towers.key, id(getattr(self.policy, "log_std", None)))
        )
        if key is None or key != self._key or not all(script.is_current for script in self._scripts or ()):
            self._key = key
            self._forget()

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Choice:
        """Draw actions.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: for :meth:`assess`.
        """
        self._n_seen += 1
        if self._key is None or self._is_refused or self._n_seen <= WAIT:
            return super().choose(observations, action_masks, recurrence)
        if self._scripts is None:
            self._scripts = self._written(observations, action_masks, recurrence)
            return super().choose(observations, action_masks, recurrence)
        ground = self.towers.ground(observations, recurrence)  # type: ignore[union-attr]
        masks = () if action_masks is None else (action_masks,)
        if (len(ground.pi), len(masks)) != self._form:
            self._forget()
            return super().choose(observations, action_masks, recurrence)
        drawn, *parameters = self._scripts[0](ground.pi, *masks)
        return Choice(drawn.reshape(self.action_shape), drawn, ground.vf, tuple(parameters), None, ground.states)

    def assess(self, choice: Choice) -> Action:
        """Values and log-probabilities.

        :param choice: of :meth:`choose`.
        :return: the same actions, with what the policy says of them.
        """
        if self._scripts is None or choice.features is None:
            return super().assess(choice)
        values, log_probs = self._scripts[1](choice.features, choice.drawn, *choice.parameters)
        return Action(choice.actions, values, log_probs, choice.states)

    def _written(
        self, observations: Any, action_masks: th.Tensor | None, recurrence: Any
    ) -> tuple[Script, Script] | None:
        """Both lists, if they give what the base class gives; whoever is asked then draws the same random numbers."""
        with th.random.fork_rng(devices=[]):
            state = th.get_rng_state()
            choice = super().choose(observations, action_masks, recurrence)
            action, after = super().assess(choice), th.get_rng_state()
            ground = self.towers.ground(observations, recurrence)  # type: ignore[union-attr]
            masks = () if action_masks is None else (action_masks,)
            self._form = len(ground.pi), len(masks)
            try:
                with Traceable():
                    first = Script(self._choice, [ground.pi, *masks], may_draw=True)
                    second = Script(self._assessment, [choice.features, choice.drawn, *choice.parameters])  # type: ignore[list-item]
            except CannotScript:
                self._is_refused = True
                return None
            th.set_rng_state(state)
            found = [*first(ground.pi, *masks), th.get_rng_state()]
            found += second(choice.features, choice.drawn, *choice.parameters)  # type: ignore[arg-type]
        wanted = [choice.drawn, *choice.parameters, after, action.values, action.log_probs]
        self._is_refused = not all(map(th.equal, found, wanted))
        return None if self._is_refused else (first, second)

    def _choice(self, latent_pi: th.Tensor, *masks: th.Tensor) -> list[th.Tensor]:
        output = self.towers.action_output(latent_pi)  # type: ignore[union-attr]
        parameters = parameters_from_output(self.policy, output, *masks)
        return [self.formulas.sample(parameters), *parameters]

    def _assessment(self, latent_vf: th.Tensor, drawn: th.Tensor, *parameters: th.Tensor) -> list[th.Tensor]:
        return [self.towers.values(latent_vf), self.formulas.log_prob(parameters, drawn)]  # type: ignore[union-attr]
