"""Which eager minibatches are run as a list of their operations, and from when on."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch as th

from sb3_ppo_notes.algorithms.loss import LossCoefficients, LossTerms, minibatch_loss, policy_part
from sb3_ppo_notes.algorithms.program import Form
from sb3_ppo_notes.algorithms.script import CannotScript, Script
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.algorithms.tracing import Traceable
from sb3_ppo_notes.policies.hooks import qualified_name
from sb3_ppo_notes.policies.shipped import is_shipped
from sb3_ppo_notes.policies.towers import TowerPass, Towers
from sb3_ppo_notes.rules import UpdateRule

logger = logging.getLogger("sb3_ppo_notes")

#: Minibatches of one kind that are taken eagerly before the next is written down: writing takes as long as some forty.
WAIT = 32
#: Numbers of rows for which a list is compared before it is believed for all.
ENOUGH = 3

#: Number of rows, 0 for any; whether there are masks.
Kind = tuple[int, bool]


class Known(NamedTuple):
    """What is known of a minibatch before its step; the gradient lies in the optimiser's vector.

    :param terms: of its loss, without a graph.
    :param loss: what was differentiated.
    :param parts: ``[P]``, norm of each weight tensor's gradient.
    :param norm: of the whole gradient.
    :param statistics: ``[K]``, of its ratios, where they were found along the way.
    """

    terms: LossTerms
    loss: th.Tensor
    parts: th.Tensor
    norm: th.Tensor
    statistics: th.Tensor | None = None


class ScriptedSteps:
    """Losses and gradients of one phase, each kind of minibatch as a list of operations once it has been seen often.

    A list is believed, for so many rows, when it has given the same bits for another minibatch than the one it was
    written down from; and for any number of rows when it has done so for three of them.

    :param steps: takes the steps; its vectors hold weights and gradient.
    """

    def __init__(self, steps: GradientSteps):
        self.steps = steps
        self._key: Any = None
        self._is_possible = False
        self._vectors: Any = None
        self._forget()

    def __reduce__(self) -> Any:
        return type(self), (self.steps,)

    def _forget(self) -> None:
        """Begin anew. By kind of minibatch: how many were seen; the list, ``None`` if there can be none; for which
        numbers of rows it is believed.
        """
        self._seen: dict[Kind, int] = {}
        self._scripts: dict[Kind, Script | None] = {}
        self._believed: dict[Kind, set[int]] = {}

    def begin(
        self, towers: Towers, rule: UpdateRule, coefficients: LossCoefficients, source: tuple[Any, ...] = ()
    ) -> None:
        """Begin an update.

        :param towers: the policy's networks.
        :param rule: the choices, with every schedule resolved.
        :param coefficients: ent_coef, vf_coef and β.
        :param source: of our functions.
        """
        self._is_possible = self._is_ordinary(towers, rule)
        if not self._is_possible:
            return
        self.towers = towers
        self.rule, self.coefficients = rule, coefficients
        # The networks are always the same: with others, these steps belong to others, too.
        key = rule, coefficients, source
        lies_there = all(script is None or script.is_current for script in self._scripts.values())
        if key != self._key or not lies_there:
            self._key = key
            self._forget()

    def _is_ordinary(self, towers: Towers, rule: UpdateRule) -> bool:
        is_ours = own_choice_of(rule) is None
        # Somebody who looks for the operation that went wrong needs autograd's own.
        is_looking = th.is_anomaly_enabled() or th.is_autocast_enabled(towers.policy.device.type)
        return is_ours and not is_looking and self.steps.scaler is None

    def run(self, minibatch: Any) -> Known | None:
        """Loss and gradient of a minibatch.

        :param minibatch: of a buffer of ours.
        :return: ``None`` if they are to be found eagerly.
        """
        kind = self.kind(minibatch)
        if not self._is_possible or self._scripts.get(kind, self) is None:
            return None
        if kind not in self._scripts:
            self._seen[kind] = self._seen.get(kind, 0) + 1
            if self._seen[kind] <= WAIT or not self.is_telling(minibatch):
                return None
        if not self._has_vectors():
            return None
        ground, leaves = self.given(minibatch)
        script = self._scripts.get(kind)
        if script is None:
            found = self._written(kind, minibatch, ground, leaves)
        elif not self._is_believed(kind, len(leaves[0])):
            found = self._compared(kind, script, minibatch, ground, leaves)
        else:
            found = script(*leaves)
        return None if found is None else self.known(found, ground)

    def _is_believed(self, kind: Kind, rows: int) -> bool:
        believed = self._believed[kind]
        return rows in believed or len(believed) >= ENOUGH

    def _has_vectors(self) -> bool:
        """Whether the optimiser steps in vectors; before the first step of an update it is asked to.

        A list of operations ends in one gradient vector: with another, all begins anew.
        """
        if self.steps.flat is None and not self.steps.is_decided:
            self.steps.adopt_all()
        if self.steps.flat is not self._vectors:
            self._vectors = self.steps.flat
            self._forget()
        return self.steps.flat is not None

    def _written(self, kind: Kind, minibatch: Any, ground: Any, leaves: list[th.Tensor]) -> Sequence[th.Tensor] | None:
        """Find loss and gradient, and write down how."""
        rows = len(leaves[0])
        try:
            with Traceable():
                script = Script(self.function(minibatch, ground), leaves, self.varying(rows))
        except CannotScript as error:
            self._give_up(kind, str(error))
            return None
        self._scripts[kind], self._believed[kind] = script, set()
        return script.first

    def _compared(
        self, kind: Kind, script: Script, minibatch: Any, ground: Any, leaves: list[th.Tensor]
    ) -> list[th.Tensor] | None:
        """Find them by the list and by the function, which is believed."""
        gradient: th.Tensor = self.steps.flat.gradient.vector  # type: ignore[union-attr]
        try:
            listed = [*script(*leaves), gradient.clone()]
        except RuntimeError as error:  # what was written down does not fit another number of rows
            self._give_up(kind, str(error).strip().rpartition("\n")[2])
            listed = []
        try:
            found = [each.detach() for each in self.function(minibatch, ground)(*leaves)]
        except CannotScript as error:
            self._give_up(kind, str(error))
            return None
        if listed and not all(map(_same_bits, listed, (*found, gradient))):
            self._give_up(kind, "it gave other numbers")
        self._believed[kind].add(len(leaves[0]))
        return found

    def _give_up(self, kind: Kind, reason: str) -> None:
        self._scripts[kind] = None
        logger.info("minibatches of %d rows stay with autograd: %s", kind[0], reason)

    # -- what is written down ----------------------------------------------------------------------------------

    def kind(self, minibatch: Any) -> Kind:
        """What minibatches have in common that can share a list.

        :param minibatch: of a buffer of ours.
        :return: its number of rows, and whether there are masks.
        """
        return len(minibatch.returns), minibatch.action_masks is not None

    def is_telling(self, minibatch: Any) -> bool:
        """Whether a list can be written down from this minibatch.

        :param minibatch: of a buffer of ours.
        :return: ``True``.
        """
        return True

    def varying(self, rows: int) -> int | None:
        """The number of rows, if others may follow.

        :param rows: of the minibatch.
        :return: ``None``.
        """
        return None

    def given(self, minibatch: Any) -> tuple[Any, list[th.Tensor]]:
        """What the function is given.

        :param minibatch: of a buffer of ours.
        :return: what the networks stand on, if that is not to be written down, and the function's arguments.
        """
        return None, Form.leaves(minibatch)

    def function(self, minibatch: Any, ground: Any) -> Callable[..., list[th.Tensor]]:
        """What is written down.

        :param minibatch: of a buffer of ours.
        :param ground: of :meth:`given`.
        :return: (tensors of a minibatch) -> terms of the loss, what is differentiated, norms. The gradient goes to its
            vector.
        """
        form, steps = Form.of(minibatch, 0), self.steps

        def differentiate(*leaves: th.Tensor) -> list[th.Tensor]:
            given = form.minibatch(leaves)
            towers = self.towers.forward(given.observations)
            terms, loss = self.loss(given, towers)
            slopes = towers.gradients(loss, steps.parameters)
            if any(slope is None for slope in slopes):
                raise CannotScript("a weight has no part in the loss")
            with th.no_grad():
                parts, norm = steps.shown(slopes)  # type: ignore[arg-type]
            return [*terms, loss, parts, norm]

        return differentiate

    def loss(self, given: Any, towers: TowerPass) -> tuple[list[th.Tensor], th.Tensor]:
        """The loss of a minibatch.

        :param given: the minibatch.
        :param towers: its pass through the networks.
        :return: the terms that there are, and what is differentiated.
        """
        terms = minibatch_loss(self.towers.policy, given, self.rule, self.coefficients, towers.outputs)
        loss = terms.loss if self.steps.phase.trains == "both" else policy_part(terms, self.coefficients)
        return [term for term in terms if term is not None], loss

    def terms(self, found: Sequence[th.Tensor]) -> LossTerms:
        """The terms of a loss.

        :param found: the first results of the function.
        :return: with ``None`` for one that the rule does not ask for.
        """
        count = len(LossTerms._fields) - (not self.rule.needs_exact_kl)
        return LossTerms(*found[:count], *([] if self.rule.needs_exact_kl else [None]))

    def known(self, found: Sequence[th.Tensor], ground: Any) -> Known | None:
        """What is known of a minibatch.

        :param found: the function's results.
        :param ground: of :meth:`given`.
        :return: for its step; ``None`` if a weight has no part in the loss.
        """
        return Known(self.terms(found), *found[-3:])


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
