"""The files of checkpoints: one folder a run, in it one folder a checkpoint, in that two files and a manifest.

::

    run/000007-step-14336/state.json           everything that is no array; plain JSON
                          arrays.safetensors   every array
                          manifest.json        length and SHA-256 of the two; written last

Of several processes that train one model each writes what belongs to its shards, two files a shard, into
``shard-00/ shard-01/ ...`` beside them; rank 0 writes the manifest of all when all have written.

A checkpoint is written under another name and renamed when all of it is on the disk. So a folder with a checkpoint's
name is whole, unless somebody has damaged it since, which the manifest tells.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from sb3_ppo_notes._atomic import sync_folder
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence.locks import FolderLock
from sb3_ppo_notes.processes import Group, on_writer

FORMAT = "sb3_ppo_notes checkpoint"
#: 2 is written where there are shards, and 1 else: what an older release can read it shall read.
VERSION = 2
STATE, ARRAYS, MANIFEST = "state.json", "arrays.safetensors", "manifest.json"
NAME = re.compile(r"(\d{6,})-step-(\d+)")


class CheckpointCorruptError(ValueError):
    """A checkpoint that is not what was written: says which file, and what is wrong with it."""


class CheckpointVersionError(ValueError):
    """A checkpoint of a later release, whose format this one does not know."""


class Stored(NamedTuple):
    """A checkpoint that was read; ``skipped`` says how newer ones are damaged."""

    path: Path
    document: dict[str, Any]
    arrays: dict[str, np.ndarray]
    skipped: tuple[str, ...]

    def shard(self, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What belongs to one shard: a document, and its arrays."""
        folder = self.path / shard_folder(number)
        return _parse(folder, {name: (folder / name).read_bytes() for name in (STATE, ARRAYS)})


def shard_folder(number: int) -> str:
    """The name of a shard's folder in a checkpoint."""
    return f"shard-{number:02d}"


def write_checkpoint(folder: Path, document: dict[str, Any], arrays: dict[str, np.ndarray], keep: int) -> Path:
    """Add a checkpoint to a run's folder, and remove all but the newest ``keep`` of the same run.

    :raises OSError: if it cannot be written; what was there is as before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        temporary = begin_checkpoint(folder)
        try:
            return finish_checkpoint(temporary, document, arrays, {}, keep)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_checkpoint_together(
    group: Group,
    folder: Path,
    whole: tuple[dict[str, Any], dict[str, np.ndarray]] | None,
    shards: Mapping[int, tuple[dict[str, Any], dict[str, np.ndarray]]],
    keep: int,
) -> Path:
    """The same by several processes, which all call this.

    :param whole: document and arrays of the training, in rank 0.
    :param shards: documents and arrays of this process's shards, by number.
    :raises OSError: in all processes if one of them cannot write; what was there is as before.
    """
    with ExitStack() as stack:
        temporary = on_writer(group, lambda: _begin_locked(folder, stack))
        files: dict[str, Any] = {}
        error: OSError | None = None
        try:
            for number, content in shards.items():
                files |= _write_part(temporary, f"{shard_folder(number)}/", *content)
        except OSError as raised:
            error = raised
        written = group.gather((files, error))

        def finish() -> Path:
            assert whole is not None
            try:
                for files_of_one, its_error in written:
                    if its_error is not None:
                        raise its_error
                    files.update(files_of_one)
                return finish_checkpoint(temporary, *whole, files, keep)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise

        return on_writer(group, finish)


def _begin_locked(folder: Path, stack: ExitStack) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(FolderLock(folder))
    return begin_checkpoint(folder)


def begin_checkpoint(folder: Path) -> Path:
    """A folder that nobody takes for a checkpoint, in a run's folder that is locked."""
    _remove_leftovers(folder)
    temporary = folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def finish_checkpoint(
    temporary: Path, document: dict[str, Any], arrays: dict[str, np.ndarray], others: dict[str, Any], keep: int
) -> Path:
    """Write what is left, the manifest last, and let all of it be found; ``others`` are files that are there."""
    folder = temporary.parent
    files = _write_part(temporary, "", document, arrays) | others
    _write_and_sync(temporary / MANIFEST, _manifest(files, document["run"], VERSION if others else 1))
    sync_folder(temporary)
    number = 1 + max((int(_match_name(path)[1]) for path in checkpoints_in(folder)), default=0)
    target = folder / f"{number:06d}-step-{document['num_timesteps']}"
    temporary.rename(target)
    sync_folder(folder)
    _remove_oldest(folder, document["run"], keep)
    return target


