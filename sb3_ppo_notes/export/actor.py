"""A policy's deterministic actions and values as one module: from what an environment gives to what it takes."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ppo_notes.export.observations import Observation
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.actor_critic import act, formulas_of
from sb3_ppo_notes.policies.masks import mask_sizes
from sb3_ppo_notes.policies.shipped import keeps_sb3_method

MASKS, START = "action_masks", "episode_start"
#: In place of the number of observations.
BATCH = "batch"
#: Of the batch that is traced: neither 0 nor 1, for which torch.export would write code of their own.
EXAMPLE = 3


class Input(NamedTuple):
    """One input of a file; its shape says ``BATCH`` where the batch lies."""

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    def zeros(self, n: int) -> np.ndarray:
        """An input for n observations."""
        return np.zeros([n if size == BATCH else int(size) for size in self.shape], self.dtype)


class Actor(nn.Module):
    """What is exported: one dictionary of tensors in, one out.

    :param is_masked: the file takes action masks.
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, policy: Any, observations: list[Observation], is_masked: bool):
        super().__init__()
        _check(policy, observations)
        self.policy = policy
        self.observations = [observation.name for observation in observations]
        self.steps = nn.ModuleList(observation.steps for observation in observations)
        self.is_masked = is_masked
        self.is_dict = isinstance(policy.observation_space, spaces.Dict)
        self.n_states = len(policy.initial_states(1)) if getattr(policy, "is_recurrent", False) else 0
        space = policy.action_space
        if isinstance(space, spaces.Box):
            self.register_buffer("low", th.as_tensor(space.low, dtype=th.float32))
            self.register_buffer("high", th.as_tensor(space.high, dtype=th.float32))
        self.inputs = self._inputs(observations)
        self.outputs = ("action", "value", *(f"next_state_{index}" for index in range(self.n_states)))

    def _inputs(self, observations: list[Observation]) -> list[Input]:
        inputs = [Input(each.name, (BATCH, *each.shape), each.dtype) for each in observations]
        if self.is_masked:
            n_choices = sum(mask_sizes(self.policy.action_space))
            inputs.append(Input(MASKS, (BATCH, n_choices), np.dtype(bool)))
        if self.n_states:
            for index, state in enumerate(self.policy.initial_states(1)):
                layers, _, size = state.shape
                inputs.append(Input(f"state_{index}", (layers, BATCH, size), np.dtype(np.float32)))
            inputs.append(Input(START, (BATCH,), np.dtype(bool)))
        return inputs

    def forward(self, inputs: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        seen: Any = {name: steps(inputs[name]) for name, steps in zip(self.observations, self.steps, strict=True)}
        observations = seen if self.is_dict else seen[self.observations[0]]
        recurrence = None
        if self.n_states:
            states = tuple(inputs[f"state_{index}"] for index in range(self.n_states))
            recurrence = self.policy.one_step(states, inputs[START])
        action = act(self.policy, observations, inputs.get(MASKS), recurrence, deterministic=True)
        results = (self._within_bounds(action.actions), action.values.flatten(), *(action.states or ()))
        return dict(zip(self.outputs, results, strict=True))

    def _within_bounds(self, actions: th.Tensor) -> th.Tensor:
        if not isinstance(self.policy.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return actions.clamp(self.low, self.high)


def _check(policy: Any, observations: list[Observation]) -> None:
    if policy.device.type != "cpu":
        raise InvalidValueError(
            f"model must be on the CPU to be exported, got {policy.device}: load(..., device='cpu')"
        )
    if formulas_of(policy) is None or not keeps_sb3_method(policy, "forward"):
        raise InvalidValueError(
            f"model must have a policy that acts by SB3's methods to be exported, got {type(policy).__name__}, which "
            "has a forward or a distribution of its own"
        )
    for observation in observations:
        name = observation.name
        if name in (MASKS, START) or name.startswith(("state_", "next_state_")) or name in ("action", "value"):
            raise InvalidValueError(
                f"model must have observations under names that the file has not for something else, got {name!r}"
            )
