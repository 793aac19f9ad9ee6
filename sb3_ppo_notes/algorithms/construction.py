"""Checks of the policy that a model is built from, and of the names of its arguments."""

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from torch import nn

from sb3_ppo_notes.algorithms.equivalents import check_no_policy_of_contrib
from sb3_ppo_notes.envs.make import did_you_mean
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError


def check_policy(policy: Any, aliases: Mapping[str, type], policy_kwargs: dict[str, Any] | None) -> None:
    """Refuse a policy that does not exist and keyword arguments that it does not take.

    :param policy: a name or a class.
    :param aliases: the known names.
    :param policy_kwargs: for the policy's constructor.
    :raises TypeError: if policy is neither name nor class, or a keyword argument is of the wrong type or unknown.
    :raises ValueError: if the name is unknown, or a layer has no units.
    """
    if isinstance(policy, str) and policy not in aliases:
        raise InvalidValueError(
            f"policy must be a class or one of {', '.join(aliases)}, got {policy!r} (unknown policy)"
        )
    if not isinstance(policy, str | type):
        raise InvalidTypeError(f"policy must be a class or one of {', '.join(aliases)}, got {policy!r}")
    check_no_policy_of_contrib(policy)
    if not policy_kwargs:
        return
    policy_class = aliases[policy] if isinstance(policy, str) else policy
    known, takes_anything = _constructor_parameters(policy_class)
    for key in policy_kwargs:
        if key not in known and not takes_anything:
            raise InvalidTypeError(
                f"policy_kwargs must be arguments of {policy_class.__name__}, got unknown key {key!r}"
                f"{did_you_mean(key, known)}"
            )
    _check_net_arch(policy_kwargs.get("net_arch"))
    activation_fn = policy_kwargs.get("activation_fn")
    if activation_fn is not None and (not callable(activation_fn) or isinstance(activation_fn, nn.Module)):
        raise InvalidTypeError(f"activation_fn must be a class such as nn.Tanh, got {activation_fn!r}")
    optimizer_class = policy_kwargs.get("optimizer_class")
    if optimizer_class is not None and not callable(optimizer_class):
        raise InvalidTypeError(f"optimizer_class must be a class such as th.optim.Adam, got {optimizer_class!r}")


def _constructor_parameters(policy_class: type) -> tuple[set[str], bool]:
    """Names that a class's constructor takes, and whether it takes any other name.

    Our own policies hand what they do not know on to their base class, so that its names count too.
    """
    names: set[str] = set()
    for base in policy_class.__mro__:
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        names |= set(parameters)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return names, False
        if not base.__module__.startswith("sb3_ppo_notes."):
            break
    return names, True


def _check_net_arch(net_arch: Any) -> None:
    if isinstance(net_arch, list) and len(net_arch) > 0 and isinstance(net_arch[0], dict):
        net_arch = net_arch[0]  # SB3 below 1.8 wrote it so; SB3 still takes it and warns
    if isinstance(net_arch, dict) and not set(net_arch) <= {"pi", "vf"}:
        raise InvalidValueError(f"net_arch must be a list of positive ints or a dict of pi and vf, got {net_arch!r}")
    layers = [net_arch] if not isinstance(net_arch, dict) else [net_arch.get("pi", []), net_arch.get("vf", [])]
    for sizes in layers:
        if sizes is None:
            continue
        is_list = isinstance(sizes, list | tuple | np.ndarray)
        if not is_list or any(isinstance(size, bool) or not isinstance(size, Integral) or size < 1 for size in sizes):
            raise InvalidValueError(
                f"net_arch must be a list of positive ints or a dict of two such lists (pi, vf), got {net_arch!r}"
            )


def check_keywords(function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Refuse unknown keyword arguments, with a suggestion (Python itself suggests only from 3.13 on).

    :param function: a constructor.
    :param keywords: what the caller passed by name.
    :raises TypeError: naming the unknown argument and the nearest known ones.
    """
    known = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for keyword in keywords:
        if keyword not in known:
            raise TypeError(f"{keyword} is no argument of {function.__qualname__}{did_you_mean(keyword, known)}")


class SuggestsKeywords:
    """Makes an unknown keyword argument of a constructor an error that names the nearest known ones."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # __new__ takes anything, in order to refuse it with a suggestion; tools shall still see the constructor's own
        # signature.
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Check the names before anything is built."""
        check_keywords(cls.__init__, kwargs)
        return super().__new__(cls)
