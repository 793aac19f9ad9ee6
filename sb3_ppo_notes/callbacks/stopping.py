"""Reasons to stop before the time is up."""

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback


class StopWhenAllSucceeded(BaseCallback):
    """Ends training once the last finished episode of *every* environment was a success, as the A2C notebook does.

    An environment says so by ``info["is_success"]`` at the end of an episode.

    :param verbose: 1 prints a line when it stops.
    """

    def __init__(self, verbose: int = 0):
        super().__init__(verbose)
        self.succeeded: np.ndarray = np.zeros(0, dtype=bool)

    def _on_training_start(self) -> None:
        self.succeeded = np.zeros(self.training_env.num_envs, dtype=bool)

    def _on_step(self) -> bool:
        for index in np.flatnonzero(self.locals["dones"]):
            self.succeeded[index] = bool(self.locals["infos"][index].get("is_success", False))
        if not self.succeeded.all():
            return True
        if self.verbose >= 1:
            print(f"all {len(self.succeeded)} environments succeeded after {self.num_timesteps} steps")
        return False
