"""Several vectorised environments, each with wrappers and statistics of its own, stepped as one."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_ppo_notes.formulas.checks import InvalidValueError


class ShardedVecEnv(VecEnv):
    """The environments of several shards in one process: one after the other, the first shard's first.

    Where a process holds one shard its environments need not be wrapped.

    :param shards: environments of each, equally many and of the same spaces. Each has wrappers of its own, so that
        statistics such as ``VecNormalize``'s belong to the shard.
    :raises ValueError: if they are none, or not alike.
    """

    def __init__(self, shards: Sequence[VecEnv]):
        if not shards:
            raise InvalidValueError("shards must be at least one vectorised environment, got none")
        first = shards[0]
        for number, shard in enumerate(shards):
            kinds = [(each.num_envs, each.observation_space, each.action_space) for each in (first, shard)]
            if kinds[0] != kinds[1]:
                raise InvalidValueError(
                    f"shards must have equally many environments of the same spaces, got {kinds[0]} and, as number "
                    f"{number}, {kinds[1]}"
                )
        self.shards = list(shards)
        self.n_each = first.num_envs
        super().__init__(self.n_each * len(self.shards), first.observation_space, first.action_space)
        self.metadata = getattr(first, "metadata", {"render_modes": []})

    def step_async(self, actions: np.ndarray) -> None:
        for shard, own in zip(self.shards, np.split(np.asarray(actions), len(self.shards)), strict=True):
            shard.step_async(own)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = zip(*(shard.step_wait() for shard in self.shards), strict=True)
        self._collect_reset_infos()
        return (
            _joined(observations),
            np.concatenate(rewards),
            np.concatenate(dones),
            [i for each in infos for i in each],
        )

    def reset(self) -> VecEnvObs:
        observations: VecEnvObs = _joined([shard.reset() for shard in self.shards])
        self._collect_reset_infos()
        self._reset_seeds()
        self._reset_options()
        return observations

    def _collect_reset_infos(self) -> None:
        self.reset_infos = [info for shard in self.shards for info in shard.reset_infos]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        if seed is None:
            seed = int(np.random.randint(0, np.iinfo(np.uint32).max, dtype=np.uint32))  # noqa: NPY002 (as SB3 does)
        return [each for index, shard in enumerate(self.shards) for each in shard.seed(seed + index * self.n_each)]

    def set_options(self, options: Any = None) -> None:
        options = [options] * self.num_envs if options is None or isinstance(options, dict) else options
        for index, shard in enumerate(self.shards):
            shard.set_options(options[index * self.n_each : (index + 1) * self.n_each])

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [each for shard, own in self._places(indices) for each in shard.get_attr(attr_name, own)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for shard, own in self._places(indices):
            shard.set_attr(attr_name, value, own)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        places = self._places(indices)
        return [each for shard, own in places for each in shard.env_method(method_name, *args, indices=own, **kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        return [each for shard, own in self._places(indices) for each in shard.env_is_wrapped(wrapper_class, own)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [image for shard in self.shards for image in shard.get_images()]

    def _places(self, indices: VecEnvIndices) -> Iterator[tuple[VecEnv, list[int]]]:
        """The shards that some environments belong to, and their indices there, in the order that was asked for."""
        for index in self._get_indices(indices):
            shard, own = divmod(index % self.num_envs, self.n_each)
            yield self.shards[shard], [own]


def _joined(observations: Sequence[Any]) -> Any:
    first = observations[0]
    if isinstance(first, dict):
        return {key: np.concatenate([each[key] for each in observations]) for key in first}
    if isinstance(first, tuple):
        return tuple(np.concatenate(parts) for parts in zip(*observations, strict=True))
    return np.concatenate(observations)


def shards_of(env: VecEnv) -> list[VecEnv]:
    """The environments of each shard of a process.

    :param env: of the process.
    :return: at least one.
    """
    base = env.unwrapped
    return base.shards if isinstance(base, ShardedVecEnv) else [env]


def wrappers_of(env: VecEnv | None) -> list[VecEnvWrapper]:
    """The wrappers of environments.

    :param env: of a process, ``None`` for none.
    :return: from the outermost in; of several shards the first one's count.
    """
    if env is None:
        return []
    base = env.unwrapped
    return wrappers_around(env) + (wrappers_around(base.shards[0]) if isinstance(base, ShardedVecEnv) else [])


def wrappers_around(env: VecEnv) -> list[VecEnvWrapper]:
    """The wrappers of environments, without those inside their shards.

    :param env: of a process.
    :return: from the outermost in.
    """
    wrappers = []
    while isinstance(env, VecEnvWrapper):
        wrappers.append(env)
        env = env.venv
    return wrappers
