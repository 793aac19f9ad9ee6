"""The state of a model: weights, optimisers, counters, the rollout it is in, every random generator."""

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_notes.algorithms.on_policy import OF_A_RUN, OLD_NAMES, NotesOnPolicyAlgorithm, SelfAlgorithm
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.normalization import Moments
from sb3_ppo_notes.persistence.configuration import to_json
from sb3_ppo_notes.persistence.revival import UNCHANGED, Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot
from sb3_ppo_notes.rules.state import RuleState

#: Attributes of a model that are built from its arguments, or stand elsewhere in a checkpoint.
BUILT = set(OF_A_RUN) - {"_iteration", "_last_states", "_run_id"} | {"critic_optimizer", "last_report", "rule_state"}
BUILT |= {"observation_space", "action_space", "lr_schedule", "start_time", "action_noise"}
#: Arguments under another name in the model.
RENAMED = {"policy": "policy_class", "rule": "_given_rule", "stats_window_size": "_stats_window_size"}
#: Arguments that say nothing about what is learned.
FREE = frozenset({"device", "verbose", "tensorboard_log", "_init_setup_model", "env"})
EXPLORATION = ("exploration_mat", "exploration_matrices")
#: Attributes with an entry for each environment of the process; of several processes they belong to the shards.
OF_ENVIRONMENTS = ("_last_obs", "_last_episode_starts", "_last_original_obs")
#: Parts of a model's state, and attributes, that of several processes belong to the shards.
OF_SHARDS = {"random", "exploration", "rollout", *OF_ENVIRONMENTS, "_last_states", "n_envs"}


def argument_names(
    model_class: type[NotesOnPolicyAlgorithm], arguments: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, str]:
    """Attribute by argument of the constructor: what a model is built from.

    :raises ValueError: if one of ``arguments`` is none of the constructor's.
    """
    # The processes are those of now.
    others = ("env", "device", "_init_setup_model", "processes", "shards")
    names = [name for name in model_class.constructor_parameters() if name not in others]
    unknown = next((name for name in arguments if name not in names), None)
    if unknown is not None:
        raise InvalidValueError(f"{unknown} is no argument of {model_class.__name__}, got {arguments[unknown]!r}")
    return {name: RENAMED.get(name, name) for name in names}


def bare_model(
    model_class: type[SelfAlgorithm], env: Any, device: th.device | str, attributes: dict[str, Any]
) -> SelfAlgorithm:
    """A model in the steps of SB3's ``load``: with these attributes, and without networks."""
    model = model_class(policy=attributes["policy_class"], env=env, device=device, _init_setup_model=False)
    vars(model).update(attributes)
    return model


def configuration(model: NotesOnPolicyAlgorithm) -> dict[str, Any]:
    """A model's arguments as they are now, as JSON, by argument of the constructor."""
    names = argument_names(type(model))
    return {name: to_json(vars(model)[attribute]) for name, attribute in names.items() if attribute in vars(model)}


def capture_model(model: NotesOnPolicyAlgorithm, snapshot: Snapshot) -> dict[str, Any]:
    """Nodes for :func:`restore_model` of a model that is between two steps, or not learning."""
    others = {*argument_names(type(model)).values(), *BUILT, *OnPolicyAlgorithm._excluded_save_params(model)}
    elsewhere = set() if model._shards is None else OF_SHARDS
    # The generators first: they are read a second time by themselves, and may refer to nothing that stands elsewhere.
    parts: dict[str, Any] = {
        "random": random_states(model),
        "attributes": {name: value for name, value in vars(model).items() if name not in others | elsewhere},
        "rule_state": [model.rule_state.learning_rate, model.rule_state.kl_coef],
        "weights": dict(model.policy.state_dict()),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in _optimizers(model).items()},
        "scalers": model.engine.state_dict(),
        "exploration": capture_exploration(model),
        "paused_at": model._paused_at,
        "rollout": None if model._paused_at is None else capture_rollout(model.rollout_buffer, model._paused_at),
        "buffer": {name: getattr(model.rollout_buffer, name) for name in ("gamma", "gae_lambda")},
        "log": _pending_log(model),
    }
    if model._normalizers is not None:
        parts["normalizers"] = [{key: tuple(each) for key, each in one.items()} for one in model._normalizers.merged]
    return {
        name: snapshot.add(part, "model" if name == "attributes" else name)
        for name, part in parts.items()
        if name not in elsewhere
    }


def restore_model(model: NotesOnPolicyAlgorithm, nodes: dict[str, Any], revival: Revival) -> dict[str, Any]:
    """Give a model that was built from the same arguments its memory; the log, for later, is returned."""
    # In the order in which they were written: what comes twice is told at its first place.
    present: dict[str, Any] = {"random": spaces_of(model), "attributes": vars(model)}
    parts = {name: revival.read(node, present.get(name), name) for name, node in nodes.items()}
    for name, value in parts["attributes"].items():
        if value is not UNCHANGED:
            setattr(model, OLD_NAMES.get(name, name), value)
    model.rule_state = RuleState(*parts["rule_state"])
    model.policy.load_state_dict(parts["weights"])
    for name, optimizer in _optimizers(model).items():
        optimizer.load_state_dict(parts["optimizers"][name])
    model.engine.load_state_dict(parts["scalers"])
    if model._last_states is not None:
        model._last_states = tuple(state.to(model.device) for state in model._last_states)
    restore_exploration(model, parts.get("exploration", {}))
    for name, value in parts["buffer"].items():
        setattr(model.rollout_buffer, name, value)
    if model._normalizers is not None:
        merged = [{key: Moments(*each) for key, each in one.items()} for one in parts["normalizers"]]
        model._normalizers.merged = merged
    if parts["paused_at"] is not None:
        model._paused_at = parts["paused_at"]
        if model._shards is None:
            restore_rollouts(model, [(slice(None), parts["rollout"])])
    log: dict[str, Any] = parts["log"]
    return log


