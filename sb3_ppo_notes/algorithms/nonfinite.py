"""What happens when a loss, a gradient or a weight is not finite: name it, undo it, and stop or go on without it."""

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch as th

from sb3_ppo_notes.algorithms.loss import LossTerms
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.rollouts.finite import first_bad_weight

logger = logging.getLogger("sb3_ppo_notes")

CHOICES = ("raise", "skip_update")
#: Updates in a row of which nothing was left, after which going on would only waste time.
MOST_BARREN_UPDATES = 10


class UpdateAbandoned(Exception):
    """The rest of an update is left out; weights and optimiser are as before it."""


class Safeguard:
    """Stands between an update and the weights.

    :param learner: the algorithm; its ``on_nonfinite`` says what is to happen, its ``skipped_updates`` counts.
    """

    def __init__(self, learner: Any):
        self.learner = learner
        self.n_skipped = 0
        self.last_message = ""
        self._begun: list[GradientSteps] = []
        #: What KL control may change along the way.
        self._rule_state = learner.rule_state
        self._learning_rates: list[tuple[dict[str, Any], Any]] = []
        #: Whether the update has been undone.
        self.is_undone = False

    def begin(self, steps: GradientSteps) -> None:
        """Begin a phase of the update, or go on with it.

        :param steps: take its steps, and keep what to go back to.
        """
        self.steps = steps
        if not any(steps is each for each in self._begun):
            steps.undo = None
            self._begun.append(steps)
            self._learning_rates += [(group, group["lr"]) for group in steps.phase.optimizer.param_groups]

    def meet(self, error: NonFiniteError, loss: th.Tensor, terms: LossTerms | None) -> None:
        """A step was refused.

        :param error: the refusal.
        :param loss: that was to be descended.
        :param terms: what it was made of; ``None`` for the critic's alone.
        :raises NonFiniteError: naming the cause, unless such steps are to be skipped.
        :raises UpdateAbandoned: if a step before this one has spoilt the weights.
        """
        self._undo_if_spoilt()
        cause = _bad_losses(terms) if not math.isfinite(loss.item()) else self._bad_gradients()
        self._raise_or_skip(f"{error} ({cause})")

    def end(self) -> None:
        """End a phase.

        :raises NonFiniteError: if the steps have made a weight NaN or infinite, unless such updates are to be skipped.
        :raises UpdateAbandoned: in that case.
        """
        self.n_skipped += self.steps.overflows
        self.steps.overflows = 0
        self._undo_if_spoilt()

    def conclude(self, n_steps: int) -> None:
        """End the update.

        :param n_steps: that it has taken.
        :raises NonFiniteError: if too many updates in a row had to be left out altogether.
        """
        learner = self.learner
        learner.skipped_updates += self.n_skipped
        learner.barren_updates = learner.barren_updates + 1 if self.n_skipped and not n_steps else 0
        if learner.barren_updates >= MOST_BARREN_UPDATES:
            raise NonFiniteError(
                f"on_nonfinite='skip_update' has left nothing of the last {MOST_BARREN_UPDATES} updates: "
                f"{self.last_message}"
            )
        if self.n_skipped or learner.skipped_updates or learner.on_nonfinite == "skip_update":
            learner.logger.record("notes/skipped_updates", learner.skipped_updates)

    def _undo_if_spoilt(self) -> None:
        if self.steps.undo is None or not self.steps.undo.is_needed():
            return
        name = first_bad_weight(self.learner.policy) or "the optimiser's state"
        self._undo()
        self._raise_or_skip(f"weights must be finite, got {name} in the update at step {self.learner.num_timesteps}")
        raise UpdateAbandoned

    def _undo(self) -> None:
        # The last first: where two phases step the same weights, the first one knows how they were.
        for steps in reversed(self._begun):
            steps.finish()
            if steps.undo is not None:
                steps.undo.restore()
        for group, learning_rate in reversed(self._learning_rates):
            group["lr"] = learning_rate
        self.learner.rule_state = self._rule_state
        self.is_undone = True

    def _raise_or_skip(self, message: str) -> None:
        if self.learner.on_nonfinite == "raise":
            # The steps before the bad one may have led to it: whoever saves the model now saves a good one.
            self._undo()
            raise NonFiniteError(f"{message}; weights and optimiser are as they were before the update") from None
        if self.n_skipped == 0:
            logger.warning("on_nonfinite='skip_update': %s", message)
        self.n_skipped += 1
        self.last_message = message

    def _bad_gradients(self) -> str:
        flat, weights = self.steps.flat, self.steps.parameters
        gradients = [weight.grad for weight in weights] if flat is None else flat.gradient.parts
        names = {id(weight): name for name, weight in self.learner.policy.named_parameters()}
        pairs = zip(weights, gradients, strict=True)
        return _listed(names[id(weight)] for weight, slope in pairs if slope is not None and _is_bad(slope.norm()))


def _bad_losses(terms: LossTerms | None) -> str:
    if terms is None:
        return "value_loss"
    names = ("policy_loss", "value_loss", "entropy_loss")
    return _listed(f"{name} is {getattr(terms, name).item()}" for name in names if _is_bad(getattr(terms, name)))


def _is_bad(tensor: th.Tensor) -> bool:
    return not bool(tensor.isfinite().all())


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more if found else "their sum"


def name_checkpoint(error: NonFiniteError, path: Any) -> None:
    """Say in an error where to go on from.

    :param error: changed in place, so that it keeps its traceback.
    :param path: of the last checkpoint that was written, ``None`` if there is none.
    """
    if path is not None and str(path) not in str(error):
        error.args = (f"{error}; the last good checkpoint is {path}",)
