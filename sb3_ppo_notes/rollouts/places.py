"""Which environment raised, at which step and after which action: written under an error that passes by."""

import logging
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_notes.rollouts.worker_errors import EnvWorkerError

logger = logging.getLogger("sb3_ppo_notes")


def add_place(error: Exception, actions: np.ndarray, step: int) -> None:
    """Note on an error where in the training it was raised. The error itself stays what it was.

    :param error: out of the environments' step.
    :param actions: ``[B, ...]`` that the environments were given.
    :param step: environment steps with this one.
    """
    index = _index_of(error)
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
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _index_of(error: Exception) -> int | None:
    if isinstance(error, EnvWorkerError):
        return error.index
    for frame in frames_of(error):
        # DummyVecEnv and LeanVecEnv step one after the other, and know at which they are.
        names: dict[str, Any] = frame.f_locals
        if frame.f_code.co_name == "step_wait" and isinstance(names.get("self"), DummyVecEnv):
            index = names.get("env_idx", names.get("index"))
            return None if index is None else int(index)
    return None
