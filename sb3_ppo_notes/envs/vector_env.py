"""Any Gymnasium vector environment as an SB3 ``VecEnv``: episodes end as SB3 expects, infos cost nothing until one
does.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import obs_space_info

from sb3_ppo_notes.envs.autoreset import check_answers_for_all, info_of, is_atari, is_envpool, resets_by_mask
from sb3_ppo_notes.envs.torch_vec_env import refuse_tensors
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_choice, check_flag, check_integer


class GymnasiumVecEnv(VecEnv):
    """A ``gymnasium.vector.VectorEnv`` with SB3's interface.

    The step that ends an episode returns the first observation of the next one. Its info holds
    ``terminal_observation``, ``TimeLimit.truncated`` (truncated and not terminated), ``episode`` (return, length and
    time, as ``Monitor`` reports them) and what the environment itself reported at the end. The infos of *unfinished*
    environments are empty dictionaries, a new one each: most steps end nothing, and taking infos apart costs more than
    a step. Sub-environments with a ``Monitor`` of their own report their episodes themselves.

    All that a step returns belongs to the caller: the environment may reuse its memory, it is copied out.
    ``step_async`` begins a step and returns at once with ``AsyncVectorEnv``, ``AtariVectorEnv`` and EnvPool; with other
    environments, and with these inside a Gymnasium wrapper, ``step_wait`` does the work.

    ``SyncVectorEnv`` and ``AsyncVectorEnv`` are composed of single environments, which are asked one by one for
    attributes and methods. Others compute all environments at once (``CartPoleVectorEnv``, EnvPool): an attribute is
    the vector environment's own, the same for each, and there is no method to call in each. ``indices`` other than all
    are for ``SyncVectorEnv`` only, options are the same for all, and ``env_is_wrapped(Monitor)`` is always true.

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
        self._begin, self._finish = _step_halves(env)
        self._pending = False
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = dict(env.metadata)
        self._episode_returns = np.zeros(env.num_envs)
        self._episode_lengths = np.zeros(env.num_envs, dtype=int)
        self._t_start = time.time()
        self._has_monitors = self._is_composed and self.has_attr("get_episode_rewards")

    def reset(self) -> VecEnvObs:
        # A step that was begun is dropped.
        if self._pending and self._finish is not None:
            self._finish()
        self._pending = False
        seed, options = self._seeds[0], dict(self._options[0])
        observations, infos = self.env.reset(seed=seed, options=options or None)
        refuse_tensors(observations)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [info_of(infos, index) for index in range(self.num_envs)]
        self._episode_returns[:] = 0
        self._episode_lengths[:] = 0
        first: VecEnvObs = self._layout.copy(observations)
        return first

    def step_async(self, actions: np.ndarray) -> None:
        if self._begin is None:
            self._actions = actions
        else:
            self._begin(actions)
        self._pending = True

    def step_wait(self) -> VecEnvStepReturn:
        self._pending = False
        result = self.env.step(self._actions) if self._finish is None else self._finish()
        observations, rewards, terminations, truncations, env_infos = result
        observations = self._layout.copy(observations)
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

    # -- attributes, methods, seeds and pictures of the environments inside ------------------------------------------

    @property
    def _base(self) -> Any:
        return self.env.unwrapped

    @property
    def _is_composed(self) -> bool:
        return isinstance(self._base, SyncVectorEnv | AsyncVectorEnv)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        # EnvPool is seeded when it is built, all others at the next reset.
        if not is_envpool(self._base):
            return super().seed(None if seed is None else int(seed))
        fixed = self._base.config["seed"]
        if seed not in (None, fixed):
            warnings.warn(
                f"seed {seed} does not reach EnvPool, which was seeded with {fixed} when it was built: give it to "
                "envpool.make",
                stacklevel=2,
            )
        return [None] * self.num_envs

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        each = [options or {}] * self.num_envs if options is None or isinstance(options, dict) else options
        if len(each) != self.num_envs or any(part != each[0] for part in each):
            raise InvalidValueError(f"options must be the same for all {self.num_envs} environments, got {options}")
        if "reset_mask" in each[0]:
            raise InvalidValueError(f"options must not hold 'reset_mask', got {options}")
        super().set_options(each[0])

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        if self.render_mode != "rgb_array":
            warnings.warn(f"the render mode must be 'rgb_array' for images, got {self.render_mode!r}", stacklevel=2)
            return [None] * self.num_envs
        if is_envpool(self._base):
            return list(self._base.render(self._base.all_env_ids))
        pictures: Any = self.env.render()
        return list(pictures)

    def has_attr(self, attr_name: str) -> bool:
        if self._is_composed:
            # Asking an AsyncVectorEnv for an attribute that is not there ends its processes.
            return all(self._base.call("has_wrapper_attr", attr_name))
        return hasattr(self._base, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        targets = list(self._get_indices(indices))
        if attr_name == "render_mode":
            return [self.env.render_mode for _ in targets]
        if not self.has_attr(attr_name):
            raise AttributeError(f"{type(self._base).__name__} has no attribute {attr_name!r}")
        if not self._is_composed:
            return [getattr(self._base, attr_name) for _ in targets]
        # get_wrapper_attr, because Gymnasium's get_attr calls what can be called.
        values = self._base.call("get_wrapper_attr", attr_name)
        return [values[index] for index in targets]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if isinstance(self._base, SyncVectorEnv):
            for index in self._get_indices(indices):
                self._base.envs[index].set_wrapper_attr(attr_name, value)
            return
        self._check_all(indices)
        if self._is_composed:
            # A list, because a value that is one itself would be taken for one value an environment.
            self._base.set_attr(attr_name, [value] * self.num_envs)
        elif self.has_attr(attr_name):
            setattr(self._base, attr_name, value)
        else:
            raise AttributeError(f"{type(self._base).__name__} has no attribute {attr_name!r}")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        name = type(self._base).__name__
        if not self._is_composed or (
            isinstance(self._base, AsyncVectorEnv) and method_name in ("reset", "step", "close")
        ):
            raise InvalidValueError(
                f"method_name must be one that {name} can call in each environment, got {method_name!r}"
            )
        if not self.has_attr(method_name):
            raise AttributeError(f"{name} has no attribute {method_name!r}")
        if isinstance(self._base, SyncVectorEnv):
            targets = [self._base.envs[index] for index in self._get_indices(indices)]
            return [target.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for target in targets]
        self._check_all(indices)
        return list(self._base.call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        targets = list(self._get_indices(indices))
        # A Monitor's work is done here.
        if wrapper_class is Monitor:
            return [True for _ in targets]
        if isinstance(self._base, SyncVectorEnv):
            return [is_wrapped(self._base.envs[index], wrapper_class) for index in targets]
        if self._is_composed:
            raise InvalidValueError(
                f"wrapper_class must be Monitor where environments live in other processes, got "
                f"{wrapper_class.__name__}"
            )
        return [False for _ in targets]

    def _check_all(self, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            name = type(self._base).__name__
            raise InvalidValueError(
                f"indices must be None for {name}, which reaches all environments or none, got {indices}"
            )


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


def _step_halves(env: VectorEnv) -> tuple[Callable[[Any], None] | None, Callable[[], Any] | None]:
    """Functions that begin a step and that wait for it, where an environment has both; a wrapper has neither."""
    if isinstance(env, AsyncVectorEnv):
        return env.step_async, env.step_wait
    if is_envpool(env) or is_atari(env):
        return env.send, env.recv  # type: ignore[attr-defined]
    return None, None


class _Layout:
    """The arrays of a batch of observations: one, or one for each part of a Dict or Tuple space."""

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

    def join(self, parts: list[Any]) -> Any:
        if self.is_dict:
            return dict(zip(self.keys, parts, strict=True))
        return tuple(parts) if self.is_tuple else parts[0]

    def copy(self, observations: Any) -> Any:
        pairs = zip(self.parts(observations), self.dtypes, strict=True)
        return self.join([np.array(part, dtype=dtype) for part, dtype in pairs])

    def row(self, observations: Any, index: int) -> Any:
        """One environment's observation, a copy, out of arrays ``[B, ...]`` or an object array of observations."""
        if isinstance(observations, np.ndarray) and observations.dtype == object:
            return deepcopy(observations[index])
        return self.join([np.asarray(part)[index].copy() for part in self.parts(observations)])
