"""Files that are there whole or not at all, and that hold no password."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any, TypeVar

Record = TypeVar("Record")
PASSWORD = re.compile(r"(\w+://[^\s:/@]*):[^\s/]*@")


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write beside the file, then rename: a reader, or a crash, sees the old file or the new one.

    :param path: of the file; its folder exists.
    :param content: of the file.
    :return: the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def without_passwords(value: Record) -> Record:
    """The same with every ``scheme://user:password@host`` made ``scheme://user:***@host``.

    :param value: words, or a dataclass, dictionary, list or tuple of such.
    :return: of the same type.
    """
    return _cleaned(value)  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """A value as JSON holds it.

    :param value: a dataclass, or anything JSON-able; NaN and infinity become ``None``, keys become words.
    :return: dictionaries, lists, numbers, words.
    """
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
