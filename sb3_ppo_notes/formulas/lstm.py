"""What a recurrent policy remembers: one step of an LSTM, and its gradient."""

from typing import NamedTuple

import torch as th


class Gates(NamedTuple):
    """Of one step, ``[..., H]`` each, behind their squashing.

    :param i: how much of the candidate is taken in; in (0, 1).
    :param f: how much of the memory is kept; in (0, 1).
    :param g: the candidate; in (−1, 1).
    :param o: how much of the memory is shown; in (0, 1).
    """

    i: th.Tensor
    f: th.Tensor
    g: th.Tensor
    o: th.Tensor


def lstm_gates(sums: th.Tensor) -> Gates:
    """The gates of an LSTM.

        i = sigmoid(z_i)   f = sigmoid(z_f)   g = tanh(z_g)   o = sigmoid(z_o)
        where each z is W_ih·x + b_ih + W_hh·h' + b_hh

    A gate at 0 is shut: f = 0 forgets everything, o = 0 says nothing. tanh and σ bound all of it, which is why a memory
    can be carried over hundreds of steps without growing.

    Source: Gers, Schmidhuber & Cummins 2000; the order i, f, g, o is torch's (``nn.LSTM``).

    :param sums: ``[..., 4H]``, z of the four gates.
    :return: ``[..., H]`` each.

    >>> [gate.tolist() for gate in lstm_gates(th.zeros(4))]
    [[0.5], [0.5], [0.0], [0.5]]
    """
    i, f, g, o = sums.chunk(4, dim=-1)
    return Gates(th.sigmoid(i), th.sigmoid(f), th.tanh(g), th.sigmoid(o))


def lstm_step(gates: Gates, cell: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """What is remembered, and what is shown of it.

        c = f·c' + i·g          h = o·tanh(c)

    Where an episode begins, c' and h' are 0: no sequence knows anything of the one before.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000.

    :param gates: of this step.
    :param cell: ``[..., H]``, c' of the step before.
    :return: h and c, ``[..., H]`` each.

    >>> hidden, cell = lstm_step(lstm_gates(th.zeros(4)), th.ones(1))
    >>> cell.item()
    0.5
    """
    cell = gates.f * cell + gates.i * gates.g
    return gates.o * th.tanh(cell), cell


def lstm_step_gradient(
    gates: Gates, before: th.Tensor, cell: th.Tensor, d_hidden: th.Tensor, d_cell: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """One step of backpropagation through time.

        ∂c = ∂c_later + ∂h·o·(1 − tanh(c)²)          ∂c' = ∂c·f
        ∂i = ∂c·g·i·(1 − i)          ∂f = ∂c·c'·f·(1 − f)
        ∂g = ∂c·i·(1 − g²)           ∂o = ∂h·tanh(c)·o·(1 − o)

    Along c a gradient is multiplied by f alone, step after step, and by no matrix: as long as f stays near 1 it neither
    vanishes nor explodes. That is the whole point of the cell.

    Source: the chain rule through :func:`lstm_gates` and :func:`lstm_step`; its oracle is autograd.

    :param gates: of this step.
    :param before: ``[..., H]``, c' of the step before.
    :param cell: ``[..., H]``, c of this step.
    :param d_hidden: ``[..., H]``, ∂h: the loss's gradient at h.
    :param d_cell: ``[..., H]``, ∂c_later: and at c from the steps after.
    :return: the gradient at the gates' sums ``[..., 4H]``, and at c' ``[..., H]``.

    >>> half = lstm_gates(th.zeros(4))
    >>> lstm_step_gradient(half, th.zeros(1), th.zeros(1), th.ones(1), th.zeros(1))[1].item()
    0.25
    """
    i, f, g, o = gates
    shown = th.tanh(cell)
    d_cell = d_cell + d_hidden * o * (1.0 - shown**2)
    d_gates = (
        d_cell * g * i * (1.0 - i),
        d_cell * before * f * (1.0 - f),
        d_cell * i * (1.0 - g**2),
        d_hidden * shown * o * (1.0 - o),
    )
    return th.cat(d_gates, dim=-1), d_cell * f
