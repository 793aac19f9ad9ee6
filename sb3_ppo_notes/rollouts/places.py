"""Which environment raised, at which step and after which action: written under an error that passes by."""

import logging
import traceback
from collections.abc import Iterator
from types import FrameType

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ppo_notes.envs.lean_vec_env import LeanVecEnv
from sb3_ppo_notes.envs.worker_errors import EnvWorkerError

logger = logging.getLogger("sb3_ppo_notes")


def add_place(error: Exception, env: VecEnv, actions: np.ndarray, step: int) -> None:
    """Note on an error where in the training it was raised. The error itself stays what it was.

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


def frames_of(error: Exception) -> Iterator[FrameType]:
    """Where an error came by, from the outside to where it was raised.

    :param error: that was caught.
    :return: frames.
    """
    return (frame for frame, _ in traceback.walk_tb(error.__traceback__))


def _index_of(error: Exception, env: VecEnv) -> int | None:
    if isinstance(error, EnvWorkerError):
        return error.index
    index = None
    envs = [id(each) for each in getattr(env.unwrapped, "envs", ())]
    for frame in frames_of(error):
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
