"""Learning through an LSTM in our own code: all sequences of a minibatch, forward and backward."""

from typing import Any

import torch as th
from torch.autograd.function import once_differentiable

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.kernels.lstm import NARROW, Batch, Memory, library, named, weights_of


def sequences(memory: Memory, place: th.Tensor, shape: tuple[int, int]) -> th.Tensor:
    """Hidden states of all rows, ``[N, H]``, of sequences that lie in lanes; differentiable in features and weights.

    Source: ``formulas.lstm``, applied from step to step.

    :param memory: for which ``lstm.can_run`` holds.
    :param place: ``[N]`` int64, step · S + lane of each row. Between two sequences of a lane a step is left empty.
    :param shape: steps of a lane, and lanes S.
    :raises ValueError: if ``place`` is of another type or length, or a row lies outside the lanes.
    """
    if place.dtype != th.int64 or place.shape != (len(memory.features),):
        rows = f"one int64 for each of {len(memory.features)} rows"
        raise InvalidValueError(f"place must hold {rows}, got {place.dtype} of shape {tuple(place.shape)}")
    return _Sequences.apply(shape, place, *memory.states, memory.features, *weights_of(memory.module))  # type: ignore[no-any-return, no-untyped-call]


class _Sequences(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: tuple[int, int], place: th.Tensor, *tensors: th.Tensor) -> th.Tensor:
        """``tensors``: h, c, features, W_ih, W_hh, and the two biases if there are any."""
        hidden, cell, features, *weights = (tensor.contiguous() for tensor in tensors)
        place, n_rows, size = place.contiguous(), len(features), hidden.shape[-1]
        gates, between = features.new_empty(n_rows, 4 * size), features.new_empty(2, n_rows, size)
        hiddens = features.new_empty(n_rows, size)
        inputs = {"place": place, "h_0": hidden, "c_0": cell, "features": features} | named(weights)
        outputs = {"gates": gates, "cells": between[0], "tanhs": between[1], "hiddens": hiddens}
        library().run("forward", Batch.of((n_rows, features.shape[1], size, *shape), **inputs, **outputs))
        ctx.shape = shape
        # The weights as they came: autograd then notices if they are changed before the backward pass.
        ctx.save_for_backward(place, gates, between, hiddens, *tensors)
        return hiddens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """From the gradient at h to those at features and weights."""
        place, gates, between, hiddens, *tensors = ctx.saved_tensors
        hidden, cell, features, w_ih, w_hh, *biases = (tensor.contiguous() for tensor in tensors)
        n_inputs = features.shape[1]
        is_narrow = n_inputs < NARROW
        d_gates, d_w_hh, d_w_ih = th.empty_like(gates), th.empty_like(w_hh), th.empty_like(w_ih)
        d_bias = gates.new_empty(gates.shape[1])
        inputs = {"place": place, "h_0": hidden, "c_0": cell, "features": features, "w_hh": w_hh}
        inputs |= {"gates": gates, "cells": between[0], "tanhs": between[1], "hiddens": hiddens}
        # Written to: what comes from later steps is added.
        d_hiddens = gradient.clone(memory_format=th.contiguous_format)
        outputs = {"d_hiddens": d_hiddens, "d_gates": d_gates, "d_w_hh": d_w_hh}
        outputs |= {"d_w_ih": d_w_ih, "d_bias": d_bias} if is_narrow else {}
        numbers = (len(features), n_inputs, w_hh.shape[1], *ctx.shape)
        library().run("backward", Batch.of(numbers, **inputs, **outputs))
        if not is_narrow:
            th.mm(d_gates.t(), features, out=d_w_ih)
            th.sum(d_gates, 0, out=d_bias)
        d_features = d_gates.mm(w_ih) if ctx.needs_input_grad[4] else None
        # A tensor for each bias: whoever clips gradients in place would else shorten the one twice.
        return None, None, None, None, d_features, d_w_ih, d_w_hh, *([d_bias, d_bias.clone()] if biases else [])
