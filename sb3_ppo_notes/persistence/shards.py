"""The part of a checkpoint that belongs to one shard: its environments, its generators, its rows of the rollout.

It is the same on whatever process the shard is, so that a run begun on four processes goes on on two, or on one.
"""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.envs.sharded_vec_env import ShardedVecEnv, shards_of, wrappers_around
from sb3_ppo_notes.persistence.callback_state import capture_callbacks
from sb3_ppo_notes.persistence.environments import capture_environments, check_environments, restore_environments
from sb3_ppo_notes.persistence.model_state import (
    OF_ENVIRONMENTS,
    capture_exploration,
    capture_rollout,
    random_states,
    restore_exploration,
    restore_rollouts,
    spaces_of,
)
from sb3_ppo_notes.persistence.revival import Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot, is_dense
from sb3_ppo_notes.rollouts.minibatches import select

#: A document and its arrays.
Content = tuple[dict[str, Any], dict[str, np.ndarray]]


def capture_shards(model: NotesOnPolicyAlgorithm, callback: BaseCallback | None) -> dict[int, Content]:
    """What belongs to the shards of this process, by number; the first also holds what belongs to the process."""
    assert model._shards is not None
    assert model.env is not None
    assert model._episodes is not None
    shards, contents = model._shards, {}
    rows = shards.split(model.n_envs)
    for index, number in enumerate(shards.own):
        snapshot, part = Snapshot(), rows[index]
        parts = {
            # First: read a second time by themselves. Spaces belong to the environments of one shard or another.
            "random": {name: state for name, state in random_states(model).items() if name not in spaces_of(model)},
            "generator": shards.generators[index].state_dict(),
            "attributes": {name: _select(getattr(model, name, None), part) for name in OF_ENVIRONMENTS},
            "states": None if model._last_states is None else tuple(each[:, part] for each in model._last_states),
            "exploration": capture_exploration(model),
            "rollout": None if model._paused_at is None else _rollout(model, part),
            "episodes": model._episodes.pending[index],
        }
        document = {name: snapshot.add(each, name) for name, each in parts.items()}
        document["environments"] = capture_environments(_bare(shards_of(model.env)[index]), snapshot)
        document["environments"]["problems"] += _problems_around(model.env)
        document["callbacks"] = capture_callbacks(callback, snapshot) if callback is not None and index == 0 else None
        document["problems"] = [f"{place}: {what}" for place, what in snapshot.problems]
        contents[number] = (document, snapshot.arrays)
    return contents


def check_shards(model: NotesOnPolicyAlgorithm, contents: list[Content]) -> None:
    """Refuse environments that cannot be those of this process's shards."""
    assert model.env is not None
    for env, (document, _) in zip(shards_of(model.env), contents, strict=True):
        check_environments(_bare(env), document["environments"])


def restore_shards(model: NotesOnPolicyAlgorithm, contents: list[Content], revivals: list[Revival]) -> list[str]:
    """Give this process's shards their memory; why it could not be done for their environments is returned."""
    assert model._shards is not None
    assert model.env is not None
    assert model._episodes is not None
    read, problems = [], []
    for index, ((document, _), revival) in enumerate(zip(contents, revivals, strict=True)):
        # In the order in which they were written: what comes twice is told at its first place.
        names = ("random", "generator", "attributes", "states", "exploration", "rollout", "episodes")
        read.append({name: revival.read(document[name], None, name) for name in names})
        model._shards.generators[index].load_state_dict(read[-1]["generator"])
        env = _bare(shards_of(model.env)[index])
        problems += restore_environments(env, document["environments"], revival, None)
    restore_exploration(model, read[0]["exploration"])
    for name in OF_ENVIRONMENTS:
        setattr(model, name, _joined([each["attributes"][name] for each in read]))
    model._episodes.pending = [each["episodes"] for each in read]
    if read[0]["states"] is not None:
        states = zip(*(each["states"] for each in read), strict=True)
        model._last_states = tuple(th.cat(parts, dim=1).to(model.device) for parts in states)
    if model._paused_at is not None:
        rows = model._shards.split(model.n_envs)
        restore_rollouts(model, [(part, each["rollout"]) for part, each in zip(rows, read, strict=True)])
    return problems


def _select(observations: Any, rows: slice) -> Any:
    return None if observations is None else select(observations, rows)


def _joined(parts: list[Any]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    first: np.ndarray = parts[0]
    row = first.nbytes // len(first)
    if len(parts) == 1:
        return first
    if not (is_dense(first) and (len(first) == 1 or first.strides[0] == row)):
        return np.concatenate(parts)
    # In memory as before: an image that is a transposed view is convolved in another order than its copy.
    flat = np.empty(sum(map(len, parts)) * first[0].size, first.dtype)
    joined = np.lib.stride_tricks.as_strided(flat, (sum(map(len, parts)), *first.shape[1:]), (row, *first.strides[1:]))
    return np.concatenate(parts, out=joined)


def _rollout(model: NotesOnPolicyAlgorithm, part: slice) -> dict[str, Any]:
    """The rows of one shard, in which environments and remembered states are counted from 0."""
    assert model._paused_at is not None
    rollout = capture_rollout(model.rollout_buffer, model._paused_at)
    rows, notes = rollout["rows"], rollout["notes"]
    for name, value in rows.items():
        is_dict = isinstance(value, dict)
        rows[name] = {key: each[:, part] for key, each in value.items()} if is_dict else value[:, part]
    notes["_cuts"] = [
        (step, index - part.start, observation)
        for step, index, observation in notes["_cuts"]
        if part.start <= index < part.stop
    ]
    notes["_states"] = [tuple(state[:, part] for state in states) for states in notes["_states"]]
    return rollout


def _bare(env: VecEnv) -> VecEnv:
    """Environments without what SB3 puts around those of a process: it is around a shard, or around several."""
    while type(env) is VecTransposeImage:
        env = env.venv
    return env


def _problems_around(env: VecEnv) -> list[str]:
    """Wrappers around several shards, whose memory would belong to the process."""
    if not isinstance(env.unwrapped, ShardedVecEnv):
        return []
    names = [type(each).__name__ for each in wrappers_around(env) if type(each) is not VecTransposeImage]
    return [f"{name} is around several shards: put it around the environments of each" for name in names]
