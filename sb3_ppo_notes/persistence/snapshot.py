"""Python objects as plain JSON and arrays, without pickle: one direction.

A value becomes a JSON value, or an object ``{"$": kind, ...}``. Numbers, text and containers are written out. Of any
other object only its *attributes* are written: they are put back into an object of the same class that the program has
built itself, so that reading a file never builds, imports or calls anything named in it. The other direction is in
``revival``.
"""

import base64
import enum
import io
import math
import types
from collections import deque
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.persistence.simulators import KINDS

#: Attributes that are no state: what SB3 and Gymnasium derive from the classes.
INFRASTRUCTURE = frozenset({"class_attributes", "_ezpickle_args", "_ezpickle_kwargs", "spec", "metadata"})
#: The same of SB3's vector environments: the environments inside, and what the next step overwrites.
STEP_BUFFERS = frozenset({"venv", "actions", "buf_obs", "buf_rews", "buf_dones", "buf_infos"})
#: Objects that the program builds again as they were: code, files, windows, descriptions.
STATELESS_TYPES = (type, np.dtype, types.ModuleType, types.GenericAlias, io.IOBase, staticmethod, classmethod, property)
STATELESS_MODULES = (
    "pygame",
    "cv2",
    "matplotlib",
    "logging",
    "PIL",
    "glfw",
    "OpenGL",
    "gymnasium.envs.registration",
    "gymnasium.envs.mujoco.mujoco_rendering",
    "stable_baselines3.common.logger",
)
#: Lists of so many floats (a Monitor keeps the return of every episode of a run) are written as one array.
LONG_LIST = 32
MOST_NODES = 200_000


class Snapshot:
    """Collects values; gives the JSON document's nodes, and the arrays that go beside it."""

    def __init__(self) -> None:
        #: By key, what the nodes refer to.
        self.arrays: dict[str, np.ndarray] = {}
        #: Values that could not be written, as (where, why).
        self.problems: list[tuple[str, str]] = []
        self._seen: dict[int, int] = {}
        # Objects whose id is remembered must live as long: an id may be given again.
        self._alive: list[Any] = []

    def add(self, value: Any, place: str) -> Any:
        """The node of a value; ``place`` is its name, for messages."""
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$": "float", "value": repr(value)}
        if isinstance(value, np.generic):
            return {"$": "number", "dtype": value.dtype.str, "value": self.add(value.item(), place)}
        if isinstance(value, bytes):
            return {"$": "bytes", "value": base64.b64encode(value).decode()}
        if type(value) is tuple:
            return {"$": "tuple", "items": self._items(value, place)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"$": "named tuple", "class": class_name(value), "items": self._items(value, place)}
        if isinstance(value, enum.Enum):
            return {"$": "enum", "class": class_name(value), "name": value.name}
        if is_stateless(value):
            return {"$": "kept"}
        number = self._seen.get(id(value))
        if number is not None:
            return {"$": "again", "id": number}
        return self._add_new(value, place)

    def _add_new(self, value: Any, place: str) -> Any:
        """Write something that has an identity: who refers to it twice shall find it twice."""
        if len(self._alive) >= MOST_NODES:
            return self._problem(place, f"more than {MOST_NODES:,} objects")
        number = len(self._alive)
        self._seen[id(value)] = number
        self._alive.append(value)
        node = self._container(value, place) or self._special(value, place) or self._object(value, place)
        return node | {"id": number} if "id" not in node else node

    def _items(self, values: Any, place: str) -> list[Any]:
        return [self.add(value, f"{place}[{index}]") for index, value in enumerate(values)]

    def _container(self, value: Any, place: str) -> dict[str, Any] | None:
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
                return self._problem(place, f"an array of {value.dtype}")
            return {"$": "array"} | self._store(value)
        if isinstance(value, th.Tensor):
            return self._tensor(value, place)
        if isinstance(value, list):
            if len(value) >= LONG_LIST and all(type(item) is float for item in value):
                return {"$": "floats"} | self._store(np.array(value, dtype=np.float64))
            return {"$": "list", "items": self._items(value, place)}
        if isinstance(value, dict):
            if not all(isinstance(key, str | int | float | tuple | np.generic | None) for key in value):
                return self._problem(place, "a dictionary whose keys are objects")
            pairs = [[self.add(key, place), self.add(item, f"{place}[{key!r}]")] for key, item in value.items()]
            return {"$": "dict", "items": pairs}
        if isinstance(value, deque):
            return {"$": "deque", "maxlen": value.maxlen, "items": self._items(value, place)}
        if isinstance(value, set | frozenset):
            return {"$": type(value).__name__, "items": self._items(sorted(value, key=repr), place)}
        return None

    def _tensor(self, value: th.Tensor, place: str) -> dict[str, Any]:
        plain = value.detach().cpu()
        if plain.is_sparse or plain.is_quantized or plain.is_complex():
            return self._problem(place, f"a tensor of {plain.dtype}, {plain.layout}")
        # NumPy knows no bfloat16: its bits do.
        bits = plain.view(th.int16) if plain.dtype == th.bfloat16 else plain
        return {"$": "tensor", "dtype": str(plain.dtype).removeprefix("torch.")} | self._store(bits.numpy())

    def _store(self, array: np.ndarray) -> dict[str, Any]:
        """An array in the order in which it lies in memory.

        An image that is a transposed view is convolved in another order than its copy: the last bit would differ.
        """
        key = f"a{len(self.arrays)}"
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        if native.size == 0 or native.strides == np.empty(native.shape, native.dtype).strides:
            self.arrays[key] = np.array(native, order="C", copy=True)
            return {"key": key}
        dense = native if is_dense(native) else np.array(native, order="K", copy=True)
        self.arrays[key] = np.lib.stride_tricks.as_strided(dense, (dense.size,), (dense.itemsize,)).copy()
        return {"key": key, "shape": list(dense.shape), "strides": list(dense.strides)}

    def _special(self, value: Any, place: str) -> dict[str, Any] | None:
        for name, kind in KINDS.items():
            if kind.matches(value):
                return {"$": "kind", "kind": name, "state": self.add(kind.capture(value), place)}
        return None

    def _object(self, value: Any, place: str) -> dict[str, Any]:
        attributes = getattr(value, "__dict__", None)
        if attributes is None or not is_plain_class(type(value)):
            return self._problem(place, f"{class_name(value)}")
        node: dict[str, Any] = {"$": "object", "class": class_name(value)}
        left_out = INFRASTRUCTURE | STEP_BUFFERS if isinstance(value, VecEnv) else INFRASTRUCTURE
        silent = len(self.problems)
        node["attributes"] = self._attributes(attributes, left_out, place)
        if has_own_state(value):
            # Its own word counts; what else can be written is written too, and is no problem if it cannot.
            del self.problems[silent:]
            try:
                node["own"] = self.add(value.get_state(), f"{place}.get_state()")
            except Exception as error:
                return self._problem(place, f"get_state() raised {type(error).__name__}: {error}")
        return node

    def _attributes(self, attributes: dict[str, Any], left_out: frozenset[str], place: str) -> dict[str, Any]:
        names = [name for name in attributes if name not in left_out]
        nodes = {name: self.add(attributes[name], f"{place}.{name}") for name in names}
        return {name: node for name, node in nodes.items() if not (isinstance(node, dict) and node["$"] == "kept")}

    def _problem(self, place: str, what: str) -> dict[str, Any]:
        self.problems.append((place, what))
        return {"$": "kept"}


