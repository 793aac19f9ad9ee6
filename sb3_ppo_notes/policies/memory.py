"""Running a recurrent policy's memory: over one step, or over all sequences of a minibatch at once."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_ppo_notes.kernels import lstm, lstm_sequences
from sb3_ppo_notes.kernels.lstm import Memory
from sb3_ppo_notes.policies.hooks import has_hooks

States = tuple[th.Tensor, ...]


class Recurrence(NamedTuple):
    """Places of a batch's rows in a padded grid of sequences, which never mix environments or cross an episode's start.

    A lane of the grid holds one sequence, or several one after the other.

    :param positions: ``[N]``, place of each row in the ``[L·S]`` grid (step · S + lane). With one step, L = 1, the rows
        are the lanes.
    :param length: L, steps of a lane: of the longest sequence.
    :param n_lanes: S.
    :param states: of every recurrent layer at each lane's first step, ``[layers, S, H]`` each.
    :param breaks: ``[R]``, places in the grid between two sequences of a lane, where the memory is reset; ``None`` if
        each sequence has a lane of its own.
    """

    positions: th.Tensor
    length: int
    n_lanes: int
    states: States
    breaks: th.Tensor | None = None


class Steps(NamedTuple):
    """Sequences of one length whose steps are run one after the other, so that an episode may begin at any of them and
    the states after the last are to be had. Rows are sb3-contrib's: a whole sequence, then the next.

    :param states: of every recurrent layer before the first step, ``[layers, S, H]`` each.
    :param starts: ``[S, L]``, 1 where an episode has just begun and the past must be forgotten.
    """

    states: States
    starts: th.Tensor


class RNNStates(NamedTuple):
    """States of actor and critic, under sb3-contrib's names.

    :param pi: ``[layers, S, H]`` each: hidden and cell state of an LSTM, hidden state of a GRU.
    :param vf: the same of the critic; where it has no memory of its own, the actor's.
    """

    pi: States
    vf: States


class SequenceLayout(NamedTuple):
    """The sequences that a recurrent policy learns from.

    :param longest: steps after which a sequence is cut; ``None`` for those of a minibatch.
    :param can_reset: whether its memory can be reset between two sequences, so that one may follow the other.
    """

    longest: int | None = None
    can_reset: bool = False


#: Added to a gate to shut it: exp(10,000) is infinite in every precision, so the sigmoid is 0.
SHUT = -1e4


def is_plain_lstm(module: Any) -> bool:
    """``True`` for a recurrent module of one layer without hooks.

    :param module: of any class.
    :return: ``False`` for a GRU, several layers, a subclass, or a module with hooks.
    """
    is_plain = type(module) is nn.LSTM and module.num_layers == 1 and not module.bidirectional
    return is_plain and not module.batch_first and "forward" not in vars(module) and not has_hooks(module)


def run(memories: list[Memory], recurrence: Recurrence) -> tuple[list[th.Tensor], States]:
    """Run all sequences through recurrent modules.

    :param memories: of the actor, and of the critic if it has one.
    :param recurrence: how the rows lie.
    :return: ``[N, H]`` of each, and the states after the last step, if any.
    """
    lay = lru_cache(maxsize=1)(partial(_grid, recurrence=recurrence))
    results = [_run_module(memory, lay, recurrence) for memory in memories]
    return [outputs for outputs, _ in results], tuple(state for _, states in results for state in states)


def remember_step_by_step(policy: Any, features: Any, steps: Steps) -> tuple[th.Tensor, th.Tensor, States]:
    """What ``policy.remember`` returns for single steps, over sequences.

    :param policy: a recurrent one.
    :param features: ``[S·L, k]``, or one such tensor each for actor and critic.
    :param steps: how the rows lie.
    :return: ``[S·L, H]`` of the actor, ``[S·L, H]`` of the critic, and the states after the last step.
    """
    states, length = steps.states, steps.starts.shape[1]
    latents = []
    for step, starts in enumerate(steps.starts.unbind(1)):
        is_one = isinstance(features, th.Tensor)
        rows = features[step::length] if is_one else tuple(part[step::length] for part in features)
        latent_pi, latent_vf, states = policy.remember(rows, policy.one_step(states, starts))
        latents.append((latent_pi, latent_vf))
    pi, vf = (th.stack(parts, dim=1).flatten(0, 1) for parts in zip(*latents, strict=True))
    return pi, vf, states


def _can_run(memory: Memory, recurrence: Recurrence) -> bool:
    """``True`` if our own code can run a memory."""
    # Of one step the rows are the lanes; if they are not, PyTorch says so.
    is_whole = recurrence.length > 1 or memory.features.shape[0] == recurrence.n_lanes
    is_for_it = is_whole and (recurrence.length > 1 or not th.is_grad_enabled())
    return is_for_it and is_plain_lstm(memory.module) and lstm.can_run(memory, recurrence.n_lanes)


def _run_module(
    memory: Memory, lay: Callable[[th.Tensor], th.Tensor], recurrence: Recurrence
) -> tuple[th.Tensor, States]:
    """Run one recurrent module; padding rows are dropped."""
    module, features, states = memory
    if _can_run(memory, recurrence):
        if recurrence.length == 1:
            return lstm.step(memory)
        return lstm_sequences.sequences(memory, recurrence.positions, (recurrence.length, recurrence.n_lanes)), ()
    device = features.device.type
    if recurrence.length == 1 and is_plain_lstm(module) and device == "cpu" and not th.is_autocast_enabled(device):
        # One step of acting: the cell alone takes half the time. In bfloat16 it would not round as the whole LSTM does.
        hidden, cell = th.lstm_cell(features, tuple(state[0] for state in states), *lstm.weights_of(module))
        return hidden, (hidden.unsqueeze(0), cell.unsqueeze(0))
    # Of one step the rows are the lanes.
    grid = features.unsqueeze(0) if recurrence.length == 1 else lay(features)
    if isinstance(module, nn.LSTM):
        call = module if grid.shape[2] == module.input_size else _with_reset_gate(module)
        outputs, final = call(grid, states)
    else:
        outputs, *final = module(grid, states[0])
    outputs = outputs.flatten(0, 1)
    return (outputs if recurrence.length == 1 else outputs[recurrence.positions]), tuple(final)


def _grid(features: th.Tensor, recurrence: Recurrence) -> th.Tensor:
    """Rows laid out in lanes, ``[L, S, k]``; zeros where there is none.

    With breaks there is one feature more, ``[L, S, k + 1]``: 1 at a break.
    """
    size = recurrence.length * recurrence.n_lanes
    shape = (recurrence.length, recurrence.n_lanes, -1)
    if recurrence.breaks is None:
        return features.new_zeros(size, features.shape[1]).index_copy(0, recurrence.positions, features).reshape(shape)
    grid = features.new_zeros(size, features.shape[1] + 1)
    grid[recurrence.breaks, -1] = 1.0
    return grid.index_copy(0, recurrence.positions, th.nn.functional.pad(features, (0, 1))).reshape(shape)


def _with_reset_gate(module: nn.LSTM) -> Any:
    """The same LSTM with one more input, which wipes its memory.

        i, f, o = σ(… − 10⁴·break)  →  c = f·c_before + i·g = 0,  h = o·tanh(c) = 0

    At a break all three gates are shut, so nothing is remembered and nothing is let out; and with a shut gate no
    gradient goes through either, neither to the steps before nor to the weights. One call serves sequences that follow
    each other, where padding each to the longest would compute half as much again for nothing.

    Source of the gates: Gers, Schmidhuber & Cummins 2000, in PyTorch's order (``nn.LSTM``). Shutting them from outside
    is our own; the oracle is each sequence run alone.
    """
    inputs, *others = lstm.weights_of(module)
    column = inputs.new_full((4, module.hidden_size, 1), SHUT)
    column[2] = 0.0  # i, f, g, o: the candidate g is no gate
    weights = [th.cat((inputs, column.reshape(-1, 1)), dim=1), *others]

    def call(grid: th.Tensor, states: States) -> tuple[th.Tensor, States]:
        outputs, *final = th.lstm(grid, states, weights, module.bias, 1, 0.0, module.training, False, False)
        return outputs, tuple(final)

    return call
