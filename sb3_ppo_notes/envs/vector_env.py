"""Any Gymnasium vector environment as an SB3 ``VecEnv``: episodes end as SB3 expects, infos cost nothing until one
does.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import obs_space_info

from sb3_ppo_notes.envs.autoreset import check_answers_for_all, info_of, is_atari, is_envpool, resets_by_mask
from sb3_ppo_notes.envs.vector_attributes import VectorAttributes
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_choice, check_flag, check_integer


class GymnasiumVecEnv(VectorAttributes):
    """A ``gymnasium.vector.VectorEnv`` with SB3's interface.

    The step that ends an episode returns the first observation of the next one. Its info holds
    ``terminal_observation``, ``TimeLimit.truncated`` (truncated and not terminated), ``episode`` (return, length and
    time, as ``Monitor`` reports them) and what the environment itself reported at the end. The infos of *unfinished*
    environments are empty dictionaries, a new one each: most steps end nothing, and taking infos apart costs more than
    a step. Sub-environments with a ``Monitor`` of their own report their episodes themselves.

    All that a step returns belongs to the caller: the environment may reuse its memory, it is copied out.
    ``step_async`` begins a step and returns at once with ``AsyncVectorEnv``, ``AtariVectorEnv`` and EnvPool; with other
    environments, and with these inside a Gymnasium wrapper, ``step_wait`` does the work.

    :param env: ``AutoresetMode.SAME_STEP`` or ``DISABLED``, or ``NEXT_STEP`` where ``reset`` understands a mask:
        ``SyncVectorEnv``, ``AsyncVectorEnv``, ``CartPoleVectorEnv``, ``AtariVectorEnv`` and EnvPool do. EnvPool calls
        every end at the time limit a truncation.
    :param reset_mask: ``True`` says of another ``NEXT_STEP`` environment that its
        ``reset(options={"reset_mask": mask})`` restarts the environments of the mask and no other.
    :raises ValueError: if the environment cannot be told in SB3's terms; the message says how to build it instead.
    :raises TypeError: if it is no vector environment.
    """

    def __init__(self, env: VectorEnv, reset_mask: bool = False):
        check_flag("reset_mask", reset_mask)
        if not isinstance(env, VectorEnv):
            raise InvalidTypeError(
                f"env must be a gymnasium.vector.VectorEnv, got {type(env).__name__} (of EnvPool: env_type='gymnasium')"
            )
        check_answers_for_all(env.unwrapped)
        self.env = env
        self._reset_by_mask = resets_by_mask(env, reset_mask)
        self._layout = _Layout(env.single_observation_space)
        self._begin, self._finish = _halves_of_a_step(env)
        self._pending = False
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = dict(env.metadata)
        self._episode_returns = np.zeros(env.num_envs)
        self._episode_lengths = np.zeros(env.num_envs, dtype=int)
        self._t_start = time.time()
        self._has_monitors = self._is_composed and self.has_attr("get_episode_rewards")

    def reset(self) -> VecEnvObs:
        """First observations, with the seed and options that were set. A step that was begun is dropped.

        :return: ``[B, ...]``, or a dict or tuple of such arrays.
        """
        if self._pending and self._finish is not None:
            self._finish()
        self._pending = False
        seed, options = self._seeds[0], dict(self._options[0])
        observations, infos = self.env.reset(seed=seed, options=options or None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [info_of(infos, index) for index in range(self.num_envs)]
        self._episode_returns[:] = 0
        self._episode_lengths[:] = 0
        first: VecEnvObs = self._layout.copied(observations)
        return first

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step.

        :param actions: ``[B, ...]``.
        """
        if self._begin is None:
            self._actions = actions
        else:
            self._begin(actions)
        self._pending = True

    def step_wait(self) -> VecEnvStepReturn:
        """The step that was begun; environments that end their episode begin the next.

        :return: observations ``[B, ...]``, rewards ``[B]`` float32, dones ``[B]`` bool, infos.
        """
        self._pending = False
        result = self.env.step(self._actions) if self._finish is None else self._finish()
        observations, rewards, terminations, truncations, env_infos = result
        observations = self._layout.copied(observations)
        dones = np.logical_or(terminations, truncations)
        self._episode_returns += rewards
        self._episode_lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            for index in ended:
                cut = bool(truncations[index] and not terminations[index])
                infos[index] = self._last_info(observations, env_infos, index, cut)
            self._episode_returns[dones] = 0
            self._episode_lengths[dones] = 0
            self._begin_episodes(observations, env_infos, dones, ended)
        return observations, np.array(rewards, dtype=np.float32), dones, infos

    def _last_info(self, observations: VecEnvObs, env_infos: dict[str, Any], index: int, cut: bool) -> dict[str, Any]:
        """Info of an environment whose episode has just ended."""
        if self._reset_by_mask:
            info, last_observation = info_of(env_infos, index), self._layout.row(observations, index)
        else:
            if "final_obs" not in env_infos:
                raise InvalidValueError(
                    "env must put last observations into its infos as 'final_obs' (AutoresetMode.SAME_STEP), got infos "
                    f"with {sorted(env_infos)}"
                )
            info = info_of(env_infos.get("final_info", {}), index)
            last_observation = self._layout.row(env_infos["final_obs"], index)
        info["TimeLimit.truncated"] = cut
        info["terminal_observation"] = last_observation
        if not self._has_monitors:
            episode_return, length = float(self._episode_returns[index]), int(self._episode_lengths[index])
            elapsed = round(time.time() - self._t_start, 6)
            info["episode"] = {"r": round(episode_return, 6), "l": length, "t": elapsed}
        return info

    def _begin_episodes(
        self, observations: VecEnvObs, env_infos: dict[str, Any], dones: np.ndarray, ended: list[int]
    ) -> None:
        """Put first observations in the place of last ones, where the environment has not done so itself."""
        rows = ended
        if self._reset_by_mask:
            first, env_infos = self.env.reset(options={"reset_mask": dones.copy()})
            # EnvPool answers with the rows of the mask only, the others with all.
            for part, first_part in zip(self._layout.parts(observations), self._layout.parts(first), strict=True):
                is_whole = len(first_part) == self.num_envs
                part[dones] = np.asarray(first_part)[dones] if is_whole else first_part
            rows = ended if is_whole else list(range(len(ended)))
        else:
            last = ("final_obs", "_final_obs", "final_info", "_final_info")
            env_infos = {key: value for key, value in env_infos.items() if key not in last}
        for index, row in zip(ended, rows, strict=True):
            self.reset_infos[index] = info_of(env_infos, row)


