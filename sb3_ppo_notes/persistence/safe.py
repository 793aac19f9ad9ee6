"""A model from a file that somebody else has made, without running anything in it."""

import base64
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_ppo_notes.algorithms import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.arguments import check_arguments, plain_arguments
from sb3_ppo_notes.algorithms.model_files import BUFFERS, POLICIES, class_named_in, is_masked
from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.envs.make import AnyEnv, make_env
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.persistence.archive import UnsafeModelError, json_in, read_archive, tensors_in
from sb3_ppo_notes.persistence.configuration import UnreadableError, find_class, parse
from sb3_ppo_notes.persistence.model_state import argument_names, bare_model
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.state import RuleState

#: Counters of a run, whole numbers all.
COUNTERS = ("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates")
SPACE_FIELDS = ("_shape", "n", "nvec", "dtype")
PICKLED, TYPE = ":serialized:", ":type:"


def load_safe(
    path: str | Path,
    env: AnyEnv | str,
    *,
    device: th.device | str = "auto",
    most_bytes: int = 2**31,
    **arguments: Any,
) -> NotesPPO | NotesA2C:
    """The model of a zip file that stock SB3 or this package has saved, without executing anything in it.

    ``load`` unpickles parts of the file, which runs whatever code whoever made the file has put there. Here pickles are
    never run: weights are read by torch's own reader for tensors (``weights_only=True``), and what the model is built
    from is read as text and looked up in a list of names. The model is the same as ``load``'s (weights, optimisers,
    counters, hyperparameters), but for the statistics of past episodes, which start anew, and ``tensorboard_log``, a
    path that a stranger has chosen.

    :param path: the file; ``.zip`` may be left out.
    :param env: environments, or the id of one; their spaces have to be the model's.
    :param device: where the networks shall be.
    :param most_bytes: the largest file, unpacked, and the largest rollout buffer.
    :param arguments: of the constructor, in place of the file's: for a schedule that is a function, or a policy class
        of your own, there is no other way.
    :return: a NotesPPO or NotesA2C. Whether it can learn is asked when it learns.
    :raises ValueError: if the file is refused (``UnsafeModelError``, with the reason), or does not fit ``env``.
    """
    members = read_archive(path, most_bytes)
    data = json_in(members["data"])
    params = {
        name.removesuffix(".pth"): tensors_in(content, name)
        for name, content in members.items()
        if name.endswith(".pth") and name != "pytorch_variables.pth"
    }
    model_class = _class_of(data)
    settings = _settings(model_class, data, plain_arguments(arguments))
    wrapped = model_class._wrap_env(make_env(env, settings["verbose"]), settings["verbose"])
    _check_spaces(wrapped, data)
    _check_sizes(settings, params["policy"], wrapped, most_bytes)
    settings |= {"n_envs": wrapped.num_envs, "_last_obs": None}
    model = bare_model(model_class, wrapped, device, settings)
    try:
        model._setup_model()
        model.set_parameters(params, exact_match=True, device=device)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UnsafeModelError(f"path must hold weights of the model that it describes: {error}") from error
    if "learning_rate" in arguments:
        model.rule_state = dataclasses.replace(model.rule_state, learning_rate=None)
    if model.use_sde:
        model.policy.reset_noise()
    return model


def _class_of(data: dict[str, Any]) -> type[NotesPPO] | type[NotesA2C]:
    if not {"n_steps", "gamma", "policy_class"} <= data.keys() or "buffer_size" in data:
        raise UnsafeModelError("path must be the file of a PPO or A2C, and describes neither")
    return NotesPPO if "n_epochs" in data else NotesA2C


