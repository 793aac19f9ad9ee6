"""Files of tables and numbers, whole or not at all, and what is said in them of the machine and its libraries."""

import csv
import importlib.metadata
import io
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sb3_ppo_notes._atomic import write_bytes, write_text
from sb3_ppo_notes._version import __version__

__all__ = ["machine", "usable_processors", "versions", "write_bytes", "write_csv", "write_json", "write_text"]

#: What every result depends on.
PACKAGES = ("stable_baselines3", "gymnasium", "numpy", "torch")


def write_csv(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, or leave the file as it is.

    :param path: the file; its folder must exist.
    :param columns: their names, the first line.
    :param rows: as long each; ``None`` is an empty field.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: str | os.PathLike[str], document: Any, indent: int | None = 2) -> None:
    """Write plain data, or leave the file as it is.

    :param path: the file; its folder must exist.
    :param document: what JSON can hold.
    :param indent: spaces a level, ``None`` for all in one line.
    """
    write_text(path, json.dumps(document, indent=indent) + "\n")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of what is running.

    :param packages: to be told of beside Python and this one.
    :return: versions by these names; of those packages that are installed.

    >>> list(versions(("numpy", "nobody-has-this")))
    ['sb3_ppo_notes', 'python', 'numpy']
    """
    present = {"sb3_ppo_notes": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            present[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return present


def usable_processors() -> int:
    """Processors that this process may use.

    :return: at least 1.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """The machine, on which speeds depend beside the code.

    :return: processors, and those that this process may use; system and processor, as it calls itself.
    """
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processors": os.cpu_count(),
        "usable_processors": usable_processors(),
        "processor": names[0] if names else platform.processor(),
        "system": platform.platform(),
    }
