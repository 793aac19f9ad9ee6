"""LSTMs over the sequences of a minibatch in compiled code of our own, ``_lstm.c``: on one core up to twice as fast as
PyTorch's, because a step of a few sequences is little arithmetic over many weights, and PyTorch's spends as long on
laying them out.

The code is built when the package is installed, if there is a C compiler. Where it was not, or where a memory is more
than one plain layer, ``nn.LSTM`` itself is called: the same numbers to rounding.
"""

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.kernels.compiled import path_of

logger = logging.getLogger("sb3_ppo_notes")

#: H must be a multiple of it (``WIDEST`` of ``_lstm.c``).
WIDTH = 64

#: With fewer inputs their weights' gradient is computed along with the rest; PyTorch's product is slow for so few.
NARROW = 64

#: The code runs on one core. With more threads than this PyTorch's LSTM, which spreads each step over all of them, is
#: not known to be slower.
MOST_THREADS = 2
#: Of an LSTM's weights, those that one without bias has.
NO_BIAS = ("weight_ih_l0", "weight_hh_l0")
#: Tensors that hold numbers and nothing else.
PLAIN = (th.Tensor, nn.Parameter)

#: What the code can do.
FUNCTIONS = ("forward", "backward", "step")

#: What the code returns for a row outside the lanes; 1 is no memory.
OUTSIDE = 2

#: Of the source in ``_lstm.c``: what was built from another one is not called.
REVISION = 5


class Memory(NamedTuple):
    """One LSTM and what goes into it.

    :param module: the LSTM.
    :param features: ``[N, k]``, x of every row.
    :param states: h and c at each lane's first step, ``[1, S, H]`` each.
    """

    module: nn.LSTM
    features: th.Tensor
    states: tuple[th.Tensor, ...]


class Batch(ctypes.Structure):
    """``Batch`` of ``_lstm.c``: numbers, then addresses."""

    NUMBERS = ("n_rows", "n_inputs", "n_hidden", "n_steps", "n_lanes")
    INPUTS = ("place", "features", "w_ih", "w_hh", "b_ih", "b_hh", "h_0", "c_0")
    RESULTS = ("gates", "cells", "tanhs", "hiddens", "d_hiddens", "d_gates", "d_w_hh", "d_w_ih", "d_bias")
    _fields_ = [
        *((name, ctypes.c_int64) for name in NUMBERS),
        *((name, ctypes.c_void_p) for name in (*INPUTS, *RESULTS)),
    ]

    @classmethod
    def of(cls, numbers: tuple[int, ...], **tensors: th.Tensor | None) -> "Batch":
        """The addresses of tensors, by the name of the field: contiguous ones, which must outlive the call.

        :param numbers: in the order of the fields.
        """
        return cls(*numbers, **{name: each.data_ptr() for name, each in tensors.items() if each is not None})


class Library:
    """The compiled code.

    :param path: of the shared library.
    :param level: the newest vector instructions to use: 0 plain, 1 AVX2, 2 AVX-512; ``None`` for what this processor
        has.
    :raises OSError: if it cannot be loaded, or was built from another source.
    """

    def __init__(self, path: str, level: int | None = None):
        functions = ctypes.CDLL(path)
        if not hasattr(functions, "lstm_revision") or functions.lstm_revision() != REVISION:
            raise OSError(f"{path} was built from another version's source")
        self.functions = {name: getattr(functions, f"lstm_{name}") for name in FUNCTIONS}
        self.level = functions.lstm_level() if level is None else min(level, functions.lstm_level())

    def run(self, name: str, batch: Any) -> None:
        """Run one of ``FUNCTIONS``.

        :raises MemoryError: if there is no memory for what lies between.
        :raises ValueError: if a row lies outside the lanes.
        """
        failure = self.functions[name](ctypes.byref(batch), self.level)
        if failure == OUTSIDE:
            size = batch.n_steps * batch.n_lanes
            raise InvalidValueError(f"place must lie in [0, {size}), the steps times the lanes, for every row")
        if failure:
            raise MemoryError(f"no memory for the LSTM's {name} pass over {batch.n_rows} rows")


def _load() -> Library | None:
    path = path_of("kernels._lstm")
    if path is None:
        return None
    try:
        return Library(path)
    except (OSError, AttributeError) as error:
        logger.warning("recurrent policies train at PyTorch's speed; installing again may help: %s", error)
        return None


