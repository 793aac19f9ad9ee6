"""A rollout whose environments belong to shards: handed out shard by shard, and gathered shard by shard."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch as th

from sb3_ppo_notes.policies.actor_critic import Action
from sb3_ppo_notes.policies.memory import Recurrence
from sb3_ppo_notes.processes import Shards
from sb3_ppo_notes.rollouts.minibatches import Minibatch, MinibatchSampler, Order, select


class ShardedMinibatch(NamedTuple):
    """Samples of one step of the optimiser that are spread over shards.

    :param parts: those of this process's shards; ``None`` where a shard has none left.
    :param sizes: number of rows in each of *all* shards.
    """

    parts: tuple[Minibatch | None, ...]
    sizes: tuple[int, ...]


class ShardedSampler(MinibatchSampler):
    """Goes through a rollout: a minibatch takes as many rows from each shard, in the order of the shard's own
    permutation.

    Advantages are normalised over the minibatch of all shards, or the rollout of all. Sequences of a recurrent policy
    differ in length: shards then run out one after the other, and the last minibatches have fewer rows.

    :param buffer: of ours, complete.
    :param batch_size: samples in a minibatch of all shards; ``None`` for all in one.
    :param shards: of the training.
    """

    def __init__(self, buffer: Any, batch_size: int | None, shards: Shards):
        super().__init__(buffer)
        self.shards = shards
        n_samples = self.n_samples // len(shards.own)
        self.batch_size = n_samples if batch_size is None else batch_size // shards.n_shards

    def epoch(self) -> Iterator[ShardedMinibatch]:  # type: ignore[override]
        """Go once through the rollout, all shards side by side.

        :return: minibatches, on all processes equally many.
        """
        self._prepare()
        pairs = zip(self.buffer.parts, self.shards.generators, strict=True)
        orders = [self._order(part, generator.numpy.permutation) for part, generator in pairs]
        advantages, sizes = self._advantages_in_order(orders)
        streams = [self._minibatches(*each) for each in zip(orders, advantages, strict=True)]
        for number in range(max(map(len, sizes))):
            rows = tuple(each[number] if number < len(each) else 0 for each in sizes)
            yield ShardedMinibatch(tuple(next(stream, None) for stream in streams), rows)

    def _advantages_in_order(self, orders: list[Order]) -> tuple[list[Sequence[th.Tensor]], list[list[int]]]:
        """The advantages of each minibatch of this process's shards, and the sizes of all shards' minibatches."""
        ordered = [self._columns["advantages"][order.rows] for order in orders]
        if self.buffer._states:
            lists = [list(th.split(each, order.sizes)) for each, order in zip(ordered, orders, strict=True)]
            return self._normalize_lists(lists)
        n_rows = len(ordered[0])
        sizes = [len(part) for part in th.split(ordered[0], self.batch_size)]
        if self._is_by_minibatch:
            ordered = list(self._normalize_alike(ordered, n_rows - n_rows % self.batch_size))
        return [th.split(each, self.batch_size) for each in ordered], [sizes] * self.shards.n_shards

    @property
    def _is_by_minibatch(self) -> bool:
        return bool(self.buffer.rule.advantage_normalization.scope == "minibatch")

    def _normalize_alike(self, ordered: list[th.Tensor], n_whole: int) -> th.Tensor:
        """Normalise minibatches of one size all at once, and a smaller last one; ``[K, n]``, of this process's."""
        normalize, own = self.buffer.rule.advantage_normalization.normalize, self.shards.own
        gathered = self.shards.gather_vectors([each.cpu() for each in ordered])
        n_shards, size = len(gathered), self.batch_size
        rows = gathered[:, :n_whole].reshape(n_shards, -1, size).transpose(0, 1).reshape(-1, n_shards * size)
        whole = normalize(rows).view(-1, n_shards, size).transpose(0, 1).reshape(n_shards, -1)
        last = normalize(gathered[:, n_whole:].flatten()).view(n_shards, -1)
        return th.cat((whole, last), dim=1)[own.start : own.stop].to(self.buffer.device)

    def _normalize_lists(self, lists: list[list[th.Tensor]]) -> tuple[list[Sequence[th.Tensor]], list[list[int]]]:
        """The same of sequences, whose minibatches are of as many sizes."""
        gathered = self.shards.gather([[part.cpu() for part in parts] for parts in lists])
        sizes = [[len(part) for part in parts] for parts in gathered]
        if not self._is_by_minibatch:
            return list(lists), sizes
        for number in range(max(map(len, gathered))):
            having = [parts for parts in gathered if number < len(parts)]
            whole = self.buffer.rule.advantage_normalization.normalize(th.cat([parts[number] for parts in having]))
            for parts, each in zip(having, whole.split([len(parts[number]) for parts in having]), strict=True):
                parts[number] = each
        return [[part.to(self.buffer.device) for part in gathered[number]] for number in self.shards.own], sizes

    def _normalize_rollout(self, advantages: th.Tensor) -> th.Tensor:
        own = self.shards.own
        gathered = self.shards.gather_vectors(list(advantages.cpu().view(len(own), -1)))
        whole: th.Tensor = self.buffer.rule.advantage_normalization.normalize(gathered.flatten())
        return whole.view(gathered.shape)[own.start : own.stop].flatten().to(self.buffer.device)


