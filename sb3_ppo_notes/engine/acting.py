"""Acting while a rollout is gathered: how is decided once a rollout, and done at every step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call

from sb3_ppo_notes.engine.compiled import Compiler
from sb3_ppo_notes.engine.fingerprint import Fingerprint
from sb3_ppo_notes.engine.fused_step import tensors_of
from sb3_ppo_notes.engine.plain_networks import PlainNetworks, plain_networks_of
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.actor_critic import Action, act, formulas_of, parameters_from_output, values_of
from sb3_ppo_notes.policies.memory import States
from sb3_ppo_notes.policies.shipped import keeps_sb3_method


class Choice(NamedTuple):
    """Actions whose values and log-probabilities may not be computed yet.

    :param actions: ``[B, ...]``, in the shape of the action space.
    :param samples: the same as the distribution gave them, ``[B]`` or ``[B, d]``.
    :param critic_features: ``[B, k]``, the critic's input; ``None`` if ``action`` is complete.
    :param parameters: of the distribution that they were drawn from.
    :param action: actions, values and log-probabilities, where all came together.
    :param states: what a recurrent policy is to remember.
    """

    actions: th.Tensor
    samples: th.Tensor
    critic_features: th.Tensor | None
    parameters: Parameters
    action: Action | None
    states: States | None = None


class EagerActor:
    """Chooses actions, and afterwards computes the value of the state and the log-probability of the action.

    The second can wait until the environments have been told what to do: they compute in the meantime. It can only be
    split so where the networks are plain; any other policy is asked for everything at once.
    """

    def __init__(self, policy: Any):
        self.policy = policy
        self.action_shape = (-1, *(policy.action_space.shape or ()))
        self.fingerprint = Fingerprint()
        self.networks: PlainNetworks | None = None
        self.formulas: Any = None

    def begin(self, fingerprint: Fingerprint | None = None) -> None:
        """Decide how to act: before a rollout, and whenever somebody may have changed the policy."""
        now = fingerprint or Fingerprint.of_policy(self.policy)
        if not now.is_same(self.fingerprint):
            self.fingerprint = now
            self.look()

    def look(self) -> None:
        """Read how the policy is made now."""
        self.networks = plain_networks_of(self.policy)
        self.formulas = formulas_of(self.policy) if self.networks else None

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Choice:
        """Draw actions.

        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        """
        if self.networks is None:
            action = act(self.policy, observations, action_masks, recurrence)
            return Choice(action.actions, action.actions, None, (), action)
        features = self.networks.features(observations, recurrence)
        parameters = parameters_from_output(self.policy, self.networks.action_output(features.pi), action_masks)
        samples = self.formulas.sample(parameters)
        return Choice(samples.reshape(self.action_shape), samples, features.vf, parameters, None, features.states)

    def values(self, observations: Any, recurrence: Any = None) -> th.Tensor:
        """V(s), ``[B, 1]``, where nobody acts."""
        if self.networks is None:
            return values_of(self.policy, observations, recurrence)
        return self.networks.values(self.networks.features(observations, recurrence).vf)

    def assess(self, choice: Choice) -> Action:
        """Complete a choice with values and log-probabilities."""
        if choice.action is not None or choice.critic_features is None or self.networks is None:
            return choice.action  # type: ignore[return-value]
        values = self.networks.values(choice.critic_features)
        log_probs = self.formulas.log_prob(choice.parameters, choice.samples)
        return Action(choice.actions, values, log_probs, choice.states)


class CompiledActor(EagerActor):
    """Acting as one compiled function: actions, values and log-probabilities at once."""

    def __init__(self, compiler: Compiler, policy: ActorCriticPolicy):
        super().__init__(policy)
        self.compiler = compiler
        self.is_compiled = False
        self._tensors: list[th.Tensor] = []
        #: The function, and the form of what it acts on.
        self._function: Any = None
        self._form: Any = None

    def begin(self, fingerprint: Fingerprint | None = None) -> None:
        """Decide how to act, and find where the weights lie now."""
        super().begin(fingerprint)
        if self.is_compiled and self.compiler.reason is not None:
            self._stay_eager()
        self.tensors = [tensor.detach() for tensor in self._tensors]

    def look(self) -> None:
        """Read how the policy is made now."""
        policy, self._form = self.policy, None
        self.compiler.look(self.fingerprint)
        # gSDE acts with noise that is no weight of the policy: it would be fixed in the code.
        is_possible = keeps_sb3_method(policy, "forward") and not policy.use_sde
        if self.compiler.reason is not None or not is_possible:
            self._stay_eager()
            return
        self.is_compiled, self.networks = True, None
        self._tensors = list(tensors_of(policy).values())

    def _stay_eager(self) -> None:
        self.is_compiled, self._tensors = False, []
        super().look()

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Choice:
        """Draw actions, and assess them at once."""
        if not self.is_compiled:
            return super().choose(observations, action_masks, recurrence)
        keys = tuple(observations) if isinstance(observations, dict) else None
        seen = [observations] if keys is None else [observations[key] for key in keys]
        masks = [] if action_masks is None else [action_masks]
        arguments = [*seen, *masks, *self.tensors]
        form = keys, len(masks), [(each.shape, each.dtype) for each in seen]
        if form != self._form:
            build = partial(_acting_function, self.policy, keys, bool(masks))
            self._form, self._function = form, self.compiler.function(("act", keys, bool(masks)), build, arguments)
        if self._function is None:
            self._stay_eager()
            return super().choose(observations, action_masks, recurrence)
        action = Action(*self._function(*arguments))
        return Choice(action.actions, action.actions, None, (), action)


class _Act(th.nn.Module):
    """Acting as a module, so that ``functional_call`` can lend the policy its weights as arguments."""

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, observations: Any, action_masks: th.Tensor | None) -> Action:
        return act(self.policy, observations, action_masks)


def _acting_function(policy: ActorCriticPolicy, keys: tuple[str, ...] | None, is_masked: bool) -> Callable[..., Any]:
    """(*observations, *masks, *tensors of the policy) -> (actions, values, log_probs)."""
    module, names = _Act(policy), [f"policy.{name}" for name in tensors_of(policy)]
    n_seen = 1 if keys is None else len(keys)

    def step(*arguments: th.Tensor) -> tuple[th.Tensor, ...]:
        seen, rest = arguments[:n_seen], arguments[n_seen:]
        masks, tensors = (rest[0], rest[1:]) if is_masked else (None, rest)
        observations = seen[0] if keys is None else dict(zip(keys, seen, strict=True))
        lent = dict(zip(names, tensors, strict=True))
        action = functional_call(module, lent, (observations, masks), tie_weights=False)
        return action.actions, action.values, action.log_probs

    return step
