"""Compiled steps: which policies are compiled, and which minibatches are learned from by compiled code."""

import logging
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_notes.engine.descent import Descent, Trains
from sb3_ppo_notes.engine.fingerprint import Fingerprint, structure_of
from sb3_ppo_notes.engine.fused_step import FusedStep, numbers_of, owner_masks, tensors_of
from sb3_ppo_notes.engine.gradient import MinibatchLayout
from sb3_ppo_notes.engine.inductor import CannotCompile, compiled, missing_for
from sb3_ppo_notes.engine.optimizers import FlatOptimizer
from sb3_ppo_notes.engine.step import EagerStepper, Part, Step, StepSettings
from sb3_ppo_notes.engine.vectors import FlatVector, flattened
from sb3_ppo_notes.policies.actor_critic import has_known_distribution
from sb3_ppo_notes.policies.hooks import hook_reason
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.shipped import own_code_of
from sb3_ppo_notes.rollouts.minibatches import Minibatch

logger = logging.getLogger("sb3_ppo_notes")

#: Compiled, they would draw or keep statistics in another way.
STOCHASTIC_OR_STATEFUL_LAYERS = (
    th.nn.modules.dropout._DropoutNd,
    th.nn.modules.batchnorm._NormBase,
    th.nn.RReLU,
    th.nn.FractionalMaxPool2d,
    th.nn.FractionalMaxPool3d,
)


class Compiler:
    """The compiled functions of one policy, and why it is not compiled.

    :param sources: our functions as they are now, which are in the code.
    """

    def __init__(self, policy: ActorCriticPolicy, sources: tuple[Any, ...] = ()):
        self.policy = policy
        self.sources = sources
        #: Why training is eager; ``None`` if it is not.
        self.reason: str | None = None
        self._steppers: dict[Trains, CompiledStepper] = {}
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._missing = self._missing_here()
        self._last_warning: str | None = None
        #: By the mode: rollouts and updates have one each.
        self._fingerprints: dict[bool, Fingerprint] = {}
        #: Equal for policies that have the same code.
        self._structure: Any = None

    def is_of(self, policy: Any, sources: tuple[Any, ...]) -> bool:
        """``False`` for another policy, or if one of our functions has been replaced."""
        return policy is self.policy and sources is self.sources

    def look(self, fingerprint: Fingerprint) -> None:
        """Check again whether the policy can be compiled, if it is not what it was."""
        is_training = self.policy.training
        if fingerprint.is_same(self._fingerprints.get(is_training)):
            return
        self._fingerprints[is_training] = fingerprint
        self._structure = structure_of(self.policy)
        self.reason = None
        reason = self._missing or unsupported_reason(self.policy)
        if reason is not None:
            self.give_up(reason)
        else:
            self._last_warning = None

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

    @property
    def compiles_acting(self) -> bool:
        """A recurrent policy's time goes to its memory, which is not compiled."""
        return not isinstance(self.policy, NotesRecurrentPolicy)

    def give_up(self, reason: str) -> None:
        """Stay eager until the policy is changed, and say so once."""
        self.reason = reason
        if reason != self._last_warning:
            self._last_warning = reason
            logger.warning("compile=True: training is eager, because %s", reason)

    def stepper(self, descent: Descent) -> "CompiledStepper":
        """The same as in the update before, if its optimiser and weights are."""
        trains = descent.phase.trains
        if trains not in self._steppers or self._steppers[trains].descent is not descent:
            self._steppers[trains] = CompiledStepper(self, descent)
        return self._steppers[trains]

    def function(self, key: Any, build: Callable[[], Callable[..., Any]], arguments: list[th.Tensor]) -> Any:
        """The compiled function for a key, compiled now if there is none; ``None`` if it cannot be compiled.

        :param key: what the code depends on beyond the shapes of the arguments.
        :param build: makes the function to compile.
        """
        if self.reason is not None:
            return None
        key = self._structure, key, *((each.shape, each.dtype, each.device) for each in arguments)
        if key not in self._functions:
            try:
                self._functions[key] = compiled(build(), arguments)
            except CannotCompile as error:
                self.give_up(str(error))
                return None
        return self._functions[key]


