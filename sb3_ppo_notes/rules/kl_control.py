"""The slot that watches how far the policy has moved, and acts on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch as th

from sb3_ppo_notes.formulas.adaptation import adapted_learning_rate
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice, check_positive
from sb3_ppo_notes.formulas.divergences import kl_k1, kl_k2, kl_k3

SAMPLE_ESTIMATORS: dict[str, Callable[[th.Tensor], th.Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
ESTIMATORS = (*SAMPLE_ESTIMATORS, "exact")


@dataclass(frozen=True)
class EarlyStop:
    """Stop updating on this rollout once the policy has moved far enough from the one that gathered it.

    The clip takes away the reward for going far, it does not forbid it; this does. Decided by minibatch, it is checked
    *before* each optimiser step, so the minibatch that finds the limit crossed is not applied; nothing that was applied
    is undone.

    :param target: the KL(old ‖ new) that is aimed at, > 0, infinite for no stop; nats.
    :param factor: stop above ``factor * target``; SB3 and Spinning Up 1.5, skrl 1.
    :param estimator: ``"k1"``, ``"k2"``, ``"k3"`` of ``formulas.divergences``, or ``"exact"`` from the distributions'
        parameters.
    :param scope: what is stopped: ``"update"`` all remaining minibatches and epochs (SB3), ``"epoch"`` the rest of this
        epoch (skrl), ``"policy"`` the policy for the rest of the update while the critic goes on (Spinning Up).
    :param decided: ``"minibatch"`` on each minibatch, ``"epoch"`` on the epoch's mean, after it.
    """

    target: float
    factor: float = 1.5
    estimator: Literal["k1", "k2", "k3", "exact"] = "k3"
    scope: Literal["update", "epoch", "policy"] = "update"
    decided: Literal["minibatch", "epoch"] = "minibatch"

    def __post_init__(self) -> None:
        check_positive("target", self.target, words="> 0", may_be_infinite=True)
        check_positive("factor", self.factor)
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_choice("scope", self.scope, ("update", "epoch", "policy"))
        check_choice("decided", self.decided, ("minibatch", "epoch"))
        if self.scope == "epoch" and self.decided == "epoch":
            raise InvalidValueError(
                'scope must be "update" or "policy" when decided="epoch", got "epoch" (it is over then)'
            )

    def is_exceeded_by(self, kl: float | np.floating) -> bool:
        """``True`` if the policy has moved too far.

        :param kl: mean estimate of KL(old ‖ new); nats.
        :return: ``kl > factor * target``, strictly. A float32 is compared in float32, as SB3 does.
        """
        return bool(kl > self.factor * self.target)


@dataclass(frozen=True)
class AdaptiveLearningRate:
    """After each epoch, raise or lower the learning rate so that the KL stays near a threshold (skrl's
    ``KLAdaptiveLR``).

    It takes the place of the learning-rate schedule: the constructor's learning rate is only where it starts. What it
    arrived at is saved with the model.

    :param threshold: the KL(old ‖ new) of an epoch that is aimed at, > 0; nats.
    :param kl_factor: nothing changes between ``threshold / kl_factor`` and ``threshold * kl_factor``; > 1.
    :param lr_factor: size of a change; > 1.
    :param bounds: smallest and largest learning rate.
    :param estimator: ``"k1"``, ``"k2"``, ``"k3"`` or ``"exact"``.
    """

    threshold: float = 0.008
    kl_factor: float = 2.0
    lr_factor: float = 1.5
    bounds: tuple[float, float] = (1e-6, 1e-2)
    estimator: Literal["k1", "k2", "k3", "exact"] = "k3"

    def __post_init__(self) -> None:
        check_positive("threshold", self.threshold)
        for name in ("kl_factor", "lr_factor"):
            if not getattr(self, name) > 1:
                raise InvalidValueError(f"{name} must be > 1, got {getattr(self, name)}")
        check_choice("estimator", self.estimator, ESTIMATORS)
        if not 0 < self.bounds[0] <= self.bounds[1] < float("inf"):
            raise InvalidValueError(f"bounds must satisfy 0 < low <= high, got {self.bounds}")

    def next_learning_rate(self, learning_rate: float, kl: float) -> float:
        """The learning rate for the next epoch.

        :param learning_rate: of this one.
        :param kl: mean estimate of KL(old ‖ new) over this epoch's minibatches; nats.
        :return: the new one; the old one if the KL is NaN.
        """
        return adapted_learning_rate(learning_rate, kl, self.threshold, self.kl_factor, self.lr_factor, self.bounds)


KLControl = EarlyStop | AdaptiveLearningRate
