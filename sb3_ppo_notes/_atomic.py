"""Files that are there whole or not at all, whatever happens while they are written.

Whatever in the package writes a file writes it this way; ``persistence.atomic`` is the public name.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends well.

    It is written beside ``path`` (a rename between two file systems is a copy, and a copy can be cut in half), brought
    to the disk, and renamed; then the folder, which holds the name, is brought to the disk too. If anything goes wrong
    before the rename (an exception in the block, a full disk), the temporary file is removed and ``path`` is as before.
    A power cut leaves the old file or the new one.

    :param path: the file to replace or to create; its folder must exist. A link is followed.
    :return: open for writing, with ``seek``.
    """
    target = Path(os.path.realpath(path))
    temporary = temporary_beside(target)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            with suppress(FileNotFoundError):
                os.chmod(temporary, target.stat().st_mode & 0o777)
            yield file
            file.flush()
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
