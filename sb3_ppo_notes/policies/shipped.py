"""Whose code runs when a policy is called: that of PyTorch, SB3 and this package alone, or somebody's own as well.

What computes without calling a module must know what the call would do. It knows the libraries' classes, as long as
nobody has put another function into a class or an instance. Everything else may count, draw, freeze or replace things
on the way, and nobody can see its state: it is called as stock SB3 would call it.
"""

import itertools
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch as th
import torch.distributions as torch_distributions
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.nn.modules import module as torch_module

from sb3_ppo_notes.policies.hooks import hook_reason, qualified_name

#: By the first part of their modules' names.
LIBRARIES = ("torch", "stable_baselines3", "sb3_ppo_notes")
#: Modules of Python that wrap functions.
WRAPPERS = ("dataclasses", "reprlib")
#: Methods that a policy may override: they build networks or predict, and neither happens in learning.
NOT_IN_LEARNING = {
    "__init__",
    "_build",
    "_build_mlp_extractor",
    "_get_constructor_parameters",
    "_predict",
    "get_distribution",
    "init_weights",
    "make_features_extractor",
    "predict",
}


def original(kind: type, name: str) -> Any:
    """A method of a library's class, for comparison with what stands there later.

    :param kind: a library's class.
    :param name: of the method, inherited or not.
    :return: the function; ``None``, which no method is, if somebody has replaced it already.
    """
    function = getattr(kind, name)
    return function if _is_library_function(function) and function.__name__ == name else None


def _is_library_function(function: Any) -> bool:
    return isinstance(function, FunctionType) and function.__globals__["__name__"].partition(".")[0] in LIBRARIES


#: SB3's methods that the formulas stand in for.
METHODS = {
    name: original(ActorCriticPolicy, name)
    for name in (
        "forward",
        "evaluate_actions",
        "extract_features",
        "predict_values",
        "_get_action_dist_from_latent",
    )
}
#: The same of distributions.
DISTRIBUTION_METHODS = (
    *("proba_distribution", "log_prob", "entropy", "sample", "mode", "get_actions"),
    # of gSDE
    *("get_std", "get_noise", "sample_weights"),
)
#: What SB3's squashing holds, and what it does.
BIJECTOR = {"epsilon": 1e-6}
BIJECTOR_METHODS = ("forward", "atanh", "inverse", "log_prob_correction")
#: PyTorch's class below each of SB3's distributions.
_MADE_OF: dict[type, type] = {
    CategoricalDistribution: torch_distributions.Categorical,
    MultiCategoricalDistribution: torch_distributions.Categorical,
    BernoulliDistribution: torch_distributions.Bernoulli,
    DiagGaussianDistribution: torch_distributions.Normal,
    StateDependentNoiseDistribution: torch_distributions.Normal,
}
#: By the class of a distribution: each class and method that it calls, and that method as it was written.
_CALLED = {
    kind: [
        *((kind, name, original(kind, name)) for name in DISTRIBUTION_METHODS if hasattr(kind, name)),
        *((base, name, original(base, name)) for name in ("log_prob", "entropy", "sample", "rsample")),
    ]
    for kind, base in _MADE_OF.items()
}

_SQUASHING = {name: getattr(TanhBijector, name) for name in BIJECTOR_METHODS}


def is_library_class(kind: type) -> bool:
    """``True`` for a class of PyTorch, SB3 or this package.

    :param kind: any class.
    :return: by the package that it says it is from.
    """
    return kind.__module__.partition(".")[0] in LIBRARIES


def is_shipped(kind: type) -> bool:
    """``True`` for a library's class in which no function was replaced.

    :param kind: any class.
    :return: ``False`` also for one that has been given a function of another class.
    """
    return is_library_class(kind) and replaced_function(kind) is None


def replaced_function(kind: type) -> str | None:
    """A function that was put into a library's class.

    :param kind: a library's class.
    :return: its name in the class, ``None`` if there is none.
    """
    library = kind.__module__.partition(".")[0]
    for name, value in vars(kind).items():
        if name == "forward" and not isinstance(value, FunctionType):
            return name
        if isinstance(value, FunctionType):
            # PyTorch itself puts other functions into nn.Module (torch.compile does, and its forward is abstract).
            is_own = kind is nn.Module or value.__qualname__.rpartition(".")[0] == kind.__qualname__
            if not is_own or value.__globals__["__name__"].partition(".")[0] not in (library, *WRAPPERS):
                return name
    return None


