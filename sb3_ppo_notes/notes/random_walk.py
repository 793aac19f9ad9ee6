"""A walk along a row of states, left or right with equal chance, that pays −1 at one end and 1 at the other.

Its values are a straight line, and all that can be said about an estimate of them can be computed.
"""

from typing import NamedTuple

import numpy as np


class Walks(NamedTuple):
    """Walks, one after the other in each column; a new one begins in any state.

    :param states: ``[T+1, B]``, 0 to ``n_states − 1``.
    :param rewards: ``[T, B]``.
    :param nonterminal: ``[T, B]``, 0 where a walk has ended.
    """

    states: np.ndarray
    rewards: np.ndarray
    nonterminal: np.ndarray


def true_values(n_states: int) -> np.ndarray:
    """The chance to end on the right minus that to end on the left.

    :param n_states: of the row.
    :return: ``[n_states]``, a straight line.

    >>> true_values(3).tolist()
    [-0.5, 0.0, 0.5]
    """
    return np.arange(1, n_states + 1) * 2 / (n_states + 1) - 1


def walks(generator: np.random.Generator, n_states: int, n_steps: int, n_walkers: int) -> Walks:
    """Walk.

    :param generator: of every step.
    :param n_states: of the row.
    :param n_steps: T.
    :param n_walkers: B.
    :return: what happened.
    """
    states = np.empty((n_steps + 1, n_walkers), dtype=int)
    rewards, nonterminal = np.zeros((n_steps, n_walkers)), np.ones((n_steps, n_walkers))
    states[0] = generator.integers(n_states, size=n_walkers)
    for step in range(n_steps):
        state = states[step] + generator.choice([-1, 1], size=n_walkers)
        has_ended = (state < 0) | (state >= n_states)
        rewards[step] = np.where(has_ended, np.sign(state), 0)
        nonterminal[step] = ~has_ended
        states[step + 1] = np.where(has_ended, generator.integers(n_states, size=n_walkers), state)
    return Walks(states, rewards, nonterminal)


def means_and_variances(states: np.ndarray, estimates: np.ndarray, n_states: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the estimates that were made in each state.

    :param states: of any shape.
    :param estimates: of the same.
    :param n_states: of the row.
    :return: ``[n_states]`` each.
    """
    counts = np.bincount(states.ravel(), minlength=n_states)
    means = np.bincount(states.ravel(), estimates.ravel(), n_states) / counts
    squares = np.bincount(states.ravel(), (estimates - means[states]).ravel() ** 2, n_states)
    return means, squares / counts
