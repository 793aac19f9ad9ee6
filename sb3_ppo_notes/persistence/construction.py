"""A model from a description, in the steps of SB3's ``load``."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.algorithms.schedules import plain
from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence.configuration import UnreadableError, taken
from sb3_ppo_notes.persistence.model_state import FREE, argument_names


def build_model(
    model_class: type[NotesOnPolicyAlgorithm],
    document: dict[str, Any],
    env: GymEnv,
    device: th.device | str,
    given: dict[str, Any],
) -> NotesOnPolicyAlgorithm:
    """The model that a checkpoint describes, as it was before its first step.

    :param model_class: its class.
    :param document: of the checkpoint.
    :param env: environments.
    :param device: where the networks shall be.
    :param given: arguments of the constructor that the caller has given.
    :return: the model.
    :raises ValueError: if an argument differs from the checkpoint's, or is missing.
    """
    names = argument_names(model_class)
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise InvalidValueError(f"{unknown} is no argument of {model_class.__name__}, got {given[unknown]!r}")
    nodes = document["configuration"]
    settings = {attribute: _setting(name, nodes.get(name), given) for name, attribute in names.items() if name in nodes}
    n_envs = (document["environments"] or {}).get("n_envs", 1)
    wrapped = model_class._wrap_env(make_env(env, settings["verbose"]), settings["verbose"])
    if wrapped.num_envs != n_envs:
        raise InvalidValueError(f"n_envs must be {n_envs} as in the checkpoint to resume, got {wrapped.num_envs}")
    model: NotesOnPolicyAlgorithm = model_class(
        policy=settings["policy_class"], env=wrapped, device=device, _init_setup_model=False
    )
    vars(model).update(settings)
    model._setup_model()
    return model


def _setting(name: str, node: Any, given: dict[str, Any]) -> Any:
    try:
        recorded = taken(node)
    except UnreadableError as error:
        if name not in given:
            raise InvalidValueError(f"{name} must be given to resume this run: {error}") from error
        return given[name]
    if name not in given or name in FREE:
        return given.get(name, recorded)
    value = given[name]
    if not (plain(value) is plain(recorded) or _is_equal(value, recorded)):
        raise InvalidValueError(f"{name} must be {recorded!r} as in the checkpoint to resume, got {value!r}")
    return recorded


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.generic):
        one = one.item()
    return bool(one == other) or repr(plain(one)) == repr(plain(other))
