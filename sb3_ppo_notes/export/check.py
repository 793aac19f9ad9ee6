"""Playing the environments with the policy and with its file, side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_ppo_notes.envs.sharded_vec_env import wrappers_around
from sb3_ppo_notes.export.actor import BATCH, MASKS, START, Actor
from sb3_ppo_notes.export.formats import Run
from sb3_ppo_notes.export.observations import FrameBuffer, Observation
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.actor_critic import evaluate, values_of
from sb3_ppo_notes.policies.masks import collect_masks

#: Largest difference between the file and ``predict``; relative, for numbers above 1 and actions in wider bounds.
TOLERANCE = 1e-5
Arrays = dict[str, np.ndarray]


def check(model: Any, actor: Actor, run: Run, observations: list[Observation], n_observations: int) -> dict[str, float]:
    """The largest difference between a file and ``predict`` for each output.

    The file is played step by step, with what it remembers itself; and once more all at once, as one batch.
    """
    recorded: list[tuple[Arrays, Arrays]] = []
    largest = dict.fromkeys(actor.outputs, 0.0)
    with _play(model, observations) as play:
        while len(recorded) * model.n_envs < n_observations:
            inputs, expected, differences = play.step(actor, run)
            recorded.append((inputs, expected))
            largest = {name: _larger(largest[name], difference) for name, difference in differences.items()}
    axes = {each.name: each.shape.index(BATCH) for each in actor.inputs}
    together = {name: np.concatenate([inputs[name] for inputs, _ in recorded], axes[name]) for name in axes}
    results = run(together)
    for name in actor.outputs:
        axis = 1 if name.startswith("next_state_") else 0
        single = np.concatenate([outputs[name] for _, outputs in recorded], axis)
        if results[name].shape != single.shape:
            raise InvalidValueError(f"the file must take any number of observations, got {name} of another shape")
        if results[name].dtype.kind == "f":  # which of two equally good actions is taken may differ
            largest[name] = _larger(
                largest[name], difference_of(results[name], single, _scale(name, model.action_space))
            )
    return largest


def _larger(one: float, other: float) -> float:
    return float(np.maximum(one, other))  # not max, which may lose a NaN


def difference_of(result: np.ndarray, expected: np.ndarray, scale: Any = 1.0) -> float:
    """The largest difference, relative where what is expected is larger than the scale; infinite for another shape."""
    if result.shape != expected.shape:
        return float("inf")
    result, expected = result.astype(np.float64), expected.astype(np.float64)
    return float((np.abs(result - expected) / np.maximum(np.abs(expected), scale)).max())


def _scale(name: str, space: spaces.Space[Any]) -> Any:
    """1, or the bounds of actions that are stretched to wider ones: their rounding is stretched, too."""
    if name != "action" or not isinstance(space, spaces.Box):
        return 1.0
    widest = np.maximum(np.abs(space.low.astype(np.float64)), np.abs(space.high.astype(np.float64)))
    return np.where(np.isfinite(widest), np.maximum(widest, 1.0), 1.0)


class _Recorder(VecEnvWrapper):
    """Keeps what the environments themselves gave last."""

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.observations: Any = None

    def reset(self) -> Any:
        self.observations = _copied(self.venv.reset())
        return self.observations

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.observations = _copied(observations)
        return observations, rewards, dones, infos


def _copied(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: np.array(part) for key, part in observations.items()}
    return np.array(observations)


class _Play:
    """Environments in the middle of their episodes, what the policy remembers of them, and what the file does."""

    def __init__(self, model: Any, env: VecEnv, recorder: _Recorder, observations: list[Observation]):
        self.model, self.env, self.recorder = model, env, recorder
        self.buffers = {each.name: FrameBuffer(each, env.num_envs) for each in observations}
        self.seen: Any = env.reset()
        self.starts = np.ones(env.num_envs, dtype=bool)
        self.state: Any = None
        self.memory: Arrays = {}

    def step(self, actor: Actor, run: Run) -> tuple[Arrays, Arrays, dict[str, float]]:
        """Inputs and outputs of the file for one step, and how far they are from the policy's."""
        model, raw = self.model, self.recorder.observations
        raw = raw if isinstance(raw, dict) else {actor.observations[0]: raw}
        inputs = {name: buffer.push(raw[name], self.starts) for name, buffer in self.buffers.items()}
        masks = None
        if actor.is_masked:
            masks = inputs[MASKS] = collect_masks(self.env)
        if actor.n_states:
            if not self.memory:
                self.memory = {each.name: each.zeros(model.n_envs) for each in actor.inputs}
            inputs |= {name: self.memory[name] for name in (f"state_{index}" for index in range(actor.n_states))}
            inputs[START] = self.starts
        outputs = run(inputs)
        self.memory = {name.removeprefix("next_"): array for name, array in outputs.items()}
        extra = {} if masks is None else {MASKS: masks}
        before = self.state
        actions, self.state = model.predict(self.seen, before, self.starts, deterministic=True, **extra)
        differences = self._differences(outputs, actions, before, masks)
        self.seen, _, dones, _ = self.env.step(actions)
        self.starts = np.asarray(dones, dtype=bool)
        return inputs, outputs, differences

    def _differences(self, outputs: Arrays, actions: np.ndarray, before: Any, masks: Any) -> dict[str, float]:
        policy, recurrence = self.model.policy, None
        seen = policy.obs_to_tensor(self.seen)[0]
        if getattr(policy, "is_recurrent", False):
            states = policy.initial_states(len(actions)) if before is None else tuple(map(th.as_tensor, before))
            recurrence = policy.one_step(states, th.as_tensor(self.starts))
        with th.no_grad():
            values = values_of(policy, seen, recurrence).flatten().numpy()
        differences = {"value": difference_of(outputs["value"], values)}
        for index, state in enumerate(self.state or ()):
            differences[f"next_state_{index}"] = difference_of(outputs[f"next_state_{index}"], state)
        differences["action"] = difference_of(outputs["action"], actions, _scale("action", policy.action_space))
        is_choice = not isinstance(policy.action_space, spaces.Box)
        if is_choice and 0.0 < differences["action"] < float("inf"):
            # Of two actions that are equally likely to rounding either may be the likeliest.
            allowed = None if masks is None else th.as_tensor(masks)
            log_probs = []
            for each in (outputs["action"], actions):
                with th.no_grad():
                    evaluation = evaluate(policy, seen, th.as_tensor(each), allowed, recurrence)
                log_probs.append(evaluation.log_probs.numpy())
            differences["action"] = difference_of(*log_probs)
        return differences


@contextmanager
def _play(model: Any, observations: list[Observation]) -> Iterator[_Play]:
    """The model's own environments with normalisers that do not learn. They begin anew, now and afterwards."""
    env = model.get_env()
    wrappers: list[Any] = wrappers_around(env)[::-1]
    training = [(wrapper, wrapper.training) for wrapper in wrappers if hasattr(wrapper, "training")]
    recorder = _Recorder(wrappers[0].venv if wrappers else env)
    try:
        for wrapper, _ in training:
            wrapper.training = False
        if wrappers:
            wrappers[0].venv = recorder
        yield _Play(model, env if wrappers else recorder, recorder, observations)
    finally:
        for wrapper, was in training:
            wrapper.training = was
        if wrappers:
            wrappers[0].venv = recorder.venv
        model._last_obs = None  # so that learn begins with a reset
