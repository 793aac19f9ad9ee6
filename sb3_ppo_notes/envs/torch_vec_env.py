"""Environments that step side by side on a device and deal in torch tensors, as an SB3 ``VecEnv``."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_ppo_notes.envs.autoreset import SAME_STEP, autoreset_mode
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_positive

#: Keys under which libraries put an episode's last observations into the infos of the step that ended it.
LAST_OBSERVATIONS = ("final_obs", "final_observation")


class TorchVecEnv(VecEnv):
    """Environments of Isaac Lab's kind: NumPy arrays outside, tensors on the environments' device inside.

    SB3's rollout buffer, ``VecNormalize`` and callbacks are made of NumPy, so a step costs one transfer from the device
    (observations, rewards and ends together, as far as they are 32-bit floats) and one to it (actions). All else stays
    where it is.

    The step that ends an episode must return the first observation of the next one. Its info holds ``episode``,
    ``TimeLimit.truncated`` (truncated and not terminated) and ``terminal_observation``: what the environments report as
    ``final_obs`` or ``final_observation``, else the observation *before* the last step. The latter is rsl_rl's way out
    for simulators that keep no last observation; V of it stands for V of the next one where a time limit is
    bootstrapped. What else they report of the last step is :attr:`extras`.

    :param env: environments with ``num_envs``, ``single_observation_space`` and ``single_action_space``, whose
        ``step(actions)`` returns observations, rewards, terminations, truncations and infos; or an SB3 ``VecEnv``,
        whose infos say what its episodes ended with.
    :param observations: of a Dict of observations the part that the policy sees (Isaac Lab: ``"policy"``); ``None``
        for all.
    :param action_bound: > 0; largest absolute action where the action space has no bounds, in its unit.
    :raises ValueError: if the environment begins an episode at another step than the one that ended the last one, or
        has no such part.
    :raises TypeError: if it is one environment, or none.
    """

    def __init__(self, env: Any, observations: str | None = None, action_bound: float = 100.0):
        check_positive("action_bound", action_bound)
        self.env = env
        self.extras: Any = {}
        self._base = getattr(env, "unwrapped", env)
        self._is_vec_env = isinstance(env, VecEnv)
        observation_space, action_space = self._spaces()
        self._part = observations
        if observations is not None:
            if not isinstance(observation_space, spaces.Dict) or observations not in observation_space.spaces:
                raise InvalidValueError(
                    f"observations must be a part of {observation_space}, or None for all of it, got {observations!r}"
                )
            observation_space = observation_space[observations]
        self._keys = list(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else [None]
        super().__init__(self._base.num_envs, observation_space, _bounded(action_space, action_bound))
        self.metadata = dict(getattr(self._base, "metadata", None) or {})
        #: The newest observations, on this side; their device, on the other.
        self._newest: list[np.ndarray] = []
        self._device: str | None = None
        self._actions: Any = None
        self._episode_returns = np.zeros(self.num_envs)
        self._episode_lengths = np.zeros(self.num_envs, dtype=int)
        self._t_start = time.time()

    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        if self._is_vec_env:
            return self.env.observation_space, self.env.action_space
        if isinstance(self.env, VectorEnv) and (mode := autoreset_mode(self.env)) != SAME_STEP:
            raise InvalidValueError(
                f"env must begin an episode in the step that ended the last one, got {mode} from "
                f"{type(self._base).__name__}: build it with AutoresetMode.SAME_STEP"
            )
        if not steps_many(self.env):
            raise InvalidTypeError(
                "env must step several environments at once (num_envs, single_observation_space, "
                f"single_action_space), got {type(self._base).__name__}"
            )
        return self._base.single_observation_space, self._base.single_action_space

    def reset(self) -> VecEnvObs:
        if self._is_vec_env:
            observations = self.env.reset()
        else:
            observations, self.extras = self.env.reset(seed=self._seeds[0], options=dict(self._options[0]) or None)
        self._reset_seeds()
        self._reset_options()
        self._episode_returns[:] = 0
        self._episode_lengths[:] = 0
        parts = self._parts(observations)
        self._device = str(parts[0].device)
        self._newest = self._as_spaces(_to_host(parts))
        first: VecEnvObs = self._joined(self._newest)
        return first

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        if self._is_vec_env:
            seeds: Sequence[int | None] = self.env.seed(seed)
            return seeds
        return super().seed(seed)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, *ends, self.extras = self.env.step(th.as_tensor(self._actions, device=self._device))
        parts = self._parts(observations)
        arrays = _to_host([*parts, rewards, *ends])
        before, self._newest = self._newest, self._as_spaces(arrays[: len(parts)])
        paid, *stops = [array.reshape(self.num_envs) for array in arrays[len(parts) :]]
        dones = np.logical_or.reduce(stops)
        self._episode_returns += paid
        self._episode_lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            last = self._last_observations(before)
            for index in np.flatnonzero(dones).tolist():
                told = self.extras[index] if self._is_vec_env else {}
                cut = told.get("TimeLimit.truncated", False) if self._is_vec_env else stops[1][index] > stops[0][index]
                infos[index] = {
                    "TimeLimit.truncated": bool(cut),
                    "terminal_observation": self._terminal_observation(told, last, index),
                    "episode": self._episode(index),
                }
            self._episode_returns[dones] = 0
            self._episode_lengths[dones] = 0
        return self._joined(self._newest), paid.astype(np.float32), dones, infos

    def _last_observations(self, before: list[np.ndarray]) -> list[np.ndarray]:
        """Of all environments, the ended ones' own or what was seen before the step."""
        if not self._is_vec_env and isinstance(self.extras, Mapping):
            for key in LAST_OBSERVATIONS:
                if self.extras.get(key) is not None:
                    return self._as_spaces(_to_host(self._parts(self.extras[key])))
        return before

    def _terminal_observation(self, told: Mapping[str, Any], last: list[np.ndarray], index: int) -> Any:
        own = told.get("terminal_observation")
        if own is None:
            return self._joined([part[index].copy() for part in last])
        return self._joined(self._as_spaces(_to_host([th.as_tensor(part) for part in self._parts(own)])))

    def _episode(self, index: int) -> dict[str, Any]:
        """As ``Monitor`` reports it."""
        episode_return, length = float(self._episode_returns[index]), int(self._episode_lengths[index])
        return {"r": round(episode_return, 6), "l": length, "t": round(time.time() - self._t_start, 6)}

    def _parts(self, observations: Any) -> list[Any]:
        if self._part is not None:
            observations = observations[self._part]
        return [observations if key is None else observations[key] for key in self._keys]

    def _joined(self, parts: list[Any]) -> Any:
        return parts[0] if self._keys == [None] else dict(zip(self._keys, parts, strict=True))

    def _as_spaces(self, parts: list[Any]) -> list[np.ndarray]:
        own: Any = self.observation_space
        each = [own if key is None else own[key] for key in self._keys]
        return [np.asarray(part, dtype=space.dtype) for part, space in zip(parts, each, strict=True)]

    # -- attributes, methods and pictures -----------------------------------------------------------------------------

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        pictures: Any = self.env.get_images() if self._is_vec_env else self.env.render()
        return [None] * self.num_envs if pictures is None else list(pictures)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if self._is_vec_env:
            return list(self.env.get_attr(attr_name, indices))
        default = (None,) if attr_name == "render_mode" else ()
        return [getattr(self._base, attr_name, *default) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if self._is_vec_env:
            self.env.set_attr(attr_name, value, indices)
        elif sorted(self._get_indices(indices)) == list(range(self.num_envs)):
            setattr(self._base, attr_name, value)
        else:
            raise InvalidValueError(f"indices must be None for {type(self._base).__name__}, got {indices}")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        if self._is_vec_env:
            return list(self.env.env_method(method_name, *method_args, indices=indices, **method_kwargs))
        name = type(self._base).__name__
        raise InvalidValueError(
            f"method_name must be one that {name} can call in each environment, got {method_name!r}"
        )

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        # A Monitor's work is done here.
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]


