"""States that are not attributes: random generators, MuJoCo's physics, the Atari emulator.

Each kind is a pair of functions: its state as plain values, and back into an object that is already there. Nothing is
built by a name in a file but NumPy's five bit generators.
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
    """One kind of object: to plain values, and back into the object that is there now (or ``None``)."""

    matches: Callable[[Any], bool]
    capture: Callable[[Any], Any]
    restore: Callable[[Any, Any], Any]


def _restore_generator(state: Any, present: Any) -> np.random.Generator:
    name = state["bit_generator"]
    if name not in BIT_GENERATORS:
        raise InvalidValueError(f"bit_generator must be one of {', '.join(BIT_GENERATORS)}, got {name!r}")
    is_same = isinstance(present, np.random.Generator) and type(present.bit_generator).__name__ == name
    generator = present if is_same else np.random.Generator(getattr(np.random, name)())
    generator.bit_generator.state = state
    return generator


def _with_state(present: Any, kind: type, state: Any) -> Any:
    generator: Any = present if isinstance(present, kind) else kind()
    generator.set_state(state)
    return generator


def _restore_random(state: Any, present: Any) -> random.Random:
    generator = present if isinstance(present, random.Random) else random.Random()
    generator.setstate((state[0], tuple(int(word) for word in state[1]), state[2]))
    return generator


def _capture_space(space: spaces.Space[Any]) -> Any:
    """A space's generator and those of its parts; the space itself is the environment's own."""
    return {"own": getattr(space, "_np_random", None), "parts": [_capture_space(part) for part in _parts(space)]}


def _restore_space(state: Any, present: Any) -> Any:
    if not isinstance(present, spaces.Space):
        raise InvalidValueError(f"a space must be where one was, got {type(present).__name__}")
    if state["own"] is not None:
        present._np_random = state["own"]
    for part_state, part in zip(state["parts"], _parts(present), strict=True):
        _restore_space(part_state, part)
    return present


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    parts = getattr(space, "spaces", None)
    return list(parts.values()) if isinstance(parts, dict) else list(parts or ())


def _is_a(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _is_from(module: str, name: str) -> Callable[[Any], bool]:
    """By name, so that nothing is imported for an object that is not there."""
    return lambda value: type(value).__name__ == name and type(value).__module__.split(".")[0] == module


def _capture_mujoco(data: Any) -> Any:
    """The integration state, and every derived array: rewards are computed from positions that lag by a substep."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.zeros(mujoco.mj_stateSize(data.model, kind))
    mujoco.mj_getState(data.model, data, state, kind)
    return {"state": state, "derived": {name: np.array(value) for name, value in _arrays_of(data)}}


def _restore_mujoco(captured: Any, present: Any) -> Any:
    import mujoco

    mujoco.mj_setState(present.model, present, captured["state"], mujoco.mjtState.mjSTATE_INTEGRATION)
    # What has no fixed size (contacts, constraints) is computed; all else is as it was.
    mujoco.mj_forward(present.model, present)
    for name, value in _arrays_of(present):
        if name in captured["derived"] and captured["derived"][name].shape == value.shape:
            value[...] = captured["derived"][name]
    return present


def _arrays_of(data: Any) -> list[tuple[str, np.ndarray]]:
    pairs = [(name, getattr(data, name, None)) for name in dir(data) if not name.startswith("_")]
    return [(name, value) for name, value in pairs if isinstance(value, np.ndarray) and value.flags.writeable]


def _capture_mujoco_model(model: Any) -> str:
    """A model is the environment's own; its digest tells whether it was another one."""
    import mujoco

    buffer = np.zeros(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).hexdigest()


def _restore_mujoco_model(digest: str, present: Any) -> Any:
    if _capture_mujoco_model(present) != digest:
        raise InvalidValueError("the MuJoCo model must be the one that was saved, got another")
    return present


def _capture_atari(ale: Any) -> np.ndarray:
    return np.frombuffer(ale.cloneState(include_rng=True).__getstate__(), dtype=np.uint8)


def _restore_atari(captured: Any, present: Any) -> Any:
    import ale_py

    state = ale_py.ALEState.__new__(ale_py.ALEState)
    state.__setstate__(captured.tobytes())
    present.restoreState(state)
    return present


KINDS: dict[str, Kind] = {
    "generator": Kind(_is_a(np.random.Generator), lambda value: value.bit_generator.state, _restore_generator),
    "random state": Kind(
        _is_a(np.random.RandomState),
        lambda value: value.get_state(legacy=False),
        lambda state, present: _with_state(present, np.random.RandomState, state),
    ),
    "python random": Kind(lambda value: type(value) is random.Random, lambda value: value.getstate(), _restore_random),
    "torch generator": Kind(
        _is_a(th.Generator),
        lambda value: value.get_state(),
        lambda state, present: _with_state(present, th.Generator, state),
    ),
    "space": Kind(_is_a(spaces.Space), _capture_space, _restore_space),
    "mujoco": Kind(_is_from("mujoco", "MjData"), _capture_mujoco, _restore_mujoco),
    "mujoco model": Kind(_is_from("mujoco", "MjModel"), _capture_mujoco_model, _restore_mujoco_model),
    "atari": Kind(_is_from("ale_py", "ALEInterface"), _capture_atari, _restore_atari),
}
