"""Errors of an environment's step: where they were raised, and a clear one for observations of a wrong shape."""

import logging
import math
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ppo_notes.envs.lean_vec_env import LeanVecEnv
from sb3_ppo_notes.envs.stacking import check_shapes_of_observations
from sb3_ppo_notes.envs.torch_vec_env import refuse_tensors
from sb3_ppo_notes.envs.worker_errors import EnvWorkerError
from sb3_ppo_notes.formulas.checks import InvalidValueError

logger = logging.getLogger("sb3_ppo_notes")


def add_place(error: Exception, env: VecEnv, actions: np.ndarray, step: int) -> None:
    """Add environment, step and action to an error (a note, PEP 678). The error itself stays what it was.

    :param error: out of the environments' step.
    :param env: those environments.
    :param actions: ``[B, ...]`` that the environments were given.
    :param step: environment steps with this one.
    """
    index = _index_of(error, env)
    if index is None:
        note = f"raised in the environments' step, at step {step}"
    else:
        note = f"raised by environment {index}, at step {step}, after action {np.asarray(actions[index]).tolist()}"
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        # Python 3.10 shows no notes, and keeps them for those who ask as later versions do.
        error.__notes__ = [*getattr(error, "__notes__", []), note]
        logger.error("%s: %s", type(error).__name__, note)


def _frames_of(error: Exception) -> Iterator[FrameType]:
    """The frames that an error passed, from the outside to where it was raised."""
    return (frame for frame, _ in traceback.walk_tb(error.__traceback__))


def _index_of(error: Exception, env: VecEnv) -> int | None:
    if isinstance(error, EnvWorkerError):
        return error.index
    index = None
    envs = [id(each) for each in getattr(env.unwrapped, "envs", ())]
    for frame in _frames_of(error):
        code = frame.f_code
        first, second, *_ = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]] + [None, None]
        if id(first) in envs:
            return envs.index(id(first))
        # What the environment returned does not fit.
        if code is DummyVecEnv._save_obs.__code__:  # (self, index, obs)
            return None if second is None else int(second)
        if code is LeanVecEnv.step_wait.__code__ and "index" in frame.f_locals:
            index = int(frame.f_locals["index"])
    return index


def check_batch(observations: Any, space: spaces.Space[Any], n_envs: int) -> None:
    """Refuse a batch of observations that the space cannot hold.

    :param observations: ``[B, ...]``, or a dict of such arrays.
    :param space: of one observation.
    :param n_envs: B.
    :raises TypeError: for tensors.
    :raises ValueError: naming both shapes. One that can be reshaped passes, as in SB3's buffers.
    """
    # The space of a Dict is an abstract class of Python's: to ask for it takes longer than all the rest.
    if isinstance(observations, dict) and isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            _check_array(f"observation[{key!r}]", observations[key], part.shape or (), n_envs)
    else:
        _check_array("observation", observations, space.shape or (), n_envs)


def _check_array(name: str, array: Any, shape: tuple[int, ...], n_envs: int) -> None:
    if not isinstance(array, np.ndarray):
        refuse_tensors(array)
    elif array.size != n_envs * math.prod(shape):
        raise InvalidValueError(
            f"{name} must have the shape {(n_envs, *shape)}, {n_envs} times its space, got {array.shape}"
        )


def shape_error(error: Exception, space: spaces.Space[Any]) -> InvalidValueError | None:
    """A clear error in place of NumPy's, if one environment's observation did not fit the others or its space.

    :param error: out of ``reset`` or ``step`` of SB3's vectorised environments.
    :param space: of one observation.
    :return: an error that names the environment and both shapes; ``None`` if it was about something else.
    """
    if isinstance(error, InvalidValueError) or not isinstance(error, ValueError):
        return None
    for frame in _frames_of(error):
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
