"""Who is compiled, who is not and why; and acting as one compiled function."""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call

from sb3_ppo_notes.engine.acting import Choice, EagerActor
from sb3_ppo_notes.engine.compiled_steps import CompiledSteps
from sb3_ppo_notes.engine.descent import Descent
from sb3_ppo_notes.engine.fingerprint import Fingerprint, structure_of
from sb3_ppo_notes.engine.inductor import CannotCompile, compiled, missing_for
from sb3_ppo_notes.engine.program import tensors_of
from sb3_ppo_notes.policies.actor_critic import Action, act, has_known_distribution
from sb3_ppo_notes.policies.hooks import hooks_of
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.shipped import keeps_sb3_method, own_code_of

logger = logging.getLogger("sb3_ppo_notes")

#: Layers that draw random numbers or keep statistics while training; compiled, they would do it in another way.
UNSTEADY = (
    th.nn.modules.dropout._DropoutNd,
    th.nn.modules.batchnorm._NormBase,
    th.nn.RReLU,
    th.nn.FractionalMaxPool2d,
    th.nn.FractionalMaxPool3d,
)


class Compiler:
    """The compiled functions of one model.

    :param policy: whose loss is compiled.
    :param sources: of our functions, which are in the code.
    """

    def __init__(self, policy: ActorCriticPolicy, sources: tuple[Any, ...] = ()):
        self.policy = policy
        self.sources = sources
        #: How the phases of an update are stepped.
        self.steps: dict[str, CompiledSteps] = {}
        self.functions: dict[Any, Callable[..., Any]] = {}
        #: Why training is eager; ``None`` if it is not.
        self.reason: str | None = None
        self._missing = self._missing_here()
        self._said: str | None = None
        #: By the mode: rollouts and updates have one each.
        self._fingerprints: dict[bool, Fingerprint] = {}
        #: Equal for policies that have the same code.
        self._structure: Any = None

    def is_of(self, policy: Any, sources: tuple[Any, ...]) -> bool:
        """Whether these are the functions of a policy.

        :param policy: that is to act or to learn.
        :param sources: of our functions now.
        :return: ``False`` if one of our functions has been replaced, too.
        """
        return policy is self.policy and sources is self.sources

    def look(self, fingerprint: Fingerprint) -> None:
        """Look again whether the policy can be compiled, if it is not what it was.

        :param fingerprint: of the policy now.
        """
        is_training = self.policy.training
        if fingerprint.is_same(self._fingerprints.get(is_training)):
            return
        self._fingerprints[is_training] = fingerprint
        self._structure = structure_of(self.policy)
        self.reason = None
        reason = self._missing or self._refusal(self.policy)
        if reason is not None:
            self.give_up(reason)
        else:
            self._said = None

    def _missing_here(self) -> str | None:
        missing = missing_for(self.policy.device)
        if missing is None:
            return None
        warnings.warn(
            f"compile=True needs {missing} and found none: training is eager, with the same result",
            UserWarning,
            stacklevel=2,
        )
        return f"there is no {missing.removeprefix('a ')}"

    def _refusal(self, policy: Any) -> str | None:
        if isinstance(policy, NotesRecurrentPolicy):
            return "a policy with memory is hardly faster compiled"
        if policy.precision == "float16":
            return "float16 scales its loss step by step"
        hook = next(hooks_of(policy), None)
        if hook is not None:
            return hook
        if not has_known_distribution(policy):
            return f"{type(policy).__name__} evaluates actions by itself, or has a distribution of its own"
        unsteady = next(filter(_is_unsteady, policy.modules()), None)
        if unsteady is not None:
            what = f"dropout or batch normalisation, or draws random numbers ({type(unsteady).__name__})"
            return f"{type(policy).__name__} has {what}"
        return own_code_of(policy)

    @property
    def compiles_acting(self) -> bool:
        """Whether the policy may act by compiled code, too: a recurrent one's time goes to its memory."""
        return not isinstance(self.policy, NotesRecurrentPolicy)

    def give_up(self, reason: str) -> None:
        """Stay eager until the policy is changed, and say so once.

        :param reason: half a sentence.
        """
        self.reason = reason
        if reason != self._said:
            self._said = reason
            logger.warning("compile=True: training is eager, because %s", reason)

    def steps_of(self, steps: Descent) -> "CompiledSteps":
        """The compiled steps beside the eager ones of a phase.

        :param steps: the eager ones.
        :return: the same as in the update before, if those are.
        """
        name = steps.phase.trains
        if name not in self.steps or self.steps[name].steps is not steps:
            self.steps[name] = CompiledSteps(self, steps)
        return self.steps[name]

    def function(self, key: Any, build: Callable[[], Callable[..., Any]], arguments: list[th.Tensor]) -> Any:
        """The compiled function for a key; compiled now if there is none.

        :param key: what the code depends on beyond the shapes of the arguments.
        :param build: makes the function to compile.
        :param arguments: it will be called with such.
        :return: the function, ``None`` if it cannot be compiled.
        """
        if self.reason is not None:
            return None
        key = self._structure, key, *((each.shape, each.dtype, each.device) for each in arguments)
        if key not in self.functions:
            try:
                self.functions[key] = compiled(build(), arguments)
            except CannotCompile as error:
                self.give_up(str(error))
                return None
        return self.functions[key]


def _is_unsteady(module: th.nn.Module) -> bool:
    drops_out = isinstance(module, th.nn.RNNBase | th.nn.MultiheadAttention) and module.dropout > 0
    return isinstance(module, UNSTEADY) or drops_out


class CompiledActor(EagerActor):
    """Acting as one compiled function: actions, values and log-probabilities at once.

    :param compiler: keeps the functions.
    :param policy: an actor-critic policy.
    """

    def __init__(self, compiler: Compiler, policy: ActorCriticPolicy):
        super().__init__(policy)
        self.compiler = compiler
        self.is_compiled = False
        self._tensors: list[th.Tensor] = []
        #: By the form of what is acted on.
        self._found: dict[Any, Any] = {}

    def begin(self) -> None:
        """Find out how to act, and where the weights lie now."""
        super().begin()
        if self.is_compiled and self.compiler.reason is not None:
            self._stay_eager()
        self.tensors = [tensor.detach() for tensor in self._tensors]

    def look(self) -> None:
        """Look how the policy is made now."""
        policy, self._found = self.policy, {}
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
        """Draw actions, and assess them in the same breath.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: for :meth:`assess`.
        """
        if not self.is_compiled:
            return super().choose(observations, action_masks, recurrence)
        keys = tuple(observations) if isinstance(observations, dict) else None
        seen = [observations] if keys is None else [observations[key] for key in keys]
        masks = [] if action_masks is None else [action_masks]
        arguments = [*seen, *masks, *self.tensors]
        form = keys, len(masks), *((each.shape, each.dtype) for each in seen)
        if form not in self._found:
            build = partial(_acting_function, self.policy, keys, bool(masks))
            self._found[form] = self.compiler.function(("act", keys, bool(masks)), build, arguments)
        function = self._found[form]
        if function is None:
            self._stay_eager()
            return super().choose(observations, action_masks, recurrence)
        action = Action(*function(*arguments))
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
