"""Where a rollout lives between being gathered and being learned from.

Both buffers are SB3's, with SB3's attributes and methods. What differs: the memory of observations is laid out
environment by environment (``[B, T, ...]``), and the ``[T, B, ...]`` arrays everybody reads are views of it. SB3
flattens a rollout environment-major before each update, which costs it a copy of everything (images included); here the
flat order *is* the memory's order and no observation is copied. Each rollout has arrays of its own, as in SB3: whoever
has kept those of the last one keeps it, and what somebody has put in their place is gone with it.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_ppo_notes.formulas.advantages import bootstrap_time_limits, next_nonterminal, next_values
from sb3_ppo_notes.policies.memory import States
from sb3_ppo_notes.rollouts.minibatches import MinibatchSource
from sb3_ppo_notes.rules import GAE, RolloutArrays, UpdateRule

SCALARS = ("env_rewards", "rewards", "returns", "episode_starts", "advantages", "values", "log_probs")


class NotesRolloutBuffer(MinibatchSource, RolloutBuffer):
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
    _cuts: list[tuple[int, int, Any]]
    _end: tuple[np.ndarray, Any]

    @cached_property
    def rule(self) -> UpdateRule:  # type: ignore[override]
        """The rule that computes advantages; the algorithm replaces it before each rollout."""
        return UpdateRule(advantage_estimator=GAE(self.gae_lambda))

    def reset(self) -> None:
        """Begin a new rollout, in memory of its own: SB3 asks ``buffer_size`` and ``n_envs`` anew here, too."""
        self._allocate()
        self._forget_tensors()
        self.pos = 0
        self.full = False
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
        """Store one step of all environments.

        :param obs: sₜ, ``[B, ...]``.
        :param action: aₜ, ``[B, ...]``, as sampled, before clipping to the environment's bounds.
        :param reward: rₜ, ``[B]``, after time-limit bootstrapping.
        :param episode_start: ``[B]``, whether sₜ starts an episode.
        :param value: V(sₜ), ``[B]`` or ``[B, 1]``.
        :param log_prob: log π(aₜ|sₜ), ``[B]``.
        """
        self.add_action(obs, action, episode_start, value, log_prob)
        self.add_reward(reward)

    def add_action(
        self, obs: Any, action: np.ndarray, episode_start: np.ndarray, value: th.Tensor, log_prob: th.Tensor
    ) -> None:
        """Store the half of a step that is known before the environments have answered.

        :param obs: sₜ, ``[B, ...]``.
        :param action: aₜ, ``[B, ...]``, as sampled, before clipping to the environment's bounds.
        :param episode_start: ``[B]``, whether sₜ starts an episode.
        :param value: V(sₜ), ``[B]`` or ``[B, 1]``.
        :param log_prob: log π(aₜ|sₜ), ``[B]``.
        """
        self._add_observation(obs)
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.detach().cpu().numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.detach().cpu().numpy().reshape(-1)

    def add_reward(self, reward: np.ndarray) -> None:
        """Store the other half, and go on to the next step.

        :param reward: rₜ, ``[B]``, after time-limit bootstrapping.
        """
        self.rewards[self.pos] = reward
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def _add_observation(self, obs: np.ndarray) -> None:
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

    def note_step(self, env_rewards: np.ndarray, truncated: list[tuple[int, Any]]) -> None:
        """Remember of the step about to be added what is needed to compute advantages again with another critic.

        :param env_rewards: ``[B]``, as the environment paid them.
        :param truncated: environment index and last observation of each episode that a time limit cut at this step.
        """
        self.env_rewards[self.pos] = env_rewards
        self._cuts += [(self.pos, index, observation) for index, observation in truncated]

    def note_context(self, action_masks: np.ndarray | None, states: States | None) -> None:
        """Remember of the step about to be added what the policy chose under.

        :param action_masks: ``[B, n]``, ``True`` where an action was allowed; ``None`` without masks.
        :param states: of a recurrent policy before the step, ``[layers, B, H]`` each; ``None`` without memory.
        """
        if action_masks is not None:
            if self.action_masks is None:
                self.action_masks = self._time_major_zeros(action_masks.shape[1:], bool)
            self.action_masks[self.pos] = action_masks
        if states is not None and self.pos % self.sequence_length == 0:
            self._states.append(states)

    def note_end(self, last_observation: Any, dones: np.ndarray) -> None:
        """Remember how the rollout ended.

        :param last_observation: s_T, ``[B, ...]``.
        :param dones: ``[B]``, whether the last step ended its episode.
        """
        self._end = (dones, last_observation)

    def recompute(self, value_of: Callable[[Any], np.ndarray]) -> None:
        """Fill ``advantages`` and ``returns`` again, with the critic as it is now. ``values`` stay those of the
        rollout.

        :param value_of: V of a batch of observations (NumPy array or dict of arrays, ``[N, ...]``), ``[N]``.
        """
        flat_values = value_of(self._flat_observations())
        values = flat_values.reshape(self.n_envs, self.buffer_size).T
        terminal_values = np.zeros_like(self.rewards)
        for step, environment, observation in self._cuts:
            terminal_values[step, environment] = value_of(_batch_of_one(observation))[0]
        rewards = bootstrap_time_limits(self.env_rewards, terminal_values, self.gamma)
        dones, last_observation = self._end
        self._estimate(rewards, values, value_of(last_observation), dones)

    def _flat_observations(self) -> Any:
        return self.flat(self.observations)

    def _observations_as_tensors(self) -> Any:
        return self._flat_tensor(self.observations)


class NotesDictRolloutBuffer(NotesRolloutBuffer, DictRolloutBuffer):
    """The same for Dict observations: one array a key.

    :param buffer_size: T, steps per environment.
    :param observation_space: space of one observation.
    :param action_space: space of one action.
    :param device: where minibatches are delivered.
    :param gae_lambda: λ of the default rule.
    :param gamma: γ.
    :param n_envs: B, number of environments.
    """

    observation_space: spaces.Dict
    observations: dict[str, np.ndarray]

    def _allocate(self) -> None:
        self.observations = {
            key: self._time_major_zeros(shape, self.observation_space[key].dtype)
            for key, shape in self.obs_shape.items()
        }
        self._allocate_scalars()

    def _add_observation(self, obs: dict[str, np.ndarray]) -> None:  # type: ignore[override]
        for key, stored in self.observations.items():
            stored[self.pos] = np.asarray(obs[key]).reshape(self.n_envs, *self.obs_shape[key])

    def _flat_observations(self) -> dict[str, np.ndarray]:
        return {key: self.flat(stored) for key, stored in self.observations.items()}

    def _observations_as_tensors(self) -> dict[str, th.Tensor]:
        return {key: self._flat_tensor(stored) for key, stored in self.observations.items()}

    def _observation_rows(self, index: th.Tensor) -> dict[str, th.Tensor]:
        return {key: tensor[index] for key, tensor in self._observation_tensors.items()}


def _batch_of_one(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: np.asarray(part)[np.newaxis] for key, part in observation.items()}
    return np.asarray(observation)[np.newaxis]
