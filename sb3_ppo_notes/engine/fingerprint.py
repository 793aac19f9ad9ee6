"""Everything that faster ways to act and to learn assume of a policy and its optimiser.

Stock SB3 calls policy, distribution and optimiser at every step, so whoever changes one of them is heard at once. The
faster ways to act and to learn have looked at them before: plain matrix products, recorded operations, compiled code
and vectors of weights know which layers there are, of which classes, who listens to them, which weights are trained
and by which optimiser with which options. All that is in a fingerprint: it is taken anew before every rollout and
every update, after every step that a user's callback has seen, and after every report that a callback was told. If it
is not the same as the one before, nothing is kept that was made out from that.

It holds the objects themselves, not their addresses: of an object that is gone the next may have the address.

Not in it, because it may change without any harm: the *numbers* in weights, buffers and optimiser state (read where
they lie) and the learning rate (read at every step). *Where* weights and state lie in memory is for those to compare
who keep addresses (``engine.optimizers.FlatOptimizer``, ``engine.script.Script``). Nor does it hold the state
of somebody's own modules: nothing is ever kept of those (``policies.shipped``), only that they are there. The mode is
in it, so those of rollouts and those of updates are compared among themselves.
"""

import sys
from collections.abc import Iterable
from functools import lru_cache
from operator import is_
from types import FunctionType
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.parameter import Parameter
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from sb3_ppo_notes.policies.shipped import is_library_class, keeps_distribution

#: Rooms in which the computation of a minibatch is written.
PARTS = ("formulas", "rules", "policies", "engine.step")
#: PyTorch's own entries in a module.
BOOKKEEPING = frozenset(vars(nn.Module()))
#: Options of a group of weights that are read at every step, or not at all; and the weights, which are looked at alone.
READ_ANEW = ("params", "lr", "initial_lr")
#: Attributes of a distribution that say what it computes; all others are what it has computed.
PLAIN = (bool, int, float, str)
#: What is no option of a module: PyTorch's bookkeeping, and what of a policy is compiled elsewhere or only builds it.
NO_OPTIONS = BOOKKEEPING | {"optimizer", "action_dist", "optimizer_kwargs", "features_extractor_kwargs", "net_arch"}


class Fingerprint:
    """Objects that must be the very same, and values that must be equal.

    :param objects: classes, modules, weights, functions, options.
    :param values: flags, shapes and dtypes.
    """

    def __init__(self, objects: Iterable[Any] = (), values: Iterable[Any] = ()):
        self._objects = list(objects)
        self._values = list(values)

    def is_same(self, other: "Fingerprint | None") -> bool:
        """``True`` if nothing has changed between two fingerprints; ``False`` too if there was nothing to compare."""
        if other is None or not self._objects:
            return False
        if len(self._objects) != len(other._objects) or self._values != other._values:
            return False
        return all(map(is_, self._objects, other._objects))

    @classmethod
    def of_policy(cls, policy: Any) -> "Fingerprint":
        """A policy's modules and their classes, weights, hooks and distribution; some 30 µs for SB3's MlpPolicy."""
        objects: list[Any] = []
        kinds: list[type] = []
        weights: list[Any] = []
        seen, rest = {policy}, [policy]
        while rest:
            module = rest.pop()
            kind = type(module)
            kinds.append(kind)
            weights += module._parameters.values()
            children = module._modules.values()
            objects += children
            for child in children:
                if child is not None and child not in seen:
                    seen.add(child)
                    rest.append(child)
            if module._forward_hooks or module._forward_pre_hooks:
                objects += (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
            if module._backward_hooks or module._backward_pre_hooks:
                objects += (*module._backward_hooks.values(), *module._backward_pre_hooks.values())
            if module is policy or is_library_class(kind):
                objects += vars(module).values()
                objects += module._buffers.values()
        objects += kinds
        for each in _classes_of(frozenset(kinds)):
            objects += vars(each).values()
        values: list[Any] = [_has_any_global_hook()]  # type: ignore[no-untyped-call]
        _add_weights(objects, values, weights)
        _add_distribution(objects, values, policy.action_dist)
        return cls(objects, values)

    @classmethod
    def of_optimizer(cls, optimizer: Any) -> "Fingerprint":
        """An optimiser's class, hooks, and groups of weights with their options."""
        kind = type(optimizer)
        objects: list[Any] = [optimizer, kind, kind.step, kind.zero_grad]
        objects += vars(optimizer).values()
        if isinstance(optimizer, Optimizer):
            objects += optimizer._optimizer_step_pre_hooks.values()
            objects += optimizer._optimizer_step_post_hooks.values()
        objects += torch_optimizer._global_optimizer_pre_hooks.values()
        objects += torch_optimizer._global_optimizer_post_hooks.values()
        for group in optimizer.param_groups:
            objects += group["params"]
            objects += [group[name] for name in group if name not in READ_ANEW]
        return cls(objects, [type(group["lr"]) for group in optimizer.param_groups])


def structure_of(policy: Any) -> tuple[Any, ...]:
    """Everything that compiled code depends on in a policy, the weights themselves aside: they are its arguments.

    Hashable; equal for policies of the same modules with the same options and weights of the same form.
    """
    parts: list[Any] = []
    first: dict[Any, str] = {}
    for path, module in policy.named_modules(remove_duplicate=False):
        own = vars(module)
        options = tuple((name, _hashable(own[name])) for name in sorted(own) if name not in NO_OPTIONS)
        tensors = [*module._parameters.items(), *module._buffers.items()]
        parts.append((path, type(module), first.setdefault(module, path), options))
        parts += [
            (name, None if each is None else (first.setdefault(each, f"{path}.{name}"), *_form(each)))
            for name, each in tensors
        ]
    distribution = policy.action_dist
    plain = tuple((name, value) for name, value in vars(distribution).items() if type(value) in PLAIN)
    return *parts, type(distribution), plain


def _form(tensor: Any) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


class _Same:
    """An object in the place of its value: equal to itself alone."""

    def __init__(self, thing: Any):
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _hashable(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_hashable, value))
    return value if type(value) in PLAIN or isinstance(value, type) else _Same(value)


