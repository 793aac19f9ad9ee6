"""Rollout buffers: a rollout between being gathered and being learned from.

Both buffers are SB3's, with SB3's attributes and methods. What differs: the memory of observations is laid out
environment by environment (``[B, T, ...]``), and the ``[T, B, ...]`` arrays everybody reads are views of it. SB3
flattens a rollout environment-major before each update, which costs it a copy of everything (images included); here the
flat order *is* the memory's order and no observation is copied. Each rollout has arrays of its own, as in SB3: whoever
has kept those of the last one keeps it, and what somebody has put in their place is gone with it.
"""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_ppo_notes.formulas.advantages import bootstrap_time_limits, next_nonterminal, next_values
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.policies.memory import SequenceLayout, States
from sb3_ppo_notes.policies.shipped import original
from sb3_ppo_notes.processes import Shards
from sb3_ppo_notes.processes.shards import sum_in_order
from sb3_ppo_notes.rollouts.minibatches import MinibatchSampler, SampledMinibatches, select
from sb3_ppo_notes.rollouts.sharding import ShardedSampler
from sb3_ppo_notes.rules import GAE, RolloutArrays, UpdateRule

SCALARS = ("env_rewards", "rewards", "returns", "episode_starts", "advantages", "values", "log_probs")


class NotesRolloutBuffer(RolloutBuffer):
    """SB3's ``RolloutBuffer``, whose advantages come from ``formulas`` by way of a rule.

    :param buffer_size: T, steps per environment.
    :param observation_space: space of one observation.
    :param action_space: space of one action.
    :param device: where minibatches are delivered.
    :param gae_lambda: λ of the default rule.
    :param gamma: γ.
    :param n_envs: B, number of environments.
    """

    #: Rewards as the environment paid them; kept only for a rule that computes advantages every epoch.
    env_rewards: np.ndarray
    #: ``[T, B, n]`` bool, where actions are masked.
    action_masks: np.ndarray | None
    #: Parameters of π_old(·|s) for all samples in flat order, where the rule asks for the exact KL.
    old_parameters: Parameters | None
    #: Steps of a recurrent policy's longest sequence, and whether one may follow another in the same lane.
    sequence_length: int = 1
    can_reset: bool = False
    #: A recurrent policy's states at the multiples of the sequence length; none of a policy without memory.
    _states: list[States]
    #: Step, environment and last observation of each episode that a time limit cut.
    _cuts: list[tuple[int, int, Any]]
    _end: tuple[np.ndarray, Any]
    _rule: UpdateRule | None = None
    #: Of a training on several processes, else ``None``.
    shards: Shards | None = None

    @property
    def rule(self) -> UpdateRule:
        """The rule that computes advantages: that of :meth:`prepare`, else stock SB3's."""
        return UpdateRule(advantage_estimator=GAE(self.gae_lambda)) if self._rule is None else self._rule

    def prepare(
        self,
        rule: UpdateRule | None,
        *,
        batch_size: int | None = None,
        sequences: SequenceLayout | None = None,
        shards: Shards | None = None,
    ) -> None:
        """Set what rollouts are gathered for: before each, and again before it is learned from.

        :param rule: computes the advantages, and says how minibatches are made; ``None`` for stock SB3's.
        :param batch_size: samples in a minibatch, ``None`` for the whole rollout in one.
        :param sequences: how a recurrent policy learns from sequences; ``None`` for a policy without memory.
        :param shards: of a training on several processes; the environments are divided among those of this one.
        """
        self._rule = rule
        self.shards = shards
        self.can_reset = sequences is not None and sequences.can_reset
        # A rollout that has begun keeps its length: what was remembered is stored at its multiples.
        if sequences is not None and self.pos == 0:
            self.sequence_length = min(sequences.longest or batch_size or self.buffer_size, self.buffer_size)

    def reset(self) -> None:
        """Begin a new rollout, in memory of its own: SB3 asks ``buffer_size`` and ``n_envs`` anew here, too."""
        self._allocate()
        self.pos = 0
        self.full = False
        self.action_masks = None
        self.old_parameters = None
        self._cuts = []
        self._states = []
        self.generator_ready = False

    def _allocate(self) -> None:
        self.observations = self._time_major_zeros(self.obs_shape, self.observation_space.dtype)
        self._allocate_scalars()

    def _allocate_scalars(self) -> None:
        # Small, and laid out as SB3's: a mean over an array is summed in the order of its memory.
        size = self.buffer_size, self.n_envs
        self.actions = np.zeros((*size, self.action_dim), self.action_space.dtype)
        for name in SCALARS:
            setattr(self, name, np.zeros(size, np.float32))

    def _time_major_zeros(self, shape: Any, dtype: Any) -> np.ndarray:
        return np.zeros((self.n_envs, self.buffer_size, *shape), dtype=dtype).swapaxes(0, 1)

    def add(
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
    ) -> None:
        self.store_policy_step(obs, action, episode_start, value, log_prob)
        self.store_transition(reward)

    add.__doc__ = RolloutBuffer.add.__doc__

    def store_policy_step(
        self,
        obs: Any,
        action: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
        action_masks: np.ndarray | None = None,
        states: States | None = None,
    ) -> None:
        """Store what is known of a step before the environments have answered.

        :param obs: sₜ, ``[B, ...]``.
        :param action: aₜ, ``[B, ...]``, as sampled, before clipping to the environment's bounds.
        :param episode_start: ``[B]``, whether sₜ starts an episode.
        :param value: V(sₜ), ``[B]`` or ``[B, 1]``.
        :param log_prob: log π(aₜ|sₜ), ``[B]``.
        :param action_masks: ``[B, n]``, ``True`` where an action was allowed; ``None`` without masks.
        :param states: of a recurrent policy before the step, ``[layers, B, H]`` each; ``None`` without memory.
        """
        self._store_observation(obs)
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.detach().cpu().numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.detach().cpu().numpy().reshape(-1)
        self._store_context(action_masks, states)

    def store_transition(
        self, reward: np.ndarray, env_reward: np.ndarray | None = None, truncated: list[tuple[int, Any]] | None = None
    ) -> None:
        """Store the environments' answer, and go on to the next step.

        :param reward: rₜ, ``[B]``, after time-limit bootstrapping.
        :param env_reward: ``[B]``, as the environment paid it.
        :param truncated: environment index and last observation of each episode that a time limit cut at this step.
        """
        self._store_payment(env_reward, truncated)
        self.rewards[self.pos] = reward
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def store_beside_add(
        self,
        action_masks: np.ndarray | None,
        states: States | None,
        env_reward: np.ndarray,
        truncated: list[tuple[int, Any]],
    ) -> None:
        """Store what SB3's :meth:`add` has no argument for, before somebody's own ``add`` is called.

        :param action_masks: as in :meth:`store_policy_step`.
        :param states: as there.
        :param env_reward: as in :meth:`store_transition`.
        :param truncated: as there.
        """
        self._store_context(action_masks, states)
        self._store_payment(env_reward, truncated)

    def _store_context(self, action_masks: np.ndarray | None, states: States | None) -> None:
        if action_masks is not None:
            if self.action_masks is None:
                self.action_masks = self._time_major_zeros(action_masks.shape[1:], bool)
            self.action_masks[self.pos] = action_masks
        if states is not None and self.pos % self.sequence_length == 0:
            self._states.append(states)

    def _store_payment(self, env_reward: np.ndarray | None, truncated: list[tuple[int, Any]] | None) -> None:
        """For a rule that computes advantages again with another critic."""
        if self._rule is not None and self._rule.computed == "every_epoch" and env_reward is not None:
            self.env_rewards[self.pos] = env_reward
            self._cuts += [(self.pos, index, observation) for index, observation in truncated or ()]

    def store_end(self, last_observation: Any, dones: np.ndarray) -> None:
        """Store how the rollout ended.

        :param last_observation: s_T, ``[B, ...]``.
        :param dones: ``[B]``, whether the last step ended its episode.
        """
        self._end = (dones, last_observation)

    def store_old_distribution(self, parameters: Parameters) -> None:
        """Store π_old(·|s) of every state, for the exact KL.

        :param parameters: ``[T·B, ...]`` each, in the order of :meth:`flat`.
        """
        self.old_parameters = parameters

    def _store_observation(self, obs: np.ndarray) -> None:
        # Discrete observations come as [B] and are kept as [B, 1].
        self.observations[self.pos] = np.asarray(obs).reshape(self.n_envs, *self.obs_shape)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Fill ``advantages`` and ``returns`` by the rule.

        :param last_values: V(s_T), ``[B]`` or ``[B, 1]``.
        :param dones: ``[B]``, whether the last step ended its episode.
        """
        self._estimate(self.rewards, self.values, last_values.detach().cpu().numpy().reshape(-1), np.asarray(dones))

    def _estimate(self, rewards: np.ndarray, values: np.ndarray, last_values: np.ndarray, dones: np.ndarray) -> None:
        nonterminal = next_nonterminal(self.episode_starts, dones)
        rollout = RolloutArrays(rewards, values, next_values(values, last_values), nonterminal)
        self.advantages[...], self.returns[...] = self.rule.estimate(rollout, self.gamma)
        self.generator_ready = False

    def recompute(self, value_of: Callable[[Any], np.ndarray]) -> None:
        """Fill ``advantages`` and ``returns`` again, with the critic as it is now. ``values`` stay those of the
        rollout.

        :param value_of: V of a batch of observations (NumPy array or dict of arrays, ``[N, ...]``), ``[N]``.
        """
        flat, n_steps = self.flat_observations(), self.buffer_size
        rows = [slice(part.start * n_steps, part.stop * n_steps) for part in self.parts]
        values = np.concatenate([value_of(select(flat, each)) for each in rows]).reshape(self.n_envs, n_steps).T
        terminal_values = np.zeros_like(self.rewards)
        for step, environment, observation in self._cuts:
            terminal_values[step, environment] = value_of(_batch_of_one(observation))[0]
        rewards = bootstrap_time_limits(self.env_rewards, terminal_values, self.gamma)
        dones, last_observation = self._end
        last_values = np.concatenate([value_of(select(last_observation, part)) for part in self.parts])
        self._estimate(rewards, values, last_values, dones)

    @property
    def parts(self) -> list[slice]:
        """The environments whose experience is computed with at once: all, or those of one shard after the other."""
        return [slice(0, self.n_envs)] if self.shards is None else self.shards.split(self.n_envs)

    def mean_over_shards(self, values: th.Tensor) -> float:
        """The mean over the rollout, of all processes if there are several.

        :param values: ``[T·B]``, in the order of :meth:`flat`.
        :return: in the unit of the values.
        """
        if self.shards is None:
            return values.mean().item()
        means = [part.mean().reshape(1) for part in values.view(len(self.parts), -1)]
        return sum_in_order(self.shards.gather_vectors(means)).item() / self.shards.n_shards

    def flat(self, array: np.ndarray) -> np.ndarray:
        """A rollout array in the order of the samples: all of environment 0, then all of environment 1, and so on.

        :param array: ``[T, B, ...]``, one of this buffer's.
        :return: ``[T·B, ...]``; observations share the memory.
        """
        return array.swapaxes(0, 1).reshape(self.buffer_size * self.n_envs, *array.shape[2:])

    def flat_of_all(self, array: np.ndarray) -> np.ndarray:
        """As :meth:`flat`, of the rollouts of all processes if there are several.

        :param array: ``[T, B]`` float32, one of this buffer's.
        :return: ``[T·B]``, of all environments of all shards.
        """
        flat = self.flat(array)
        if self.shards is None:
            return flat
        return self.shards.gather_vectors(list(th.from_numpy(flat).view(len(self.parts), -1))).flatten().numpy().copy()

    def flat_observations(self) -> Any:
        """All observations in the order of the samples.

        :return: ``[T·B, ...]``, or a dict of such arrays.
        """
        return self.flat(self.observations)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Go once through the rollout in minibatches, in the order the rule asks for, for whoever does so beside our
        own update: a ``train`` of somebody's own, a callback.

        :param batch_size: samples in a minibatch; ``None`` for all in one. A recurrent policy gets whole sequences, of
            about as many steps.
        :return: SB3's samples, ``[N, ...]`` each; of a recurrent or a masked rollout, or one with the old distribution,
            a :class:`~sb3_ppo_notes.rollouts.minibatches.Minibatch`. Advantages are not normalised by the minibatch.
        :raises ValueError: if the rollout is not complete.
        """
        yield from MinibatchSampler(self, batch_size).samples()


