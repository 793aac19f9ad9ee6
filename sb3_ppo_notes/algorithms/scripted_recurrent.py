"""The same for recurrent policies: what lies between memory and loss, for any number of rows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch as th

from sb3_ppo_notes.algorithms.program import Form
from sb3_ppo_notes.algorithms.report import ratio_statistics
from sb3_ppo_notes.algorithms.script import CannotScript
from sb3_ppo_notes.algorithms.scripted_steps import Kind, Known, ScriptedSteps
from sb3_ppo_notes.policies.actor_critic import Latents


class ScriptedRecurrentSteps(ScriptedSteps):
    """Losses and gradients of a recurrent policy: its memory runs as it is, what stands on it is a list of operations.

    Minibatches are of whole sequences and have all numbers of rows. One list does for all: the number of rows it was
    written down with is replaced wherever it stands. Whether it stood for something else, too, shows when the list is
    compared, for another number of rows.

    :param steps: takes the steps; its vectors hold weights and gradient.
    """

    def kind(self, minibatch: Any) -> Kind:
        """What minibatches have in common that can share a list.

        :param minibatch: of a buffer of ours.
        :return: any number of rows, and whether there are masks.
        """
        return 0, minibatch.action_masks is not None

    def is_telling(self, minibatch: Any) -> bool:
        """Whether a list can be written down from this minibatch: if its number of rows means nothing else.

        :param minibatch: of a buffer of ours.
        :return: ``False`` if a weight has as many rows or columns, too.
        """
        sizes = {size for parameter in self.steps.parameters for size in parameter.shape}
        return len(minibatch.returns) not in sizes | {0, 1, 2}

    def varying(self, rows: int) -> int | None:
        """The number of rows, if others may follow.

        :param rows: of the minibatch.
        :return: the same.
        """
        return rows

    def given(self, minibatch: Any) -> tuple[Any, list[th.Tensor]]:
        """What the function is given.

        :param minibatch: of a buffer of ours.
        :return: what is remembered, with its graph; the same without, and the tensors of the minibatch.
        """
        ground = self.towers.ground(minibatch.observations, minibatch.recurrence)
        seen = minibatch._replace(observations=ground.pi.detach(), recurrence=None)
        return ground, [*Form.leaves(seen), ground.vf.detach()]

    def function(self, minibatch: Any, ground: Any) -> Callable[..., list[th.Tensor]]:
        """What is written down.

        :param minibatch: of a buffer of ours.
        :param ground: of :meth:`given`.
        :return: (actor's ground, tensors of a minibatch, critic's ground) -> terms of the loss, statistics of its
            ratios, what is differentiated, gradients of the weights above the ground, and at the ground.
        """
        form = Form.of(minibatch._replace(recurrence=None, observations=ground.pi), 0)
        goes_below = ground.pi.requires_grad, ground.vf.requires_grad

        def differentiate(*leaves: th.Tensor) -> list[th.Tensor]:
            *rest, latent_vf = leaves
            given = form.minibatch(rest)
            towers = self.towers.stand_on(Latents(given.observations, latent_vf, None), goes_below)
            terms, loss = self.loss(given, towers)
            found, bottoms = towers.above(loss, self.steps.parameters)
            self._above = [key for key, slope in found.items() if slope is not None]
            if [bottom is not None for bottom in bottoms] != [*goes_below]:
                raise CannotScript("a memory has no part in the loss")
            slopes = [found[key] for key in self._above]
            # Minibatches of all sizes cannot be looked at together, at the end of the epoch.
            clip_range = getattr(self.rule.policy_objective, "clip_range", math.inf)
            statistics = th.stack(list(ratio_statistics(self.terms(terms).log_ratio, clip_range).values()))
            return [*terms, statistics, loss, *slopes, *(bottom for bottom in bottoms if bottom is not None)]

        return differentiate

    def known(self, found: Sequence[th.Tensor], ground: Any) -> Known | None:
        """What is known of a minibatch, once autograd has gone down through the memory.

        :param found: the function's results.
        :param ground: of :meth:`given`.
        :return: for its step.
        """
        tops = [top for top in (ground.pi, ground.vf) if top.requires_grad]
        first = len(found) - len(tops)
        above = dict(zip(self._above, found[first - len(self._above) : first], strict=True))
        slopes = self.towers.whole(above, list(zip(tops, found[first:], strict=True)), self.steps.parameters)
        if any(slope is None for slope in slopes):
            return None
        with th.no_grad():
            parts, norm = self.steps.shown(slopes)  # type: ignore[arg-type]
        statistics, loss = found[first - len(self._above) - 2 : first - len(self._above)]
        return Known(self.terms(found), loss, parts, norm, statistics)
