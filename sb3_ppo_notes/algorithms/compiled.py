"""Who is compiled, who is not and why; and acting as one compiled function."""

import logging
import warnings
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call

from sb3_ppo_notes.algorithms.compiled_recurrent import CompiledRecurrentSteps
from sb3_ppo_notes.algorithms.compiled_steps import CompiledSteps
from sb3_ppo_notes.algorithms.inductor import CannotCompile, compiled, missing_for
from sb3_ppo_notes.algorithms.program import tensors_of
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.policies.acting import Acting, Choice
from sb3_ppo_notes.policies.actor_critic import Action, act, has_known_distribution, keeps_sb3_method
from sb3_ppo_notes.policies.hooks import has_hooks, is_watched
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy

logger = logging.getLogger("sb3_ppo_notes")

#: Layers that draw random numbers or keep statistics while training; compiled, they would do it in another way.
UNSTEADY = (th.nn.modules.dropout._DropoutNd, th.nn.modules.batchnorm._NormBase)


class Compiler:
    """The compiled functions of one model.

    :param policy: whose loss is compiled.
    """

    def __init__(self, policy: ActorCriticPolicy):
        self.policy = policy
        #: How the phases of an update are stepped, and how the policy acts.
        self.steps: dict[str, CompiledSteps] = {}
        self.acting: CompiledActing | None = None
        self.functions: dict[Any, Callable[..., Any]] = {}
        self.reason = self._refusal(policy)
        if self.reason is not None:
            self.give_up(self.reason)

    def _refusal(self, policy: Any) -> str | None:
        missing = missing_for(policy.device)
        if missing is not None:
            warnings.warn(
                f"compile=True needs {missing} and found none: training is eager, with the same result",
                UserWarning,
                stacklevel=2,
            )
            return f"there is no {missing.removeprefix('a ')}"
        if policy.precision == "float16":
            return "float16 scales its loss step by step"
        if not has_known_distribution(policy):
            return f"{type(policy).__name__} evaluates actions by itself, or has a distribution of its own"
        if any(map(_is_unsteady, policy.modules())):
            return f"{type(policy).__name__} has dropout or batch normalisation"
        if any(map(is_watched, policy.parameters())) or any(map(has_hooks, policy.modules())):
            return f"{type(policy).__name__} has hooks that expect to be called"
        return None

    @property
    def compiles_acting(self) -> bool:
        """Whether the policy acts by compiled code, too: a recurrent one's time goes to its memory."""
        return self.reason is None and not isinstance(self.policy, NotesRecurrentPolicy)

    def give_up(self, reason: str) -> None:
        """Stay eager from now on, and say so once.

        :param reason: half a sentence.
        """
        self.reason = reason
        logger.warning("compile=True: training is eager, because %s", reason)

    def steps_of(self, steps: GradientSteps) -> "CompiledSteps":
        """The compiled steps beside the eager ones of a phase.

        :param steps: the eager ones.
        :return: the same as in the update before, if those are.
        """
        name = steps.phase.trains
        if name not in self.steps or self.steps[name].steps is not steps:
            kind = CompiledRecurrentSteps if isinstance(self.policy, NotesRecurrentPolicy) else CompiledSteps
            self.steps[name] = kind(self, steps)
        return self.steps[name]

    def function(
        self,
        key: Any,
        build: Callable[[], Callable[..., Any]],
        arguments: list[th.Tensor],
        varying: Collection[int] = (),
    ) -> Any:
        """The compiled function for a key; compiled now if there is none.

        :param key: what the code depends on beyond the shapes of the arguments.
        :param build: makes the function to compile.
        :param arguments: it will be called with such.
        :param varying: which of them may have another number of rows the next time.
        :return: the function, ``None`` if it cannot be compiled.
        """
        if self.reason is not None:
            return None
        shapes = (each.shape[1:] if index in varying else each.shape for index, each in enumerate(arguments))
        key = key, *((shape, each.dtype, each.device) for shape, each in zip(shapes, arguments, strict=True))
        if key not in self.functions:
            try:
                self.functions[key] = compiled(build(), arguments, varying)
            except CannotCompile as error:
                self.give_up(str(error))
                return None
        return self.functions[key]


def _is_unsteady(module: th.nn.Module) -> bool:
    return isinstance(module, UNSTEADY) or (isinstance(module, th.nn.RNNBase) and module.dropout > 0)


class CompiledActing(Acting):
    """Acting as one compiled function: actions, values and log-probabilities at once.

    :param compiler: keeps the functions.
    :param policy: an actor-critic policy.
    """

    def __init__(self, compiler: Compiler, policy: ActorCriticPolicy):
        self.compiler = compiler
        self._tensors = list(tensors_of(policy).values())
        # gSDE acts with noise that is no weight of the policy: it would be fixed in the code.
        self.is_possible = keeps_sb3_method(policy, "forward") and not policy.use_sde
        self._found: Any = None
        super().__init__(policy)

    def begin(self) -> None:
        """Begin a rollout: look where the weights lie now."""
        # What is not compiled, the policy is asked for: it may have changed since its networks were looked at.
        self.towers = None
        self.tensors = [tensor.detach() for tensor in self._tensors]

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Choice:
        """Draw actions, and assess them in the same breath.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: for :meth:`assess`.
        """
        keys = tuple(observations) if isinstance(observations, dict) else None
        seen = [observations] if keys is None else [observations[key] for key in keys]
        masks = [] if action_masks is None else [action_masks]
        arguments = [*seen, *masks, *self.tensors]
        if self._found is None and self.is_possible:
            build = partial(_acting_function, self.policy, keys, bool(masks))
            self._found = self.compiler.function(("act", keys, bool(masks)), build, arguments)
        if self._found is None or self.compiler.reason is not None:
            return super().choose(observations, action_masks, recurrence)
        action = Action(*self._found(*arguments))
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
