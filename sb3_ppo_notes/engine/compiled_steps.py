"""The step of one minibatch as one compiled function: policy, distribution, rule, gradient, norm clip, optimiser.

It is the very loss of ``rules.loss`` and the very optimiser of ``formulas.optimizers``; only who executes them is
another. Sums are taken in another order than in eager code, so the weights agree to rounding and not to the bit.
"""

from functools import cached_property, partial
from typing import Any

import torch as th

from sb3_ppo_notes.engine.descent import Descent, Trains
from sb3_ppo_notes.engine.optimizers import FlatOptimizer
from sb3_ppo_notes.engine.program import Form, Program, numbers_of, owner_masks, tensors_of
from sb3_ppo_notes.engine.step import EagerStepper, Step, StepSettings
from sb3_ppo_notes.engine.vectors import FlatVector, flattened
from sb3_ppo_notes.rollouts.minibatches import Minibatch
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.loss import LossCoefficients, LossTerms


class CompiledSteps:
    """Takes the steps of one phase of an update.

    :param compiler: a ``Compiler``, which keeps the functions from one update to the next.
    :param steps: takes the eager steps of the same phase, and shares its vectors with these.
    """

    def __init__(self, compiler: Any, steps: Descent):
        self.compiler = compiler
        self.steps = steps
        trained = {id(parameter) for parameter in steps.parameters}
        #: Weights and buffers that take part and are not trained here.
        self._untrained = [tensor for tensor in tensors_of(compiler.policy).values() if id(tensor) not in trained]
        self._made_for: Any = None

    @cached_property
    def gradient(self) -> FlatVector:
        """Where the gradient goes if the optimiser steps by itself."""
        return FlatVector(self.steps.parameters)

    @cached_property
    def owners(self) -> th.Tensor:
        """``[2, P]``, which elements are the actor's own and which the critic's."""
        return owner_masks(self.compiler.policy, self.steps.parameters)

    def begin(self, rule: UpdateRule, coefficients: LossCoefficients) -> None:
        """Begin an update.

        :param rule: the choices, with every schedule resolved.
        :param coefficients: ent_coef, vf_coef and β.
        """
        self.resume()
        self.numbers = numbers_of(rule, coefficients).to(self.compiler.policy.device)
        made_for = rule, coefficients.has_bonus, self.steps.phase.max_grad_norm
        if made_for != self._made_for:
            self._made_for = made_for
            self.program = Program(self.compiler.policy, self.steps.phase, rule, coefficients)
            #: The function, for which vectors, and for how many rows, arguments and dtypes.
            self._found: tuple[FlatOptimizer | None, tuple[Any, ...], Any] | None = None
        self._size = 0

    def resume(self) -> None:
        """Begin, or go on after somebody else had the word: look where everything lies now."""
        self.steps.adopt_all()
        self.steps.remember()
        self.others = [tensor.detach() for tensor in self._untrained]

    def take(self, minibatch: Any) -> tuple[LossTerms, th.Tensor] | None:
        """One step, unless the KL has gone too far or something is not finite.

        :param minibatch: of a buffer of ours.
        :return: the terms of its loss, and the norms of its gradient ``[3]``; ``None`` if no step was taken, and the
            eager one is to see to this minibatch: it must be refused, has another size, or compiling has failed.
        """
        if not isinstance(minibatch, Minibatch) or self.compiler.reason is not None:
            return None
        if self._size not in (0, len(minibatch.returns)):
            return None
        leaves = Form.leaves(minibatch)
        dtypes = Form.dtypes(leaves)
        if dtypes is None:
            return None
        self._size = len(minibatch.returns)
        flat = self.steps.flat
        written, changing = self.vectors()
        arguments = [*written, changing, self.numbers, self.owners, *self.others, *leaves]
        function = self._function(flat, minibatch, arguments, dtypes)
        if function is None:
            return None
        is_taken, norms, log_ratio, scalars = function(*arguments)
        if not is_taken.item():
            return None
        self.conclude()
        return self.program.terms(log_ratio, scalars), norms

    def _function(
        self, flat: FlatOptimizer | None, minibatch: Any, arguments: list[th.Tensor], dtypes: tuple[th.dtype, ...]
    ) -> Any:
        """The compiled function; looked up once, and again if the optimiser is no longer stepped in vectors."""
        form_now = self._size, len(arguments), dtypes
        if self._found is None or self._found[0] is not flat or self._found[1] != form_now:
            optimizer = None if flat is None else (flat.rule, flat.options)
            form = Form.of(minibatch, len(self.others))
            key = self.program.key(optimizer), form
            build = partial(self.program.function, optimizer, form)
            self._found = flat, form_now, self.compiler.function(key, build, arguments)
        return self._found[2]

    def vectors(self) -> tuple[list[th.Tensor], th.Tensor]:
        """What a step writes to, and the optimiser's numbers for it.

        :return: weights, gradient and optimiser state, ``[P]`` each; ``[k]``.
        """
        flat = self.steps.flat
        if flat is None:
            vectors, scalars = [flattened(self.steps.parameters).vector, self.gradient.vector], tuple[float, ...]()
        else:
            vectors = [flat.weights.vector, flat.gradient.vector, *flat.state]
            scalars = flat.rule.scalars(flat.options, flat.n_steps + 1)
        return vectors, th.tensor(scalars, dtype=th.float32, device=self.numbers.device)

    def conclude(self) -> None:
        """Count the step, or, where an optimiser steps by itself, have it do so."""
        flat = self.steps.flat
        if flat is not None:
            flat.n_steps += 1
            return
        for parameter, part in zip(self.steps.parameters, self.gradient.parts, strict=True):
            parameter.grad = part
        self.steps.phase.optimizer.step()


class CompiledStepper(EagerStepper):
    """Evaluation, loss, gradient, clip and optimiser as one compiled function: the same to rounding.

    What it does not take is taken eagerly: a ragged last minibatch, and one that must be refused, where the eager step
    says why.

    :param compiled: the compiled steps.
    """

    def __init__(self, compiled: CompiledSteps):
        super().__init__(compiled.compiler.policy, compiled.steps)
        self.compiled = compiled

    def begin(self, settings: StepSettings) -> None:
        """Begin an update.

        :param settings: of all its steps.
        """
        super().begin(settings)
        self.compiled.begin(*settings)

    def resume(self, settings: StepSettings) -> None:
        """Go on with an update: a minibatch smaller than its first one stays eager.

        :param settings: as before.
        """
        self.compiled.resume()

    def step(self, minibatch: Any, trains: Trains, place: str) -> Step:
        """Learn from one minibatch.

        :param minibatch: of the rollout.
        :param trains: what the step trains.
        :param place: where in the training this is, for errors.
        :return: what it gave.
        """
        taken = None if trains == "critic" else self.compiled.take(minibatch)
        if taken is None:
            self.name = "eager" if self.compiled.compiler.reason else self.name
            return super().step(minibatch, trains, place)
        self.name = "compiled"
        return Step(*taken)
