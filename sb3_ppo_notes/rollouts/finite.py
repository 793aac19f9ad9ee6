"""Stopping NaN and infinity where they enter: at the environment, before a statistic, a buffer or a weight has seen
them.
"""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ppo_notes.envs.rewards import check_reward
from sb3_ppo_notes.formulas.checks import NonFiniteEnvironmentError, NonFiniteError


def check_finite(what: str, array: Any, step: int) -> None:
    """Refuse a batch with a NaN or an infinity in it.

    :param what: what the numbers are, first word of the message.
    :param array: ``[B, ...]``, one row an environment, or a dict of such arrays.
    :param step: environment steps taken so far, for the message.
    :raises NonFiniteEnvironmentError: naming the environment, the step and the first bad number.
    """
    if isinstance(array, dict):
        for key, part in array.items():
            check_finite(f"{what}[{key!r}]", part, step)
        return
    if not isinstance(array, np.ndarray):
        array = np.asarray(array)  # rewards of somebody's VecEnv: a list, a tensor
    # Images and other integers cannot be NaN, and looking at each pixel would cost more than the step.
    if array.dtype.kind != "f":
        return
    if array.dtype.itemsize > 4:
        # Networks compute in float32, where 1e300 is infinite too.
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if np.isfinite(array).all():
        return
    position = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
    place = f" at index {position[1:]}" if len(position) > 1 else ""
    raise NonFiniteEnvironmentError(
        f"{what} must be finite, got {array[position]}{place} from environment {position[0]} at step {step}; "
        "nothing was learned from it"
    )


def check_actions(actions: np.ndarray, policy: th.nn.Module, step: int) -> None:
    """Refuse actions that are not finite before an environment is given them, and answers in kind.

    :param actions: ``[B, ...]``.
    :param policy: that drew them.
    :param step: environment steps taken so far, for the message.
    :raises NonFiniteError: naming the environment, the step, and the weight that is to blame if there is one.
    """
    if actions.dtype.kind == "f" and not np.isfinite(actions).all():
        position = tuple(int(index) for index in np.argwhere(~np.isfinite(actions))[0])
        raise NonFiniteError(
            f"actions of the policy must be finite, got {actions[position]} for environment {position[0]} at step "
            f"{step}{_blame(policy)}; no environment was given them"
        )


def check_terminal_observation(observation: Any, index: int) -> None:
    """Refuse a NaN or an infinity in the last observation of an episode: its value would be added to a reward.

    :param observation: of one environment; an array, or a dict of such.
    :param index: of the environment.
    :raises NonFiniteEnvironmentError: naming the environment and, in a dict, the key.
    """
    parts = observation.items() if isinstance(observation, dict) else [(None, observation)]
    for key, part in ((key, np.asarray(part)) for key, part in parts):
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            where = "" if key is None else f"[{key!r}]"
            raise NonFiniteEnvironmentError(
                f"terminal_observation{where} must be finite, got {part[~np.isfinite(part)][0]} from environment "
                f"{index} at the end of an episode; nothing was learned from it"
            )


def check_policy_output(rollout_buffer: RolloutBuffer, last_values: th.Tensor, policy: th.nn.Module, step: int) -> None:
    """Refuse a rollout in which the network itself gave NaN or infinity, before advantages are made of it.

    :param rollout_buffer: full.
    :param last_values: ``[B]``, of the observations after it.
    :param policy: that gave them.
    :param step: environment steps taken so far, for the message.
    :raises NonFiniteError: naming what, the environment, the row, and the weight that is to blame if there is one.
    """
    for what in ("values", "log_probs"):
        stored = getattr(rollout_buffer, what)
        if not np.isfinite(stored).all():
            row, environment = (int(index) for index in np.argwhere(~np.isfinite(stored))[0][:2])
            raise NonFiniteError(
                f"{what} of the policy must be finite, got {stored[row, environment]} in environment {environment} at "
                f"row {row} of the rollout that ends at step {step}{_blame(policy)}; the weights were not touched"
            )
    if not th.isfinite(last_values).all():
        raise NonFiniteError(
            f"values of the policy must be finite, got {last_values.flatten().tolist()} at step {step}{_blame(policy)}"
        )


def _blame(policy: th.nn.Module) -> str:
    bad = first_bad_weight(policy)
    return "" if bad is None else f" (weight {bad})"


def first_bad_weight(policy: th.nn.Module) -> str | None:
    """Name and value of the first weight, or buffer, that is not finite.

    :param policy: any module.
    :return: ``None`` if all are finite.
    """
    for name, tensor in [*policy.named_parameters(), *policy.named_buffers()]:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name} = {tensor[~tensor.isfinite()][0].item()}"
    return None


class CheckedRewards(np.ndarray):
    """The rewards of a ``DummyVecEnv``, one an environment, that take numbers only."""

    def __setitem__(self, index: Any, reward: Any) -> None:
        check_reward(reward, index if isinstance(index, int) else None)
        super().__setitem__(index, reward)


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


def guard_environments(env: VecEnv) -> VecEnv:
    """Put a :class:`FiniteGuard` under every ``VecNormalize`` that has none yet, and :class:`CheckedRewards` into a
    ``DummyVecEnv``.

    This reaches into the caller's environments, on purpose and once: there is no place outside from which the
    statistics could be saved, or a reward be seen before it is converted.

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
    if type(wrapper) is DummyVecEnv:
        # step_wait() returns a copy of them, which is a plain array again.
        wrapper.buf_rews = wrapper.buf_rews.view(CheckedRewards)
    return env
