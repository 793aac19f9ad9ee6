"""How long a gradient is, and how much of it a limit leaves."""

import numpy as np
import torch as th


def clip_coefficient(norm: th.Tensor, max_grad_norm: float) -> th.Tensor:
    """By what to multiply a gradient so that it is no longer than allowed: never more than 1.

    :param norm: of the whole gradient, 0-dimensional.
    :param max_grad_norm: longest allowed gradient.
    :return: 0-dimensional.
    """
    return th.clamp(max_grad_norm / (norm + 1e-6), max=1.0)


def clip_number(norm: float, max_grad_norm: float) -> float:
    """The same number as :func:`clip_coefficient`'s, without four operations on tensors of one element.

    In float32, and by way of the reciprocal: that is how torch divides a number by a tensor.

    :param norm: of the whole gradient.
    :param max_grad_norm: longest allowed gradient.
    :return: never more than 1.
    """
    reciprocal = np.float32(1.0) / (np.float32(norm) + np.float32(1e-6))
    return min(float(reciprocal * np.float32(max_grad_norm)), 1.0)


def norms_of(gradients: list[th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
    """The norm of each part of a gradient, and of all: the norm of the norms, the order of summation of
    ``torch.nn.utils.clip_grad_norm_``.

    :param gradients: of each weight tensor.
    :return: ``[P]``, and 0-dimensional.
    """
    parts = th.stack(th._foreach_norm(gradients))
    return parts, th.linalg.vector_norm(parts)
