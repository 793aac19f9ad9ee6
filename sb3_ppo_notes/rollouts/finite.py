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


def check_reward(reward: Any) -> None:
    """Refuse what NumPy would turn into a number, or into a NaN, though it is none: ``"1"``, ``None``.

    :param reward: of one environment, as it paid it.
    :raises TypeError: if it is no number.
    """
    if type(reward) is not float and (reward is None or isinstance(reward, str | bytes)):
        raise TypeError(f"reward must be a number, got {type(reward).__name__} {reward!r}")


class FiniteGuard:
    """Checks observations and rewards before an outer wrapper averages them.

    ``VecNormalize`` takes every observation into its running statistics as it passes, and one NaN stays in them for
    ever. The guard takes the place of ``reset`` and ``step_wait`` of the very object underneath. It adds no wrapper:
    SB3 compares the wrappers of training and evaluation environments level by level.

    :param venv: the environments to watch; nothing of what they return is changed.
    """

    def __init__(self, venv: VecEnv):
        self.n_envs = venv.num_envs
        self.steps_seen = 0
        self._reset, self._step_wait = venv.reset, venv.step_wait

    def reset(self) -> VecEnvObs:
        """First observations of all environments.

        :return: ``[B, ...]``, unchanged.
        :raises NonFiniteError: if one of them is not finite.
        """
        observations = self._reset()
        check_finite("observation", observations, self.steps_seen)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """One step of all environments.

        :return: observations, rewards, dones and infos, unchanged.
        :raises NonFiniteError: if an observation or a reward is not finite.
        """
        observations, rewards, dones, infos = self._step_wait()
        self.steps_seen += self.n_envs
        check_finite("reward", rewards, self.steps_seen)
        check_finite("observation", observations, self.steps_seen)
        return observations, rewards, dones, infos


def guard_normalizer(env: VecEnv) -> VecEnv:
    """Put a :class:`FiniteGuard` under every ``VecNormalize`` that has none yet.

    This reaches into the caller's environments, on purpose and once: there is no place outside from which the
    statistics could be saved.

    :param env: the training environments.
    :return: the same object.
    """
    wrapper = env
    while isinstance(wrapper, VecEnvWrapper):
        guarded = getattr(vars(wrapper.venv).get("step_wait"), "__self__", None)
        if isinstance(wrapper, VecNormalize) and not isinstance(guarded, FiniteGuard):
            guard = FiniteGuard(wrapper.venv)
            wrapper.venv.reset = guard.reset  # type: ignore[method-assign]
            wrapper.venv.step_wait = guard.step_wait  # type: ignore[method-assign]
        wrapper = wrapper.venv
    return env
