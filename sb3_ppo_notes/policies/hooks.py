"""Detects hooks that require modules to be called normally, or autograd to pass through them."""

from collections.abc import Iterator
from typing import Any

from torch.nn.modules import module as torch_module

#: PyTorch's dictionaries of the hooks of a module, of a weight and of all modules at once, and a name for each.
MODULE_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}
WEIGHT_HOOKS = {"_backward_hooks": "gradient hook", "_post_accumulate_grad_hooks": "hook on its accumulated gradient"}
GLOBAL_HOOKS = {f"_global{name}": f"global {word}" for name, word in MODULE_HOOKS.items()}


def has_hooks(module: Any) -> bool:
    """``True`` if a module must be called, or autograd must pass through it.

    :param module: any ``nn.Module``.
    :return: ``True`` for forward and backward hooks, those before either and those on all modules included.
    """
    forward = module._forward_hooks or module._forward_pre_hooks
    is_on_all = torch_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return bool(forward or module._backward_hooks or module._backward_pre_hooks or is_on_all)


def hooks_of(policy: Any) -> Iterator[str]:
    """Every hook on a policy, its modules and its weights, and on all modules at once.

    :param policy: any module.
    :return: one sentence each: where it is, and whose.
    """
    yield from _list_hooks("every module", torch_module, GLOBAL_HOOKS)
    for name, module in policy.named_modules():
        yield from _list_hooks(name or "the policy", module, MODULE_HOOKS)
    for name, weight in policy.named_parameters():
        yield from _list_hooks(name, weight, WEIGHT_HOOKS)


def hook_reason(policy: Any) -> str | None:
    """The first hook on a policy, as the reason why its modules must be called.

    :param policy: any module.
    :return: half a sentence: where it is, whose, and of how many; ``None`` if there is none.
    """
    hooks = list(hooks_of(policy))
    return None if not hooks else hooks[0] if len(hooks) == 1 else f"{hooks[0]}, the first of {len(hooks)} hooks"


def _list_hooks(where: str, holder: Any, kinds: dict[str, str]) -> Iterator[str]:
    for attribute, kind in kinds.items():
        for hook in (getattr(holder, attribute, None) or {}).values():
            # A lambda has no name of its own: the function that it was written in has.
            yield f"{where} has a {kind} ({qualified_name(hook).removesuffix('.<locals>.<lambda>')})"


def qualified_name(function: Any) -> str:
    """A function's module and name.

    :param function: a function, a method, a partial function or an object that is called.
    :return: its module and its name, or those of its class.
    """
    function = getattr(function, "func", function)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
