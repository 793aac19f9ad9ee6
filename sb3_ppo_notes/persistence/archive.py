"""A model's zip file, read with suspicion: nothing is extracted, nothing unpickled, nothing larger than it may be."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch as th

#: Members of a PPO's or A2C's file, SB3's and ours.
MEMBERS = frozenset(
    {"data", "policy.pth", "policy.optimizer.pth", "critic_optimizer.pth", "pytorch_variables.pth"}
    | {"_stable_baselines3_version", "system_info.txt"}
)
#: A member that shrinks to less than this share of its size is a bomb; weights do not shrink.
LARGEST_RATIO = 200
#: Before 2.6, weights_only=True could be got round (CVE-2025-32434).
SAFE_TORCH = (2, 6)


class UnsafeModelError(ValueError):
    """A file that is not loaded, because it is damaged, or because something in it would have to be executed."""


def read_archive(path: str | Path, most_bytes: int) -> dict[str, bytes]:
    """The members of a model's file by name, at most ``most_bytes`` together; ``.zip`` may be left out of the path."""
    file = Path(path) if Path(path).exists() else Path(f"{path}.zip")
    if not file.is_file():
        raise UnsafeModelError(f"path must be a model's zip file, got {path}")
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), file, most_bytes)
            return {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UnsafeModelError(f"path must be a zip file that is whole, got {file} ({error})") from error


def _check_members(members: list[zipfile.ZipInfo], file: Path, most_bytes: int) -> None:
    names = [member.filename for member in members]
    strange = next((name for name in names if name not in MEMBERS), None)
    if strange is not None:
        raise UnsafeModelError(
            f"path must be the file of a PPO or A2C: {file} holds {strange!r}, which none has (half of a file may look "
            "like this too)"
        )
    if len(set(names)) < len(names):
        raise UnsafeModelError(f"path must be a file whose members have each its own name, got {names} in {file}")
    missing = {"data", "policy.pth"} - set(names)
    if missing:
        raise UnsafeModelError(f"path must be a whole model: {file} holds no {' and no '.join(sorted(missing))}")
    size = sum(member.file_size for member in members)
    if size > most_bytes:
        raise UnsafeModelError(f"path must hold at most most_bytes={most_bytes:,} bytes, got {size:,} in {file}")
    for member in members:
        if member.file_size > LARGEST_RATIO * max(member.compress_size, 1000):
            raise UnsafeModelError(
                f"path must be no zip bomb: {member.filename} in {file} grows from {member.compress_size:,} to "
                f"{member.file_size:,} bytes"
            )


def tensors_in(content: bytes, name: str) -> Any:
    """Tensors and plain values of a member that torch wrote, by torch's reader that executes nothing."""
    if tuple(int(part) for part in th.__version__.split(".")[:2]) < SAFE_TORCH:
        raise UnsafeModelError(f"torch must be at least 2.6 to read weights safely, got {th.__version__}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            size = sum(member.file_size for member in inner.infolist())
    except zipfile.BadZipFile as error:
        raise UnsafeModelError(f"{name} must be torch's zip format, and is not ({error})") from error
    if size > len(content):
        # torch stores without compressing.
        raise UnsafeModelError(f"{name} must be no zip bomb: it grows from {len(content):,} to {size:,} bytes")
    try:
        return th.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsafeModelError(f"{name} must hold nothing but tensors, and {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line]
    return (lines or str(error).splitlines() or [type(error).__name__])[0]


def json_in(content: bytes) -> dict[str, Any]:
    """The attributes of a model from the member ``data``: what was pickled stays text."""
    try:
        attributes = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnsafeModelError(f"data must be JSON, and is not ({error})") from error
    if not isinstance(attributes, dict):
        raise UnsafeModelError(f"data must be a JSON object, got {type(attributes).__name__}")
    return attributes