def _add_weights(objects: list[Any], values: list[Any], weights: list[Any]) -> None:
    objects += weights
    objects += map(type, weights)
    weights = [weight for weight in weights if weight is not None]
    for weight in weights:
        if weight._backward_hooks:
            objects += weight._backward_hooks.values()
        if weight._post_accumulate_grad_hooks:
            objects += weight._post_accumulate_grad_hooks.values()
    values += [weight.requires_grad for weight in weights]
    values += [weight.dtype for weight in weights]
    # One that has no shape yet (a lazy layer's) is of another class.
    values += [weight.shape for weight in weights if type(weight) is Parameter]


def _add_distribution(objects: list[Any], values: list[Any], distribution: Any) -> None:
    objects += [type(distribution), getattr(distribution, "bijector", None)]
    values.append(keeps_distribution(distribution))
    values += [(name, value) for name, value in vars(distribution).items() if type(value) in PLAIN]


@lru_cache
def _classes_of(kinds: frozenset[type]) -> list[type]:
    """A policy's class and what it inherits from, and the same of its modules as far as they are a library's."""
    lines = [kind.__mro__[:-1] for kind in kinds if is_library_class(kind) or issubclass(kind, BasePolicy)]
    return list(dict.fromkeys(base for line in lines for base in line))


def sources(before: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """All our functions and methods that a minibatch may call: other ones, if somebody tries another formula.

    The functions themselves, and not their addresses: of one that is gone the next may have the address.

    :param before: what this gave before; the very same object comes back if nothing has changed, so that it is compared
        at once.
    """
    names = tuple(f"sb3_ppo_notes.{part}" for part in PARTS)
    # A copy, because a list of pairs is garbage to collect while it is made, and a finalizer may import.
    modules = [module for name, module in sys.modules.copy().items() if name.startswith(names)]
    functions = tuple(each for module in modules for value in list(vars(module).values()) for each in _functions(value))
    return before if before == functions else functions


def _functions(value: Any) -> list[Any]:
    if isinstance(value, FunctionType):
        return [value]
    is_ours = isinstance(value, type) and value.__module__.startswith("sb3_ppo_notes.")
    return [value, *(each for each in vars(value).values() if isinstance(each, FunctionType))] if is_ours else []


def listening_mode() -> str | None:
    """A mode of PyTorch that sees or changes every operation, so that autograd and modules must be called as ever; half
    a sentence. ``with torch.device(...)`` is a mode that changes none.
    """
    c: Any = th._C
    if c._len_torch_function_stack():
        for mode in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            if not isinstance(mode, DeviceContext):
                return f"{type(mode).__name__} sees every operation"
    if c._autograd._top_saved_tensors_default_hooks(True) is not None:
        return "saved_tensors_hooks see what autograd keeps"
    return None
