"""Arguments of the constructors and of ``learn``, by themselves and beside a rule. All are checked before anything is
built, and again when learning begins: a model that was loaded may be one that can only predict.
"""

import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.algorithms.construction import check_something_is_left
from sb3_ppo_notes.algorithms.schedules import as_schedule, plain
from sb3_ppo_notes.envs.spaces import check_spaces
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
from sb3_ppo_notes.policies.masks import check_masking
from sb3_ppo_notes.policies.precision import PRECISIONS
from sb3_ppo_notes.processes.group import check_processes
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.schedules import check_schedule

Check = Callable[[str, Any], None]
LARGEST_SEED = 2**32 - 1


def _or_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _check_clip_range_vf(name: str, value: Any) -> None:
    if isinstance(value, Real) and not isinstance(value, bool) and not float(value) > 0:
        raise InvalidValueError(f"{name} must be > 0, or None for no clipping of values, got {value!r}")
    check_schedule(name, value, is_exclusive=True)


def _check_coefficient(name: str, value: Any, minimum: float) -> None:
    if isinstance(value, th.Tensor) and value.numel() == 1 and not value.requires_grad:
        value = value.item()  # kept as it is by the model, so that it may be changed in place
    check_schedule(name, value, minimum=minimum)


def _check_ent_coef(name: str, value: Any) -> None:
    if isinstance(value, str) and value == "auto":
        raise InvalidTypeError(f"{name} must be a finite float or a schedule, got 'auto' (\"auto\" is for SAC only)")
    _check_coefficient(name, value, -math.inf)


