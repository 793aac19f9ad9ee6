"""Minibatches as recorded operations: when they are recorded, and when the recording is trusted."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch as th

from sb3_ppo_notes.engine.descent import Descent
from sb3_ppo_notes.engine.plain_networks import Towers
from sb3_ppo_notes.engine.program import Form
from sb3_ppo_notes.engine.script import CannotScript, Script
from sb3_ppo_notes.engine.step import StepSettings, policy_loss
from sb3_ppo_notes.engine.tracing import Traceable
from sb3_ppo_notes.policies.hooks import qualified_name
from sb3_ppo_notes.policies.shipped import is_shipped
from sb3_ppo_notes.rollouts.minibatches import Minibatch
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.loss import LossTerms, policy_part

logger = logging.getLogger("sb3_ppo_notes")

#: Minibatches of one kind that are taken eagerly before the next is recorded: recording takes as long as some forty.
WAIT = 32
#: Number of rows, and the dtype of each tensor: with masks there is one more.
Kind = tuple[int, Any]


class Differentiated(NamedTuple):
    """A minibatch before its step; its gradient lies in the optimiser's vector.

    :param terms: of its loss, without a graph.
    :param loss: what was differentiated.
    :param norms: ``[3]``, of the gradient.
    """

    terms: LossTerms
    loss: th.Tensor
    norms: th.Tensor


class Recorder:
    """Losses and gradients of one phase, each kind of minibatch as recorded operations once it has been seen often.

    They are used only after they have reproduced autograd bit for bit on a second minibatch.

    :param descent: takes the steps; its vectors hold weights and gradient.
    :param networks: the policy's.
    """

    def __init__(self, descent: Descent, networks: Towers):
        self.descent = descent
        self.networks = networks
        self._key: Any = None
        self._is_possible = False
        #: Why minibatches stay with autograd, ``None`` if they do not.
        self.reason: str | None = None
        self._vectors: Any = None
        self._forget()

    def _forget(self) -> None:
        """Begin anew."""
        #: By kind of minibatch: how many were seen; the recorded operations, ``None`` if they cannot be recorded.
        self._seen: dict[Kind, int] = {}
        self._scripts: dict[Kind, Script | None] = {}
        #: Kinds for which the recorded operations have given the same bits.
        self._trusted: set[Kind] = set()

    def begin(self, settings: StepSettings, source: tuple[Any, ...]) -> None:
        """Begin an update.

        :param settings: of all its steps.
        :param source: our functions, as they are now.
        """
        self.reason = self._obstacle(settings.rule)
        self._is_possible = self.reason is None
        if not self._is_possible:
            return
        self.settings = settings
        key = settings, source
        is_in_place = all(script is None or script.is_current for script in self._scripts.values())
        if key != self._key or not is_in_place:
            self._key = key
            self._forget()

    def _obstacle(self, rule: UpdateRule) -> str | None:
        """Why nothing is recorded, ``None`` if nothing stands against it."""
        if th.is_anomaly_enabled():
            return "anomaly detection needs autograd's own operations"
        if th.is_autocast_enabled(self.networks.policy.device.type):
            return "autocast is on"
        return own_choice_of(rule)

    def differentiate(self, minibatch: Any) -> Differentiated | None:
        """Loss and gradient of a minibatch.

        :param minibatch: of a rollout.
        :return: ``None`` if they are to be found eagerly.
        """
        if not self._is_possible or not isinstance(minibatch, Minibatch) or minibatch.recurrence is not None:
            return None
        leaves = Form.leaves(minibatch)
        kind = len(minibatch.returns), Form.dtypes(leaves)
        if kind[1] is None:
            return None
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
            results = self._record(kind, minibatch, leaves)
        elif kind not in self._trusted:
            results = self._compare(kind, script, minibatch, leaves)
        else:
            results = script(*leaves)
        if results is None:
            return None
        *terms, loss, norms = results
        return Differentiated(LossTerms.unpack(terms), loss, norms)

    def _has_vectors(self) -> bool:
        """Whether the optimiser steps in vectors; before the first step of an update it is asked to.

        A list of operations ends in one gradient vector: with another, all begins anew.
        """
        if self.descent.flat is None and not self.descent.is_decided:
            self.descent.adopt_all()
        if self.descent.flat is not self._vectors:
            self._vectors = self.descent.flat
            self._forget()
        return self.descent.flat is not None

    def _record(self, kind: Kind, minibatch: Any, leaves: list[th.Tensor]) -> Sequence[th.Tensor] | None:
        """Find loss and gradient, and record how."""
        try:
            with Traceable():
                self._scripts[kind] = script = Script(self.function(minibatch), leaves)
        except CannotScript as error:
            self._give_up(kind, str(error))
            return None
        return script.first

    def _compare(
        self, kind: Kind, script: Script, minibatch: Any, leaves: list[th.Tensor]
    ) -> Sequence[th.Tensor] | None:
        """Find them by the recorded operations and by the function, whose results count."""
        gradient: th.Tensor = self.descent.flat.gradient.vector  # type: ignore[union-attr]
        replayed = [*script(*leaves), gradient.clone()]
        try:
            results = [each.detach() for each in self.function(minibatch)(*leaves)]
        except CannotScript as error:
            self._give_up(kind, str(error))
            return None
        if all(map(_same_bits, replayed, (*results, gradient))):
            self._trusted.add(kind)
        else:
            self._give_up(kind, "the recorded operations gave other numbers")
        return results

    def _give_up(self, kind: Kind, reason: str) -> None:
        self._scripts[kind], self.reason = None, reason
        logger.info("minibatches of %d rows stay with autograd: %s", kind[0], reason)

    def function(self, minibatch: Any) -> Callable[..., list[th.Tensor]]:
        """What is recorded.

        :param minibatch: of a rollout.
        :return: (tensors of a minibatch) -> terms of the loss, what is differentiated, norms. The gradient goes to its
            vector.
        """
        form, descent, networks = Form.of(minibatch, 0), self.descent, self.networks
        rule, coefficients = self.settings

        def differentiate(*leaves: th.Tensor) -> list[th.Tensor]:
            columns = form.minibatch(leaves)
            forward = networks.forward(columns.observations)
            terms = policy_loss(networks.policy, columns, rule, coefficients, forward.outputs)
            loss = terms.loss if descent.phase.trains == "both" else policy_part(terms, coefficients)
            gradients = forward.gradients(loss, descent.parameters)
            if any(gradient is None for gradient in gradients):
                raise CannotScript("a weight has no part in the loss")
            with th.no_grad():
                norms = descent.write_gradient(gradients)  # type: ignore[arg-type]
            return [*terms.pack(), loss, norms]

        return differentiate


def own_choice_of(rule: UpdateRule) -> str | None:
    """Which choice of a rule is somebody's own. Ours are functions of their arguments; another may count its calls.

    :param rule: the choices.
    :return: half a sentence, ``None`` if there is none.
    """
    for choice in (rule.policy_objective, rule.value_objective, rule.advantage_normalization):
        if not is_shipped(type(choice)):
            return f"{qualified_name(type(choice))} is a choice of somebody's own, whose state nobody can see"
    return None


def _same_bits(one: th.Tensor, other: th.Tensor) -> bool:
    return th.equal(one.nan_to_num(1e30), other.nan_to_num(1e30))
