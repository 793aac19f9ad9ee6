"""Observations of single environments as a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_ppo_notes.formulas.checks import InvalidValueError


def stacked(observations: Sequence[Any], space: spaces.Space[Any]) -> VecEnvObs:
    """Observations of single environments as a batch.

    :param observations: one an environment.
    :param space: of one environment.
    :return: ``[B, ...]``, or a dict or tuple of such arrays.
    :raises ValueError: if one is not of the space's shape, naming the environment.
    """
    if isinstance(space, spaces.Dict):
        parts = {key: [each[key] for each in observations] for key in space.spaces}
        return {key: _stacked(part, space[key], f"[{key!r}]") for key, part in parts.items()}
    if isinstance(space, spaces.Tuple):
        columns = ([each[number] for each in observations] for number in range(len(space.spaces)))
        return tuple(_stacked(part, space[number], f"[{number}]") for number, part in enumerate(columns))
    return _stacked(observations, space, "")


def _stacked(parts: Sequence[Any], space: spaces.Space[Any], key: str) -> np.ndarray:
    for index, part in enumerate(parts):
        if space.shape is not None and np.shape(part) != space.shape:
            raise InvalidValueError(
                f"observation{key} must have the shape {space.shape} of its space, got {np.shape(part)} from "
                f"environment {index}"
            )
    return np.stack(parts)
