"""Observations of another shape than their space promises: one error for all, in place of NumPy's and PyTorch's."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_notes.envs.lean_vec_env import LeanVecEnv
from sb3_ppo_notes.envs.stacking import check_shapes_of_observations
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rollouts.places import frames_of


def check_batch(observations: Any, space: spaces.Space[Any], n_envs: int) -> None:
    """Refuse a batch of observations that the space cannot hold.

    :param observations: ``[B, ...]``, or a dict of such arrays.
    :param space: of one observation.
    :param n_envs: B.
    :raises ValueError: naming both shapes. One that can be reshaped passes, as in SB3's buffers.
    """
    if isinstance(space, spaces.Dict):
        parts = [(f"[{key!r}]", observations[key], part) for key, part in space.spaces.items()]
    else:
        parts = [("", observations, space)]
    for key, array, part in parts:
        shape = part.shape or ()
        if isinstance(array, np.ndarray) and array.size != n_envs * math.prod(shape):
            raise InvalidValueError(
                f"observation{key} must have the shape {(n_envs, *shape)}, {n_envs} times its space, got {array.shape}"
            )


def shape_error(error: Exception, space: spaces.Space[Any]) -> InvalidValueError | None:
    """A clear error in place of NumPy's, if one environment's observation did not fit the others or its space.

    :param error: out of ``reset`` or ``step`` of SB3's vectorised environments.
    :param space: of one observation.
    :return: an error that names the environment and both shapes; ``None`` if it was about something else.
    """
    if isinstance(error, InvalidValueError) or not isinstance(error, ValueError):
        return None
    for frame in frames_of(error):
        names: dict[str, Any] = frame.f_locals
        if frame.f_code.co_name == "_stack_obs" and isinstance(names.get("obs_list"), Sequence):
            return _misfit(names["obs_list"], space, 0)
        if frame.f_code is DummyVecEnv._save_obs.__code__:
            venv, index, observation = (names[name] for name in frame.f_code.co_varnames[:3])
            # The environments' own space: wrappers may have changed the model's.
            return _misfit([observation], venv.observation_space, index)
        if frame.f_code is LeanVecEnv.step_wait.__code__ and "observation" in names:
            return _misfit([names["observation"]], names["self"].observation_space, names["index"])
    return None


def _misfit(observations: Sequence[Any], space: spaces.Space[Any], first: int) -> InvalidValueError | None:
    try:
        check_shapes_of_observations(observations, space, first)
    except InvalidValueError as error:
        return error
    except (TypeError, KeyError, ValueError):
        return None  # not even made as the space says: the environment's own error stands
    return None
