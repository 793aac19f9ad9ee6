"""What goes into files: plain values, and no password."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, TypeVar

Record = TypeVar("Record")
PASSWORD = re.compile(r"(\w+://[^\s:/@]*):[^\s/]*@")


def without_passwords(value: Record) -> Record:
    """The same with every ``scheme://user:password@host`` made ``scheme://user:***@host``."""
    return _cleaned(value)  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """A value as JSON holds it; NaN and infinity become ``None``, keys become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return PASSWORD.sub(r"\1:***@", value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _cleaned(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cleaned(item) for item in value)
    return value
