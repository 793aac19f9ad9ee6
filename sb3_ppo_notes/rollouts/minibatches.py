"""Handing a rollout out in minibatches: to feed-forward policies in any order, to recurrent ones in whole sequences."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.memory import Recurrence
from sb3_ppo_notes.rollouts.sequences import cut_sequences, group_sequences, rows_of
from sb3_ppo_notes.rules import Optimization, UpdateRule

#: (n) -> the numbers from 0 to n − 1 in some order.
Permutation = Callable[[int], np.ndarray]
#: Bytes of observations that are still gathered for a whole epoch at once.
LARGEST_COPY = 2**24


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


class Order(NamedTuple):
    """An order of rows: flat indices ``[N]`` of all minibatches one after the other, how many each has (or all but the
    last), and a recurrent policy's recurrence of each.
    """

    rows: th.Tensor
    sizes: int | list[int]
    recurrences: list[Recurrence] | None = None


class MinibatchSampler:
    """Goes through a rollout. Its arrays become tensors once, and not once per minibatch.

    :param buffer: of ours, complete.
    :param batch_size: samples in a minibatch, ``None`` for all in one; the last may be smaller. A recurrent policy gets
        whole sequences, of about as many steps.
    :param normalizes: whether advantages are normalised by the minibatch, if the rule says so.
    """

    def __init__(self, buffer: Any, batch_size: int | None = None, *, normalizes: bool = False):
        self.buffer = buffer
        self.n_samples = buffer.buffer_size * buffer.n_envs
        self.batch_size = batch_size or self.n_samples
        self.normalizes = normalizes
        self._columns: dict[str, th.Tensor] = {}
        self._observations: Any = None
        self._masks: th.Tensor | None = None

    def epoch(self) -> Iterator[Minibatch]:
        """Go once through the rollout, in the order the rule asks for.

        :return: minibatches. All but large observations are gathered once for the whole epoch; a minibatch is a view.
        :raises ValueError: if the rollout is not complete.
        """
        self._prepare()
        # NumPy's global generator, one permutation an epoch, drawn when the epoch begins: SB3's use of random numbers.
        order = self._order(slice(0, self.buffer.n_envs), np.random.permutation)
        advantages = None
        if self.normalizes and self.buffer.rule.advantage_normalization.scope == "minibatch":
            advantages = self._normalize(self._columns["advantages"][order.rows], order.sizes)
        yield from self._minibatches(order, advantages)

    def _minibatches(self, order: Order, advantages: Sequence[th.Tensor] | None) -> Iterator[Minibatch]:
        """The minibatches of an order; ``advantages``: of each, in the place of the rollout's."""
        index, sizes, recurrences = order
        columns: dict[str, Sequence[th.Tensor]] = {
            name: _split(column[index], sizes) for name, column in self._columns.items()
        }
        if advantages is not None:
            columns["advantages"] = advantages
        olds = [_split(parameter[index], sizes) for parameter in self.buffer.old_parameters or ()]
        nothing = repeat(None)
        yield from map(
            Minibatch,
            self._epoch_observations(index, sizes),
            *columns.values(),
            zip(*olds, strict=True) if olds else nothing,
            nothing if self._masks is None else _split(self._masks[index], sizes),
            recurrences or nothing,
        )

    def samples(self) -> Iterator[Any]:
        """Go once through the rollout as SB3's buffers do.

        :return: SB3's samples; a :class:`Minibatch` where there is more in it than they can hold.
        """
        for minibatch in self.epoch():
            has_more = any(part is not None for part in minibatch[len(RolloutBufferSamples._fields) :])
            yield minibatch if has_more else self._as_samples(minibatch)

    def portions(self, environments: slice | None = None) -> Iterator[Portion]:
        """All rows once, without shuffling.

        :param environments: whose rows; ``None`` for all.
        :return: observations and what the policy chose under; ``batch_size`` rows each, the last may be smaller.
        """
        buffer, environments = self.buffer, environments or slice(0, self.buffer.n_envs)
        self._prepare_observations()
        if buffer._states:
            for rows, recurrence in self._packed_sequences(Optimization(order="sequential"), environments):
                yield self._portion(rows, recurrence)
            return
        n_samples = environments.stop * buffer.buffer_size
        for start in range(environments.start * buffer.buffer_size, n_samples, self.batch_size):
            end = min(start + self.batch_size, n_samples)
            yield self._portion(th.arange(start, end, device=buffer.device))

    def some_states(self) -> tuple[Any, th.Tensor, th.Tensor | None, Recurrence | None]:
        """Some states of the rollout, without drawing a random number.

        :return: observations, actions, masks and recurrence, of ``batch_size`` rows that are evenly spread over all
            steps and environments. Of a recurrent policy's rollout the first sequences, of at least as many steps.
        """
        if self.buffer._states:
            portion = next(self.portions())
        else:
            self._prepare_observations()
            rows = np.linspace(0, self.n_samples - 1, min(self.batch_size, self.n_samples)).astype(np.int64)
            portion = self._portion(th.from_numpy(rows).to(self.buffer.device))
        return portion.observations, self._actions()[portion.rows], portion.action_masks, portion.recurrence

    # -- in which order -----------------------------------------------------------------------------------------------

    def _order(self, environments: slice, permutation: Permutation) -> Order:
        """The order that the rule asks for, of some environments' rows."""
        optimization = self.buffer.rule.optimization
        if self.buffer._states:
            packed = self._packed_sequences(optimization, environments, permutation)
            rows, recurrences = zip(*packed, strict=True)
            return Order(th.cat(rows), [len(each) for each in rows], list(recurrences))
        n_steps, n_envs = self.buffer.buffer_size, environments.stop - environments.start
        n_samples = n_steps * n_envs
        if optimization.order == "shuffled":
            order = permutation(n_samples)
        else:  # all environments' first steps, then all their second steps, and so on
            order = np.arange(n_samples).reshape(n_envs, n_steps).T.ravel()
        last = n_samples - n_samples % self.batch_size if optimization.drop_last else n_samples
        index = order[:last] + environments.start * n_steps if environments.start else order[:last]
        return Order(th.from_numpy(index).to(self.buffer.device), self.batch_size)

    def _packed_sequences(
        self, optimization: Optimization, environments: slice, permutation: Permutation = np.arange
    ) -> Iterator[tuple[th.Tensor, Recurrence]]:
        """Rows and recurrence of each minibatch of some environments' whole sequences."""
        buffer = self.buffer
        sequences = cut_sequences(buffer.episode_starts[:, environments], buffer.sequence_length)
        sequences = sequences._replace(environments=sequences.environments + environments.start)
        # Sequential: all environments' first sequences, then what begins later.
        order = np.lexsort((sequences.environments, sequences.starts))
        if optimization.order == "shuffled":
            order = permutation(len(order))
        states = tuple(th.stack(parts) for parts in zip(*buffer._states, strict=True))
        for group in group_sequences(sequences.lengths, order, self.batch_size, optimization.drop_last):
            yield rows_of(sequences, group, buffer.buffer_size, buffer.sequence_length, states, buffer.can_reset)

    # -- what of it ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        buffer = self.buffer
        if not buffer.full:
            raise InvalidValueError(
                f"rollout_buffer must be full before it is used, it holds {buffer.pos} of {buffer.buffer_size} steps"
            )
        # Not ready either when advantages have been computed again.
        if not self._columns or not buffer.generator_ready:
            self._columns = self._columns_as_tensors()
            self._prepare_observations()
            buffer.generator_ready = True

    def _prepare_observations(self) -> None:
        flat, masks = self.buffer.flat_observations(), self.buffer.action_masks
        is_dict = isinstance(flat, dict)
        self._observations = {key: self._tensor(part) for key, part in flat.items()} if is_dict else self._tensor(flat)
        self._masks = None if masks is None else self._tensor(self.buffer.flat(masks))

    def _columns_as_tensors(self) -> dict[str, th.Tensor]:
        """Everything but the observations, in :class:`Minibatch`'s order."""
        buffer = self.buffer
        names = {"old_values": "values", "old_log_prob": "log_probs", "advantages": "advantages", "returns": "returns"}
        columns = {"actions": self._actions()}
        columns |= {field: self._tensor(buffer.flat(getattr(buffer, name))) for field, name in names.items()}
        if buffer.rule.advantage_normalization.scope == "rollout":
            columns["advantages"] = self._normalize_rollout(columns["advantages"])
        return columns

    def _normalize_rollout(self, advantages: th.Tensor) -> th.Tensor:
        return self.buffer.rule.advantage_normalization.normalize(advantages)  # type: ignore[no-any-return]

    def _actions(self) -> th.Tensor:
        actions = self.buffer.flat(self.buffer.actions)
        if isinstance(self.buffer.action_space, spaces.Discrete):
            return self._tensor(actions).long().flatten()
        # float32, because SB3 hands actions over like that, and Bernoulli needs floats.
        return self._tensor(actions.astype(np.float32, copy=False))

    def _tensor(self, flat: np.ndarray) -> th.Tensor:
        return th.from_numpy(flat if flat.flags.writeable else flat.copy()).to(self.buffer.device)

    def _normalize(self, advantages: th.Tensor, sizes: int | list[int]) -> Sequence[th.Tensor]:
        """The advantages of each minibatch normalised by themselves, in one go where they are of one size.

        A row's mean and deviation are summed as those of a lone vector are: the same bits as one after the other.
        """
        normalize = self.buffer.rule.advantage_normalization.normalize
        if not isinstance(sizes, int):
            return [normalize(part) for part in th.split(advantages, sizes)]
        whole = len(advantages) - len(advantages) % sizes
        rows = normalize(advantages[:whole].view(-1, sizes)).unbind()
        return rows if whole == len(advantages) else (*rows, normalize(advantages[whole:]))

    def _epoch_observations(self, index: th.Tensor, sizes: int | list[int]) -> Iterable[Any]:
        """The observations of each minibatch, gathered at once or when their turn comes.

        Large ones (images) are never copied whole. And minibatches of one size, which must be what stock SB3 sees, must
        begin on a 64-byte boundary, as memory of their own would: a matrix product may round differently at another
        alignment.
        """
        observations = self._observations
        if isinstance(observations, th.Tensor):
            row_bytes = observations[0].numel() * observations.element_size()
            is_small = len(index) * row_bytes <= LARGEST_COPY
            is_aligned = not isinstance(sizes, int) or sizes * row_bytes % 64 == 0
            if is_small and is_aligned:
                return _split(observations[index], sizes)
        return map(partial(select, observations), _split(index, sizes))

    def _portion(self, rows: th.Tensor, recurrence: Recurrence | None = None) -> Portion:
        return Portion(
            rows, select(self._observations, rows), None if self._masks is None else self._masks[rows], recurrence
        )

    def _as_samples(self, minibatch: Minibatch) -> RolloutBufferSamples | DictRolloutBufferSamples:
        """SB3's samples: all actions are rows of float32."""
        kind = DictRolloutBufferSamples if isinstance(minibatch.observations, dict) else RolloutBufferSamples
        actions = minibatch.actions.float().reshape(-1, self.buffer.actions.shape[-1])
        return kind(*minibatch._replace(actions=actions)[: len(kind._fields)])  # type: ignore[arg-type]