def has_shipped_methods(kind: type, *names: str) -> bool:
    """``True`` if no one of these methods of a library's class was replaced.

    :param kind: a library's class.
    :param names: of its methods, inherited or not; PyTorch wraps some of them.
    :return: ``False`` if somebody's own function is in the place of one.
    """
    return all(_is_library_function(getattr(kind, name)) for name in names)


def keeps_sb3_method(policy: Any, *names: str) -> bool:
    """``True`` if a policy has SB3's own version of these methods, or ours, so that formulas may stand in for them.

    :param policy: the policy, of any class.
    :param names: keys of ``METHODS``.
    :return: ``False`` if its class, SB3's class or the instance itself has another one, or if hooks expect the call.
    """
    if not isinstance(policy, ActorCriticPolicy):
        return False
    own_hooks = policy._forward_hooks or policy._forward_pre_hooks
    is_heard = own_hooks or torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    # A policy with a memory is never called as a whole while it learns.
    if is_heard and not hasattr(policy, "remember"):
        return False
    own, kind = vars(policy), type(policy)
    return kind.__call__ is nn.Module.__call__ and all(
        name not in own and (getattr(kind, name) is METHODS[name] or _is_our_own(kind, name))
        for name in (*names, "_get_action_dist_from_latent")
    )


def _is_our_own(kind: type, name: str) -> bool:
    """``True`` for a method of this package's: a recurrent policy's, which are made of the formulas themselves."""
    function = original(kind, name)
    return function is not None and function.__globals__["__name__"].startswith("sb3_ppo_notes.")


def keeps_distribution(distribution: Any) -> bool:
    """``True`` if no method of a distribution was replaced, so that formulas may stand in for them.

    :param distribution: of SB3's or of ours.
    :return: ``False`` if the instance, its class or PyTorch's class below has another one.
    """
    if not vars(distribution).keys().isdisjoint(DISTRIBUTION_METHODS):
        return False
    bijector = getattr(distribution, "bijector", None)
    if bijector is not None and (
        type(bijector) is not TanhBijector
        or vars(bijector) != BIJECTOR
        or any(getattr(TanhBijector, name) is not function for name, function in _SQUASHING.items())
    ):
        return False
    return all(getattr(cls, name) is function for cls, name, function in _CALLED.get(type(distribution), ()))


def own_code_of(policy: Any) -> str | None:
    """The first part of a policy that is somebody's own code, or calls it.

    :param policy: any policy.
    :return: the first of it as half a sentence, ``None`` if there is none.
    """
    return next(_own_code(policy), None)


def _own_code(policy: Any) -> Iterator[str]:
    hooks = hook_reason(policy)
    if hooks is not None:
        yield hooks
    for name, tensor in itertools.chain(policy.named_parameters(), policy.named_buffers()):
        if type(tensor) not in (th.Tensor, nn.Parameter):  # its operations may be anybody's, see __torch_function__
            yield f"{name} is a {qualified_name(type(tensor))}"
    for path, module in policy.named_modules():
        where = path or "the policy"
        allowed = NOT_IN_LEARNING if module is policy else set()
        for name in vars(module):
            if name not in allowed and isinstance(getattr(type(module), name, None), FunctionType | property):
                yield f"{where} has a {name} of its own ({qualified_name(vars(module)[name])})"
        for cls in type(module).__mro__[:-1]:
            if is_library_class(cls) and not _makes_weights(cls):
                name = replaced_function(cls)
                if name is not None:
                    yield f"{where} is of {qualified_name(cls)}, whose {name} was replaced"
            elif module is not policy:
                yield f"{where} is of {qualified_name(cls)}, whose state nobody can see"
            else:
                yield from _overrides(cls)


def _makes_weights(kind: type) -> bool:
    """``True`` for a class of PyTorch's that is no layer: TorchScript, or weights of others (``torch.nn.utils``)."""
    return kind.__module__.startswith("torch.") and not kind.__module__.startswith("torch.nn.modules.")


def _overrides(kind: type) -> Iterator[str]:
    """Methods of a user's policy class that differ from SB3's, as far as they matter in learning."""
    for name, value in vars(kind).items():
        is_code = isinstance(value, FunctionType | property | classmethod | staticmethod)
        above = any(name in vars(base) for base in kind.__mro__[1:-1])
        if is_code and name not in NOT_IN_LEARNING and above:
            yield f"{qualified_name(kind)} has a {name} of its own"
