"""The slot that says in which portions the rollout is gone through."""

from dataclasses import dataclass

from sb3_ppo_notes.formulas.checks import check_flag


@dataclass(frozen=True)
class Optimization:
    """How an epoch is cut into minibatches. One optimiser steps actor and critic together.

    :param shuffle: a new random order each epoch; ``False`` keeps the order of the rollout.
    :param drop_last: leave out a last minibatch that is smaller than the others.
    """

    shuffle: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        check_flag("shuffle", self.shuffle)
        check_flag("drop_last", self.drop_last)
