"""The step of one minibatch: evaluate, loss, KL limit, gradient, clip, optimiser. :class:`EagerStepper` is how it is
meant; whatever is faster is tested against it.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch as th

from sb3_ppo_notes.engine.descent import Descent, Trains
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.policies.actor_critic import evaluate_minibatch, values_of
from sb3_ppo_notes.rules import EarlyStop, UpdateRule
from sb3_ppo_notes.rules.kl_control import SAMPLE_ESTIMATORS
from sb3_ppo_notes.rules.loss import LossCoefficients, LossTerms, actor_loss, critic_loss, minibatch_loss


class StepSettings(NamedTuple):
    """Choices of an update for every step; constant until the next ``begin``.

    :param rule: the choices, with every schedule resolved.
    :param coefficients: ent_coef, vf_coef and β.
    """

    rule: UpdateRule
    coefficients: LossCoefficients

    @property
    def kl_limit(self) -> EarlyStop | None:
        """The KL above which no step is taken."""
        stop = self.rule.early_stop
        return stop if stop is not None and stop.decided == "minibatch" else None


class Step(NamedTuple):
    """Results of one minibatch. Tensors stay on the device, so that an epoch of them can be read at once.

    :param losses: ``[4]`` or ``[5]``, total, policy, value, entropy, and the exact KL where the rule needs it; ``None``
        for a step of the critic alone.
    :param log_ratio: ``[N]``, log π − log π_old; nats.
    :param norms: ``[3]``, of the gradient before it was clipped: of all weights, of the actor's own, of the critic's
        own; ``None`` if no step was taken.
    :param refused: why no step was taken; after a roll-back none is taken any more in this update.
    :param kl: mean KL(old ‖ new), if it is above the limit; nats.
    """

    losses: th.Tensor | None
    log_ratio: th.Tensor | None
    norms: th.Tensor | None
    refused: Literal["kl", "nonfinite", "rolled back"] | None = None
    kl: np.float32 | None = None


class Stepper(Protocol):
    """Takes the steps of one phase of an update."""

    def begin(self, settings: StepSettings) -> None:
        """Begin an update."""

    def step(self, minibatch: Any, trains: Trains, place: str) -> Step:
        """Learn from one minibatch of the rollout. ``place``: where in the training this is, for errors."""

    def end(self) -> bool:
        """End the phase; ``False`` if weights and optimiser are as they were before the update."""


class Part(NamedTuple):
    """Loss and gradient of a part of a minibatch. ``losses`` and ``log_ratio`` as a :class:`Step` has them; ``loss`` is
    what was differentiated; a gradient is ``None`` for a weight that has no part in it; ``vector`` holds them all, if
    they lie in one.
    """

    losses: th.Tensor | None
    log_ratio: th.Tensor | None
    loss: th.Tensor
    gradients: Sequence[th.Tensor | None]
    vector: th.Tensor | None = None


class StepNotFinite(NonFiniteError):
    """A step that was not taken, the loss whose gradient it was to follow, and the losses that this one is made of."""

    def __init__(self, message: str, loss: th.Tensor, losses: th.Tensor | None):
        super().__init__(message)
        self.loss = loss
        self.losses = losses


class EagerStepper:
    """The specification: one step as algorithm 1 of the PPO paper (arXiv:1707.06347) has it, in SB3's order."""

    name = "eager"

    def __init__(self, policy: Any, descent: Descent):
        self.policy = policy
        self.descent = descent

    def begin(self, settings: StepSettings) -> None:
        """Begin an update."""
        self.settings = settings

    def resume(self, settings: StepSettings) -> None:
        """Go on with an update after somebody else may have changed weights and optimiser."""
        self.begin(settings)

    def step(self, minibatch: Any, trains: Trains, place: str) -> Step:
        """Learn from one minibatch; :class:`StepNotFinite` if loss or gradient is not finite: no step is taken then."""
        rule, coefficients = self.settings
        if trains == "critic":
            values = values_of(self.policy, minibatch.observations, getattr(minibatch, "recurrence", None)).flatten()
            loss = critic_loss(values, minibatch, rule, coefficients)  # c₁·mean((V(s) − R)²)
            return Step(None, None, self.descend(loss, None, place))
        terms = evaluate_loss(self.policy, minibatch, rule, coefficients)  # V(s), log π(a|s), H(π(·|s)), and PPO eq. 9
        kl = kl_beyond_limit(self.settings.kl_limit, terms.log_ratio, terms.exact_kl)
        if kl is not None:
            return Step(terms.losses, terms.log_ratio, None, "kl", kl)  # the ratio clip forbids no step; this does
        loss = terms.loss if trains == "both" else actor_loss(terms, coefficients)
        norms = self.descend(loss, terms, place)  # gradient, clipped to max_grad_norm, optimiser
        return Step(terms.losses, terms.log_ratio, norms)

    def part(self, minibatch: Any, trains: Trains) -> "Part":
        """Loss and gradient of one part of a minibatch whose other parts lie elsewhere, without a step."""
        rule, coefficients = self.settings
        if trains == "critic":
            values = values_of(self.policy, minibatch.observations, getattr(minibatch, "recurrence", None)).flatten()
            loss = critic_loss(values, minibatch, rule, coefficients)
            return Part(None, None, loss.detach(), self.descent.gradients_of(loss))
        terms = evaluate_loss(self.policy, minibatch, rule, coefficients)
        loss = terms.loss if trains == "both" else actor_loss(terms, coefficients)
        return Part(terms.losses, terms.log_ratio, loss.detach(), self.descent.gradients_of(loss))

    def descend(self, loss: th.Tensor, terms: LossTerms | None, place: str) -> th.Tensor:
        """One step down the gradient of a loss; ``[3]``, norms of the gradient."""
        try:
            return self.descent.take(loss, place)
        except NonFiniteError as error:
            raise StepNotFinite(str(error), loss, None if terms is None else terms.losses) from None

    def end(self) -> bool:
        """End the phase; ``True``: nothing is undone."""
        self.descent.finish()
        return True


def evaluate_loss(policy: Any, minibatch: Any, rule: UpdateRule, coefficients: LossCoefficients) -> LossTerms:
    """The loss of a minibatch under a policy, with its graph: the one function that every executor runs."""
    evaluation = evaluate_minibatch(policy, minibatch, coefficients.has_bonus, rule.needs_exact_kl)
    return minibatch_loss(evaluation, minibatch, rule, coefficients)


def kl_beyond_limit(limit: EarlyStop | None, log_ratio: Any, exact_kl: Any) -> np.float32 | None:
    """Mean KL(old ‖ new) of a minibatch if it is above the limit, in nats, float32 as SB3 compares it; ``None`` if a
    step may be taken. Without a limit nothing is read from the device.
    """
    if limit is None:
        return None
    is_exact = limit.estimator == "exact"
    mean: Any = exact_kl if is_exact else SAMPLE_ESTIMATORS[limit.estimator](log_ratio).mean()
    kl = np.float32(mean.item())
    return kl if limit.is_exceeded_by(kl) else None
