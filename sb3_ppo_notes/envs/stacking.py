"""Observations of single environments as a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_ppo_notes.formulas.checks import InvalidValueError


def stack_observations(observations: Sequence[Any], space: spaces.Space[Any]) -> VecEnvObs:
    """Observations of single environments as a batch ``[B, ...]``, or a dict or tuple of such arrays."""
    check_shapes_of_observations(observations, space)
    if isinstance(space, spaces.Dict):
        return {key: np.stack([each[key] for each in observations]) for key in space.spaces}
    if isinstance(space, spaces.Tuple):
        return tuple(np.stack([each[number] for each in observations]) for number in range(len(space.spaces)))
    return np.stack(observations)


def check_shapes_of_observations(observations: Sequence[Any], space: spaces.Space[Any], first: int = 0) -> None:
    """Refuse observations that are not of their space's shape; the first is of environment number ``first``."""
    parts = {"": space}
    if isinstance(space, spaces.Dict | spaces.Tuple):
        keys: Any = space.spaces if isinstance(space, spaces.Dict) else range(len(space.spaces))
        parts = {key: space[key] for key in keys}
    for key, part in parts.items():
        for index, observation in enumerate(observations):
            shape = np.shape(observation if part is space else observation[key])
            if part.shape is not None and shape != part.shape:
                where = "" if part is space else f"[{key!r}]"
                raise InvalidValueError(
                    f"observation{where} must have the shape {part.shape} of its space, got {shape} from environment "
                    f"{first + index}"
                )
