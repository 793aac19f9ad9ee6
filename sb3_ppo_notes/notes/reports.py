"""What an experiment notes down of a training."""

from typing import Literal

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.algorithms.report import UpdateReport


class Reports(BaseCallback):
    """Keeps the reports of a training.

    :param window: one of each minibatch, of each epoch or of each update.
    """

    def __init__(self, window: Literal["minibatch", "epoch", "update"]) -> None:
        super().__init__()
        self.reports: list[UpdateReport] = []
        setattr(self, f"on_{window}", self.reports.append)

    def _on_step(self) -> bool:
        return True
