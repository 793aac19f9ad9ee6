"""Where a rollout lives between being gathered and being learned from.

Both buffers are SB3's, with SB3's attributes and methods. What differs: the memory is laid out environment by
environment (``[B, T, ...]``), and the ``[T, B, ...]`` arrays everybody reads are views of it. SB3 flattens a rollout
environment-major before each update, which costs it a copy of everything (images included); here the flat order *is*
the memory's order and nothing is copied. The arrays keep their shape and their memory for the buffer's whole life: copy
what you want to keep beyond the next rollout.
"""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_ppo_notes.formulas.advantages import bootstrap_time_limits, next_nonterminal, next_values
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.distributions import Parameters
from sb3_ppo_notes.rules import GAE, Optimization, RolloutArrays, UpdateRule


class Minibatch(NamedTuple):
    """Samples of one step of the optimiser, under SB3's names: ``[N, ...]`` tensors.

    ``old_parameters`` are those of π_old(·|s), where the rule asks for the exact KL, else ``None``.
    """

    observations: Any
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    old_parameters: Parameters | None = None


SCALARS = ("env_rewards", "rewards", "returns", "episode_starts", "values", "log_probs", "advantages")


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

    #: The rule that computes advantages; the algorithm replaces it before each rollout.
    rule: UpdateRule
    #: Rewards as the environment paid them; kept only for a rule that computes advantages every epoch.
    env_rewards: np.ndarray
    #: Parameters of π_old(·|s) for all samples in flat order, where the rule asks for the exact KL; set by the update.
    old_parameters: Parameters | None
    _columns: dict[str, th.Tensor]
    _observation_tensors: Any
    _cuts: list[tuple[int, int, Any]]
    _end: tuple[np.ndarray, Any]

    def reset(self) -> None:
        """Begin a new rollout in the same memory."""
        if not hasattr(self, "rule"):
            self.rule = UpdateRule(advantage_estimator=GAE(self.gae_lambda))
            self._allocate()
        self.pos = 0
        self.full = False
        self.old_parameters = None
        self._cuts = []
        self.generator_ready = False

    def _allocate(self) -> None:
        self.observations = self._time_major_zeros(self.obs_shape, self.observation_space.dtype)
        self._allocate_scalars()

    def _allocate_scalars(self) -> None:
        self.actions = self._time_major_zeros((self.action_dim,), self.action_space.dtype)
        for name in SCALARS:
            setattr(self, name, self._time_major_zeros((), np.float32))

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
        self._add_observation(obs)
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.detach().cpu().numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.detach().cpu().numpy().reshape(-1)
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

    def observation_chunks(self, size: int) -> Generator[Any, None, None]:
        """All observations in flat order, in portions.

        :param size: rows of a portion; the last may be smaller.
        :return: tensors on the device (or dicts of them), ``[N, ...]``.
        """
        n_samples = self.buffer_size * self.n_envs
        self._observation_tensors = self._observations_as_tensors()
        for start in range(0, n_samples, size):
            yield self._observation_rows(th.arange(start, min(start + size, n_samples), device=self.device))

    def _flat_observations(self) -> Any:
        return self.flat(self.observations)

    def flat(self, array: np.ndarray) -> np.ndarray:
        """A rollout array in the order of the samples: all of environment 0, then all of environment 1, and so on.

        :param array: ``[T, B, ...]``, one of this buffer's.
        :return: ``[T·B, ...]``, sharing the memory.
        """
        return array.swapaxes(0, 1).reshape(self.buffer_size * self.n_envs, *array.shape[2:])

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Go once through the rollout in minibatches, in the order the rule asks for.

        :param batch_size: samples in a minibatch; ``None`` for all in one.
        :return: minibatches of ``[N, ...]`` tensors; the last may be smaller.
        :raises ValueError: if the rollout is not complete.
        """
        if not self.full:
            raise InvalidValueError(
                f"rollout_buffer must be full before it is used, it holds {self.pos} of {self.buffer_size} steps"
            )
        if not self.generator_ready:
            self._columns, self._observation_tensors = self._columns_as_tensors(), self._observations_as_tensors()
            self.generator_ready = True
        n_samples = self.buffer_size * self.n_envs
        yield from self._minibatches(self.rule.optimization, n_samples, batch_size or n_samples)

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

    def _flat_tensor(self, array: np.ndarray) -> th.Tensor:
        return th.from_numpy(self.flat(array)).to(self.device)

    def _minibatches(self, optimization: Optimization, n_samples: int, batch_size: int) -> Generator[Any, None, None]:
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
            observations = self._observation_rows(index[rows])
            old = self.old_parameters and tuple(parameter[index[rows]] for parameter in self.old_parameters)
            yield Minibatch(
                observations, **{name: column[rows] for name, column in columns.items()}, old_parameters=old
            )

    def _order_of_time(self) -> np.ndarray:
        """Flat indices of all environments' first steps, then of all their second steps, and so on."""
        return np.arange(self.buffer_size * self.n_envs).reshape(self.n_envs, self.buffer_size).T.ravel()

    def _observation_rows(self, index: th.Tensor) -> Any:
        return self._observation_tensors[index]


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
