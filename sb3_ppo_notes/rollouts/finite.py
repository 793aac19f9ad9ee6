"""Stopping NaN and infinity where they enter: at the environment, before a statistic, a buffer or a weight has seen
them.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ppo_notes.formulas.checks import NonFiniteError


def check_finite(what: str, array: Any, step: int) -> None:
    """Refuse a batch with a NaN or an infinity in it.

    :param what: what the numbers are, first word of the message.
    :param array: ``[B, ...]``, one row an environment, or a dict of such arrays.
    :param step: environment steps taken so far, for the message.
    :raises NonFiniteError: naming the environment, the step and the first bad number.
    """
    if isinstance(array, dict):
        for key, part in array.items():
            check_finite(f"{what}[{key!r}]", part, step)
        return
    # Images and other integers cannot be NaN, and looking at each pixel would cost more than the step.
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    position = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
    place = f" at index {position[1:]}" if len(position) > 1 else ""
    raise NonFiniteError(
        f"{what} must be finite, got {array[position]}{place} from environment {position[0]} at step {step}; "
        "nothing was learned from it"
    )


class FiniteVecEnv(VecEnvWrapper):
    """Checks observations and rewards before an outer wrapper averages them.

    ``VecNormalize`` takes every observation into its running statistics as it passes, and one NaN stays in them for
    ever. This wrapper sits underneath and raises first.

    :param venv: the environments to watch; nothing of what they return is changed.
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.steps_seen = 0

    def reset(self) -> VecEnvObs:
        """First observations of all environments.

        :return: ``[B, ...]``, unchanged.
        :raises NonFiniteError: if one of them is not finite.
        """
        observations = self.venv.reset()
        check_finite("observation", observations, self.steps_seen)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """One step of all environments.

        :return: observations, rewards, dones and infos, unchanged.
        :raises NonFiniteError: if an observation or a reward is not finite.
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps_seen += self.num_envs
        check_finite("reward", rewards, self.steps_seen)
        check_finite("observation", observations, self.steps_seen)
        return observations, rewards, dones, infos


def guard_normalizer(env: VecEnv) -> VecEnv:
    """Put a :class:`FiniteVecEnv` under every ``VecNormalize`` that has none yet.

    This reaches into the caller's wrapper, on purpose and once: there is no place outside from which its statistics
    could be saved.

    :param env: the training environments.
    :return: the same object.
    """
    wrapper = env
    while isinstance(wrapper, VecEnvWrapper):
        if isinstance(wrapper, VecNormalize) and not isinstance(wrapper.venv, FiniteVecEnv):
            wrapper.venv = FiniteVecEnv(wrapper.venv)
        wrapper = wrapper.venv
    return env
