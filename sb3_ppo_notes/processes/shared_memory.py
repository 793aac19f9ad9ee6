"""A group of processes of one host whose vectors lie in memory that they share, by ``_shared.c``: the same numbers in
the same order as through gloo, and many times sooner.
"""

import ctypes
import logging
import mmap
import os
from functools import cache
from typing import Any

import torch as th

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.kernels.compiled import path_of
from sb3_ppo_notes.processes.distributed import Distributed

logger = logging.getLogger("sb3_ppo_notes")

#: Of the source in ``_shared.c``: what was built from another one is not called.
REVISION = 1
#: Vectors of all ranks that lie in memory at once; a power of two, as in ``_shared.c``.
BUFFERS = 4
#: Bytes of a rank's counter.
COUNTER = 64
#: Nanoseconds of waiting without sleeping: about what ranks of equal work, on cores of their own, are apart.
SPIN = 50_000
ALL_HERE, OTHER_SIZE = -1, -2


@cache
def library() -> Any:
    """The compiled code; ``None`` where it was not built, or could not be."""
    path = path_of("processes._shared")
    if path is None:
        return None
    functions = ctypes.CDLL(path)
    if not hasattr(functions, "shared_revision") or functions.shared_revision() != REVISION:
        return None
    number, address = ctypes.c_int64, ctypes.c_void_p
    functions.shared_put.argtypes = [address, address, address, ctypes.c_uint64, ctypes.c_uint32]
    functions.shared_put.restype = None
    functions.shared_wait.argtypes = [address, ctypes.c_int, ctypes.c_uint32, number, number]
    return functions


class SharedMemory(Distributed):
    """Processes of one host. What does not lie on the CPU in float32 goes the way of :class:`Distributed`, and so does
    everything if a process has no compiled code or may not open another's memory.
    """

    def __init__(self, timeout: float = 3600.0):
        super().__init__(timeout)
        self._buffers = th.empty(BUFFERS, 0)
        self._counters = 0
        self._turn = 0
        is_usable = library() is not None and hasattr(os, "memfd_create") and self._watch.sees_all
        self._is_usable = all(self.gather(is_usable))
        if self._has_place_for(1 << 14):
            self.kind = "shared memory"
        elif self.rank == 0:
            logger.info(
                "processes of this host exchange numbers through gloo: memory cannot be shared, or was not built"
            )

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The vectors of all processes, ``[size, n]``, in the memory that all share."""
        length = len(vector)
        if vector.device.type != "cpu" or vector.dtype != th.float32 or not self._has_place_for(length):
            return super().gather_vectors(vector)
        self._begin()
        self._turn = (self._turn + 1) % (1 << 32)
        buffer = self._buffers[self._turn % BUFFERS, : self.size * length]
        vector = vector.detach().contiguous()
        place = buffer.data_ptr() + 4 * self.rank * length
        own = self._counters + COUNTER * self.rank
        library().shared_put(own, place, vector.data_ptr(), 4 * length, self._turn)
        if not self._are_here(0.05):
            self._wait(self._are_here)
        return buffer.view(self.size, length)

    def _are_here(self, seconds: float) -> bool:
        state = library().shared_wait(self._counters, self.size, self._turn, SPIN, int(seconds * 1e9))
        if state == OTHER_SIZE:
            raise InvalidValueError(f"vector must be as long in all processes, and is not in exchange {self._n_calls}")
        return bool(state == ALL_HERE)

    def _has_place_for(self, length: int) -> bool:
        """All say the same, because their vectors are equally long."""
        if self._is_usable and self.size * length > self._buffers.shape[1]:
            self._grow(2 * self.size * length)
        return self._is_usable

    def _grow(self, capacity: int) -> None:
        """New memory for so many floats in each buffer. It has no name, and so is gone with the last process, however
        that ends.
        """
        n_bytes = COUNTER * self.size + 4 * BUFFERS * capacity
        file = os.memfd_create("sb3_ppo_notes") if self.rank == 0 else -1
        if self.rank == 0:
            os.truncate(file, n_bytes)
        path = self.gather(f"/proc/{os.getpid()}/fd/{file}")[0]
        memory = None
        try:
            own = os.open(path, os.O_RDWR)
            memory = mmap.mmap(own, n_bytes)
            os.close(own)
        except OSError as error:
            logger.debug("%s: %s", path, error)
        self._is_usable = all(self.gather(memory is not None))
        if self.rank == 0:
            os.close(file)
        if memory is not None:
            floats = th.frombuffer(memory, dtype=th.float32)
            self._counters = floats.data_ptr()
            self._buffers = floats[COUNTER // 4 * self.size :].view(BUFFERS, capacity)
            self._turn = 0
