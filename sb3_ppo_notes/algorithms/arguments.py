"""What the constructors and ``learn`` accept. Everything is checked before anything is built, and again when a model is
loaded.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule

from sb3_ppo_notes.formulas.checks import (
    InvalidTypeError,
    InvalidValueError,
    check_choice,
    check_flag,
    check_fraction,
    check_integer,
    check_positive,
    check_real,
)
from sb3_ppo_notes.rules.schedules import check_schedule

Check = Callable[[str, Any], None]
LARGEST_SEED = 2**32 - 1


def _or_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _check_clip_range(name: str, value: Any) -> None:
    check_schedule(name, value)
    if isinstance(value, int | float) and value > 1:
        warnings.warn(
            f"{name}={value} is above 1: probability ratios are clipped so late that it disables clipping", stacklevel=2
        )


def _check_clip_range_vf(name: str, value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and not (value > 0 and np.isfinite(value)):
        raise InvalidValueError(f"{name} must be > 0 and finite, or None for no clipping of values, got {value!r}")
    check_schedule(name, value)


def _check_ent_coef(name: str, value: Any) -> None:
    if value == "auto":
        raise InvalidTypeError(f"{name} must be a finite float or a schedule, got 'auto' (\"auto\" is for SAC only)")
    check_schedule(name, value, positive=False)
    if isinstance(value, int | float) and value < 0:
        warnings.warn(f"{name}={value} is negative: it rewards certainty and takes exploration away", stacklevel=2)


def _check_vf_coef(name: str, value: Any) -> None:
    check_schedule(name, value, positive=False)
    if isinstance(value, int | float):
        check_real(name, value, ">= 0 and finite (a float or a schedule)", is_allowed=value >= 0)


def _check_positive_or_none(meaning: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value is not None:
            check_positive(name, value, words=f"> 0 and finite, or None for {meaning}")

    return check


def _check_sde_sample_freq(name: str, value: Any) -> None:
    check_integer(name, value, minimum=-1, because=" (-1: once a rollout)")


def _check_seed(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidTypeError(
            f"{name} must be an int in [0, {LARGEST_SEED}] or None, got {type(value).__name__} {value!r}"
        )
    if not 0 <= value <= LARGEST_SEED:
        raise InvalidValueError(f"{name} must be an int in [0, {LARGEST_SEED}] or None, got {value}")


def _check_device(name: str, value: Any) -> None:
    try:
        device = th.device("cuda" if value == "auto" else value)
    except (RuntimeError, TypeError) as error:
        raise InvalidValueError(
            f"{name} must be 'cpu', 'cuda', 'cuda:0' or 'auto', got {value!r} (unknown device)"
        ) from error
    if value != "auto" and device.type == "cuda" and not th.cuda.is_available():
        warnings.warn(f"{name}={str(value)!r} was requested but no GPU is available, using 'cpu'", stacklevel=2)


def _check_path(name: str, value: Any) -> None:
    if not isinstance(value, str | os.PathLike):
        raise InvalidTypeError(f"{name} must be a path or None, got {type(value).__name__} {value!r}")


def _check_dict(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidTypeError(f"{name} must be a dict or None, got {type(value).__name__} {value!r}")


def _check_buffer_class(name: str, value: Any) -> None:
    if not (isinstance(value, type) and issubclass(value, RolloutBuffer)):
        raise InvalidTypeError(f"{name} must be a subclass of RolloutBuffer or None, got {value!r}")


#: The check of each constructor argument that is judged alone.
CHECKS: dict[str, Check] = {
    "learning_rate": check_schedule,
    "n_steps": lambda name, value: check_integer(name, value, minimum=1),
    "n_epochs": lambda name, value: check_integer(name, value, minimum=1),
    "gamma": check_fraction,
    "gae_lambda": check_fraction,
    "clip_range": _check_clip_range,
    "clip_range_vf": _or_none(_check_clip_range_vf),
    "normalize_advantage": check_flag,
    "ent_coef": _check_ent_coef,
    "vf_coef": _check_vf_coef,
    "max_grad_norm": _check_positive_or_none("no clipping"),
    "rms_prop_eps": check_positive,
    "use_rms_prop": check_flag,
    "use_sde": check_flag,
    "sde_sample_freq": _check_sde_sample_freq,
    "rollout_buffer_class": _or_none(_check_buffer_class),
    "rollout_buffer_kwargs": _or_none(_check_dict),
    "target_kl": _check_positive_or_none("no early stop"),
    "stats_window_size": lambda name, value: check_integer(name, value, minimum=1),
    "tensorboard_log": _or_none(_check_path),
    "policy_kwargs": _or_none(_check_dict),
    "verbose": lambda name, value: check_choice(name, value, (0, 1, 2)),
    "seed": _or_none(_check_seed),
    "device": _check_device,
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse wrong constructor arguments, one at a time and in their relation.

    :param arguments: values by name; unknown names are passed over.
    :raises TypeError: for a wrong type, naming argument, value and range.
    :raises ValueError: for a wrong value, naming argument, value and range.
    """
    for name, check in CHECKS.items():
        if name in arguments:
            check(name, arguments[name])
    if "batch_size" in arguments:
        normalizes = arguments.get("normalize_advantage", False)
        # One sample has no standard deviation.
        note = " (>= 1 without advantage normalisation)" if normalizes else " without advantage normalisation"
        check_integer("batch_size", arguments["batch_size"], minimum=2 if normalizes else 1, because=note)


