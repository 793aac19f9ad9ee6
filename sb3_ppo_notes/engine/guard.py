"""A loss, a gradient or a weight that is not finite is named, and undone or skipped."""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch as th

from sb3_ppo_notes.engine.descent import Descent, Trains
from sb3_ppo_notes.engine.reduced import ReducedStepper
from sb3_ppo_notes.engine.step import EagerStepper, Step, StepNotFinite, StepSettings
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.rollouts.finite import first_bad_weight
from sb3_ppo_notes.rules.loss import LOSSES

logger = logging.getLogger("sb3_ppo_notes")


class Guard:
    """Watches over the weights during one update.

    :param on_nonfinite: ``"raise"``, or ``"skip_update"`` to go on without what is not finite.
    """

    def __init__(self, policy: Any, on_nonfinite: str):
        self.policy = policy
        self.on_nonfinite = on_nonfinite
        self.n_steps = 0
        self.n_skipped = 0
        self.last_message = ""
        #: Whether the update has been rolled back.
        self.is_rolled_back = False
        self._descents: list[Descent] = []
        self._learning_rates: list[tuple[dict[str, Any], Any]] = []

    def watch(self, descent: Descent) -> None:
        """Remember what to go back to, once for each ``descent`` that takes steps in this update."""
        self.descent = descent
        if any(descent is each for each in self._descents):
            return
        descent.undo = None
        self._descents.append(descent)
        self._learning_rates += [(group, group["lr"]) for group in descent.phase.optimizer.param_groups]

    def refuse(self, error: StepNotFinite, place: str) -> None:
        """A step was refused: raise :class:`NonFiniteError` with the cause, unless such steps are to be skipped."""
        if self.check_weights(place):
            cause = _bad_losses(error.losses) if not math.isfinite(error.loss.item()) else self._bad_gradients()
            self._raise_or_skip(f"{error} ({cause})")

    def check_weights(self, place: str) -> bool:
        """Roll the update back if its steps have made a weight NaN or infinite; ``False`` if it was.

        :raises NonFiniteError: in that case, unless such updates are to be skipped.
        """
        undo = self.descent.undo
        if undo is None or not undo.is_needed():
            return True
        name = first_bad_weight(self.policy) or "the optimiser's state"
        self._roll_back()
        update = place.partition("of ")[2] or place
        self._raise_or_skip(f"weights must be finite, got {name} in {update}")
        return False

    def _roll_back(self) -> None:
        # The last first: where two phases step the same weights, the first one knows how they were.
        for descent in reversed(self._descents):
            descent.finish()
            if descent.undo is not None:
                descent.undo.restore()
        for group, learning_rate in reversed(self._learning_rates):
            group["lr"] = learning_rate
        self.is_rolled_back = True

    def _raise_or_skip(self, message: str) -> None:
        if self.on_nonfinite == "raise":
            # The steps before the bad one may have led to it: whoever saves the model now saves a good one.
            self._roll_back()
            raise NonFiniteError(f"{message}; weights and optimiser are as they were before the update") from None
        if self.n_skipped == 0:
            logger.warning("on_nonfinite='skip_update': %s", message)
        self.n_skipped += 1
        self.last_message = message

    def _bad_gradients(self) -> str:
        flat, weights = self.descent.flat, self.descent.parameters
        gradients = [weight.grad for weight in weights] if flat is None else flat.gradient.parts
        names = {id(weight): name for name, weight in self.policy.named_parameters()}
        pairs = zip(weights, gradients, strict=True)
        return _listed(names[id(weight)] for weight, each in pairs if each is not None and _is_bad(each.norm()))


class GuardedStepper:
    """Any stepper, watched over.

    :param choose: gives the stepper; asked again when policy or optimiser may have been changed.
    """

    def __init__(self, guard: Guard, choose: Callable[[StepSettings], EagerStepper | ReducedStepper]):
        self.guard = guard
        self.choose = choose
        self._place = ""

    def begin(self, settings: StepSettings) -> None:
        """Begin an update."""
        self.settings = settings
        self.inner = self.choose(settings)
        self.guard.watch(self.inner.descent)
        self.inner.begin(settings)

    def resume(self) -> None:
        """Go on with an update after somebody else may have changed policy and optimiser."""
        before, self.inner = self.inner, self.choose(self.settings)
        self.guard.watch(self.inner.descent)
        if self.inner is before:
            self.inner.resume(self.settings)
        else:
            self.inner.begin(self.settings)

    def step(self, minibatch: Any, trains: Trains = "both", place: str = "") -> Step:
        """Learn from one minibatch; ``refused`` if it is not finite.

        :raises NonFiniteError: unless such steps are to be skipped; weights and optimiser are as before the update.
        """
        self._place = place
        if self.guard.is_rolled_back:
            return Step(None, None, None, "rolled back")
        try:
            step = self.inner.step(minibatch, trains, place)
        except StepNotFinite as error:
            self.guard.refuse(error, place)
            return Step(None, None, None, "rolled back" if self.guard.is_rolled_back else "nonfinite")
        self.guard.n_steps += step.norms is not None
        return step

    def end(self) -> bool:
        """End the phase; ``False`` if weights and optimiser are as they were before the update.

        :raises NonFiniteError: if a weight is not finite, unless such updates are to be skipped.
        """
        guard, descent = self.guard, self.inner.descent
        guard.n_skipped += descent.overflows
        descent.overflows = 0
        try:
            return not guard.is_rolled_back and guard.check_weights(self._place)
        finally:
            self.inner.end()


def _bad_losses(losses: th.Tensor | None) -> str:
    if losses is None:
        return "value_loss"
    named = zip(LOSSES[1:4], losses[1:4], strict=True)
    return _listed(f"{name} is {loss.item()}" for name, loss in named if _is_bad(loss))


def _is_bad(tensor: th.Tensor) -> bool:
    return not bool(tensor.isfinite().all())


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    return ", ".join(first[:3]) + more if first else "their sum"