def _write_part(
    folder: Path, prefix: str, document: dict[str, Any], arrays: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Write two files; their entries in the manifest."""
    content = {
        STATE: json.dumps(document, allow_nan=False).encode(),
        ARRAYS: safetensors_numpy.save(arrays or {"nothing": np.zeros(0)}),
    }
    (folder / prefix).mkdir(exist_ok=True)
    for name, part in content.items():
        _write_and_sync(folder / prefix / name, part)
    if prefix:
        sync_folder(folder / prefix)
    return {f"{prefix}{name}": {"bytes": len(part), "sha256": _digest(part)} for name, part in content.items()}


def _write_and_sync(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _manifest(files: dict[str, Any], run: str, version: int) -> bytes:
    fields = {"format": FORMAT, "version": version, "run": run, "files": files}
    return json.dumps(fields | {"sha256": _digest_of_fields(fields)}, indent=1).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_fields(fields: dict[str, Any]) -> str:
    """Of a manifest without its own digest. The same in every version, so that a later one can be told from damage."""
    return _digest(json.dumps(fields, sort_keys=True).encode())


def checkpoints_in(folder: Path) -> list[Path]:
    """Folders of a run's checkpoints, the oldest first, damaged ones included."""
    paths = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda path: int(_match_name(path)[1]))


def _match_name(path: Path) -> re.Match[str]:
    match = NAME.fullmatch(path.name)
    assert match is not None, path
    return match


def read_checkpoint(path: Path) -> Stored:
    """The newest checkpoint that is whole in a run's folder, or the one checkpoint that the path names.

    :raises CheckpointVersionError: if the newest whole one is of a later release.
    """
    is_single = NAME.fullmatch(path.name) is not None and not checkpoints_in(path)
    candidates = [path] if is_single and path.is_dir() else checkpoints_in(path)[::-1]
    if not candidates:
        raise InvalidValueError(f"path must be a folder with checkpoints, got {path}")
    skipped: list[str] = []
    for candidate in candidates:
        try:
            document, arrays = _verify(candidate)
        except CheckpointCorruptError as error:
            skipped.append(str(error))
            continue
        return Stored(candidate, document, arrays, tuple(skipped))
    raise CheckpointCorruptError(f"path holds no checkpoint that is whole: {'; '.join(skipped)}")


def _verify(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    manifest = read_manifest(path)
    document, arrays = _parse(path, {name: _read(path, name, manifest) for name in (STATE, ARRAYS)})
    for number in range(document.get("shards", 0)):
        for name in (STATE, ARRAYS):
            _read(path, f"{shard_folder(number)}/{name}", manifest)
    return document, arrays


def _read(path: Path, name: str, manifest: dict[str, Any]) -> bytes:
    """A file as it was written."""
    stated = manifest["files"].get(name)
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise CheckpointCorruptError(f"{path.name}/{name} cannot be read: {error}") from error
    if stated is None or len(content) != stated["bytes"]:
        wanted = "no entry" if stated is None else f"{stated['bytes']:,} bytes"
        raise CheckpointCorruptError(f"{path.name}/{name} has {len(content):,} bytes, the manifest {wanted}")
    if _digest(content) != stated["sha256"]:
        raise CheckpointCorruptError(f"{path.name}/{name} is not what was written (its SHA-256 differs)")
    return content


def _parse(path: Path, content: dict[str, bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        document: dict[str, Any] = json.loads(content[STATE])
        return document, safetensors_numpy.load(content[ARRAYS])
    except (ValueError, SafetensorError) as error:
        raise CheckpointCorruptError(f"{path.name} cannot be read: {error}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest, which agrees with its own digest."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        fields = {name: value for name, value in manifest.items() if name != "sha256"}
        is_whole = manifest["sha256"] == _digest_of_fields(fields) and manifest["format"] == FORMAT
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointCorruptError(f"{path.name}/{MANIFEST} cannot be read: {error}") from error
    if not is_whole:
        raise CheckpointCorruptError(f"{path.name}/{MANIFEST} is not what was written")
    if manifest["version"] > VERSION:
        raise CheckpointVersionError(
            f"{path} is a checkpoint of format {manifest['version']}, this release reads formats up to {VERSION}: "
            "update sb3_ppo_notes"
        )
    result: dict[str, Any] = manifest
    return result


def run_in(folder: Path) -> str | None:
    """The run of the newest readable checkpoint in a folder, ``None`` if there is none."""
    for path in checkpoints_in(folder)[::-1]:
        try:
            return str(read_manifest(path)["run"])
        except CheckpointCorruptError:
            continue
    return None


def _remove_oldest(folder: Path, run: str, keep: int) -> None:
    own = []
    for path in checkpoints_in(folder):
        try:
            if read_manifest(path)["run"] == run:
                own.append(path)
        except ValueError:
            # Damaged, or of a later release: not ours to judge.
            continue
    for path in own[:-keep]:
        # First out of sight: half a checkpoint shall never be found under a checkpoint's name.
        hidden = folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove the leavings of a killed process. Nobody else is writing now: the lock is ours."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
