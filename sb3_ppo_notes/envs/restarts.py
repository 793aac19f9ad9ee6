"""A limit to restarts of broken environments: so many within so many seconds."""

import logging
import time
from collections import Counter, deque
from typing import Any

from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_ppo_notes.envs.worker_errors import EnvWorkerError

logger = logging.getLogger("sb3_ppo_notes")


class RestartBudget:
    """Counts restarts of all environments: ``max_restarts`` within ``window`` seconds, or ever if that is ``None``."""

    def __init__(self, max_restarts: int, window: float | None):
        self.max_restarts = max_restarts
        self.window = window
        #: All restarts ever.
        self.total = 0
        self._recent: deque[tuple[float, int]] = deque()

    def spend(self, index: int, error: EnvWorkerError) -> EnvWorkerError | None:
        """Count and log one more restart, or return the error to raise if the budget is used up."""
        now = time.monotonic()
        while self._recent and self.window is not None and now - self._recent[0][0] > self.window:
            self._recent.popleft()
        if len(self._recent) >= self.max_restarts:
            return self._refusal(index, error)
        self._recent.append((now, index))
        self.total += 1
        logger.warning("restart %d (%s): %s", self.total, self._allowed, error)
        return None

    @property
    def _allowed(self) -> str:
        within = "" if self.window is None else f" within restart_window={self.window:g} s"
        return f"max_restarts={self.max_restarts}{within}"

    def _refusal(self, index: int, error: EnvWorkerError) -> EnvWorkerError:
        counts = Counter(restarted for _, restarted in self._recent)
        each = ", ".join(f"environment {number}: {count}" for number, count in sorted(counts.items()))
        message = f"{error}; it is not restarted, because {self._allowed} are used up ({each or 'none is allowed'})"
        return type(error)(message, index, error.traceback, error.exitcode, error.kind)


def restarts_of(env: Any) -> int | None:
    """Restarts of broken training environments so far, ``None`` if they cannot be restarted."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return getattr(env, "restarts", None)