class SampledMinibatches:
    """The samples of a buffer that is not ours, or hands out its samples in a way of its own.

    :param buffer: of any class.
    :param rule: whether advantages are normalised by the minibatch.
    :param batch_size: handed to its ``get``.
    """

    def __init__(self, buffer: RolloutBuffer, rule: UpdateRule, batch_size: int | None):
        self.buffer, self.batch_size, self.normalization = buffer, batch_size, rule.advantage_normalization

    def epoch(self) -> Iterator[Any]:
        """Go once through the rollout.

        :return: the buffer's samples.
        """
        for samples in self.buffer.get(self.batch_size):
            if self.normalization.scope != "minibatch":
                yield samples
                continue
            advantages = self.normalization.normalize(samples.advantages)
            if hasattr(samples, "_replace"):
                yield samples._replace(advantages=advantages)
            else:
                changed: Any = copy.copy(samples)
                changed.advantages = advantages
                yield changed


def _split(tensor: th.Tensor, sizes: int | list[int]) -> Sequence[th.Tensor]:
    """``th.split``, and nothing where there is nothing to split."""
    return (tensor,) if isinstance(sizes, int) and len(tensor) <= sizes else th.split(tensor, sizes)


def select(observations: Any, rows: Any) -> Any:
    """Some rows of observations.

    :param observations: array or tensor ``[N, ...]``, or a dict of them.
    :param rows: a slice, or indices.
    :return: a view of a slice, a copy of indices.
    """
    if isinstance(observations, dict):
        return {key: part[rows] for key, part in observations.items()}
    return observations[rows]