def _optimizers(model: NotesOnPolicyAlgorithm) -> dict[str, th.optim.Optimizer]:
    critic = getattr(model, "critic_optimizer", None)
    return {"policy": model.policy.optimizer} | ({} if critic is None else {"critic": critic})


def capture_exploration(model: NotesOnPolicyAlgorithm) -> dict[str, Any]:
    """GSDE's weights as they were last drawn."""
    distribution = getattr(model.policy, "action_dist", None)
    return {name: getattr(distribution, name, None) for name in EXPLORATION}


def restore_exploration(model: NotesOnPolicyAlgorithm, exploration: dict[str, Any]) -> None:
    """The other direction of :func:`capture_exploration`."""
    for name, matrix in exploration.items():
        if matrix is not None:
            setattr(model.policy.action_dist, name, matrix.to(model.device))


# -- random generators outside of the environments -------------------------------------------------------------------


def random_states(model: NotesOnPolicyAlgorithm) -> dict[str, Any]:
    """States of the program's random generators and those of the model's spaces."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
        **spaces_of(model),
    }


def restore_random(model: NotesOnPolicyAlgorithm, node: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Let the program's random generators and those of the model's spaces go on where they were."""
    states = Revival(arrays).read(node, spaces_of(model), "random")
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(states["numpy"])  # noqa: NPY002
    th.set_rng_state(states["torch"])
    if th.cuda.is_available() and len(states["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(states["cuda"])


def spaces_of(model: NotesOnPolicyAlgorithm) -> dict[str, Any]:
    """Its spaces, which have generators of their own."""
    return {"action_space": model.action_space, "observation_space": model.observation_space}


# -- the log ---------------------------------------------------------------------------------------------------------


def _pending_log(model: NotesOnPolicyAlgorithm) -> dict[str, Any]:
    """Numbers recorded and not written yet: SB3 writes an update's after the next rollout."""
    logger = getattr(model, "_logger", None)
    if logger is None:
        return {}
    values = {
        name: value for name, value in logger.name_to_value.items() if isinstance(value, int | float | np.generic)
    }
    # After learn the last update's numbers have been written and are still there, without what they are excluded from.
    return {
        "values": values,
        "counts": {name: logger.name_to_count.get(name, 0) for name in values},
        "excluded": {name: logger.name_to_excluded[name] for name in values if name in logger.name_to_excluded},
    }


def restore_log(model: NotesOnPolicyAlgorithm, log: dict[str, Any]) -> None:
    """Record again what had not been written, with a logger that is set up."""
    if log:
        model.logger.name_to_value.update(log["values"])
        model.logger.name_to_count.update(log["counts"])
        model.logger.name_to_excluded.update(log["excluded"])


# -- the rollout -----------------------------------------------------------------------------------------------------


def capture_rollout(buffer: Any, n_steps: int) -> dict[str, Any]:
    """The rows of a rollout that are there, and what else the buffer has noted of them."""
    rows: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    for name, value in vars(buffer).items():
        if _is_rollout_array(buffer, value):
            rows[name] = value[:n_steps]
        elif isinstance(value, dict) and value and all(_is_rollout_array(buffer, part) for part in value.values()):
            rows[name] = {key: part[:n_steps] for key, part in value.items()}
        elif name in ("_cuts", "_states"):
            notes[name] = value
    return {"rows": rows, "notes": notes}


def _is_rollout_array(buffer: Any, value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim >= 2 and value.shape[:2] == (buffer.buffer_size, buffer.n_envs)


def restore_rollouts(model: NotesOnPolicyAlgorithm, rollouts: list[tuple[slice, dict[str, Any]]]) -> None:
    """Fill the buffer with the rows that were there, each part those of some environments."""
    buffer: Any = model.rollout_buffer
    n_steps = model._paused_at
    buffer.reset()
    for part, rollout in rollouts:
        for name, value in rollout["rows"].items():
            # In place: a buffer's arrays are views of memory that is laid out in another order.
            if isinstance(value, dict):
                for key, each in value.items():
                    getattr(buffer, name)[key][:n_steps, part] = each
                continue
            if getattr(buffer, name, None) is None:
                # Action masks: their size is known once there is one.
                setattr(buffer, name, buffer._time_major_zeros(value.shape[2:], value.dtype))
            getattr(buffer, name)[:n_steps, part] = value
    for name in rollouts[0][1]["notes"]:
        notes = [(part.start or 0, rollout["notes"][name]) for part, rollout in rollouts]
        setattr(buffer, name, _joined_cuts(notes) if name == "_cuts" else _joined_states(notes))
    buffer.pos = n_steps
    buffer.full = n_steps == buffer.buffer_size


def _joined_cuts(notes: list[tuple[int, list[tuple[int, int, Any]]]]) -> list[tuple[int, int, Any]]:
    """Steps and environments of time limits."""
    cuts = [(step, first + index, observation) for first, part in notes for step, index, observation in part]
    return sorted(cuts, key=lambda cut: cut[:2])


def _joined_states(notes: list[tuple[int, list[Any]]]) -> list[Any]:
    """States of a recurrent policy at the starts of sequences."""
    parts = zip(*(part for _, part in notes), strict=True)
    return [tuple(th.cat(states, dim=1) for states in zip(*each, strict=True)) for each in parts]
