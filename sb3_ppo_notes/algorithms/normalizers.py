"""Normalisers of a training on several processes: each shard learns its own statistics during a rollout; after it all
have those of everything that all have seen.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_ppo_notes.envs.sharded_vec_env import ShardedVecEnv, shards_of, wrappers_around, wrappers_of
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.normalization import Moments, moments_since, pooled_moments
from sb3_ppo_notes.processes import Shards

#: Running statistics of one normaliser, by name.
Statistics = dict[str, Moments]


class Normalizers:
    """``VecNormalize`` and ``StreamingNormalize`` of this process's shards.

    What the shards have in common at the start of a rollout is counted once: what each has seen since is added to it.
    The returns so far, of which ``VecNormalize`` takes the deviation, stay those of each environment.

    :param env: of this process, not reset yet.
    :param shards: of the training.
    :raises ValueError: if the shards' statistics differ already, or a normaliser is around several shards.
    """

    def __init__(self, env: VecEnv, shards: Shards):
        self.shards = shards
        outside = _normalizers(wrappers_around(env)) if isinstance(env.unwrapped, ShardedVecEnv) else []
        if outside:
            raise InvalidValueError(
                f"env must have its normalisers inside ShardedVecEnv, one around the environments of each shard, got "
                f"{type(outside[0]).__name__} around it"
            )
        #: Of each of this process's shards, from the outermost in.
        self.of_shards = [_normalizers(wrappers_of(shard)) for shard in shards_of(env)]
        #: What all shards had in common when last they were merged.
        self.merged = [statistics_of(wrapper) for wrapper in self.of_shards[0]]
        alike = shards.gather([_comparable(list(map(statistics_of, wrappers))) for wrappers in self.of_shards])
        if any(each != alike[0] for each in alike):
            raise InvalidValueError("env must have normalisers of the same kind and statistics in all shards")

    def merge(self) -> None:
        """Give all shards the statistics of all; all processes call this together."""
        if not self.merged or self.shards.n_shards == 1:
            return
        own = [[statistics_of(each) if each.training else None for each in wrappers] for wrappers in self.of_shards]
        gathered = self.shards.gather(own)
        for number, before in enumerate(self.merged):
            learned = [each[number] for each in gathered if each[number] is not None]
            merged = self.merged[number] = {name: _merged(before[name], learned, name) for name in before}
            for wrappers in self.of_shards:
                if wrappers[number].training:
                    set_statistics(wrappers[number], merged)


def _normalizers(wrappers: list[VecEnvWrapper]) -> list[Any]:
    return [each for each in wrappers if isinstance(each, VecNormalize | StreamingNormalize)]


def _merged(before: Moments, learned: list[Statistics], name: str) -> Moments:
    merged = before
    for each in learned:
        new = moments_since(each[name], before)
        merged = pooled_moments(merged, new) if new.n else merged
    return merged


def _comparable(statistics: list[Statistics]) -> Any:
    return [
        {name: [np.asarray(part).tolist() for part in each] for name, each in parts.items()} for parts in statistics
    ]


def statistics_of(wrapper: VecNormalize | StreamingNormalize) -> Statistics:
    """The running statistics of a normaliser.

    :param wrapper: the normaliser.
    :return: by name; the shapes are those of an observation, and of a reward.
    """
    if isinstance(wrapper, StreamingNormalize):
        return {"observation": wrapper.observation_moments, "reward": wrapper.reward_moments}
    return {name: Moments(rms.count, rms.mean, rms.var * rms.count) for name, rms in _running(wrapper).items()}


def set_statistics(wrapper: VecNormalize | StreamingNormalize, statistics: Statistics) -> None:
    """Give a normaliser other statistics.

    :param wrapper: the normaliser.
    :param statistics: of :func:`statistics_of`; nothing in them is changed later.
    """
    if isinstance(wrapper, StreamingNormalize):
        wrapper.observation_moments, wrapper.reward_moments = statistics["observation"], statistics["reward"]
        return
    for name, rms in _running(wrapper).items():
        moments = statistics[name]
        rms.count, rms.mean, rms.var = moments.n, np.array(moments.mean), np.array(moments.deviations / moments.n)


def _running(wrapper: VecNormalize) -> dict[str, RunningMeanStd]:
    observation: Any = getattr(wrapper, "obs_rms", None)
    parts = observation if isinstance(observation, dict) else {} if observation is None else {"": observation}
    return {f"observation {key}": rms for key, rms in parts.items()} | {"return": wrapper.ret_rms}