def _check_positive_or_none(meaning: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value is not None:
            check_positive(name, value, words=f"> 0, or None for {meaning}", may_be_infinite=True)

    return check


def _check_not_negative(name: str, value: Any) -> None:
    check_real(name, value, ">= 0 and finite", not isinstance(value, Real) or float(value) >= 0)


def _check_any_integer(name: str, value: Any, note: str = "") -> None:
    if not isinstance(value, Integral):
        raise InvalidTypeError(f"{name} must be an int{note}, got {type(value).__name__} {value!r}")


def _check_sde_sample_freq(name: str, value: Any) -> None:
    if isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be an int, got bool {value!r}")
    _check_any_integer(name, value, " (below 1: once a rollout)")


def _check_seed(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidTypeError(
            f"{name} must be an int in [0, {LARGEST_SEED}] or None, got {type(value).__name__} {value!r}"
        )
    if not 0 <= value <= LARGEST_SEED:
        raise InvalidValueError(f"{name} must be an int in [0, {LARGEST_SEED}] or None, got {value}")


def _check_device(name: str, value: Any) -> None:
    """A device is one on which a tensor can be made and read again: no list of names tells that."""
    if value == "auto":
        return
    accelerator = th.accelerator.current_accelerator() if th.accelerator.is_available() else None
    available = " or ".join(repr(each) for each in ("cpu", accelerator and accelerator.type, "auto") if each)
    try:
        device = th.device(value)
        if device.type == "cuda" and not th.cuda.is_available():
            # As SB3 does, which says nothing.
            warnings.warn(f"{name}={str(value)!r} was requested but no GPU is available, using 'cpu'", stacklevel=2)
            return
        th.zeros(1, device=device).item()
    except (RuntimeError, TypeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InvalidValueError(f"{name} must be {available} here, got {str(value)!r} ({reason})") from error


def _check_path(name: str, value: Any) -> None:
    if not isinstance(value, str | os.PathLike):
        raise InvalidTypeError(f"{name} must be a path or None, got {type(value).__name__} {value!r}")


def _check_dict(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidTypeError(f"{name} must be a dict or None, got {type(value).__name__} {value!r}")


def _check_buffer_class(name: str, value: Any) -> None:
    if not (isinstance(value, type) and issubclass(value, RolloutBuffer)):
        raise InvalidTypeError(f"{name} must be a subclass of RolloutBuffer or None, got {value!r}")


def _check_rule(name: str, value: Any) -> None:
    if not isinstance(value, UpdateRule):
        raise InvalidTypeError(f"{name} must be an UpdateRule or None, got {value!r}")


#: The check of each constructor argument that is judged alone. What stock SB3 takes and can work with passes.
CHECKS: dict[str, Check] = {
    "learning_rate": check_schedule,
    "n_steps": lambda name, value: check_integer(name, value, minimum=1),
    "n_epochs": lambda name, value: check_integer(name, value, minimum=1),
    "gamma": check_fraction,
    "gae_lambda": check_fraction,
    "clip_range": check_schedule,
    "clip_range_vf": _or_none(_check_clip_range_vf),
    "normalize_advantage": check_flag,
    "ent_coef": _check_ent_coef,
    "vf_coef": lambda name, value: _check_coefficient(name, value, 0.0),
    "max_grad_norm": _check_positive_or_none("no clipping"),
    "rms_prop_eps": _check_not_negative,
    "use_rms_prop": check_flag,
    "use_sde": check_flag,
    "sde_sample_freq": _check_sde_sample_freq,
    "rollout_buffer_class": _or_none(_check_buffer_class),
    "rollout_buffer_kwargs": _or_none(_check_dict),
    "target_kl": _check_positive_or_none("no early stop"),
    "stats_window_size": _or_none(lambda name, value: check_integer(name, value, minimum=0)),
    "tensorboard_log": _or_none(_check_path),
    "policy_kwargs": _or_none(_check_dict),
    "verbose": _check_any_integer,
    "seed": _or_none(_check_seed),
    "device": _check_device,
    "rule": _or_none(_check_rule),
    "action_masking": check_flag,
    "compile": check_flag,
    "precision": lambda name, value: check_choice(name, value, tuple(PRECISIONS)),
    "on_nonfinite": lambda name, value: check_choice(name, value, ("raise", "skip_update")),
    "processes": _or_none(check_processes),
    "shards": _or_none(lambda name, value: check_integer(name, value, minimum=1)),
}
#: Those that describe the same choices as a rule, and those that a rule with separate optimisers gives to each of them.
RULE_ARGUMENTS = ("gae_lambda", "clip_range", "clip_range_vf", "normalize_advantage", "target_kl")
OPTIMIZER_ARGUMENTS = ("learning_rate", "n_epochs", "max_grad_norm")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse wrong constructor arguments, one at a time and in their relation.

    :param arguments: values by name; unknown names are passed over.
    :raises TypeError: for a wrong type, naming argument, value and range.
    :raises ValueError: for a wrong value, naming argument, value and range.
    """
    for name, check in CHECKS.items():
        if name in arguments:
            check(name, arguments[name])
    if arguments.get("batch_size") is not None:
        rule = arguments.get("rule")
        normalizes = arguments.get("normalize_advantage", False)
        if rule is not None:
            normalizes = rule.advantage_normalization.scope != "none"
        # One sample has no standard deviation.
        note = " (>= 1 without advantage normalisation)" if normalizes else " without advantage normalisation"
        check_integer("batch_size", arguments["batch_size"], minimum=2 if normalizes else 1, because=note)


def warn_of_doubtful_arguments(arguments: Mapping[str, Any]) -> None:
    """Warn of what can be meant, and seldom is.

    :param arguments: values by name, checked.
    """
    clip_range, ent_coef, device = (arguments.get(name) for name in ("clip_range", "ent_coef", "device"))
    if isinstance(clip_range, int | float) and clip_range > 1:
        problem = "is above 1: probability ratios are clipped so late that it disables clipping"
        warnings.warn(f"clip_range={clip_range} {problem}", stacklevel=2)
    if isinstance(ent_coef, int | float) and ent_coef < 0:
        warnings.warn(f"ent_coef={ent_coef} is negative: it rewards certainty and takes exploration away", stacklevel=2)
    if device is not None and str(device).startswith("cuda") and not th.cuda.is_available():
        warnings.warn(f"device={str(device)!r} was requested but no GPU is available, using 'cpu'", stacklevel=2)


#: NumPy decides by the type of these in which precision advantages are computed, here as in stock SB3.
PROMOTING = ("gamma", "gae_lambda")


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a model keeps them: rl_zoo3's ``"lin_3e-4"`` as a schedule, NumPy's scalars as Python's.

    :param arguments: values by name.
    :return: values by name.
    """
    return {name: _as_scalar(value) if name in PROMOTING else as_schedule(value) for name, value in arguments.items()}


def _as_scalar(value: Any) -> Any:
    """An array without dimensions as NumPy's scalar."""
    return value[()] if isinstance(value, np.ndarray) else value


def check_learn_arguments(
    total_timesteps: Any,
    callback: Any,
    log_interval: Any,
    reset_num_timesteps: Any,
    progress_bar: Any,
) -> Any:
    """Refuse wrong arguments of ``learn`` before the environment is touched.

    :param total_timesteps: environment steps; 0 only sets everything up, infinity goes on until a callback stops it.
    :param callback: a callback, a function, a list of callbacks or ``None``.
    :param log_interval: updates between two dumps of the log, or ``None``.
    :param reset_num_timesteps: whether to count from 0.
    :param progress_bar: whether to show one.
    :return: total_timesteps, as an int if it has no fraction.
    :raises TypeError: for a wrong type.
    :raises ValueError: for a wrong value.
    """
    is_allowed = not isinstance(total_timesteps, Real) or float(total_timesteps) >= 0
    check_real("total_timesteps", total_timesteps, "a number >= 0", is_allowed, may_be_infinite=True)
    if log_interval is not None:
        check_integer("log_interval", as_integer(log_interval), minimum=1, because=" or None")
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
    return as_integer(total_timesteps)


def as_integer(number: Any) -> Any:
    """A float without a fraction as an int.

    :param number: anything; ``1e5`` is a number of steps as users write it.
    :return: an int for it; all else as it is.
    """
    return int(number) if isinstance(number, float) and number.is_integer() else number


def check_that_it_can_learn(model: Any) -> None:
    """Refuse what the constructor refuses, before anything has changed.

    A file, or an attribute set since, may say otherwise than the constructor was told; such a model can only predict.
    Environments are asked for masks here, because a model that predicts need not have any.

    :param model: a NotesPPO or NotesA2C.
    :raises ValueError: naming the argument, its value and the allowed range; likewise ``TypeError``.
    """
    if model.env is None:
        raise InvalidValueError("env is required to learn, got None (pass one to load, or call set_env)")
    attributes = {name: plain(vars(model)[name]) for name in CHECKS if name in vars(model) and name != "device"}
    check_arguments(attributes | {"stats_window_size": model._stats_window_size})
    batch_size = model.batch_size
    if batch_size is not None:
        check_integer("batch_size", batch_size, minimum=1)
    check_something_is_left(model.n_steps, model.n_envs_of_all, batch_size, model.rule)
    check_spaces(model.observation_space, model.action_space)
    if model.action_masking:
        check_masking(model.env)


# -- arguments and a rule ------------------------------------------------------------------------------------------


def arguments_of(rule: UpdateRule) -> dict[str, Any]:
    """SB3's arguments as they would have to be for a rule.

    :param rule: any rule.
    :return: values by argument name; arguments that have no meaning for the rule are left out.
    """
    settings: dict[str, Any] = {"normalize_advantage": rule.advantage_normalization.scope != "none"}
    for choice, name in (
        (rule.advantage_estimator, "gae_lambda"),
        (rule.policy_objective, "clip_range"),
        (rule.value_objective, "clip_range_vf"),
    ):
        if hasattr(choice, name):
            settings[name] = getattr(choice, name)
    if rule.early_stop is not None:
        settings["target_kl"] = rule.early_stop.target
    return settings


def _wanted(rule: UpdateRule, model: Any) -> dict[str, Any]:
    """The value of every argument that a rule overrides; its default, if it has no meaning for the rule."""
    settings, parameters = arguments_of(rule), model.constructor_parameters()
    return {name: settings.get(name, parameters[name].default) for name in RULE_ARGUMENTS if name in parameters}


def set_arguments_from(rule: UpdateRule, model: Any, explicit: Collection[str] = ()) -> None:
    """Set SB3's attributes to what the rule says, after making sure that nobody asked for something else.

    :param rule: replaces what the arguments describe.
    :param model: its attributes are set.
    :param explicit: arguments that the caller wrote down; any other that has its default asks for nothing.
    :raises ValueError: if an attribute says otherwise than the rule.
    """
    parameters = model.constructor_parameters()

    def asks_for_nothing(name: str) -> bool:
        return name not in explicit and plain(getattr(model, name)) == parameters[name].default

    for name, wanted in _wanted(rule, model).items():
        value = plain(getattr(model, name))
        if not (asks_for_nothing(name) or value == plain(wanted)):
            raise InvalidValueError(
                f"{name} must agree with rule, which has {wanted!r}, got {value!r} (give one of the two)"
            )
        setattr(model, name, wanted)
    if rule.optimization.separate is None:
        return
    for name in OPTIMIZER_ARGUMENTS:
        if name in parameters and not asks_for_nothing(name):
            raise InvalidValueError(
                f"{name} must be left out with a rule that has separate optimizers (each has its own), got "
                f"{getattr(model, name)!r}"
            )


def check_unchanged(rule: UpdateRule, model: Any) -> None:
    """Refuse to go on when somebody has changed an attribute that the rule overrides: it would have no effect.

    :param rule: replaces what the arguments describe.
    :param model: its attributes are looked at.
    :raises ValueError: naming the attribute.
    """
    for name, wanted in _wanted(rule, model).items():
        if plain(getattr(model, name)) != plain(wanted):
            raise InvalidValueError(
                f"{name} must stay as rule has it ({wanted!r}), got {getattr(model, name)!r}: "
                "build the model with another rule"
            )
