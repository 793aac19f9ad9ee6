"""What of a rollout stays on the accelerator where it was computed.

A policy on a GPU sees each observation there when it acts; sending the whole rollout a second time when it learns would
double the traffic, and asking for values and log-probabilities at every step would make Python wait for the GPU twice
as often as the environments do. So observations stay, values and log-probabilities come back once a rollout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th


def is_resident_on(device: th.device) -> bool:
    """Whether a rollout had better stay on a device: not where NumPy reads the same memory.

    :param device: of the policy.
    :return: ``False`` for a CPU.
    """
    return device.type != "cpu"


class ResidentRollout:
    """Tensors ``[B, T, ...]`` on a device: their flat order is the order of the samples.

    :param observations: ``[T, B, ...]`` arrays of the rollout buffer, by key; here their shapes and dtypes count.
    :param device: of the policy.
    """

    def __init__(self, observations: dict[Any, np.ndarray], device: th.device):
        self.observations = {
            key: th.from_numpy(np.zeros_like(array.swapaxes(0, 1))).to(device) for key, array in observations.items()
        }
        #: (B, T).
        self.size = tuple(next(iter(self.observations.values())).shape[:2])
        #: Values and log-probabilities.
        self.said = [th.zeros(self.size, device=device) for _ in range(2)]
        self._n_seen = 0
        #: Steps whose values and log-probabilities nobody has asked for yet: the first, and the one after the last.
        self._unread: tuple[int, int] | None = None

    def reset(self) -> None:
        """Begin a new rollout in the same memory."""
        self._n_seen = 0
        self._unread = None

    def see(self, step: int, observations: Any) -> None:
        """Keep what the policy looked at.

        :param step: of the rollout; each is seen once.
        :param observations: ``[B, ...]`` tensor or dict of tensors, on the device.
        """
        for key, kept in self.observations.items():
            part = observations if key is None else observations[key]
            kept[:, step] = part.reshape(kept[:, step].shape)
        self._n_seen += 1

    def say(self, step: int, values: th.Tensor, log_probs: th.Tensor) -> None:
        """Keep what the policy said.

        :param step: of the rollout.
        :param values: V(s), ``[B]`` or ``[B, 1]``.
        :param log_probs: log π(a|s), ``[B]``.
        """
        for kept, said in zip(self.said, (values, log_probs), strict=True):
            kept[:, step] = said.detach().reshape(-1)
        first = step if self._unread is None else self._unread[0]
        self._unread = first, step + 1

    def read_into(self, arrays: Sequence[np.ndarray]) -> None:
        """Bring to the host what has been said since this was last called.

        :param arrays: ``[T, B]`` each, values and log-probabilities; written to.
        """
        if self._unread is None:
            return
        rows, self._unread = slice(*self._unread), None
        for array, kept in zip(arrays, self.said, strict=True):
            array[rows] = kept[:, rows].cpu().numpy().T

    def seen(self, n_steps: int) -> dict[Any, th.Tensor] | None:
        """All observations of a rollout.

        :param n_steps: that it has.
        :return: ``[B·T, ...]`` by key; ``None`` if some were not seen here, as in a rollout taken up from a file.
        """
        if self._n_seen < n_steps:
            return None
        return {key: kept.flatten(0, 1) for key, kept in self.observations.items()}