def make_gymnasium_vec(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    vectorization_mode: str = "vector_entry_point",
    vector_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> GymnasiumVecEnv:
    """``gymnasium.make_vec`` with the autoreset mode that SB3 needs, as an SB3 ``VecEnv``.

    :param env_id: of a registered environment.
    :param n_envs: B, number of environments.
    :param seed: of the first reset and of the action space; ``None`` leaves both alone.
    :param vectorization_mode: "vector_entry_point" (the environment's own vector implementation), "sync" or "async".
    :param vector_kwargs: of ``SyncVectorEnv`` or ``AsyncVectorEnv``.
    :param kwargs: of ``gymnasium.make_vec`` and the environment.
    :return: the environments.
    :raises ValueError: if the environment has no vector implementation, or none that SB3 can use.
    """
    check_integer("n_envs", n_envs, minimum=1)
    check_choice("vectorization_mode", vectorization_mode, ["vector_entry_point", "sync", "async"])
    if vectorization_mode == "vector_entry_point":
        spec = gym.registry.get(env_id)
        if spec is not None and spec.vector_entry_point is None:
            raise InvalidValueError(
                f"vectorization_mode must be 'sync' or 'async' for {env_id}, which has no vector implementation of its "
                f"own, got {vectorization_mode!r}"
            )
    else:
        # copy=False, because GymnasiumVecEnv copies.
        vector_kwargs = {"autoreset_mode": "SameStep", "copy": False} | (vector_kwargs or {})
    env = gym.make_vec(
        env_id, num_envs=n_envs, vectorization_mode=vectorization_mode, vector_kwargs=vector_kwargs, **kwargs
    )
    try:
        vec_env = GymnasiumVecEnv(env)
    except Exception:
        env.close()
        raise
    if seed is not None:
        vec_env.seed(seed)
        vec_env.action_space.seed(seed)
    return vec_env


def _halves_of_a_step(env: VectorEnv) -> tuple[Callable[[Any], None] | None, Callable[[], Any] | None]:
    """What begins a step and what waits for it, where an environment can do both; a wrapper has neither."""
    if isinstance(env, AsyncVectorEnv):
        return env.step_async, env.step_wait
    if is_envpool(env) or is_atari(env):
        return env.send, env.recv  # type: ignore[attr-defined]
    return None, None


class _Layout:
    """How a batch of observations is made of arrays: of one, or of one for each part of a Dict or Tuple space."""

    def __init__(self, space: spaces.Space[Any]):
        # Asked once: isinstance() of a Dict space costs as much as a copy of eight observations.
        names, _, dtypes = obs_space_info(space)
        self.keys: list[Any] = list(names)
        self.dtypes = [dtypes[key] for key in self.keys]
        self.is_dict, self.is_tuple = isinstance(space, spaces.Dict), isinstance(space, spaces.Tuple)

    def parts(self, observations: Any) -> list[Any]:
        if self.is_dict or self.is_tuple:
            return [observations[key] for key in self.keys]
        return [observations]

    def joined(self, parts: list[Any]) -> Any:
        if self.is_dict:
            return dict(zip(self.keys, parts, strict=True))
        return tuple(parts) if self.is_tuple else parts[0]

    def copied(self, observations: Any) -> Any:
        pairs = zip(self.parts(observations), self.dtypes, strict=True)
        return self.joined([np.array(part, dtype=dtype) for part, dtype in pairs])

    def row(self, observations: Any, index: int) -> Any:
        """One environment's observation, a copy, out of arrays ``[B, ...]`` or an object array of observations."""
        if isinstance(observations, np.ndarray) and observations.dtype == object:
            return deepcopy(observations[index])
        return self.joined([np.asarray(part)[index].copy() for part in self.parts(observations)])