def steps_many(env: Any) -> bool:
    """``True`` for a Gymnasium environment that is several at once without being a ``VectorEnv``, as Isaac Lab's are.

    :param env: an environment, wrapped or not.
    :return: told by its attributes.
    """
    base = getattr(env, "unwrapped", env)
    return all(hasattr(base, name) for name in ("num_envs", "single_observation_space", "single_action_space"))


def refuse_tensors(observations: Any) -> None:
    """Refuse what NumPy's side of a training cannot take, naming the adapter.

    :param observations: of a ``VecEnv``: arrays, or a dictionary of them.
    :raises TypeError: if one is a tensor.
    """
    for part in observations.values() if isinstance(observations, Mapping) else (observations,):
        if isinstance(part, th.Tensor):
            raise InvalidTypeError(
                f"env must return NumPy arrays, got a tensor on {part.device}: "
                "give the algorithm sb3_ppo_notes.envs.TorchVecEnv(env)"
            )


def _bounded(space: spaces.Space[Any], bound: float) -> spaces.Space[Any]:
    if not isinstance(space, spaces.Box) or space.is_bounded("both"):
        return space
    low, high = np.maximum(space.low, -bound), np.minimum(space.high, bound)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _to_host(tensors: Sequence[Any]) -> list[np.ndarray]:
    """Arrays of tensors, all of them the caller's own; 32-bit floats and truth values cross together."""
    together = [tensor for tensor in tensors if tensor.dtype in (th.float32, th.bool)]
    crossed: list[np.ndarray] = []
    if together:
        flat = th.cat([tensor.detach().reshape(-1).to(th.float32) for tensor in together]).cpu().numpy()
        crossed = np.split(flat, np.cumsum([tensor.numel() for tensor in together])[:-1])
    arrays = []
    for tensor in tensors:
        if tensor.dtype in (th.float32, th.bool):
            arrays.append(crossed.pop(0).reshape(tensor.shape))
        else:
            arrays.append(tensor.detach().cpu().numpy().copy())
    return arrays
