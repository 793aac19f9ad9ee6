"""Handing a rollout out in minibatches: to feed-forward policies in any order, to recurrent ones in whole sequences."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.memory import Recurrence, States
from sb3_ppo_notes.rollouts.sequences import cut_sequences, grouped, rows_of
from sb3_ppo_notes.rules import Optimization, UpdateRule

#: Bytes of observations that are still gathered for a whole epoch at once.
LARGEST_COPY = 2**24


class Minibatch(NamedTuple):
    """Samples of one step of the optimiser, under SB3's names: ``[N, ...]`` tensors.

    ``old_parameters`` are those of π_old(·|s), where the rule asks for the exact KL. ``action_masks`` are ``[N, n]``
    bool, where actions are masked. ``recurrence`` says how the rows lie in sequences, for a recurrent policy. Else they
    are ``None``. ``is_normalized`` says that the advantages have been through the rule's normalisation already.
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
    is_normalized: bool = False


class Portion(NamedTuple):
    """Rows of a rollout without their targets: flat indices ``[N]``, observations, masks and recurrence."""

    rows: th.Tensor
    observations: Any
    action_masks: th.Tensor | None
    recurrence: Recurrence | None


@contextmanager
def is_in_update(rollout_buffer: Any) -> Iterator[None]:
    """Within it our own update goes through a rollout.

    :param rollout_buffer: of any class; of somebody else's it is only noted.
    :return: a context.
    """
    rollout_buffer.is_in_update = True
    if isinstance(rollout_buffer, MinibatchSource):
        rollout_buffer.generator_ready = False  # somebody may have changed an array since it was last gone through
    try:
        yield
    finally:
        rollout_buffer.is_in_update = False


