"""The C library's memory between two minibatches: kept by the processes of our own commands."""

import ctypes
import os
import sys

#: Bytes, in any case more than a minibatch takes: freed memory stays with the process up to this size, and no tensor up
#: to it is mapped by itself, to be unmapped when it is freed.
KEPT_BYTES = 2**30
#: Of glibc's ``malloc.h``.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: With one of these the user has decided.
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees, instead of handing it back to the system and asking for it again.

    It is for a process of ours and lasts as long as it: a user's own program is never changed (docs/speed.md has the
    variables). Where there is no glibc nothing happens.

    :return: whether it does.
    """
    if sys.platform != "linux" or any(name in os.environ for name in SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(which, KEPT_BYTES) for which in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
