"""The layers that stand on a recurrent policy's memory, in the same compiled code as the memory (``_lstm.c``).

For the hundred rows of a minibatch PyTorch's matrix products reach a third of what one core can do; these reach twice
that, and the activation is taken along. The numbers are the same to rounding.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch as th
from torch import nn

from sb3_ppo_notes.kernels import lstm

#: (weight, bias) of each layer, from the memory upwards.
Layers = Sequence[tuple[th.Tensor, th.Tensor]]


class Stack(NamedTuple):
    """Layers with an activation after each.

    :param layers: ``[M, K]`` and ``[M]`` of each.
    :param is_tanh: whether it is tanh; else it is ReLU.
    """

    layers: Layers = ()
    is_tanh: bool = True

    def run(self, features: th.Tensor) -> th.Tensor:
        """By PyTorch, with a graph.

            y = a(W x + b)

        :param features: ``[N, K]``.
        :return: ``[N, M]`` of the last layer.
        """
        for weight, bias in self.layers:
            sums = nn.functional.linear(features, weight, bias)
            features = sums.tanh() if self.is_tanh else sums.relu()
        return features

    def can_run(self, width: int) -> bool:
        """Whether our own code can run it. It reads memory without asking PyTorch: a layer that does not fit the one
        below is left to PyTorch, which says so.

        :param width: of what it stands on.
        :return: whether all layers are of multiples of 64 units, each as wide as the one below, in float32 on a CPU.
        """
        for weight, bias in self.layers:
            outputs = len(bias) if bias.dim() == 1 else 0
            is_whole = width % lstm.WIDTH == 0 and outputs % lstm.WIDTH == 0 and outputs > 0
            if not (is_whole and lstm.holds_numbers(weight, (outputs, width)) and lstm.holds_numbers(bias, (outputs,))):
                return False
            width = outputs
        return True


class _Layer(ctypes.Structure):
    """``Layer`` of ``_lstm.c``: numbers, then addresses."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_rows", "n_inputs", "n_outputs", "is_tanh")),
        *((name, ctypes.c_void_p) for name in ("x", "w", "b", "y", "d_y", "d_w", "d_b", "d_x")),
    )


def forward(x: th.Tensor, weight: th.Tensor, bias: th.Tensor, is_tanh: bool) -> th.Tensor:
    """One layer upwards.

        y = a(W x + b)

    Source: ``nn.Linear`` and its activation, which are the oracle (in float64).

    :param x: ``[N, K]``, contiguous; dimensionless, as all here.
    :param weight: W, ``[M, K]``.
    :param bias: b, ``[M]``.
    :param is_tanh: whether a is tanh; else it is ReLU.
    :return: ``[N, M]``.
    """
    y = x.new_empty(len(x), len(weight))
    _run("dense_forward", x, weight, is_tanh, b=bias, y=y)
    return y


def backward(
    x: th.Tensor, weight: th.Tensor, y: th.Tensor, d_y: th.Tensor, is_tanh: bool
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """The same layer downwards.

        ∂s = ∂y·da/ds         ∂x = ∂s·W          ∂W = ∂sᵀ·x          ∂b = Σ ∂s

    Source: Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors"; autograd is the
    oracle (in float64).

    :param x: ``[N, K]``, what it was given.
    :param weight: W, ``[M, K]``.
    :param y: ``[N, M]``, what it gave.
    :param d_y: ``[N, M]``, the loss's gradient there; written to.
    :param is_tanh: whether a is tanh; else it is ReLU.
    :return: ∂x ``[N, K]``, ∂W ``[M, K]``, ∂b ``[M]``.
    """
    d_x, d_w, d_b = th.empty_like(x), th.empty_like(weight), weight.new_empty(len(weight))
    _run("dense_backward", x, weight, is_tanh, y=y, d_y=d_y, d_w=d_w, d_b=d_b, d_x=d_x)
    return d_x, d_w, d_b


def _run(name: str, x: th.Tensor, weight: th.Tensor, is_tanh: bool, **tensors: th.Tensor) -> None:
    places = {key: tensor.data_ptr() for key, tensor in tensors.items()}
    numbers = (len(x), weight.shape[1], weight.shape[0], is_tanh)
    lstm.library().run(name, _Layer(*numbers, x=x.data_ptr(), w=weight.data_ptr(), **places))