#: ``None`` where the package was installed without a C compiler.
LIBRARY = _load()


def in_use() -> str:
    """``"torch"``, or the instructions and the revision of our own code: another one rounds otherwise."""
    return "torch" if LIBRARY is None else f"{('plain', 'avx2', 'avx512')[LIBRARY.level]}, revision {REVISION}"


def weights_of(module: nn.LSTM) -> list[th.Tensor]:
    """W_ih, W_hh, and b_ih and b_hh if there are any, of a module's first layer."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0") if module.bias else NO_BIAS
    # A module's getattr is slow, and this is asked at every step. Where a weight is made of others it is no parameter.
    own: dict[str, Any] = module._parameters
    return [own[name] if name in own else getattr(module, name) for name in names]


@cache
def _say_that_it_is_missing() -> None:
    logger.info("recurrent policies train at PyTorch's speed: the package's own code for LSTMs is not here")


def can_run(memory: Memory, n_lanes: int) -> bool:
    """``True`` if the code can take the place of a module's own. It reads memory without asking PyTorch, so all that
    PyTorch would refuse, and all that only PyTorch understands, is left to PyTorch.

    That is: it is here, on a CPU in float32 with one thread or two, for units in multiples of 64 and tensors of the
    right shapes that hold numbers (nobody traces, transforms or asks for the gradient at the first states).
    """
    module, features, states = memory
    if LIBRARY is None:
        _say_that_it_is_missing()
        return False
    if module.hidden_size % WIDTH or th.get_num_threads() > MOST_THREADS:
        return False
    is_traced = th._C._get_tracing_state() is not None or th._C._functorch.peek_interpreter_stack() is not None
    if is_traced or th.is_autocast_enabled("cpu"):
        return False
    size, n_inputs = module.hidden_size, module.input_size
    shapes = [(features.shape[0], n_inputs), *((1, n_lanes, size) for _ in range(2))]
    shapes += [(4 * size, n_inputs), (4 * size, size), (4 * size,), (4 * size,)]
    tensors = [features, *states, *weights_of(module)]
    return len(states) == 2 and all(map(holds_numbers, tensors, shapes)) and not any(s.requires_grad for s in states)


def holds_numbers(tensor: th.Tensor, shape: tuple[int, ...]) -> bool:
    """``True`` for a tensor that can be read without asking PyTorch: a plain one of this shape, float32, on a CPU."""
    return type(tensor) in PLAIN and tensor.dtype is th.float32 and tensor.is_cpu and tensor.shape == shape


def step(memory: Memory) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
    """One step in every lane, without a graph, for acting: h ``[S, H]``, and h and c after, ``[1, S, H]`` each.

    Source: ``formulas.lstm``.

    :param memory: for which :func:`can_run` holds; row r of its features is lane r.
    """
    w_ih, w_hh, *biases = (weight.contiguous() for weight in weights_of(memory.module))
    features, (hidden, cell) = memory.features.contiguous(), (state.contiguous() for state in memory.states)
    n, size = len(features), memory.module.hidden_size
    hiddens, cells, tanhs, *_ = parts = features.new_empty(7, n, size).unbind()
    gates = parts[3]
    inputs = {"features": features, "h_0": hidden, "c_0": cell} | named((w_ih, w_hh, *biases))
    if features.shape[1] >= NARROW:
        # To pack so many weights would take longer than one step with them.
        gates = th.addmm(biases[0] + biases[1], features, w_ih.t()) if biases else features.mm(w_ih.t())
        del inputs["features"]
    outputs = {"gates": gates, "cells": cells, "tanhs": tanhs, "hiddens": hiddens}
    library().run("step", Batch.of((n, features.shape[1], size, 1, n), **inputs, **outputs))
    return hiddens, (hiddens.unsqueeze(0), cells.unsqueeze(0))


def named(weights: Sequence[th.Tensor]) -> dict[str, th.Tensor]:
    """Contiguous weights of :func:`weights_of` by the names of C's fields."""
    return dict(zip(("w_ih", "w_hh", "b_ih", "b_hh"), weights, strict=False))


def library() -> Library:
    """The compiled code; a RuntimeError if there is none."""
    if LIBRARY is None:
        raise RuntimeError("the LSTM's own code was not built: ask can_run first")
    return LIBRARY