def _settings(
    model_class: type[NotesOnPolicyAlgorithm], data: dict[str, Any], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Attributes of the model: from the file's text where it can be read, else from the caller."""
    names = argument_names(model_class, arguments)
    check_arguments(arguments)
    settings: dict[str, Any] = {"tensorboard_log": None, "action_masking": is_masked(data)}
    for name, attribute in names.items():
        if name in arguments:
            settings[attribute] = arguments[name]
        elif attribute in data and name != "tensorboard_log":
            settings[attribute] = _read_attribute(name, data[attribute])
    settings["verbose"] = settings.get("verbose", 0)
    for name in COUNTERS:
        value = data.get(name, 0)
        # SB3 keeps the total of learn(1e5) as the float it is.
        if type(value) is not int and not (name == "_total_timesteps" and type(value) is float):
            raise UnsafeModelError(f"{name} must be an int, got {value!r}")
        settings[name] = value
    progress = data.get("_current_progress_remaining", 1.0)
    if not isinstance(progress, int | float) or not math.isfinite(progress):
        raise UnsafeModelError(f"_current_progress_remaining must be a number, got {progress!r}")
    settings["_current_progress_remaining"] = progress
    state = data.get("rule_state")
    if isinstance(state, dict):
        numbers = [state.get(name) for name in ("learning_rate", "kl_coef")]
        if not all(number is None or isinstance(number, int | float) for number in numbers):
            raise UnsafeModelError(f"rule_state must be two numbers, got {numbers}")
        settings["rule_state"] = RuleState(*numbers)
    return settings


def _read_attribute(name: str, value: Any) -> Any:
    if not (isinstance(value, dict) and PICKLED in value):
        return value
    try:
        return READERS.get(name, _read_schedule)(value)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UnsafeModelError(
            f"{name} must be given by the caller (load_safe(..., {name}=...)): the file has it as a pickle, which "
            f"would have to be run ({error})"
        ) from error


def _read_class(value: dict[str, Any]) -> type:
    name = class_named_in(base64.b64decode(value[PICKLED]))
    if name is None:
        raise UnreadableError(f"it is no mere name of a class but {value.get(TYPE)}")
    return (POLICIES | BUFFERS).get(name) or find_class(name)


def _read_schedule(value: dict[str, Any]) -> Any:
    kind = str(value.get(TYPE)).removesuffix("'>").rsplit(".", 1)[-1]
    fields = {name: text for name, text in value.items() if not name.startswith(":")}
    if kind == "FloatSchedule":
        return parse(f"FloatSchedule({fields['value_schedule']})") if "value_schedule" in fields else _refuse(value)
    if kind not in ("LinearSchedule", "ConstantSchedule"):
        return _refuse(value)
    return parse(f"{kind}({', '.join(f'{name}={number!r}' for name, number in fields.items())})")


def _refuse(value: dict[str, Any]) -> Any:
    raise UnreadableError(f"it is a {value.get(TYPE)}")


def _read_policy_kwargs(value: dict[str, Any]) -> dict[str, Any]:
    """SB3 writes what JSON cannot hold as its ``str``: a class, a dictionary with one in it, a tuple."""
    fields = {name: item for name, item in value.items() if name not in (PICKLED, TYPE)}
    return {name: _read_text(item) if isinstance(item, str) else item for name, item in fields.items()}


def _read_text(text: str) -> Any:
    return parse(text) if text.startswith(("<", "{", "[", "(")) else text


def _read_rule(value: dict[str, Any]) -> UpdateRule:
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(UpdateRule):
        item = value[field.name]
        # A choice without parts is a word; all others are written as Python writes them.
        is_written = isinstance(item, str) and item.endswith(")")
        fields[field.name] = parse(item) if is_written else tuple(item) if isinstance(item, list) else item
    return UpdateRule(**fields)


READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "policy": _read_class,
    "rollout_buffer_class": _read_class,
    "policy_kwargs": _read_policy_kwargs,
    "rollout_buffer_kwargs": _read_policy_kwargs,
    "rule": _read_rule,
}


def _check_spaces(env: Any, data: dict[str, Any]) -> None:
    for name in ("observation_space", "action_space"):
        told, space = data.get(name), getattr(env, name)
        kind = str(told.get(TYPE)) if isinstance(told, dict) else ""
        if type(space).__name__ != kind.removesuffix("'>").rsplit(".", 1)[-1]:
            raise InvalidValueError(f"env must have an {name} of {kind or 'a kind that the file names'}, got {space}")
        assert isinstance(told, dict)
        if isinstance(space, spaces.Dict):
            continue
        for field in SPACE_FIELDS:
            own = getattr(space, field, None)
            own = list(own) if isinstance(own, tuple) else own
            if field in told and field != "dtype" and str(told[field]) != str(own):
                raise InvalidValueError(f"env must have an {name} with {field} {told[field]}, got {space}")


def _check_sizes(settings: dict[str, Any], weights: Any, env: Any, most_bytes: int) -> None:
    """A file of a few bytes must not ask for a network, or a buffer, of a terabyte."""
    if not isinstance(weights, dict) or not all(isinstance(part, th.Tensor) for part in weights.values()):
        raise UnsafeModelError("policy.pth must hold tensors by name")
    n_weights = sum(part.numel() for part in weights.values())
    largest = max(_integers_in(settings.get("policy_kwargs")), default=0)
    if largest > max(n_weights, 1000):
        raise UnsafeModelError(f"policy_kwargs must describe the {n_weights:,} weights of the file, got {largest:,}")
    sizes = [math.prod(space.shape or (1,)) for space in _parts(env.observation_space)]
    n_steps = settings.get("n_steps", 1)
    check_integer("n_steps", n_steps, minimum=1)
    if n_steps * env.num_envs * sum(sizes) * 4 > most_bytes:
        raise UnsafeModelError(f"n_steps must make a rollout of at most most_bytes={most_bytes:,}, got {n_steps:,}")


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    return list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]


def _integers_in(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _integers_in(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in _integers_in(item)]
    return [value] if type(value) is int else []
