"""Learning through an LSTM in our own code: all sequences of a minibatch, there and back, with the layers on top."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch.autograd.function import once_differentiable

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.kernels import dense
from sb3_ppo_notes.kernels.dense import Stack
from sb3_ppo_notes.kernels.lstm import NARROW, Batch, Memory, library, named, weights_of


class _Form(NamedTuple):
    """What the tensors are: of the memory, then of the layers that stand on it.

    :param shape: steps of a lane, and lanes.
    :param n_memory: h, c, features, W_ih, W_hh, and the two biases if there are any.
    :param is_tanh: the layers' activation; else it is ReLU.
    """

    shape: tuple[int, int]
    n_memory: int
    is_tanh: bool


def sequences(memory: Memory, place: th.Tensor, shape: tuple[int, int], stack: Stack | None = None) -> th.Tensor:
    """The module's output for sequences that lie in lanes: h of every row, or what a stack of layers makes of it.

    Source: ``formulas.memory``, applied from step to step.

    :param memory: for which :func:`can_run` holds.
    :param place: ``[N]`` int64, step · S + lane of each row. Between two sequences of a lane a step is left empty.
    :param shape: steps of a lane, and lanes S.
    :param stack: layers that stand on it, for which ``can_run`` holds; ``None`` for none.
    :return: ``[N, H]``, or of the last layer's width; differentiable with respect to features and weights.
    :raises ValueError: if ``place`` is of another type or length, or a row lies outside the lanes.
    """
    if place.dtype != th.int64 or place.shape != (len(memory.features),):
        rows = f"one int64 for each of {len(memory.features)} rows"
        raise InvalidValueError(f"place must hold {rows}, got {place.dtype} of shape {tuple(place.shape)}")
    stack = stack or Stack()
    arguments = (*memory.states, memory.features, *weights_of(memory.module))
    weights = [weight for layer in stack.layers for weight in layer]
    form = _Form(shape, len(arguments), stack.is_tanh)
    return _Sequences.apply(form, place, *arguments, *weights)  # type: ignore[no-any-return, no-untyped-call]


class _Sequences(th.autograd.Function):
    """The function and its gradient."""

    @staticmethod
    def forward(ctx: Any, form: _Form, place: th.Tensor, *tensors: th.Tensor) -> th.Tensor:
        """From features and weights to h, and on through the layers.

        :param ctx: keeps what the way back needs.
        :param form: what the tensors are.
        :param place: ``[N]``.
        :param tensors: of the memory, then weight and bias of each layer.
        :return: ``[N, H]``, or of the last layer's width.
        """
        inside = [tensor.contiguous() for tensor in tensors]
        hidden, cell, features, *weights = inside[: form.n_memory]
        place, n_rows, size = place.contiguous(), len(features), hidden.shape[-1]
        gates, between = features.new_empty(n_rows, 4 * size), features.new_empty(2, n_rows, size)
        hiddens = features.new_empty(n_rows, size)
        given = {"place": place, "h_0": hidden, "c_0": cell, "features": features} | named(weights)
        wanted = {"gates": gates, "cells": between[0], "tanhs": between[1], "hiddens": hiddens}
        library().run("forward", Batch.of((n_rows, features.shape[1], size, *form.shape), **given, **wanted))
        outputs = [hiddens]
        for weight, bias in _pairs(inside[form.n_memory :]):
            outputs.append(dense.forward(outputs[-1], weight, bias, form.is_tanh))
        ctx.form = form
        # The weights as they are given: autograd then notices if they are changed before the way back.
        ctx.save_for_backward(place, gates, between, *outputs, *tensors)
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """From the gradient at the top to those at features and weights.

        :param ctx: of :meth:`forward`.
        :param gradient: ``[N, H]``, or of the last layer's width.
        :return: in the order of the arguments of :meth:`forward`.
        """
        place, gates, between, *rest = ctx.saved_tensors
        n_layers = (len(rest) - 1 - ctx.form.n_memory) // 3
        outputs, tensors = rest[: n_layers + 1], [tensor.contiguous() for tensor in rest[n_layers + 1 :]]
        # Written to: what comes from later steps is added, and each layer's slope is multiplied in.
        d_top, d_layers = gradient.clone(memory_format=th.contiguous_format), list[th.Tensor]()
        layers = list(zip(outputs, _pairs(tensors[ctx.form.n_memory :]), outputs[1:], strict=False))
        for below, (weight, _), above in reversed(layers):
            d_top, *d_own = dense.backward(below, weight, above, d_top, ctx.form.is_tanh)
            d_layers = [*d_own, *d_layers]
        gradients = _through_memory(ctx, (place, gates, between, outputs[0]), tensors[: ctx.form.n_memory], d_top)
        return None, None, *gradients, *d_layers


def _through_memory(
    ctx: Any, inside: tuple[th.Tensor, ...], given: Sequence[th.Tensor], d_hidden: th.Tensor
) -> list[th.Tensor | None]:
    """From the gradient at h to those at features and weights."""
    place, gates, between, hiddens = inside
    hidden, cell, features, w_ih, w_hh, *biases = given
    n_inputs = features.shape[1]
    is_narrow = n_inputs < NARROW
    d_gates, d_w_hh, d_w_ih = th.empty_like(gates), th.empty_like(w_hh), th.empty_like(w_ih)
    d_bias = gates.new_empty(gates.shape[1])
    known = {"place": place, "h_0": hidden, "c_0": cell, "features": features, "w_hh": w_hh}
    known |= {"gates": gates, "cells": between[0], "tanhs": between[1], "hiddens": hiddens}
    wanted = {"d_hiddens": d_hidden, "d_gates": d_gates, "d_w_hh": d_w_hh}
    wanted |= {"d_w_ih": d_w_ih, "d_bias": d_bias} if is_narrow else {}
    numbers = (len(features), n_inputs, w_hh.shape[1], *ctx.form.shape)
    library().run("backward", Batch.of(numbers, **known, **wanted))
    if not is_narrow:
        th.mm(d_gates.t(), features, out=d_w_ih)
        th.sum(d_gates, 0, out=d_bias)
    d_features = d_gates.mm(w_ih) if ctx.needs_input_grad[4] else None
    # A tensor for each bias: who clips gradients in place would else shorten the one twice.
    return [None, None, d_features, d_w_ih, d_w_hh, *([d_bias, d_bias.clone()] if biases else [])]


def _pairs(tensors: Sequence[th.Tensor]) -> list[tuple[th.Tensor, th.Tensor]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