def check_rollout_size(
    n_steps: int, n_envs: int, batch_size: int | None, normalize_advantage: bool, warns_of_rest: bool = True
) -> None:
    """Refuse a rollout too small for its minibatches; warn of a ragged last one.

    :param n_steps: steps of each environment.
    :param n_envs: number of environments.
    :param batch_size: samples in a minibatch, ``None`` for all.
    :param normalize_advantage: whether advantages are normalised, which takes two samples.
    :param warns_of_rest: whether a smaller last minibatch is worth a warning.
    :raises ValueError: if the sizes do not fit.
    """
    size = n_steps * n_envs
    if normalize_advantage and batch_size is not None and size < 2:
        raise InvalidValueError(
            f"n_steps * n_envs must be >= 2 when normalize_advantage=True, got n_steps={n_steps} and n_envs={n_envs}"
        )
    if batch_size is None:
        return
    if batch_size > size:
        raise InvalidValueError(
            f"batch_size ({batch_size}) is larger than n_steps * n_envs ({size}): it must be at most that, "
            f"got n_steps={n_steps} and n_envs={n_envs}"
        )
    if size % batch_size and warns_of_rest:
        rest = size % batch_size
        warnings.warn(
            f"batch_size={batch_size} does not divide n_steps * n_envs = {size} (n_steps={n_steps}, n_envs={n_envs}): "
            f"at the end of every epoch there will be a truncated mini-batch of size {rest}",
            stacklevel=2,
        )


def scheduled(value: Any) -> Any:
    """Turn rl_zoo3's ``"lin_3e-4"`` into the schedule it stands for, and NumPy's numbers into Python's.

    :param value: anything.
    :return: a schedule from that number to 0 if it is such a string, else the value itself.

    >>> scheduled("lin_0.5")
    LinearSchedule(start=0.5, end=0.0, end_fraction=1.0)
    """
    if isinstance(value, np.floating | np.integer) and not isinstance(value, float):
        return value.item()  # SB3 takes Python's numbers only
    found = re.fullmatch(r"lin_(\d+(\.\d*)?([eE][+-]?\d+)?)", value) if isinstance(value, str) else None
    return LinearSchedule(float(found.group(1)), 0.0, 1.0) if found else value


def check_learn_arguments(
    total_timesteps: Any,
    callback: Any,
    log_interval: Any,
    reset_num_timesteps: Any,
    progress_bar: Any,
    minimum: int = 1,
) -> int:
    """Refuse wrong arguments of ``learn`` before the environment is touched.

    :param total_timesteps: environment steps, an int or a float without a fraction (1e5).
    :param callback: a callback, a function, a list of callbacks or ``None``.
    :param log_interval: updates between two dumps of the log, or ``None``.
    :param reset_num_timesteps: whether to count from 0.
    :param progress_bar: whether to show one.
    :param minimum: steps that there must be; 0 where a rollout that was left is finished and no more.
    :return: total_timesteps as an int.
    :raises TypeError: for a wrong type.
    :raises ValueError: for a wrong value.
    """
    if isinstance(total_timesteps, float) and total_timesteps.is_integer():
        total_timesteps = int(total_timesteps)
    if isinstance(total_timesteps, float):
        raise InvalidValueError(f"total_timesteps must be an int >= {minimum} (1e5 will do), got {total_timesteps}")
    check_integer("total_timesteps", total_timesteps, minimum=minimum)
    if log_interval is not None:
        check_integer("log_interval", log_interval, minimum=1, because=" or None")
    check_flag("reset_num_timesteps", reset_num_timesteps)
    check_flag("progress_bar", progress_bar)
    callbacks = callback if isinstance(callback, list) else [callback]
    for number, item in enumerate(callbacks):
        if item is None and not isinstance(callback, list):
            continue
        if not (isinstance(item, BaseCallback) or (callable(item) and not isinstance(callback, list))):
            where = (
                f", item {number} is {type(item).__name__} {item!r}"
                if isinstance(callback, list)
                else f", got {callback!r}"
            )
            raise InvalidTypeError(f"callback must be a BaseCallback, a callable or a list of BaseCallbacks{where}")
    return int(total_timesteps)
