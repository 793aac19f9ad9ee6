"""Stopping NaN and infinity where they enter: at the environment, before a statistic, a buffer or a weight has seen
them. Observations far outside of their space are only warned of.
"""

import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ppo_notes.envs.rewards import check_reward
from sb3_ppo_notes.envs.sharded_vec_env import ShardedVecEnv, wrappers_of
from sb3_ppo_notes.envs.torch_vec_env import refuse_tensors
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
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
        refuse_tensors(observations)
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
    elif isinstance(wrapper, ShardedVecEnv):
        for shard in wrapper.shards:
            guard_environments(shard)
    return env


# -- far outside --------------------------------------------------------------------------------------------------


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
    """The share of numbers that lie outside a Box by more than its width.

    :param observations: ``[..., *space.shape]``.
    :param space: of one observation.
    :return: 0 for other spaces, for whole numbers, and where there is no bound.

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
    return any(
        isinstance(wrapper, StreamingNormalize) or (isinstance(wrapper, VecNormalize) and wrapper.norm_obs)
        for wrapper in wrappers_of(env)
    )
