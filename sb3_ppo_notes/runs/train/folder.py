"""The folder of a run: what is in it, written whole or not at all."""

import json
import pickle
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_notes.callbacks.video import file_name
from sb3_ppo_notes.envs.sharded_vec_env import wrappers_of
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.files import write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError

CONFIG, MODEL, NORMALIZER, EVALUATIONS, VIDEOS, CHECKPOINTS = (
    "config.yaml",
    "model.zip",
    "normalizer.json",
    "evaluations.csv",
    "videos",
    "checkpoints",
)


def check_folders(logdir: Path, outdir: Path | None) -> None:
    """Refuse folders that cannot hold a new run: files, or a run's own folder that holds something."""
    for name, folder in (("logdir", logdir), ("outdir", outdir)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InvalidValueError(f"{name} must be a folder, got the file {folder}")
    if outdir is not None and outdir.is_dir() and any(outdir.iterdir()):
        raise InvalidValueError(f"outdir must be a new or an empty folder, so that no run is lost, got {outdir}")


def new_folder(logdir: Path, name: str) -> Path:
    """Make the folder of a new run: ``LOGDIR/<time>-<name>``, with a number where two runs begin in one second."""
    logdir.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y%m%dT%H%M%S')}-{file_name(name)}"
    number = 1
    while True:
        folder = logdir / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()  # fails where there is one: two processes never share a folder
        except FileExistsError:
            number += 1
        else:
            return folder


def deepest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def remove_run(folder: Path, existing: Path) -> None:
    """Remove a run, and the folders that were made for it below ``existing``."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in (folder.absolute(), *folder.absolute().parents):
        if path == existing or any(path.iterdir()):
            return
        path.rmdir()


def save_model(model: OnPolicyAlgorithm, folder: Path, name: str = MODEL, normalizer: str = NORMALIZER) -> None:
    """Write a model, and the statistics of its normaliser if it has one."""
    statistics = normalizer_statistics(model.get_env())
    if statistics is not None:
        write_json(folder / normalizer, statistics, indent=1)
    model.save(folder / name)  # whole or not at all, too


def load_weights(model: OnPolicyAlgorithm, path: Path) -> None:
    """Give a model's policy the weights of a file. No pickle is read, so that the file can run nothing."""
    try:
        states: dict[str, Any] = load_from_zip_file(path, device=model.device, load_data=False)[1]
        model.policy.load_state_dict(states["policy"])
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())
        raise InvalidValueError(f"{path} must be the model of this run's configuration ({line[:150]})") from error


def normalizer_statistics(env: VecEnv | None) -> dict[str, Any] | None:
    """The normaliser's statistics as plain numbers (which JSON keeps exactly), ``None`` if there is none."""
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
    """Give the normaliser of environments the statistics of a file; it learns no more."""
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