class NotesDictRolloutBuffer(NotesRolloutBuffer, DictRolloutBuffer):
    """The same for Dict observations: one array a key."""

    observation_space: spaces.Dict
    observations: dict[str, np.ndarray]

    def _allocate(self) -> None:
        self.observations = {
            key: self._time_major_zeros(shape, self.observation_space[key].dtype)
            for key, shape in self.obs_shape.items()
        }
        self._allocate_scalars()

    def _store_observation(self, obs: dict[str, np.ndarray]) -> None:  # type: ignore[override]
        for key, stored in self.observations.items():
            stored[self.pos] = np.asarray(obs[key]).reshape(self.n_envs, *self.obs_shape[key])

    def flat_observations(self) -> dict[str, np.ndarray]:
        """All observations in the order of the samples.

        :return: ``[T·B, ...]`` by key.
        """
        return {key: self.flat(stored) for key, stored in self.observations.items()}


#: As it was written, whatever somebody has put in its place since, in the class or in an instance.
GET = original(NotesRolloutBuffer, "get")
#: What SB3's ``get`` lays out anew.
FLATTENED = ("observations", "actions", "values", "log_probs", "advantages", "returns")


def minibatches_of(
    rollout_buffer: RolloutBuffer, rule: UpdateRule, batch_size: int | None
) -> MinibatchSampler | SampledMinibatches | ShardedSampler:
    """The minibatches of one update.

    :param rollout_buffer: complete; what somebody has changed in it since it was last gone through counts.
    :param rule: whether advantages are normalised by the minibatch.
    :param batch_size: samples in a minibatch, ``None`` for all in one.
    :return: an object with a method ``epoch``.
    """
    if getattr(rollout_buffer.get, "__func__", None) is not GET:
        return SampledMinibatches(rollout_buffer, rule, batch_size)
    if _has_own_samples(rollout_buffer):
        stock: Any = _StockSamples(rollout_buffer)
        return SampledMinibatches(stock, rule, batch_size)
    shards: Shards | None = rollout_buffer.shards  # type: ignore[attr-defined]
    if shards is not None:
        return ShardedSampler(rollout_buffer, batch_size, shards)
    return MinibatchSampler(rollout_buffer, batch_size, normalizes=True)


