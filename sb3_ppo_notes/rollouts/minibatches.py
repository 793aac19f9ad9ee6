"""Handing a rollout out in minibatches: to feed-forward policies in any order, to recurrent ones in whole sequences."""

from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.recurrent import Recurrence, States
from sb3_ppo_notes.rollouts.sequences import cut_sequences, grouped, rows_of
from sb3_ppo_notes.rules import Optimization, UpdateRule


class Minibatch(NamedTuple):
    """Samples of one step of the optimiser, under SB3's names: ``[N, ...]`` tensors.

    ``old_parameters`` are those of π_old(·|s), where the rule asks for the exact KL. ``action_masks`` are ``[N, n]``
    bool, where actions are masked. ``recurrence`` says how the rows lie in sequences, for a recurrent policy. Else they
    are ``None``.
    """

    observations: Any
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    old_parameters: Parameters | None = None
    action_masks: th.Tensor | None = None
    recurrence: Recurrence | None = None


class Portion(NamedTuple):
    """Rows of a rollout without their targets: flat indices ``[N]``, observations, masks and recurrence."""

    rows: th.Tensor
    observations: Any
    action_masks: th.Tensor | None
    recurrence: Recurrence | None


class MinibatchSource:
    """The half of a rollout buffer that gives; the other half, in ``buffers``, takes."""

    buffer_size: int
    n_envs: int
    pos: int
    full: bool
    generator_ready: bool
    device: th.device
    rule: UpdateRule
    observations: Any
    actions: np.ndarray
    episode_starts: np.ndarray
    #: Parameters of π_old(·|s) for all samples in flat order, where the rule asks for the exact KL; set by the update.
    old_parameters: Parameters | None
    #: ``[T, B, n]`` bool, where actions are masked.
    action_masks: np.ndarray | None = None
    #: Steps of a recurrent policy's longest sequence.
    sequence_length: int = 1
    _states: list[States]
    _columns: dict[str, th.Tensor]
    _observation_tensors: Any

    def flat(self, array: np.ndarray) -> np.ndarray:
        """A rollout array in the order of the samples: all of environment 0, then all of environment 1, and so on.

        :param array: ``[T, B, ...]``, one of this buffer's.
        :return: ``[T·B, ...]``, sharing the memory.
        """
        return array.swapaxes(0, 1).reshape(self.buffer_size * self.n_envs, *array.shape[2:])

    def get(self, batch_size: int | None = None) -> Generator[Minibatch, None, None]:
        """Go once through the rollout in minibatches, in the order the rule asks for.

        :param batch_size: samples in a minibatch; ``None`` for all in one. A recurrent policy gets whole sequences, of
            about as many steps.
        :return: minibatches of ``[N, ...]`` tensors; the last may be smaller.
        :raises ValueError: if the rollout is not complete.
        """
        if not self.full:
            held = f"it holds {self.pos} of {self.buffer_size} steps"
            raise InvalidValueError(f"rollout_buffer must be full before it is used, {held}")
        if not self.generator_ready:
            self._columns, self._observation_tensors = self._columns_as_tensors(), self._observations_as_tensors()
            self.generator_ready = True
        size = batch_size or self.buffer_size * self.n_envs
        if self._states:
            for portion in self._sequence_portions(size, self.rule.optimization):
                columns = {name: column[portion.rows] for name, column in self._columns.items()}
                yield self._minibatch(portion.observations, columns, portion.rows, portion.recurrence)
        else:
            yield from self._shuffled_minibatches(size)

    def portions(self, size: int) -> Iterator[Portion]:
        """All rows once, without shuffling.

        :param size: rows of a portion; the last may be smaller.
        :return: observations and what the policy chose under.
        """
        self._observation_tensors = self._observations_as_tensors()
        if self._states:
            yield from self._sequence_portions(size, Optimization(order="sequential"))
            return
        n_samples = self.buffer_size * self.n_envs
        for start in range(0, n_samples, size):
            rows = th.arange(start, min(start + size, n_samples), device=self.device)
            yield Portion(rows, self._observation_rows(rows), self._mask_rows(rows), None)

    def _shuffled_minibatches(self, batch_size: int) -> Iterator[Minibatch]:
        n_samples = self.buffer_size * self.n_envs
        optimization = self.rule.optimization
        # NumPy's global generator, one permutation an epoch, drawn when the epoch begins: SB3's use of random numbers.
        is_shuffled = optimization.order == "shuffled"
        order = np.random.permutation(n_samples) if is_shuffled else self._order_of_time()  # noqa: NPY002
        index = th.from_numpy(order).to(self.device)
        columns = {name: column[index] for name, column in self._columns.items()}
        last = n_samples - n_samples % batch_size if optimization.drop_last else n_samples
        for start in range(0, last, batch_size):
            rows = slice(start, start + batch_size)
            # Observations are gathered for each minibatch and not once for the epoch: images are never copied whole,
            # and matrix products get freshly aligned memory, as in SB3 (they may round differently at another
            # alignment).
            batch = {name: column[rows] for name, column in columns.items()}
            yield self._minibatch(self._observation_rows(index[rows]), batch, index[rows], None)

    def _sequence_portions(self, batch_size: int, optimization: Optimization) -> Iterator[Portion]:
        sequences = cut_sequences(self.episode_starts, self.sequence_length)
        # Sequential: all environments' first sequences, then what begins later.
        order = np.lexsort((sequences.environments, sequences.starts))
        if optimization.order == "shuffled":
            order = np.random.permutation(len(order))  # noqa: NPY002
        for group in grouped(sequences.lengths, order, batch_size, optimization.drop_last):
            rows, recurrence = rows_of(sequences, group, self.buffer_size, self.sequence_length, self._states)
            yield Portion(rows, self._observation_rows(rows), self._mask_rows(rows), recurrence)

    def _minibatch(
        self, observations: Any, columns: dict[str, th.Tensor], rows: th.Tensor, recurrence: Recurrence | None
    ) -> Minibatch:
        old = self.old_parameters and tuple(parameter[rows] for parameter in self.old_parameters)
        masks = self._mask_rows(rows)
        return Minibatch(observations, **columns, old_parameters=old, action_masks=masks, recurrence=recurrence)

    def _order_of_time(self) -> np.ndarray:
        """Flat indices of all environments' first steps, then of all their second steps, and so on."""
        return np.arange(self.buffer_size * self.n_envs).reshape(self.n_envs, self.buffer_size).T.ravel()

    def _columns_as_tensors(self) -> dict[str, th.Tensor]:
        """Everything but the observations as tensors on the device: converted once per update, not once per
        minibatch.
        """
        names = {"old_values": "values", "old_log_prob": "log_probs", "advantages": "advantages", "returns": "returns"}
        columns = {field: self._flat_tensor(getattr(self, name)) for field, name in names.items()}
        # float32, because SB3 hands actions over like that, and Bernoulli needs floats.
        columns["actions"] = self._flat_tensor(self.actions.astype(np.float32, copy=False))
        if self.rule.advantage_normalization.scope == "rollout":
            columns["advantages"] = self.rule.advantage_normalization.normalize(columns["advantages"])
        return columns

    def _observations_as_tensors(self) -> Any:
        return self._flat_tensor(self.observations)

    def _observation_rows(self, rows: th.Tensor) -> Any:
        return self._observation_tensors[rows]

    def _mask_rows(self, rows: th.Tensor) -> th.Tensor | None:
        return None if self.action_masks is None else self._flat_tensor(self.action_masks)[rows]

    def _flat_tensor(self, array: np.ndarray) -> th.Tensor:
        return th.from_numpy(self.flat(array)).to(self.device)