class ShardedActor:
    """Any actor, asked by one shard after the other: each draws from its own generator, for its own environments only,
    because a matrix product of more rows may round differently.

    :param actor: chooses actions.
    :param shards: of the training.
    :param policy: that acts.
    """

    def __init__(self, actor: Any, shards: Shards, policy: Any):
        self.actor = actor
        self.shards = shards
        self.policy = policy

    def begin(self) -> None:
        """Adapt to the policy as it is now."""
        self.actor.begin()

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Any:
        """Draw actions.

        :param observations: ``[B, ...]`` tensor or dict of tensors, of all environments of this process.
        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: ``actions``, ``[B, ...]``, and the choices of each shard.
        """
        choices = []
        for part, generator in zip(self._parts(observations), self.shards.generators, strict=True):
            masks = None if action_masks is None else action_masks[part]
            with generator.drawing():
                choices.append(self.actor.choose(select(observations, part), masks, self._select(recurrence, part)))
        return ShardedChoice(th.cat([choice.actions for choice in choices]), choices)

    def assess(self, choice: Any) -> Any:
        """Values and log-probabilities of a choice.

        :param choice: of :meth:`choose`.
        :return: an :class:`~sb3_ppo_notes.policies.actor_critic.Action` of all environments.
        """
        actions = [self.actor.assess(each) for each in choice.choices]
        states = (
            None
            if actions[0].states is None
            else tuple(th.cat(parts, dim=1) for parts in zip(*(action.states for action in actions), strict=True))
        )
        sampled, values, log_probs = (th.cat(parts) for parts in zip(*(each[:3] for each in actions), strict=True))
        return Action(sampled, values, log_probs, states)

    def values(self, observations: Any, recurrence: Any = None) -> th.Tensor:
        """V(s), where nobody acts.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: ``[B, 1]``; reward units.
        """
        parts = self._parts(observations)
        return th.cat([self.actor.values(select(observations, part), self._select(recurrence, part)) for part in parts])

    def _parts(self, observations: Any) -> list[slice]:
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        return self.shards.split(len(first))

    def _select(self, recurrence: Recurrence | None, part: slice) -> Recurrence | None:
        if recurrence is None or len(self.shards.own) == 1:
            return recurrence
        states = tuple(state[:, part] for state in recurrence.states)
        # Already forgotten where an episode has just begun.
        return self.policy.one_step(states, th.zeros(part.stop - part.start, device=self.policy.device))  # type: ignore[no-any-return]


class ShardedChoice(NamedTuple):
    """Actions of all environments of this process, and the choices that they come from."""

    actions: th.Tensor
    choices: list[Any]