def _has_own_samples(buffer: RolloutBuffer) -> bool:
    """``True`` if a subclass, or somebody in an instance, has another version of what SB3's ``get`` is made of.

    SB3's hands out neither masks nor memory nor old distributions: a rollout with one of them is ours to hand out.
    """
    if any(getattr(buffer, name, None) is not None for name in ("action_masks", "old_parameters", "states")):
        return False
    stock = DictRolloutBuffer if isinstance(buffer, DictRolloutBuffer) else RolloutBuffer
    names = ("_get_samples", "to_torch", "swap_and_flatten")
    return any(name in vars(buffer) or getattr(type(buffer), name) is not getattr(stock, name) for name in names)


class _StockSamples:
    """Samples as SB3 hands them out, by way of methods that somebody has replaced.

    :param buffer: of ours, complete.
    """

    def __init__(self, buffer: RolloutBuffer):
        self.buffer = buffer

    def get(self, batch_size: int | None) -> Generator[Any, None, None]:
        """SB3's own ``get``, which puts arrays of another layout in the place of the buffer's; then ours are back."""
        buffer: Any = self.buffer
        arrays = {name: vars(buffer)[name] for name in FLATTENED}
        buffer.generator_ready = False
        try:
            yield from super(NotesRolloutBuffer, buffer).get(batch_size)  # type: ignore[misc]
        finally:
            vars(buffer).update(arrays, generator_ready=False)


def _batch_of_one(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: np.asarray(part)[np.newaxis] for key, part in observation.items()}
    return np.asarray(observation)[np.newaxis]
