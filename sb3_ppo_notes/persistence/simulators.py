"""States that are not attributes: random generators, MuJoCo's physics, the Atari emulator.

Each kind is a pair of functions: its state as plain values, and back into an object that is already there. Nothing is
built by a name found in a file but NumPy's five bit generators.
"""

import hashlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_notes.formulas.checks import InvalidValueError

BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class Kind(NamedTuple):
    """How one kind of object is held.

    :param tells: whether an object is of this kind.
    :param held: object -> plain values.
    :param put_back: (plain values, the object that is there now or ``None``) -> the object with that state.
    """

    tells: Callable[[Any], bool]
    held: Callable[[Any], Any]
    put_back: Callable[[Any, Any], Any]


def _generator_back(state: Any, present: Any) -> np.random.Generator:
    name = state["bit_generator"]
    if name not in BIT_GENERATORS:
        raise InvalidValueError(f"bit_generator must be one of {', '.join(BIT_GENERATORS)}, got {name!r}")
    is_same = isinstance(present, np.random.Generator) and type(present.bit_generator).__name__ == name
    generator = present if is_same else np.random.Generator(getattr(np.random, name)())
    generator.bit_generator.state = state
    return generator


def _random_state_back(state: Any, present: Any) -> np.random.RandomState:
    found = present if isinstance(present, np.random.RandomState) else np.random.RandomState()
    found.set_state(state)
    return found


def _random_back(state: Any, present: Any) -> random.Random:
    found = present if isinstance(present, random.Random) else random.Random()
    found.setstate((state[0], tuple(int(word) for word in state[1]), state[2]))
    return found


def _torch_generator_back(state: Any, present: Any) -> th.Generator:
    found = present if isinstance(present, th.Generator) else th.Generator()
    found.set_state(state)
    return found


def _space_held(space: spaces.Space[Any]) -> Any:
    """A space's generator and those of its parts; the space itself is the environment's own."""
    parts = getattr(space, "spaces", None)
    inner = list(parts.values()) if isinstance(parts, dict) else list(parts or ())
    return {"own": getattr(space, "_np_random", None), "parts": [_space_held(part) for part in inner]}


def _space_back(state: Any, present: Any) -> Any:
    if not isinstance(present, spaces.Space):
        raise InvalidValueError(f"a space must be where one was, got {type(present).__name__}")
    if state["own"] is not None:
        present._np_random = state["own"]
    parts = getattr(present, "spaces", None)
    inner = list(parts.values()) if isinstance(parts, dict) else list(parts or ())
    for part_state, part in zip(state["parts"], inner, strict=True):
        _space_back(part_state, part)
    return present


def _is_from(module: str, name: str) -> Callable[[Any], bool]:
    """By name, so that nothing is imported for an object that is not there."""
    return lambda value: type(value).__name__ == name and type(value).__module__.split(".")[0] == module


def _mujoco_held(data: Any) -> Any:
    """The integration state, and every derived array: rewards are computed from positions that lag by a substep."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.zeros(mujoco.mj_stateSize(data.model, kind))
    mujoco.mj_getState(data.model, data, state, kind)
    return {"state": state, "derived": {name: np.array(value) for name, value in _arrays_of(data)}}


def _mujoco_back(held: Any, present: Any) -> Any:
    import mujoco

    mujoco.mj_setState(present.model, present, held["state"], mujoco.mjtState.mjSTATE_INTEGRATION)
    # What has no fixed size (contacts, constraints) is computed; all else is as it was.
    mujoco.mj_forward(present.model, present)
    for name, value in _arrays_of(present):
        if name in held["derived"] and held["derived"][name].shape == value.shape:
            value[...] = held["derived"][name]
    return present


def _arrays_of(data: Any) -> list[tuple[str, np.ndarray]]:
    found = [(name, getattr(data, name, None)) for name in dir(data) if not name.startswith("_")]
    return [(name, value) for name, value in found if isinstance(value, np.ndarray) and value.flags.writeable]


def _mujoco_model_held(model: Any) -> str:
    """A model is the environment's own; its digest tells whether it was another one."""
    import mujoco

    buffer = np.zeros(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).hexdigest()


def _mujoco_model_back(digest: str, present: Any) -> Any:
    if _mujoco_model_held(present) != digest:
        raise InvalidValueError("the MuJoCo model must be the one that was saved, got another")
    return present


def _atari_held(ale: Any) -> np.ndarray:
    return np.frombuffer(ale.cloneState(include_rng=True).__getstate__(), dtype=np.uint8)


def _atari_back(held: Any, present: Any) -> Any:
    import ale_py

    state = ale_py.ALEState.__new__(ale_py.ALEState)
    state.__setstate__(held.tobytes())
    present.restoreState(state)
    return present


KINDS: dict[str, Kind] = {
    "generator": Kind(
        lambda value: isinstance(value, np.random.Generator), lambda value: value.bit_generator.state, _generator_back
    ),
    "random state": Kind(
        lambda value: isinstance(value, np.random.RandomState),
        lambda value: value.get_state(legacy=False),
        _random_state_back,
    ),
    "python random": Kind(lambda value: type(value) is random.Random, lambda value: value.getstate(), _random_back),
    "torch generator": Kind(
        lambda value: isinstance(value, th.Generator), lambda value: value.get_state(), _torch_generator_back
    ),
    "space": Kind(lambda value: isinstance(value, spaces.Space), _space_held, _space_back),
    "mujoco": Kind(_is_from("mujoco", "MjData"), _mujoco_held, _mujoco_back),
    "mujoco model": Kind(_is_from("mujoco", "MjModel"), _mujoco_model_held, _mujoco_model_back),
    "atari": Kind(_is_from("ale_py", "ALEInterface"), _atari_held, _atari_back),
}
