"""The slot of optimisation: minibatches and optimisers."""

from dataclasses import dataclass
from typing import Literal

from sb3_ppo_notes.formulas.checks import InvalidTypeError, check_choice, check_flag, check_integer, check_positive
from sb3_ppo_notes.rules.schedules import Schedule, check_schedule


@dataclass(frozen=True)
class OptimizerSettings:
    """One network's own optimiser.

    :param learning_rate: ≥ 0, or a schedule.
    :param n_epochs: passes over each rollout.
    :param max_grad_norm: longest gradient, ``None`` for no limit.
    """

    learning_rate: float | Schedule = 3e-4
    n_epochs: int = 10
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        check_schedule("learning_rate", self.learning_rate)
        check_integer("n_epochs", self.n_epochs, minimum=1)
        if self.max_grad_norm is not None:
            check_positive(
                "max_grad_norm", self.max_grad_norm, words="> 0, or None for no clipping", may_be_infinite=True
            )


@dataclass(frozen=True)
class SeparateOptimizers:
    """First the policy makes all its steps, then the critic all of its own: each with its optimiser, norm clip and
    number of epochs.

    Actor and critic must not share weights. With one optimiser they are coupled even then, by the norm clip of the
    common gradient.

    :param actor: the policy's.
    :param critic: the value function's.
    """

    actor: OptimizerSettings
    critic: OptimizerSettings

    def __post_init__(self) -> None:
        for name in ("actor", "critic"):
            if not isinstance(getattr(self, name), OptimizerSettings):
                raise InvalidTypeError(f"{name} must be OptimizerSettings, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Optimization:
    """Order and size of an epoch's minibatches, and the number of optimisers.

    :param order: ``"shuffled"`` anew each epoch, or ``"sequential"``, the order in which the steps were gathered (all
        environments' first steps, then all their second steps, …).
    :param drop_last: leave out a last minibatch that is smaller than the others.
    :param separate: two optimisers in place of one; ``learning_rate``, ``n_epochs`` and ``max_grad_norm`` of the
        algorithm then have no say.
    """

    order: Literal["shuffled", "sequential"] = "shuffled"
    drop_last: bool = False
    separate: SeparateOptimizers | None = None

    def __post_init__(self) -> None:
        check_choice("order", self.order, ("shuffled", "sequential"))
        check_flag("drop_last", self.drop_last)
        if not (self.separate is None or isinstance(self.separate, SeparateOptimizers)):
            raise InvalidTypeError(f"separate must be SeparateOptimizers or None, got {self.separate!r}")
