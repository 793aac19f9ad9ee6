"""Checks of a model's parts, and of whether they fit together: policy, sizes, rule, rollout buffer."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from torch import nn

from sb3_ppo_notes.algorithms.model_files import check_no_policy_of_contrib
from sb3_ppo_notes.envs.make import did_you_mean
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.policies.actor_critic import has_known_distribution
from sb3_ppo_notes.policies.masks import mask_sizes
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.rollouts import NotesRolloutBuffer
from sb3_ppo_notes.rules import GAE, LambdaReturn, UpdateRule


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
    parameters, takes_anything = _constructor_parameters(policy_class)
    for key in policy_kwargs:
        if key not in parameters and not takes_anything:
            raise InvalidTypeError(
                f"policy_kwargs must be arguments of {policy_class.__name__}, got unknown key {key!r}"
                f"{did_you_mean(key, parameters)}"
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
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for keyword in keywords:
        if keyword not in parameters:
            raise TypeError(f"{keyword} is no argument of {function.__qualname__}{did_you_mean(keyword, parameters)}")


def check_sizes(n_steps: int, n_envs: int, batch_size: int | None, rule: UpdateRule) -> None:
    """Refuse a rollout too small for what the rule does with it; warn, as SB3 does, of a smaller minibatch.

    :param n_steps: steps of each environment.
    :param n_envs: number of environments.
    :param batch_size: samples in a minibatch, ``None`` for all.
    :param rule: whether it normalises, which takes two samples, and drops a smaller last minibatch.
    :raises ValueError: if the sizes do not fit.
    """
    size = n_steps * n_envs
    if rule.advantage_normalization.scope != "none" and batch_size is not None and size < 2:
        raise InvalidValueError(
            f"n_steps * n_envs must be >= 2 when normalize_advantage=True, got n_steps={n_steps} and n_envs={n_envs}"
        )
    check_something_is_left(n_steps, n_envs, batch_size, rule)
    if rule.optimization.drop_last or batch_size is None or size % batch_size == 0:
        return
    sizes = f"n_steps * n_envs = {size} (n_steps={n_steps}, n_envs={n_envs})"
    if batch_size > size:
        problem = f"is larger than {sizes}: every epoch will be one truncated mini-batch of size {size}"
    else:
        end = f"at the end of every epoch there will be a truncated mini-batch of size {size % batch_size}"
        problem = f"does not divide {sizes}: {end}"
    warnings.warn(f"batch_size={batch_size} {problem}", stacklevel=2)


def check_something_is_left(n_steps: int, n_envs: int, batch_size: int | None, rule: UpdateRule) -> None:
    """Refuse to drop the one minibatch there is.

    :param n_steps: steps of each environment.
    :param n_envs: number of environments.
    :param batch_size: samples in a minibatch, ``None`` for all.
    :param rule: whether a last minibatch that is smaller than the others is left out.
    :raises ValueError: if nothing would be learned from.
    """
    if rule.optimization.drop_last and batch_size is not None and batch_size > n_steps * n_envs:
        raise InvalidValueError(
            f"batch_size must be at most n_steps * n_envs = {n_steps * n_envs} when the rule drops a smaller last "
            f"minibatch, got {batch_size} (n_steps={n_steps}, n_envs={n_envs})"
        )


def check_fit(rule: UpdateRule, policy: Any, buffer: Any, action_masking: bool) -> None:
    """Refuse a rule, a memory or masks that this policy or this buffer cannot serve.

    :param rule: the choices.
    :param policy: the policy that was built.
    :param buffer: the rollout buffer that was built.
    :param action_masking: whether actions are masked.
    :raises ValueError: naming what does not fit.
    """
    is_ours, is_recurrent = isinstance(buffer, NotesRolloutBuffer), isinstance(policy, NotesRecurrentPolicy)
    class_name, kind = type(policy).__name__, type(buffer).__name__
    if not (is_ours or _is_served_by_sb3s_buffers(rule)):
        raise InvalidValueError(
            f"rollout_buffer_class must be NotesRolloutBuffer or a subclass for this rule, got {kind}: SB3's buffers "
            "compute GAE and shuffle, whatever the rule says. What differs from stock:\n" + UpdateRule().diff(rule)
        )
    if rule.needs_exact_kl and not has_known_distribution(policy):
        raise InvalidValueError(
            f"policy must leave evaluate_actions to SB3 for a rule that needs the exact KL, got {class_name}, whose "
            "distribution cannot be read"
        )
    if (is_recurrent or action_masking) and not is_ours:
        raise InvalidValueError(
            f"rollout_buffer_class must be NotesRolloutBuffer or a subclass, got {kind}: SB3's buffers store neither "
            "recurrent states nor action masks"
        )
    if is_recurrent and rule.computed == "every_epoch":
        raise InvalidValueError(
            "computed must be 'once' with a recurrent policy, got 'every_epoch': the states that the new weights "
            "would have had at the rollout's episode ends are not known"
        )
    if is_recurrent and rule.optimization.separate is not None:
        raise InvalidValueError("separate must be None with a recurrent policy, whose critic reads the actor's memory")
    if action_masking and not has_known_distribution(policy):
        raise InvalidValueError(
            f"action_masking must be False for {class_name}, which evaluates actions by itself and would not see the "
            "masks"
        )
    if action_masking:
        mask_sizes(policy.action_space)


def _is_served_by_sb3s_buffers(rule: UpdateRule) -> bool:
    return (
        isinstance(rule.advantage_estimator, GAE)
        and isinstance(rule.value_target, LambdaReturn)
        and (rule.optimization.order, rule.optimization.drop_last) == ("shuffled", False)
        and rule.advantage_normalization.scope != "rollout"
        and not rule.needs_exact_kl
        and (rule.computed, rule.reward_scaling) == (UpdateRule.computed, UpdateRule.reward_scaling)
    )
