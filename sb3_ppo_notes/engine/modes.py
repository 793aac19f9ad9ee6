"""Modes of PyTorch in which somebody sees, or changes, every operation. Private names of PyTorch stand here alone."""

from typing import Any

import torch as th
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext


def listening_mode() -> str | None:
    """What listens to PyTorch's operations, so that autograd and modules must be called as ever.

    :return: half a sentence, ``None`` if there is nothing. ``with torch.device(...)`` is a mode that changes none.
    """
    c: Any = th._C
    if c._len_torch_function_stack():
        for mode in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            if not isinstance(mode, DeviceContext):
                return f"{type(mode).__name__} sees every operation"
    if c._autograd._top_saved_tensors_default_hooks(True) is not None:
        return "saved_tensors_hooks see what autograd keeps"
    return None
