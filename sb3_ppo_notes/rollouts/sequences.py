"""Cutting a rollout into the sequences that a recurrent policy learns from."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ppo_notes.policies.recurrent import Recurrence, States


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
    :param longest: steps of the longest sequence; the recurrent state is known at its multiples.
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


def grouped(lengths: np.ndarray, order: np.ndarray, batch_size: int, drop_last: bool = False) -> Iterator[np.ndarray]:
    """Put whole sequences together until a minibatch has about the wanted number of steps.

    :param lengths: ``[S]``.
    :param order: in which sequences are taken, a permutation of them.
    :param batch_size: steps of a minibatch; exceeded by less than one sequence.
    :param drop_last: leave out a last minibatch that is smaller (unless it is the only one).
    :return: indices of sequences.

    >>> [group.tolist() for group in grouped(np.array([2, 2, 3]), np.array([0, 1, 2]), batch_size=4)]
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


def rows_of(
    sequences: Sequences, group: np.ndarray, n_steps: int, longest: int, states: list[States]
) -> tuple[th.Tensor, Recurrence]:
    """The rows of some sequences, and how they lie in a padded grid.

    :param sequences: of the whole rollout.
    :param group: indices of the sequences wanted.
    :param n_steps: T; a row's flat index is environment · T + step.
    :param longest: steps of the longest sequence.
    :param states: the recurrent state of all environments at the multiples of the longest sequence.
    :return: flat indices ``[N]``, and the recurrence of those rows.
    """
    environments, starts, lengths = (part[group] for part in sequences)
    n_sequences = len(group)
    sequence = np.repeat(np.arange(n_sequences), lengths)
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    index = environments[sequence] * n_steps + starts[sequence] + step
    # A sequence that begins inside a chunk begins an episode: its state is zero, whatever the chunk's was.
    device = states[0][0].device
    known = th.as_tensor((starts % longest == 0).astype(np.float32), device=device).reshape(1, -1, 1)
    initial = tuple(
        th.stack([states[start // longest][k][:, env] for env, start in zip(environments, starts, strict=True)], dim=1)
        * known
        for k in range(len(states[0]))
    )
    positions = th.as_tensor(step * n_sequences + sequence, device=device)
    return th.as_tensor(index, device=device), Recurrence(positions, int(lengths.max()), n_sequences, initial)