def unsupported_reason(policy: Any) -> str | None:
    """Half a sentence, ``None`` for a policy that can be compiled."""
    if isinstance(policy, NotesRecurrentPolicy):
        return "a policy with memory is hardly faster compiled"
    if policy.precision == "float16":
        return "float16 scales its loss step by step"
    hooks = hook_reason(policy)
    if hooks is not None:
        return hooks
    if not has_known_distribution(policy):
        return f"{type(policy).__name__} evaluates actions by itself, or has a distribution of its own"
    layer = next(filter(_is_stochastic_or_stateful, policy.modules()), None)
    if layer is not None:
        what = f"dropout or batch normalisation, or draws random numbers ({type(layer).__name__})"
        return f"{type(policy).__name__} has {what}"
    return own_code_of(policy)


def _is_stochastic_or_stateful(module: th.nn.Module) -> bool:
    drops_out = isinstance(module, th.nn.RNNBase | th.nn.MultiheadAttention) and module.dropout > 0
    return isinstance(module, STOCHASTIC_OR_STATEFUL_LAYERS) or drops_out


class CompiledStepper(EagerStepper):
    """Steps of one phase by a compiled function: the same as eager ones to rounding.

    A ragged last minibatch is taken eagerly; so is one that must be refused, where the eager step gives the reason.
    """

    def __init__(self, compiler: Compiler, descent: Descent):
        super().__init__(compiler.policy, descent)
        self.compiler = compiler
        trained = {id(parameter) for parameter in descent.parameters}
        #: Weights and buffers that take part and are not trained here.
        self._untrained = [tensor for tensor in tensors_of(compiler.policy).values() if id(tensor) not in trained]
        self._settings_before: StepSettings | None = None
        self._step_key: Any = None

    @cached_property
    def gradient(self) -> FlatVector:
        """Holds the gradient if the optimiser steps by itself."""
        return FlatVector(self.descent.parameters)

    @cached_property
    def owners(self) -> th.Tensor:
        """``[2, P]``, which elements are the actor's own and which the critic's."""
        return owner_masks(self.policy, self.descent.parameters)

    def begin(self, settings: StepSettings) -> None:
        """Begin an update."""
        super().begin(settings)
        self.resume(settings)
        self.name = "eager"
        self._size = 0
        key = settings.rule, settings.coefficients.has_bonus, self.descent.phase.max_grad_norm
        if settings == self._settings_before and key == self._step_key:
            return
        self._settings_before = settings
        self.numbers = numbers_of(*settings).to(self.policy.device)
        if key != self._step_key:
            self._step_key = key
            self.fused = FusedStep(self.policy, self.descent.phase, *settings)
            #: The function, for which vectors, and for how many rows, arguments and dtypes.
            self._function: tuple[FlatOptimizer | None, tuple[Any, ...], Any] | None = None

    def resume(self, settings: StepSettings) -> None:
        """Find where everything lies now; a minibatch smaller than the update's first one stays eager."""
        self.descent.adopt_all()
        self.descent.remember()
        self.others = [tensor.detach() for tensor in self._untrained]
        #: The functions for the parts of a minibatch, and for the step down their sum.
        self._of_parts: dict[str, Any] = {}

    def step(self, minibatch: Any, trains: Trains, place: str) -> Step:
        """Learn from one minibatch."""
        step = None if trains == "critic" else self._compiled_step(minibatch)
        if step is None:
            self.name = "eager" if self.compiler.reason else self.name
            return super().step(minibatch, trains, place)
        self.name = "compiled"
        return step

    def part(self, minibatch: Any, trains: Trains) -> Part:
        """Loss and gradient of a part of a minibatch."""
        part = None if trains == "critic" else self._compiled_part(minibatch)
        if part is None:
            self.name = "eager" if self.compiler.reason else self.name
            return super().part(minibatch, trains)
        self.name = "compiled"
        return part

    def _compiled_part(self, minibatch: Any) -> Part | None:
        """``None`` for a part of another size than the update's first one, or where compiling has failed."""
        if not self._is_of_size(minibatch):
            return None
        flat, tensors = self.descent.flat, MinibatchLayout.tensors(minibatch)
        weights = flattened(self.descent.parameters).vector if flat is None else flat.weights.vector
        arguments = [weights, self.numbers, *self.others, *tensors]
        if "part" not in self._of_parts:
            layout, n_others = MinibatchLayout.of(minibatch), len(self.others)
            key = "part", self.fused.key(None), layout, n_others
            build = partial(self.fused.gradient, layout, n_others)
            self._of_parts["part"] = self.compiler.function(key, build, arguments)
        function = self._of_parts["part"]
        if function is None:
            return None
        gradient, loss, log_ratio, losses = function(*arguments)
        return Part(losses, log_ratio, loss, None, gradient)

    def take_sum(self, whole: Part, place: str) -> th.Tensor:
        """One step down the gradient of all parts; the eager one says why it is refused."""
        flat = self.descent.flat
        if flat is None or whole.vector is None or self.compiler.reason is not None:
            return super().take_sum(whole, place)
        arguments = [whole.vector, whole.loss, *self._vectors(), self.owners]
        if "descent" not in self._of_parts:
            optimizer = flat.rule, flat.options
            key = "descent", self.fused.key(optimizer)
            self._of_parts["descent"] = self.compiler.function(key, partial(self.fused.descent, optimizer), arguments)
        function = self._of_parts["descent"]
        if function is None:
            return super().take_sum(whole, place)
        is_taken, norms = function(*arguments)
        if not is_taken.item():
            return super().take_sum(whole, place)
        self._finish_step()
        return norms  # type: ignore[no-any-return]

    def _is_of_size(self, minibatch: Any) -> bool:
        if not isinstance(minibatch, Minibatch) or self.compiler.reason is not None:
            return False
        n_rows: int = minibatch.returns.shape[0]
        self._size = self._size or n_rows
        return self._size == n_rows

    def _compiled_step(self, minibatch: Any) -> Step | None:
        """``None`` if no step was taken and the eager one is to see to this minibatch: it must be refused, has another
        size, or compiling has failed.
        """
        if not self._is_of_size(minibatch):
            return None
        tensors = MinibatchLayout.tensors(minibatch)
        arguments = [*self._vectors(), self.numbers, self.owners, *self.others, *tensors]
        function = self._find_function(minibatch, arguments, [tensor.dtype for tensor in tensors])
        if function is None:
            return None
        is_taken, norms, log_ratio, losses = function(*arguments)
        if not is_taken.item():
            return None
        self._finish_step()
        return Step(losses, log_ratio, norms)

    def _find_function(self, minibatch: Minibatch, arguments: list[th.Tensor], dtypes: list[th.dtype]) -> Any:
        """Looked up once, and again if the optimiser is no longer stepped in vectors."""
        flat, form = self.descent.flat, (self._size, len(arguments), dtypes)
        if self._function is None or self._function[0] is not flat or self._function[1] != form:
            optimizer = None if flat is None else (flat.rule, flat.options)
            layout, n_others = MinibatchLayout.of(minibatch), len(self.others)
            build = partial(self.fused.function, optimizer, layout, n_others)
            key = self.fused.key(optimizer), layout, n_others
            self._function = flat, form, self.compiler.function(key, build, arguments)
        return self._function[2]

    def _vectors(self) -> tuple[th.Tensor, ...]:
        """Weights, gradient and optimiser state, ``[P]`` each, which a step writes to, and the optimiser's numbers."""
        flat = self.descent.flat
        if flat is None:
            return flattened(self.descent.parameters).vector, self.gradient.vector, self.numbers.new_empty(0)
        # By way of NumPy: th.tensor() of two numbers takes three times as long.
        with np.errstate(over="ignore"):  # as th.tensor(): an endless learning rate is the guard's to tell
            scalars = np.array(flat.rule.scalars(flat.options, flat.n_steps + 1), dtype=np.float32)
        numbers = th.from_numpy(scalars).to(self.numbers.device)
        return flat.weights.vector, flat.gradient.vector, *flat.state, numbers

    def _finish_step(self) -> None:
        """Count the step, or, where an optimiser steps by itself, have it do so."""
        flat = self.descent.flat
        if flat is not None:
            flat.n_steps += 1
            return
        for parameter, part in zip(self.descent.parameters, self.gradient.parts, strict=True):
            parameter.grad = part
        self.descent.phase.optimizer.step()
