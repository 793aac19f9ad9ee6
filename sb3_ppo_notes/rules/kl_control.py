"""The slot that watches how far the policy has moved, and acts on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch as th

from sb3_ppo_notes.formulas.checks import check_choice, check_positive
from sb3_ppo_notes.formulas.divergences import kl_k1, kl_k2, kl_k3

SAMPLE_ESTIMATORS: dict[str, Callable[[th.Tensor], th.Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


@dataclass(frozen=True)
class EarlyStop:
    """Stop updating on this rollout once the policy has moved far enough from the one that gathered it.

    The clip takes away the reward for going far, it does not forbid it; this does. It is checked *before* each
    optimiser step, so the minibatch that finds the limit crossed is not applied, and nothing that was applied is
    undone.

    :param target: the KL(old ‖ new) that is aimed at, > 0; nats.
    :param factor: stop above ``factor * target``; SB3 and Spinning Up 1.5, skrl 1.
    :param estimator: ``"k1"``, ``"k2"`` or ``"k3"`` of ``formulas.divergences``.
    :param scope: what is stopped: ``"update"`` all remaining minibatches and epochs.
    """

    target: float
    factor: float = 1.5
    estimator: Literal["k1", "k2", "k3"] = "k3"
    scope: Literal["update"] = "update"

    def __post_init__(self) -> None:
        check_positive("target", self.target)
        check_positive("factor", self.factor)
        check_choice("estimator", self.estimator, tuple(SAMPLE_ESTIMATORS))
        check_choice("scope", self.scope, ("update",))

    def is_exceeded_by(self, kl: float | np.floating) -> bool:
        """Whether the policy has moved too far.

        :param kl: mean estimate of KL(old ‖ new) over a minibatch; nats.
        :return: ``kl > factor * target``, strictly. A float32 is compared in float32, as SB3 does.
        """
        return bool(kl > self.factor * self.target)
