"""Files that are there whole or not at all, whatever happens while they are written.

Whatever in the package writes a whole file, and no log that grows, writes it this way; ``files`` is the public name.
"""

import glob
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends well, as :func:`write_whole` does.

    :param path: the file to replace or to create; its folder must exist. A link is followed.
    :return: open for writing, with ``seek``.
    """
    with replaced(path) as temporary, temporary.open("w+b") as file:
        yield file


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Replace a file by one that a function writes, or leave it as it is.

    It is written beside ``path`` (a rename between two file systems is a copy, and a copy can be cut in half), brought
    to the disk, and renamed; then the folder, which holds the name, is brought to the disk too. If anything goes wrong
    before the rename (an exception, a full disk), the temporary file is removed and ``path`` is as before. A power cut
    leaves the old file or the new one.

    :param path: the file to replace or to create; its folder must exist. A link is followed.
    :param write: called with the path to write to, which ends as ``path`` does.
    """
    with replaced(path) as temporary:
        write(temporary)


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file to, which takes the place of another when the block ends well.

    :param path: the file to replace or to create, as in :func:`write_whole`.
    :return: a context; within it, a path in the same folder that ends as ``path`` does.
    """
    target = Path(os.path.realpath(path))
    _remove_leftovers(target)
    # With the suffix, by which Matplotlib and ffmpeg know what to write.
    temporary = temporary_beside(target)
    temporary = temporary.with_name(f"{temporary.name}{target.suffix}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            with suppress(FileNotFoundError):
                os.chmod(temporary, target.stat().st_mode & 0o777)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(target.parent)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file's content, or leave it as it is.

    :param path: the file.
    :param content: all of it.
    """
    with replacing(path) as file:
        file.write(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Replace a file's text (UTF-8), or leave it as it is.

    :param path: the file.
    :param content: all of it.
    """
    write_bytes(path, content.encode())


def temporary_beside(target: Path) -> Path:
    """A name that nobody has, for what shall be renamed to another.

    :param target: the name it shall have in the end.
    :return: in the same folder, hidden, with the number of this process in it: what a killed process has left behind is
        told by it.
    """
    return target.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def _remove_leftovers(target: Path) -> None:
    """What processes that are gone have left of the same file."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.tmp-*-*"):
        number = re.search(r"\.tmp-(\d+)-", leftover.name)
        if number is not None and not _is_alive(int(number.group(1))):
            with suppress(OSError):
                leftover.unlink()


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        return True  # There, signal 0 is no question.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring the names in a folder to the disk: a rename that is not may be forgotten in a power cut.

    :param folder: an existing one.
    """
    if os.name == "nt":
        return  # Windows opens no folders.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
