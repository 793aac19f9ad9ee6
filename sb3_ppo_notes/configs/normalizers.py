"""What the normaliser of environments has learned, as plain numbers: for the folder of a run, and back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_notes.envs.sharded_vec_env import wrappers_of
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.formulas.checks import InvalidValueError


def normalizer_statistics(env: VecEnv | None) -> dict[str, Any] | None:
    """The normaliser's statistics as plain numbers, which JSON keeps exactly.

    :param env: environments, wrapped or not.
    :return: ``None`` if there is no normaliser.
    """
    wrapper = _normalizer(env)
    if isinstance(wrapper, StreamingNormalize):
        moments = {"observation": wrapper.observation_moments, "reward": wrapper.reward_moments}
        numbers = {
            key: [m.n, np.asarray(m.mean).tolist(), np.asarray(m.deviations).tolist()] for key, m in moments.items()
        }
        return {"kind": "StreamingNormalize"} | numbers
    if isinstance(wrapper, VecNormalize):
        observation: Any = getattr(wrapper, "obs_rms", None)
        parts = observation if isinstance(observation, dict) else {"": observation} if observation is not None else {}
        observations = {key: _numbers(rms) for key, rms in parts.items()}
        return {"kind": "VecNormalize", "observation": observations, "return": _numbers(wrapper.ret_rms)}
    return None


def load_normalizer(env: VecEnv | None, path: Path) -> None:
    """Give the normaliser of environments the statistics of a file; it learns no more.

    :param env: without a normaliser nothing is read.
    :param path: of a JSON file with :func:`normalizer_statistics`.
    :raises ValueError: if it is not there, or of another normaliser.
    """
    wrapper = _normalizer(env)
    if wrapper is None:
        return
    if not path.is_file():
        raise InvalidValueError(
            f"{path.parent} must hold {path.name}, what its normaliser has learned; it is not there"
        )
    wrapper.training = False
    try:
        statistics = json.loads(path.read_text())
        if statistics["kind"] != type(wrapper).__name__:
            raise ValueError(f"statistics of a {statistics['kind']}")
        _set_statistics(wrapper, statistics)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidValueError(f"{path} must hold what this run's normaliser has learned ({error})") from error


def _set_statistics(wrapper: VecNormalize | StreamingNormalize, statistics: dict[str, Any]) -> None:
    if isinstance(wrapper, StreamingNormalize):
        own = {"observation": wrapper.observation_moments, "reward": wrapper.reward_moments}
        moments = {
            key: type(moment)(statistics[key][0], *map(np.asarray, statistics[key][1:])) for key, moment in own.items()
        }
        _check_shape(moments["observation"].mean, wrapper.observation_moments.mean)
        wrapper.observation_moments, wrapper.reward_moments = moments["observation"], moments["reward"]
        return
    wrapper.norm_reward = False
    own_parts: Any = getattr(wrapper, "obs_rms", {})
    for key, rms in (own_parts if isinstance(own_parts, dict) else {"": own_parts}).items():
        _restore(rms, statistics["observation"][key])
    _restore(wrapper.ret_rms, statistics["return"])


def _restore(rms: RunningMeanStd, numbers: dict[str, Any]) -> None:
    mean, var = np.asarray(numbers["mean"]), np.asarray(numbers["var"])
    _check_shape(mean, rms.mean)
    rms.mean, rms.var, rms.count = mean, var, numbers["count"]


def _numbers(rms: RunningMeanStd) -> dict[str, Any]:
    return {"mean": np.asarray(rms.mean).tolist(), "var": np.asarray(rms.var).tolist(), "count": float(rms.count)}


def _check_shape(value: Any, expected: Any) -> None:
    if np.shape(value) != np.shape(expected):
        raise ValueError(f"shape {np.shape(value)} for {np.shape(expected)}")


def _normalizer(env: VecEnv | None) -> VecNormalize | StreamingNormalize | None:
    wrappers = wrappers_of(env)
    return next((each for each in wrappers if isinstance(each, VecNormalize | StreamingNormalize)), None)
