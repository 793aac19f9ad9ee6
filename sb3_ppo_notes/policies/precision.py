"""Half precision for the networks, single precision for everything that is made of their outputs."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch as th
from torch import nn

logger = logging.getLogger("sb3_ppo_notes")

#: The networks' precisions. bfloat16 has float32's range; float16 has not, and needs its loss scaled.
PRECISIONS = {"float32": th.float32, "bfloat16": th.bfloat16, "float16": th.float16}


def mixed_precision(policy: Any) -> AbstractContextManager[Any]:
    """The context in which a policy's networks run.

    Matrix products and convolutions are rounded to the lower precision, weights and optimiser stay in float32. Acting
    and updating must both be in it: otherwise the ratio of the very first minibatch would not be 1.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740); ``torch.autocast``.

    :param policy: its attribute ``precision`` says which; without one, float32.
    :return: a context manager.
    """
    precision = getattr(policy, "precision", "float32")
    if precision == "float32":
        return nullcontext()
    return th.autocast(policy.device.type, dtype=PRECISIONS[precision])


@cache
def can_remember(layer: type[nn.LSTM] | type[nn.GRU], device: str, precision: str) -> bool:
    """``True`` if a recurrent layer runs in half precision here: one is run, forward and back.

    No list of processors tells. PyTorch hands an LSTM on a CPU to oneDNN, which has no bfloat16 without AVX-512, and
    float16 on the newest processors only.

    :param layer: ``nn.LSTM`` or ``nn.GRU``.
    :param device: type of a device.
    :param precision: a key of ``PRECISIONS``.
    :return: ``False`` if PyTorch refuses.
    """
    try:
        with th.enable_grad(), th.autocast(device, dtype=PRECISIONS[precision]):
            outputs, _ = layer(2, 4, device=device)(th.ones(2, 1, 2, device=device))
            outputs.float().sum().backward()
    except RuntimeError:
        return False
    return True


def remembers_in_single(policy: Any) -> bool:
    """``True`` if a recurrent policy's memory stays in float32 although its networks do not.

    :param policy: a recurrent policy.
    :return: ``True`` where PyTorch cannot run the memory in the networks' precision.
    """
    precision = getattr(policy, "precision", "float32")
    layer = nn.LSTM if isinstance(policy.lstm_actor, nn.LSTM) else nn.GRU
    return precision != "float32" and not can_remember(layer, policy.device.type, precision)


def set_precision(policy: Any, precision: str) -> None:
    """Set what a policy's networks compute in; say where a memory cannot follow.

    :param policy: any policy.
    :param precision: a key of ``PRECISIONS``.
    """
    policy.precision = precision
    if hasattr(policy, "lstm_actor") and remembers_in_single(policy):
        name, place = type(policy.lstm_actor).__name__, "processor" if policy.device.type == "cpu" else "device"
        logger.warning(
            "precision=%r is for the networks; the memory stays in float32, because PyTorch has no %s in %s for this "
            "%s",
            *(precision, name, precision, place),
        )
