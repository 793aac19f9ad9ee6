"""The step of one minibatch as one compiled function: policy, distribution, rule, gradient, norm clip, optimiser.

It is the very loss of ``algorithms.loss`` and the very optimiser of ``formulas.optimizers``; only who executes them is
another. Sums are taken in another order than in eager code, so the weights agree to rounding and not to the bit.
"""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call

from sb3_ppo_notes.algorithms.elementwise import FlatOptimizer
from sb3_ppo_notes.algorithms.flat import FlatVector, flattened
from sb3_ppo_notes.algorithms.inductor import CannotCompile, compiled, has_compiler
from sb3_ppo_notes.algorithms.loss import LossCoefficients
from sb3_ppo_notes.algorithms.program import Form, Program, numbers_of, owner_masks, tensors_of
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.policies.acting import Acting, Choice
from sb3_ppo_notes.policies.actor_critic import Action, act, has_known_distribution, keeps_sb3_method
from sb3_ppo_notes.policies.hooks import has_hooks, is_watched
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.rules import UpdateRule

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
        if not has_compiler(policy.device):
            warnings.warn(
                "compile=True needs a C++ compiler (g++, or the one that CXX names) and found none: training is eager, "
                "with the same result",
                UserWarning,
                stacklevel=2,
            )
            return "there is no C++ compiler"
        if policy.precision == "float16":
            return "float16 scales its loss step by step"
        if isinstance(policy, NotesRecurrentPolicy):
            return "a recurrent policy is faster as it is: nearly all its time is one call of its LSTM or GRU"
        if not has_known_distribution(policy):
            return f"{type(policy).__name__} evaluates actions by itself, or has a distribution of its own"
        if any(isinstance(module, UNSTEADY) for module in policy.modules()):
            return f"{type(policy).__name__} has dropout or batch normalisation"
        if any(map(is_watched, policy.parameters())) or any(map(has_hooks, policy.modules())):
            return f"{type(policy).__name__} has hooks that expect to be called"
        return None

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
        key = key, *((argument.shape, argument.dtype, argument.device) for argument in arguments)
        if key not in self.functions:
            try:
                self.functions[key] = compiled(build(), arguments)
            except CannotCompile as error:
                self.give_up(str(error))
                return None
        return self.functions[key]


class CompiledSteps:
    """Takes the steps of one phase of an update.

    :param compiler: keeps the functions from one update to the next.
    :param steps: takes the eager steps of the same phase, and shares its vectors with these.
    """

    def __init__(self, compiler: Compiler, steps: GradientSteps):
        self.compiler = compiler
        self.steps = steps
        trained = {id(parameter) for parameter in steps.parameters}
        #: Weights and buffers that take part and are not trained here.
        self._untrained = [tensor for tensor in tensors_of(compiler.policy).values() if id(tensor) not in trained]
        self.gradient = FlatVector(steps.parameters)
        self.owners = owner_masks(compiler.policy, steps.parameters)
        self._made_for: Any = None

    def begin(self, rule: UpdateRule, coefficients: LossCoefficients) -> None:
        """Begin an update.

        :param rule: the choices, with every schedule resolved.
        :param coefficients: ent_coef, vf_coef and β.
        """
        self.steps.adopt_all()
        self.steps.remember()
        self.numbers = numbers_of(rule, coefficients).to(self.compiler.policy.device)
        self.others = [tensor.detach() for tensor in self._untrained]
        made_for = rule, coefficients.has_bonus, self.steps.phase.max_grad_norm
        if made_for != self._made_for:
            self._made_for = made_for
            self.program = Program(self.compiler.policy, self.steps.phase, rule, coefficients)
            self.statistic_names = self.program.statistic_names
        self._size = 0
        self._found: tuple[FlatOptimizer | None, Any] | None = None

    def take(self, minibatch: Any) -> th.Tensor | None:
        """One step, unless the KL has gone too far or something is not finite.

        :param minibatch: of a buffer of ours.
        :return: ``[M]``, its statistics; ``None`` if no step was taken and the eager one is to see to this minibatch:
            it is to be stopped at, or smaller than the first one, or compiling has failed.
        """
        if self._size not in (0, len(minibatch.returns)) or self.compiler.reason is not None:
            return None
        self._size = len(minibatch.returns)
        flat = self.steps.flat
        weights = flattened(self.steps.parameters) if flat is None else flat.weights
        scalars = () if flat is None else flat.rule.scalars(flat.options, flat.n_steps + 1)
        state = () if flat is None else flat.state
        changing = th.tensor(scalars, dtype=th.float32, device=self.numbers.device)
        tensors = Form.leaves(minibatch)
        gradient = self.gradient if flat is None else flat.gradient
        given = changing, self.numbers, self.owners, *self.others
        arguments = [weights.vector, gradient.vector, *state, *given, *tensors]
        function = self._function(flat, minibatch, arguments)
        if function is None:
            return None
        is_taken, statistics = function(*arguments)
        if not is_taken.item():
            return None
        self._conclude(flat)
        return statistics  # type: ignore[no-any-return]

    def _function(self, flat: FlatOptimizer | None, minibatch: Any, arguments: list[th.Tensor]) -> Any:
        """The compiled function; looked up once, and again if the optimiser is no longer stepped in vectors."""
        if self._found is None or self._found[0] is not flat:
            optimizer = None if flat is None else (flat.rule, flat.options)
            form = Form.of(minibatch, len(self.others))
            key = self.program.key(optimizer), form
            build = partial(self.program.function, optimizer, form)
            self._found = flat, self.compiler.function(key, build, arguments)
        return self._found[1]

    def _conclude(self, flat: FlatOptimizer | None) -> None:
        if flat is not None:
            flat.n_steps += 1
            return
        for parameter, part in zip(self.steps.parameters, self.gradient.parts, strict=True):
            parameter.grad = part
        self.steps.phase.optimizer.step()


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