class MinibatchSource:
    """The half of a rollout buffer that gives; the other half, in ``buffers``, takes."""

    buffer_size: int
    n_envs: int
    pos: int
    full: bool
    generator_ready: bool
    device: th.device
    rule: UpdateRule
    action_space: spaces.Space[Any]
    observations: Any
    actions: np.ndarray
    episode_starts: np.ndarray
    #: Parameters of π_old(·|s) for all samples in flat order, where the rule asks for the exact KL; set by the update.
    old_parameters: Parameters | None
    #: ``[T, B, n]`` bool, where actions are masked.
    action_masks: np.ndarray | None = None
    #: Steps of a recurrent policy's longest sequence.
    sequence_length: int = 1
    #: Whether its memory can be wiped between two sequences, so that one may follow the other in a lane.
    lays_end_to_end: bool = False
    #: Whether our own update goes through the rollout: it gets what it needs beside SB3's samples.
    is_in_update: bool = False
    _states: list[States]
    _columns: dict[str, th.Tensor]
    _observation_tensors: Any
    _mask_tensor: th.Tensor | None

    def flat(self, array: np.ndarray) -> np.ndarray:
        """A rollout array in the order of the samples: all of environment 0, then all of environment 1, and so on.

        :param array: ``[T, B, ...]``, one of this buffer's.
        :return: ``[T·B, ...]``; observations share the memory.
        """
        return array.swapaxes(0, 1).reshape(self.buffer_size * self.n_envs, *array.shape[2:])

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Go once through the rollout in minibatches, in the order the rule asks for.

        Our own update gets a :class:`Minibatch`, and so does whoever goes through a recurrent or a masked rollout;
        everybody else (a ``train`` of somebody's own, a callback) gets SB3's samples, with advantages as they are.

        :param batch_size: samples in a minibatch; ``None`` for all in one. A recurrent policy gets whole sequences, of
            about as many steps.
        :return: minibatches of ``[N, ...]`` tensors; the last may be smaller.
        :raises ValueError: if the rollout is not complete.
        """
        if not self.full:
            held = f"it holds {self.pos} of {self.buffer_size} steps"
            raise InvalidValueError(f"rollout_buffer must be full before it is used, {held}")
        if not self.is_in_update:
            self.generator_ready = False
        self._prepare()
        size = batch_size or self.buffer_size * self.n_envs
        if self._states:
            yield from self._sequence_epoch(size)
        elif self.is_in_update or self._mask_tensor is not None:
            yield from self.epoch(size)
        else:
            yield from map(self._as_samples, self.epoch(size))

    def _prepare(self) -> None:
        if not self.generator_ready:
            self._columns = self._columns_as_tensors()
            self._prepare_context()
            self.generator_ready = True

    def _forget_tensors(self) -> None:
        """Let go of what was made of a rollout that is over."""
        self._columns, self._observation_tensors, self._mask_tensor, self.action_masks = {}, None, None, None

    def _prepare_context(self) -> None:
        self._observation_tensors = self._observations_as_tensors()
        self._mask_tensor = None if self.action_masks is None else self._flat_tensor(self.action_masks)

    def portions(self, size: int) -> Iterator[Portion]:
        """All rows once, without shuffling.

        :param size: rows of a portion; the last may be smaller.
        :return: observations and what the policy chose under.
        """
        self._prepare_context()
        if self._states:
            yield from self._sequence_portions(size, Optimization(order="sequential"))
            return
        n_samples = self.buffer_size * self.n_envs
        for start in range(0, n_samples, size):
            rows = th.arange(start, min(start + size, n_samples), device=self.device)
            yield Portion(rows, self._observation_rows(rows), self._mask_rows(rows), None)

    def some_states(self, n: int) -> tuple[Any, th.Tensor, th.Tensor | None, Recurrence | None]:
        """Some states of the rollout, without drawing a random number.

        :param n: how many at most: evenly spread over all steps and environments. Of a recurrent policy's rollout the
            first sequences, at least ``n`` steps of them if there are so many.
        :return: observations, actions, masks and recurrence, of ``[N, ...]`` rows.
        """
        self._prepare()
        n_samples = self.buffer_size * self.n_envs
        if self._states:
            portion = next(self._sequence_portions(n, Optimization(order="sequential")))
        else:
            rows = th.from_numpy(np.linspace(0, n_samples - 1, min(n, n_samples)).astype(np.int64)).to(self.device)
            portion = Portion(rows, self._observation_rows(rows), self._mask_rows(rows), None)
        actions = self._columns["actions"][portion.rows]
        return portion.observations, actions, portion.action_masks, portion.recurrence

    def epoch(self, batch_size: int) -> Iterator[Minibatch]:
        """Go once through the rollout of a policy without memory. What :meth:`get` calls.

        :param batch_size: samples in a minibatch; the last may be smaller.
        :return: minibatches. All but large observations are gathered once for the whole epoch; a minibatch is a view.
        """
        n_samples = self.buffer_size * self.n_envs
        optimization = self.rule.optimization
        # NumPy's global generator, one permutation an epoch, drawn when the epoch begins: SB3's use of random numbers.
        is_shuffled = optimization.order == "shuffled"
        order = np.random.permutation(n_samples) if is_shuffled else self._order_of_time()  # noqa: NPY002
        last = n_samples - n_samples % batch_size if optimization.drop_last else n_samples
        index = th.from_numpy(order[:last]).to(self.device)
        columns: dict[str, Sequence[th.Tensor]] = {
            name: _split(column[index], batch_size) for name, column in self._columns.items()
        }
        normalizes = self.is_in_update and self.rule.advantage_normalization.scope == "minibatch"
        if normalizes:
            columns["advantages"] = self._normalized(self._columns["advantages"][index], batch_size)
        rows = _split(index, batch_size)
        observations = self._epoch_observations(index, batch_size)
        olds = zip(*(_split(parameter[index], batch_size) for parameter in self.old_parameters or ()), strict=True)
        nothing = [None] * len(rows)
        all_masks = self._mask_rows(index)
        masks = nothing if all_masks is None else _split(all_masks, batch_size)
        parts = zip(observations, rows, masks, list(olds) or nothing, zip(*columns.values(), strict=True), strict=True)
        for observation, row, mask, old, values in parts:
            taken = self._observation_rows(row) if observation is None else observation
            named = dict(zip(columns, values, strict=True))
            yield Minibatch(taken, **named, old_parameters=old, action_masks=mask, is_normalized=normalizes)

    def _normalized(self, advantages: th.Tensor, batch_size: int) -> Sequence[th.Tensor]:
        """The advantages of each minibatch normalised by themselves, in one go.

        A row's mean and deviation are summed as those of a lone vector are: the same bits as one after the other.
        """
        normalize = self.rule.advantage_normalization.normalize
        whole = len(advantages) - len(advantages) % batch_size
        rows = normalize(advantages[:whole].view(-1, batch_size)).unbind()
        return rows if whole == len(advantages) else (*rows, normalize(advantages[whole:]))

    def _epoch_observations(self, index: th.Tensor, sizes: int | list[int]) -> Sequence[Any]:
        """The observations of each minibatch; ``None`` for those to be gathered when their turn comes.

        Large ones (images) are never copied whole. And minibatches of one size, which must be what stock SB3 sees, must
        begin on a 64-byte boundary, as memory of their own would: a matrix product may round differently at another
        alignment.
        """
        observations = self._observation_tensors
        parts = _split(index, sizes)
        if not isinstance(observations, th.Tensor):
            return [None] * len(parts)
        row_bytes = observations[0].numel() * observations.element_size()
        is_small = len(index) * row_bytes <= LARGEST_COPY
        is_aligned = not isinstance(sizes, int) or sizes * row_bytes % 64 == 0
        return _split(observations[index], sizes) if is_small and is_aligned else [None] * len(parts)

    def _sequence_epoch(self, batch_size: int) -> Iterator[Minibatch]:
        """Go once through the rollout of a recurrent policy. As in :meth:`epoch`, what is small is gathered at once."""
        laid = list(self._laid_sequences(batch_size, self.rule.optimization))
        sizes = [len(rows) for rows, _ in laid]
        index = th.cat([rows for rows, _ in laid])
        columns: dict[str, Sequence[th.Tensor]] = {
            name: th.split(column[index], sizes) for name, column in self._columns.items()
        }
        normalization = self.rule.advantage_normalization
        normalizes = normalization.scope == "minibatch"
        if normalizes:
            columns["advantages"] = [normalization.normalize(part) for part in columns["advantages"]]
        observations = self._epoch_observations(index, sizes)
        for (rows, recurrence), seen, *values in zip(laid, observations, *columns.values(), strict=True):
            taken = self._observation_rows(rows) if seen is None else seen
            named = dict(zip(columns, values, strict=True))
            old = self.old_parameters and tuple(parameter[rows] for parameter in self.old_parameters)
            masks = self._mask_rows(rows)
            yield Minibatch(
                taken, **named, old_parameters=old, action_masks=masks, recurrence=recurrence, is_normalized=normalizes
            )

    def _sequence_portions(self, batch_size: int, optimization: Optimization) -> Iterator[Portion]:
        for rows, recurrence in self._laid_sequences(batch_size, optimization):
            yield Portion(rows, self._observation_rows(rows), self._mask_rows(rows), recurrence)

    def _laid_sequences(self, batch_size: int, optimization: Optimization) -> Iterator[tuple[th.Tensor, Recurrence]]:
        sequences = cut_sequences(self.episode_starts, self.sequence_length)
        # Sequential: all environments' first sequences, then what begins later.
        order = np.lexsort((sequences.environments, sequences.starts))
        if optimization.order == "shuffled":
            order = np.random.permutation(len(order))  # noqa: NPY002
        states = tuple(th.stack(parts) for parts in zip(*self._states, strict=True))
        for group in grouped(sequences.lengths, order, batch_size, optimization.drop_last):
            yield rows_of(sequences, group, self.buffer_size, self.sequence_length, states, self.lays_end_to_end)

    def _order_of_time(self) -> np.ndarray:
        """Flat indices of all environments' first steps, then of all their second steps, and so on."""
        return np.arange(self.buffer_size * self.n_envs).reshape(self.n_envs, self.buffer_size).T.ravel()

    def _columns_as_tensors(self) -> dict[str, th.Tensor]:
        """Everything but the observations as tensors on the device: converted once per update, not once per
        minibatch.
        """
        names = {"old_values": "values", "old_log_prob": "log_probs", "advantages": "advantages", "returns": "returns"}
        columns = {field: self._flat_tensor(getattr(self, name)) for field, name in names.items()}
        if isinstance(self.action_space, spaces.Discrete):
            columns["actions"] = self._flat_tensor(self.actions).long().flatten()
        else:
            # float32, because SB3 hands actions over like that, and Bernoulli needs floats.
            columns["actions"] = self._flat_tensor(self.actions.astype(np.float32, copy=False))
        if self.rule.advantage_normalization.scope == "rollout":
            columns["advantages"] = self.rule.advantage_normalization.normalize(columns["advantages"])
        return columns

    def _observations_as_tensors(self) -> Any:
        """All observations in flat order, on the device."""
        raise NotImplementedError

    def _observation_rows(self, rows: th.Tensor) -> Any:
        return self._observation_tensors[rows]

    def _as_samples(self, minibatch: Minibatch) -> RolloutBufferSamples | DictRolloutBufferSamples:
        """What SB3 says of a minibatch: all actions are rows of float32."""
        kind = DictRolloutBufferSamples if isinstance(minibatch.observations, dict) else RolloutBufferSamples
        actions = minibatch.actions.float().reshape(-1, self.actions.shape[-1])
        return kind(*minibatch._replace(actions=actions)[: len(kind._fields)])  # type: ignore[arg-type]

    def _mask_rows(self, rows: th.Tensor) -> th.Tensor | None:
        return None if self._mask_tensor is None else self._mask_tensor[rows]

    def _flat_tensor(self, array: np.ndarray) -> th.Tensor:
        flat = self.flat(array)
        return th.from_numpy(flat if flat.flags.writeable else flat.copy()).to(self.device)


def _split(tensor: th.Tensor, sizes: int | list[int]) -> Sequence[th.Tensor]:
    """``th.split``, and nothing where there is nothing to split."""
    return (tensor,) if isinstance(sizes, int) and len(tensor) <= sizes else th.split(tensor, sizes)
