"""The part of a rule that goes on from one update to the next."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleState:
    """The numbers that KL control has arrived at. Saved with the model.

    :param learning_rate: of an adaptive learning rate; ``None`` before the first update, or without one.
    :param kl_coef: coefficient of a KL penalty; ``None`` before the first update, or without one.
    """

    learning_rate: float | None = None
    kl_coef: float | None = None
