"""The smallest environments in which a question has an answer that can be worked out by hand."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

#: All there is to be seen where there is one state.
NOTHING = np.zeros(1, dtype=np.float32)


class OneState(gym.Env[np.ndarray, np.int64]):
    """One observation, in which nothing is to be seen.

    :param n_actions: how many actions there are.
    """

    def __init__(self, n_actions: int = 2) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), dtype=np.float32)
        self.action_space = spaces.Discrete(n_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin.

        :param seed: of nothing.
        :param options: none.
        :return: the one observation, no information.
        """
        super().reset(seed=seed)
        return NOTHING.copy(), {}


class Forever(OneState):
    """One state, a reward of 1 a step, and no end: with γ < 1 the state is worth 1/(1−γ); for a ``TimeLimit``."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go on.

        :param action: any.
        :return: the one observation, 1, never an end.
        """
        return NOTHING.copy(), 1.0, False, False, {}


class Bandit(OneState):
    """One state, one step an episode, and a reward for each action.

    :param rewards: of the actions.
    """

    def __init__(self, rewards: Sequence[float]) -> None:
        super().__init__(len(rewards))
        self.rewards = tuple(rewards)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pull an arm.

        :param action: which.
        :return: the one observation, the arm's reward, the end.
        """
        return NOTHING.copy(), self.rewards[int(action)], True, False, {}


class Meeting(OneState):
    """A step that waits until all guests have come: it can only return where the others step at the same time.

    Each step leaves a file and waits for those of the others; the reward is how many guests it has seen. No clock is
    read to find out what runs at once, only to give up in the end.

    :param folder: an empty one, the same for all guests.
    :param guest: 0, 1, 2 …: this one's number.
    :param guests: how many there are.
    :param patience: seconds after which a step returns with those who came.
    """

    def __init__(self, folder: str, guest: int, guests: int, patience: float) -> None:
        super().__init__()
        self.folder, self.guest, self.guests, self.patience = Path(folder), guest, guests, patience
        self.steps = 0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Come to the meeting.

        :param action: any.
        :return: the one observation, the number of guests that were seen, no end, and when it came and went in seconds
            of the epoch.
        """
        came = time.time()
        self.steps += 1
        arrive(self.folder, self.guest, self.steps)
        seen = 0
        while seen < self.guests and time.time() - came < self.patience:
            seen = len(list(self.folder.glob(f"{self.steps}-*")))
            time.sleep(0.001)
        return NOTHING.copy(), float(seen), False, False, {"came": came, "went": time.time()}


def arrive(folder: Path, guest: int, step: int) -> None:
    """Leave the file that says that a guest has come to a meeting.

    :param folder: of the meeting.
    :param guest: whose.
    :param step: to which of the meetings, from 1.
    """
    (folder / f"{step}-{guest}").touch()


class Countdown(gym.Env[np.ndarray, np.int64]):
    """An episode of so many steps; to be seen is how many have been made.

    :param length: of every episode.
    """

    def __init__(self, length: int) -> None:
        self.length, self.steps = length, 0
        self.observation_space = spaces.Box(0, length, (1,), dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin.

        :param seed: of nothing.
        :param options: none.
        :return: 0, no information.
        """
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go on.

        :param action: any.
        :return: the number of steps so far, 1, and whether they are all.
        """
        self.steps += 1
        return np.full(1, self.steps, dtype=np.float32), 1.0, self.steps == self.length, False, {}
