"""Who listens to a network. What computes without calling a module, or without autograd, must ask first."""

from typing import Any

from torch.nn.modules.module import _has_any_global_hook


def has_hooks(module: Any) -> bool:
    """Whether somebody expects a module to be called, or autograd to pass through it.

    :param module: any ``nn.Module``.
    :return: ``True`` for forward and backward hooks, those before either and those on all modules included.
    """
    forward = module._forward_hooks or module._forward_pre_hooks
    is_on_all = _has_any_global_hook()  # type: ignore[no-untyped-call]
    return bool(forward or module._backward_hooks or module._backward_pre_hooks or is_on_all)


def is_watched(weight: Any) -> bool:
    """Whether somebody has hooks on a weight's gradient: autograd must see it.

    :param weight: a parameter.
    :return: ``True`` for hooks on the gradient, before it is accumulated or after.
    """
    return bool(weight._backward_hooks or weight._post_accumulate_grad_hooks)
