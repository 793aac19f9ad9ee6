"""The step of one minibatch as one compiled function: policy, distribution, rule, gradient, norm clip, optimiser.

It is the very loss of ``algorithms.loss`` and the very optimiser of ``formulas.optimizers``; only who executes them is
another. Sums are taken in another order than in eager code, so the weights agree to rounding and not to the bit.
"""

from functools import cached_property, partial
from typing import Any

import torch as th

from sb3_ppo_notes.algorithms.elementwise import FlatOptimizer
from sb3_ppo_notes.algorithms.flat import FlatVector, flattened
from sb3_ppo_notes.algorithms.loss import LossCoefficients
from sb3_ppo_notes.algorithms.program import Form, Program, numbers_of, owner_masks, tensors_of
from sb3_ppo_notes.algorithms.replay import recorded
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.rules import UpdateRule


class CompiledSteps:
    """Takes the steps of one phase of an update.

    :param compiler: a ``Compiler``, which keeps the functions from one update to the next.
    :param steps: takes the eager steps of the same phase, and shares its vectors with these.
    """

    #: Makes what is compiled.
    program_class: type[Program] = Program

    def __init__(self, compiler: Any, steps: GradientSteps):
        self.compiler = compiler
        self.steps = steps
        trained = {id(parameter) for parameter in steps.parameters}
        #: Weights and buffers that take part and are not trained here.
        self._untrained = [tensor for tensor in tensors_of(compiler.policy).values() if id(tensor) not in trained]
        self._made_for: Any = None
        #: Compiled functions, as the device launches them fastest.
        self._launched: dict[Any, Any] = {}

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
            self.program: Any = self.program_class(self.compiler.policy, self.steps.phase, rule, coefficients)
            self.statistic_names = self.program.statistic_names
            #: The function, for which vectors, and for how many rows and arguments.
            self._found: tuple[FlatOptimizer | None, tuple[int, int], Any] | None = None
        self._size = 0

    def resume(self) -> None:
        """Begin, or go on after somebody else had the word: look where everything lies now."""
        self.adopt()
        self.others = [tensor.detach() for tensor in self._untrained]

    def adopt(self) -> None:
        """Take the weights into vectors, which the compiled code steps, and keep what to go back to."""
        self.steps.adopt_all()
        self.steps.remember()

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
        written, changing = self.vectors()
        arguments = [*written, changing, self.numbers, self.owners, *self.others, *Form.leaves(minibatch)]
        function = self._function(flat, minibatch, arguments, len(written))
        if function is None:
            return None
        is_taken, statistics = function(*arguments)
        if not is_taken.item():
            return None
        self.conclude()
        return statistics  # type: ignore[no-any-return]

    def _function(self, flat: FlatOptimizer | None, minibatch: Any, arguments: list[th.Tensor], n_written: int) -> Any:
        """The compiled function; looked up once, and again if the optimiser is no longer stepped in vectors."""
        form_now = self._size, len(arguments)
        if self._found is None or self._found[0] is not flat or self._found[1] != form_now:
            optimizer = None if flat is None else (flat.rule, flat.options)
            form = Form.of(minibatch, len(self.others))
            key = self.program.key(optimizer), form
            build = partial(self.program.function, optimizer, form)
            function = self.compiler.function(key, build, arguments)
            if function is not None and function not in self._launched:
                # Behind what is written lie two tensors made anew; owners and others stay where they are.
                owners = n_written + 2
                bound = (*range(n_written), *range(owners, owners + 1 + len(self.others)))
                self._launched[function] = recorded(function, self.compiler.policy.device, bound)
            self._found = flat, form_now, self._launched.get(function)
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
