"""Cutting a rollout into the sequences that a recurrent policy learns from, and packing them into a grid."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ppo_notes.policies.memory import Recurrence, States


class Sequences(NamedTuple):
    """All sequences of a rollout; ``[S]`` each.

    :param environments: which environment each belongs to.
    :param starts: its first step.
    :param lengths: its number of steps.
    """

    environments: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def cut_sequences(episode_starts: np.ndarray, longest: int) -> Sequences:
    """Cut every environment's steps where an episode starts, and else after every ``longest`` steps of the rollout.

    :param episode_starts: ``[T, B]``, 1 where a step starts an episode.
    :param longest: steps of the longest sequence; the recurrent state is stored at its multiples.
    :return: sequences that together hold every step once.

    >>> cut_sequences(np.array([[1.0], [0], [0], [1], [0]]), longest=2).lengths.tolist()
    [2, 1, 1, 1]
    """
    n_steps = len(episode_starts)
    begins = episode_starts != 0
    begins[::longest] = True
    environments, starts = np.nonzero(begins.T)
    ends = np.append(starts[1:], n_steps)
    ends[np.append(environments[1:] != environments[:-1], True)] = n_steps
    return Sequences(environments, starts, ends - starts)


def group_sequences(
    lengths: np.ndarray, order: np.ndarray, batch_size: int, drop_last: bool = False
) -> Iterator[np.ndarray]:
    """Put whole sequences together until a minibatch has about the wanted number of steps.

    :param lengths: ``[S]``.
    :param order: in which sequences are taken, a permutation of them.
    :param batch_size: steps of a minibatch; exceeded by less than one sequence.
    :param drop_last: leave out a last minibatch that is smaller (unless it is the only one).
    :return: indices of sequences.

    >>> [group.tolist() for group in group_sequences(np.array([2, 2, 3]), np.array([0, 1, 2]), batch_size=4)]
    [[0, 1], [2]]
    """
    group: list[int] = []
    steps = 0
    is_first = True
    for sequence in order:
        group.append(int(sequence))
        steps += int(lengths[sequence])
        if steps >= batch_size:
            yield np.array(group)
            group, steps, is_first = [], 0, False
    if group and (is_first or not drop_last):
        yield np.array(group)


def pack_sequences(
    lengths: np.ndarray, has_initial_state: np.ndarray, can_reset: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Lane and first step of each sequence in a padded grid: side by side or, to pad less, also end to end.

    Those with an initial state begin a lane each; then the longest first into the emptiest lane, or into a new one. A
    lane is as long as the longest sequence. Between two sequences of a lane one step is left free: there the memory is
    reset.

    :param lengths: ``[S]``, steps of each sequence.
    :param has_initial_state: ``[S]``, whether it goes on from a stored state; it must be the first of its lane.
    :param can_reset: whether the memory can be reset within a lane.
    :return: lane ``[S]`` and first step ``[S]``.

    >>> pack_sequences(np.array([2, 5, 2]), np.array([False, True, False]), can_reset=True)
    (array([1, 0, 1]), array([0, 0, 3]))
    """
    lanes, begins = np.arange(len(lengths)), np.zeros(len(lengths), dtype=np.int64)
    longest = int(lengths.max())
    if not can_reset or 2 * int(lengths.min()) + 1 > longest:
        return lanes, begins
    ends: list[tuple[int, int]] = []  # (steps taken, lane), the emptiest lane first
    for sequence in np.lexsort((-lengths, ~has_initial_state)).tolist():
        length = int(lengths[sequence])
        if ends and not has_initial_state[sequence] and ends[0][0] + 1 + length <= longest:
            end, lane = ends[0]
            begins[sequence] = end + 1
            heapq.heapreplace(ends, (end + 1 + length, lane))
        else:
            lane = len(ends)
            heapq.heappush(ends, (length, lane))
        lanes[sequence] = lane
    return lanes, begins


def rows_of(
    sequences: Sequences, group: np.ndarray, n_steps: int, longest: int, states: States, can_reset: bool = False
) -> tuple[th.Tensor, Recurrence]:
    """The rows of some sequences, and their places in a grid.

    :param sequences: of the whole rollout.
    :param group: indices of the sequences wanted.
    :param n_steps: T; a row's flat index is environment · T + step.
    :param longest: steps of the longest sequence.
    :param states: the recurrent state of all environments at the multiples of the longest sequence,
        ``[chunks, layers, B, H]`` each.
    :param can_reset: whether sequences may lie end to end.
    :return: flat indices ``[N]``, and the recurrence of those rows.
    """
    environments, starts, lengths = (part[group] for part in sequences)
    # A sequence that begins inside a chunk begins an episode: its state is zero, whatever the chunk's was.
    has_initial_state = starts % longest == 0
    lanes, begins = pack_sequences(lengths, has_initial_state, can_reset)
    n_lanes = int(lanes.max()) + 1
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    index = np.repeat(environments * n_steps + starts, lengths) + step
    positions = (np.repeat(begins, lengths) + step) * n_lanes + np.repeat(lanes, lengths)
    device = states[0].device
    stored = [th.as_tensor(part[has_initial_state], device=device) for part in (lanes, starts // longest, environments)]
    breaks = ((begins - 1) * n_lanes + lanes)[begins > 0]
    return th.as_tensor(index, device=device), Recurrence(
        th.as_tensor(positions, device=device),
        int(lengths.max()),
        n_lanes,
        tuple(_initial(state, n_lanes, *stored) for state in states),
        th.as_tensor(breaks, device=device) if len(breaks) else None,
    )


def _initial(state: th.Tensor, n_lanes: int, lanes: th.Tensor, chunks: th.Tensor, environments: th.Tensor) -> th.Tensor:
    """The state at the beginning of each lane, ``[layers, lanes, H]``: zero where none was stored."""
    initial = state.new_zeros(state.shape[1], n_lanes, state.shape[3])
    if len(lanes):
        initial[:, lanes] = state[chunks, :, environments].transpose(0, 1)
    return initial
