"""Minibatches as recorded operations: when they are recorded, and when a recording is used."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch as th

from sb3_ppo_notes.engine.descent import Descent, Trains, check_loss
from sb3_ppo_notes.engine.gradient import MinibatchLayout, Traceable, loss_and_gradient
from sb3_ppo_notes.engine.script import CannotScript, Script
from sb3_ppo_notes.engine.step import (
    EagerStepper,
    Part,
    Step,
    StepNotFinite,
    StepSettings,
    evaluate_loss,
    kl_beyond_limit,
)
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.policies.hooks import qualified_name
from sb3_ppo_notes.policies.shipped import is_shipped
from sb3_ppo_notes.rollouts.minibatches import Minibatch
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.loss import LossTerms

logger = logging.getLogger("sb3_ppo_notes")

#: Minibatches of one kind that are taken eagerly before the next is recorded: recording takes as long as some forty.
WAIT = 32
#: Number of rows, and the dtype of each tensor: with masks there is one more.
Kind = tuple[int, tuple[th.dtype, ...]]


class RecordedStepper(EagerStepper):
    """The same bits from recorded operations, without Python or autograd between them.

    Each kind of minibatch is recorded once it has been seen often. A recording is used only after it has reproduced
    autograd bit for bit on a second minibatch.
    """

    def __init__(self, policy: Any, descent: Descent):
        super().__init__(policy, descent)
        #: Our functions, as they were when learning began; set by the engine.
        self.sources: tuple[Any, ...] = ()
        self.n_eager = self.n_recorded = 0
        self._obstacle: str | None = None
        self._key: Any = None
        self._vectors: Any = None
        self._forget()

    def _forget(self) -> None:
        #: By kind of minibatch: how many were seen; the recorded operations, ``None`` if they cannot be recorded.
        self._seen: dict[Kind, int] = {}
        self._scripts: dict[Kind, Script | None] = {}
        #: Kinds for which the recorded operations have given the same bits.
        self._trusted: set[Kind] = set()
        self._failure: str | None = None

    @property
    def reason(self) -> str | None:
        """Why minibatches stay with autograd, ``None`` if they do not."""
        return self._obstacle or self._failure

    @property
    def name(self) -> str:  # type: ignore[override]
        """Executor of most minibatches of this update."""
        return "recorded" if self.n_recorded > self.n_eager else "eager"

    def begin(self, settings: StepSettings) -> None:
        """Begin an update."""
        super().begin(settings)
        self.n_eager = self.n_recorded = 0
        self._obstacle = self._find_obstacle(settings.rule)
        key = settings, self.sources
        is_in_place = all(script is None or script.is_current for script in self._scripts.values())
        if key != self._key or not is_in_place:
            self._key = key
            self._forget()

    def _find_obstacle(self, rule: UpdateRule) -> str | None:
        if th.is_anomaly_enabled():
            return "anomaly detection needs autograd's own operations"
        if th.is_autocast_enabled(self.policy.device.type):
            return "autocast is on"
        return own_choice_of(rule)

    def step(self, minibatch: Any, trains: Trains, place: str) -> Step:
        """Learn from one minibatch."""
        if trains == "critic":
            return super().step(minibatch, trains, place)
        # Where no step is taken, the gradient of the last one that was is left, as by SB3.
        limit, flat = self.settings.kl_limit, self.descent.flat
        before = None if limit is None or flat is None else flat.gradient.vector.clone()
        results = self._results(minibatch)
        if results is None:
            self.n_eager += 1
            return super().step(minibatch, trains, place)
        self.n_recorded += 1
        *tensors, loss, norms = results
        terms = LossTerms.unpack(tensors)
        kl = kl_beyond_limit(limit, terms.log_ratio, terms.exact_kl)
        if kl is not None:
            if before is not None and self.descent.flat is flat:
                flat.gradient.vector.copy_(before)  # type: ignore[union-attr]
            return Step(terms.losses, terms.log_ratio, None, "kl", kl)
        try:
            check_loss(loss, place)
            return Step(terms.losses, terms.log_ratio, self.descent.step_from_buffer(norms, place))
        except NonFiniteError as error:
            raise StepNotFinite(str(error), loss, terms.losses) from None

    def part(self, minibatch: Any, trains: Trains) -> Part:
        """Loss and gradient of a part of a minibatch; the gradient is good until the next part's."""
        results = None if trains == "critic" else self._results(minibatch)
        if results is None:
            self.n_eager += 1
            return super().part(minibatch, trains)
        self.n_recorded += 1
        *tensors, loss, _ = results
        terms = LossTerms.unpack(tensors)
        gradient = self.descent.flat.gradient  # type: ignore[union-attr]
        return Part(terms.losses, terms.log_ratio, loss, gradient.parts, gradient.vector)

    def _results(self, minibatch: Any) -> Sequence[th.Tensor] | None:
        """Results of :meth:`function` for a minibatch; ``None`` if it is to be learned from eagerly."""
        if self._obstacle is not None:
            return None
        if not isinstance(minibatch, Minibatch):
            self._failure = "the rollout buffer hands out its minibatches in a way of its own"
            return None
        tensors = MinibatchLayout.tensors(minibatch)
        kind = minibatch.returns.shape[0], tuple(tensor.dtype for tensor in tensors)
        if self._scripts.get(kind, self) is None:
            return None
        if kind not in self._scripts:
            self._seen[kind] = self._seen.get(kind, 0) + 1
            if self._seen[kind] <= WAIT:
                return None
        if not self._has_vectors():
            return None
        script = self._scripts.get(kind)
        if script is None:
            return self._record(kind, minibatch, tensors)
        return script(*tensors) if kind in self._trusted else self._compare(kind, script, minibatch, tensors)

    def _has_vectors(self) -> bool:
        """``True`` if the optimiser steps in vectors; before the first step of an update it is asked to.

        A recording ends in one gradient vector: with another, all begins anew.
        """
        if self.descent.flat is None and not self.descent.is_decided:
            self.descent.adopt_all()
        if self.descent.flat is not self._vectors:
            self._vectors = self.descent.flat
            self._forget()
        if self.descent.flat is None:
            self._failure = f"{type(self.descent.phase.optimizer).__name__} cannot step all weights as one vector"
        return self.descent.flat is not None

    def _record(self, kind: Kind, minibatch: Any, tensors: list[th.Tensor]) -> Sequence[th.Tensor] | None:
        try:
            with Traceable():
                gradient = self.descent.flat.gradient.vector  # type: ignore[union-attr]
                self._scripts[kind] = script = Script(self.function(minibatch), tensors, [gradient])
        except CannotScript as error:
            self._give_up(kind, str(error))
            return None
        return script.first

    def _compare(
        self, kind: Kind, script: Script, minibatch: Any, tensors: list[th.Tensor]
    ) -> Sequence[th.Tensor] | None:
        """Run recording and function; the function's results count."""
        gradient: th.Tensor = self.descent.flat.gradient.vector  # type: ignore[union-attr]
        replayed = [*script(*tensors), gradient.clone()]
        try:
            results = [each.detach() for each in self.function(minibatch)(*tensors)]
        except CannotScript as error:
            self._give_up(kind, str(error))
            return None
        if all(map(_same_bits, replayed, (*results, gradient))):
            self._trusted.add(kind)
        else:
            self._give_up(kind, "the recorded operations gave other numbers")
        return results

    def _give_up(self, kind: Kind, reason: str) -> None:
        self._scripts[kind], self._failure = None, reason
        logger.info("minibatches of %d rows stay with autograd: %s", kind[0], reason)

    def function(self, minibatch: Any) -> Callable[..., list[th.Tensor]]:
        """The function to record: (tensors of a minibatch) -> terms of the loss, the differentiated loss, norms.

        The gradient goes to its vector.
        """
        layout, descent, policy = MinibatchLayout.of(minibatch), self.descent, self.policy
        rule, coefficients = self.settings

        def differentiate(*tensors: th.Tensor) -> list[th.Tensor]:
            columns = layout.minibatch(tensors)
            terms, loss, gradients = loss_and_gradient(
                lambda: evaluate_loss(policy, columns, rule, coefficients),
                coefficients,
                descent.phase.trains,
                descent.parameters,
            )
            if any(gradient is None for gradient in gradients):
                raise CannotScript("a weight has no part in the loss")
            with th.no_grad():
                norms = descent.write_gradient(gradients)  # type: ignore[arg-type]
            return [*terms.pack(), loss, norms]

        return differentiate


def own_choice_of(rule: UpdateRule) -> str | None:
    """Half a sentence, ``None`` if all choices are ours: functions of their arguments, where another may count its
    calls.
    """
    for choice in (rule.policy_objective, rule.value_objective, rule.advantage_normalization):
        if not is_shipped(type(choice)):
            return f"{qualified_name(type(choice))} is a choice of somebody's own, whose state nobody can see"
    return None


def _same_bits(one: th.Tensor, other: th.Tensor) -> bool:
    return th.equal(one.nan_to_num(1e30), other.nan_to_num(1e30))
