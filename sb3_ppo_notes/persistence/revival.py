"""Plain JSON and arrays back into Python objects that are already there: the other direction of ``snapshot``."""

import base64
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence.simulators import KINDS
from sb3_ppo_notes.persistence.snapshot import class_name, is_of_class

#: Stands for "leave what is there".
UNCHANGED = object()


class Revival:
    """Reads the nodes of one :class:`~sb3_ppo_notes.persistence.snapshot.Snapshot`."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        #: Values that could not be restored, as (where, why).
        self.problems: list[tuple[str, str]] = []
        self._read: dict[int, Any] = {}

    def read(self, node: Any, present: Any, place: str) -> Any:
        """The value of a node, ``UNCHANGED`` where nothing was written.

        ``present`` is what the program has in its place: objects are changed, values replaced.
        """
        if not isinstance(node, dict):
            return node
        kind = node["$"]
        if kind == "again":
            return self._read.get(node["id"], UNCHANGED)
        value = getattr(self, f"_{kind.replace(' ', '_')}")(node, present, place)
        if "id" in node and kind != "kept":
            self._read[node["id"]] = value
        return value

    def _kept(self, node: Any, present: Any, place: str) -> Any:
        if "id" in node and present is not None:
            self._read[node["id"]] = present
        return UNCHANGED

    def _float(self, node: Any, present: Any, place: str) -> float:
        return float(node["value"])

    def _number(self, node: Any, present: Any, place: str) -> Any:
        return np.dtype(node["dtype"]).type(self.read(node["value"], None, place))

    def _bytes(self, node: Any, present: Any, place: str) -> bytes:
        return base64.b64decode(node["value"])

    def _tuple(self, node: Any, present: Any, place: str) -> tuple[Any, ...]:
        return tuple(self._items(node, present, place))

    def _named_tuple(self, node: Any, present: Any, place: str) -> Any:
        if not isinstance(present, tuple) or not is_of_class(present, node["class"]):
            return self._problem(place, f"was a {node['class']} and is a {class_name(present)}")
        return type(present)(*self._items(node, present, place))

    def _enum(self, node: Any, present: Any, place: str) -> Any:
        if not is_of_class(present, node["class"]):
            return self._problem(place, f"was a {node['class']} and is a {class_name(present)}")
        return type(present)[node["name"]]

    def _items(self, node: Any, present: Any, place: str) -> list[Any]:
        there = list(present) if isinstance(present, list | tuple | deque) else []
        values = []
        for index, item in enumerate(node["items"]):
            own = there[index] if index < len(there) else None
            value = self.read(item, own, f"{place}[{index}]")
            values.append(own if value is UNCHANGED else value)
        return values

    def _list(self, node: Any, present: Any, place: str) -> list[Any]:
        values: list[Any] = []
        # Before its items are read: one of them may be the list.
        self._read[node.get("id", -1)] = values
        values += self._items(node, present, place)
        return values

    def _floats(self, node: Any, present: Any, place: str) -> list[float]:
        values: list[float] = self.arrays[node["key"]].tolist()
        return values

    def _deque(self, node: Any, present: Any, place: str) -> deque[Any]:
        return deque(self._items(node, present, place), maxlen=node["maxlen"])

    def _set(self, node: Any, present: Any, place: str) -> set[Any]:
        return set(self._items(node, None, place))

    def _frozenset(self, node: Any, present: Any, place: str) -> frozenset[Any]:
        return frozenset(self._items(node, None, place))

    def _dict(self, node: Any, present: Any, place: str) -> Any:
        there = present if isinstance(present, dict) else {}
        # An OrderedDict or a defaultdict stays one: it is emptied, and not replaced by another kind.
        values: Any = {}
        self._read[node.get("id", -1)] = values
        for key_node, item in node["items"]:
            key = self.read(key_node, None, place)
            own = there.get(key)
            value = self.read(item, own, f"{place}[{key!r}]")
            values[key] = own if value is UNCHANGED else value
        if type(there) is not dict:
            there.clear()
            there.update(values)
            values = there
        return values

    def _array(self, node: Any, present: Any, place: str) -> np.ndarray:
        return self._load_array(node)

    def _load_array(self, node: Any) -> np.ndarray:
        flat = self.arrays[node["key"]].copy()
        if "strides" not in node:
            return flat
        shape, strides = tuple(node["shape"]), tuple(node["strides"])
        # Strides from a file must not reach beyond the memory that is there.
        reach = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)) + flat.itemsize
        if min(shape) < 1 or min(strides) < 0 or reach > flat.nbytes:
            raise InvalidValueError(f"an array of shape {shape} and strides {strides} must fit {flat.nbytes:,} bytes")
        return np.lib.stride_tricks.as_strided(flat, shape, strides)

    def _tensor(self, node: Any, present: Any, place: str) -> th.Tensor:
        bits = th.from_numpy(self._load_array(node))
        value = bits.view(th.bfloat16) if node["dtype"] == "bfloat16" else bits
        return value.to(present.device) if isinstance(present, th.Tensor) else value

    def _kind(self, node: Any, present: Any, place: str) -> Any:
        state = self.read(node["state"], present if node["kind"] == "space" else None, place)
        try:
            return KINDS[node["kind"]].restore(state, present)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            return self._problem(place, str(error))

    def _object(self, node: Any, present: Any, place: str) -> Any:
        if not is_of_class(present, node["class"]):
            return self._problem(place, f"was a {node['class']} and is a {class_name(present)}")
        self._read[node["id"]] = present
        attributes = vars(present)
        for name, item in node["attributes"].items():
            value = self.read(item, attributes.get(name), f"{place}.{name}")
            if value is not UNCHANGED:
                attributes[name] = value
        if "own" in node:
            state = self.read(node["own"], None, f"{place}.set_state")
            try:
                present.set_state(state)
            except Exception as error:
                return self._problem(place, f"set_state() raised {type(error).__name__}: {error}")
        return present

    def _problem(self, place: str, why: str) -> Any:
        self.problems.append((place, why))
        return UNCHANGED
