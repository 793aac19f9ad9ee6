"""Observations far outside the space that promised to hold them: told once, with their share."""

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_ppo_notes.envs.wrappers import StreamingNormalize


class ObservationRangeWarning(UserWarning):
    """Observations lie far outside their space. A filter makes it an error: ``warnings.simplefilter("error", ...)``."""


def warn_of_far_observations(model: Any, env: VecEnv, rollout_buffer: RolloutBuffer) -> None:
    """Warn, once in a model's life, of observations that lie outside their space by more than its width.

    A network has been told nothing about such numbers, and one of them can outweigh all others in a gradient. A space
    that is a little too narrow is common and harmless.

    :param model: remembers that it has warned.
    :param env: the training environments; what a normaliser has rescaled is not compared with the raw bounds.
    :param rollout_buffer: full.
    """
    if getattr(model, "_warned_of_range", False) or _is_rescaled(env):
        return
    observations, space = rollout_buffer.observations, model.observation_space
    is_dict = isinstance(space, spaces.Dict)
    parts = {f"[{key!r}]": (observations[key], space[key]) for key in space} if is_dict else {"": (observations, space)}
    for key, (part, its_space) in parts.items():
        share = share_far_outside(part, its_space)
        if share > 0:
            model._warned_of_range = True
            warnings.warn(
                f"{share:.2%} of the numbers in observation{key} lie outside of {its_space} by more than its width: "
                "correct the space, scale the observations, or use VecNormalize (this is said once)",
                ObservationRangeWarning,
                stacklevel=2,
            )
            return


def share_far_outside(observations: np.ndarray, space: spaces.Space[Any]) -> float:
    """How many numbers lie outside a Box by more than its width.

    :param observations: ``[..., *space.shape]``.
    :param space: of one observation.
    :return: a share of all numbers; 0 for other spaces, for whole numbers, and where there is no bound.

    >>> share_far_outside(np.array([[0.5], [1.5], [2.5], [-9.0]]), spaces.Box(0, 1, (1,)))
    0.5
    """
    # Pixels cannot leave 0 to 255, and there are many.
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        return 0.0
    # In float64: a bound of float32 plus a width may overflow. Without a bound the width is infinite, all is inside.
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    width = high - low
    is_far = (observations < low - width) | (observations > high + width)
    return float(np.mean(is_far)) if is_far.any() else 0.0


def _is_rescaled(env: VecEnv) -> bool:
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, StreamingNormalize) or (isinstance(env, VecNormalize) and env.norm_obs):
            return True
        env = env.venv
    return False