def class_name(value: Any) -> str:
    """Module and name of a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def is_of_class(value: Any, name: str) -> bool:
    """``True`` if that is the full name of a value's class; one of this package may have moved to another module."""
    return _without_our_modules(class_name(value)) == _without_our_modules(name)


def _without_our_modules(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("sb3_ppo_notes.") else name


def is_stateless(value: Any) -> bool:
    """``True`` for code, files, windows, descriptions: the program's own, built anew, is as good."""
    module = type(value).__module__
    is_object_of_code = isinstance(value, STATELESS_TYPES) or (callable(value) and not hasattr(value, "__dict__"))
    is_function = isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType)
    is_partial = type(value).__name__ == "partial" and module == "functools"
    return is_object_of_code or is_function or is_partial or module.startswith(STATELESS_MODULES)


def is_dense(array: np.ndarray) -> bool:
    """``True`` if an array's elements lie side by side, in whatever order."""
    expected = array.itemsize
    for stride, length in sorted(zip(array.strides, array.shape, strict=True)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return array.size > 0


def has_own_state(value: Any) -> bool:
    """``True`` if an object's class has ``get_state()`` and ``set_state(state)``.

    Looked up in the class: Gymnasium's wrappers once forwarded unknown names to the environment inside.
    """
    return all(callable(getattr(type(value), name, None)) for name in ("get_state", "set_state"))


def is_plain_class(kind: type) -> bool:
    """``True`` if all of an object is in its ``__dict__``: no base class written in C, no slots."""
    # An object of Python's own is a header, and at most two pointers: to its __dict__ and to what refers to it weakly.
    is_small = kind.__basicsize__ <= object.__basicsize__ + 2 * tuple.__itemsize__
    return is_small and not any(vars(base).get("__slots__") for base in kind.__mro__)


def is_simple(value: Any, depth: int = 0) -> bool:
    """``True`` for numbers, text, arrays and containers of such, ``False`` for an object with attributes.

    Containers in containers without end are not simple. A function among numbers is no hindrance: it stays as the
    program has it.
    """
    if depth > 10:
        return False
    if depth > 0 and is_stateless(value):
        return True
    if isinstance(value, dict):
        return all(is_simple(item, depth + 1) for item in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple | deque | set | frozenset):
        return all(is_simple(item, depth + 1) for item in value)
    plain = (bool, int, float, str, bytes, np.generic, np.ndarray, th.Tensor, enum.Enum)
    return value is None or isinstance(value, plain) or any(kind.matches(value) for kind in KINDS.values())
