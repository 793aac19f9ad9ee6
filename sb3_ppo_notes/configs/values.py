"""Names in files, and what they stand for: classes of PyTorch's, wrappers of Gymnasium's, lines to 0."""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from torch import nn, optim

from sb3_ppo_notes.algorithms.schedules import as_schedule
from sb3_ppo_notes.configs.rules import rule_from_data
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError

#: Names that a file may hold for a class; any other is refused.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name)
    for name in ("Tanh", "ReLU", "ELU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Softplus", "Mish", "Identity")
}
OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    **{name: getattr(optim, name) for name in ("Adam", "AdamW", "RMSprop", "SGD")},
    "RMSpropTFLike": RMSpropTFLike,
}
CLASSES: dict[str, Mapping[str, type]] = {"activation_fn": ACTIVATIONS, "optimizer_class": OPTIMIZERS}


def linear_start(value: Any) -> float | None:
    """The number that rl_zoo3's ``"lin_3e-4"`` begins with.

    :param value: anything.
    :return: ``None`` for anything else.

    >>> linear_start("lin_3e-4"), linear_start("lin_x"), linear_start(0.1)
    (0.0003, None, None)
    """
    schedule = as_schedule(value) if isinstance(value, str) else None
    return schedule.start if isinstance(schedule, LinearSchedule) else None


def with_numbers(value: Any) -> Any:
    """Plain data whose ``1e-4`` (a word in YAML, without a dot) are numbers.

    :param value: anything.
    :return: a copy.

    >>> with_numbers({"learning_rate": "1e-4", "betas": [0.9, "1e0"], "ent_coef": "lin_1e-4"})
    {'learning_rate': 0.0001, 'betas': [0.9, 1.0], 'ent_coef': 'lin_1e-4'}
    """
    if isinstance(value, dict):
        return {key: with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_numbers(item) for item in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if is_number else value


def constructor_arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an algorithm's constructor from plain data.

    :param data: by SB3's names; rules and classes may be there already instead of what stands for them.
    :return: ``policy_kwargs`` with classes, a rule, ``"lin_3e-4"`` as schedules that end at exactly 0, also where the
        last rollout overshoots the budget (rl_zoo3's own go below).
    :raises ValueError: for a name that stands for nothing.
    """
    arguments = {name: as_schedule(value) if isinstance(value, str) else value for name, value in data.items()}
    if "policy_kwargs" in arguments:
        arguments["policy_kwargs"] = with_classes(arguments["policy_kwargs"])
    if isinstance(arguments.get("rule"), Mapping):
        arguments["rule"] = rule_from_data(arguments["rule"])
    return arguments


def with_classes(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a policy with classes in the place of their names.

    :param policy_kwargs: plain data.
    :return: a copy.
    :raises ValueError: for a name that is not among the known ones.
    """
    if not isinstance(policy_kwargs, dict):
        raise InvalidTypeError(f"policy_kwargs must be names and values, got {policy_kwargs!r}")
    kwargs = dict(policy_kwargs)
    for key, classes in CLASSES.items():
        if key in kwargs and not inspect.isclass(kwargs[key]):
            if kwargs[key] not in classes:
                raise InvalidValueError(f"{key} must be one of {', '.join(classes)}, got {kwargs[key]!r}")
            kwargs[key] = classes[kwargs[key]]
    return kwargs


def wrap_function(paths: Any) -> Callable[[gym.Env], gym.Env] | None:
    """One function for all wrappers; a module is imported by its path, nothing else is run.

    :param paths: import paths (``module.Class`` or ``module:Class``) of ``gymnasium.Wrapper`` classes, the innermost
        first; with arguments as
        ``{path: {name: value}}``.
    :return: a function that wraps an environment, ``None`` if there are no wrappers.
    :raises ValueError: for a path that leads to none.
    """
    if not isinstance(paths, list):
        raise InvalidTypeError(f"env_wrapper must be a list of import paths, got {paths!r}")
    wrappers = [_wrapper(item) for item in paths]

    def wrap(env: gym.Env) -> gym.Env:
        for wrapper, kwargs in wrappers:
            env = wrapper(env, **kwargs)
        return env

    return wrap if wrappers else None


def _wrapper(item: Any) -> tuple[type[gym.Wrapper], dict[str, Any]]:
    path, kwargs = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, None)
    module, _, name = path.replace(":", ".").rpartition(".") if isinstance(path, str) else ("", "", "")
    try:
        wrapper = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError) as error:
        raise InvalidValueError(f"env_wrapper must be an import path, got {path!r} ({error})") from error
    if not (inspect.isclass(wrapper) and issubclass(wrapper, gym.Wrapper)) or not isinstance(kwargs or {}, dict):
        raise InvalidValueError(f"env_wrapper must be import paths of gymnasium.Wrapper classes, got {item!r}")
    return wrapper, kwargs or {}
