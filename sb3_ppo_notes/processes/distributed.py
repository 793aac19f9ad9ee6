"""A group by ``torch.distributed``."""

import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import torch as th
import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from sb3_ppo_notes.processes.failures import TIMEOUT, Failure, RankFailedError, Watch, ranks_in_words

#: Seconds of waiting after which a process looks what has become of the others.
PATIENCE = 0.5

#: Seconds for which the first process waits for the last one to join.
JOINING = 600.0

#: The newer name first: the older one warns.
ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Distributed:
    """The processes that torchrun has started, joined by gloo on CPUs and by NCCL on GPUs.

    On a GPU a process does not see that another has failed before it next gathers values, or vectors on the CPU;
    NCCL's own waiting is ended by torchrun, or after the timeout.

    :param timeout: seconds for which a process waits for others.
    """

    #: The one that :func:`join_group` gives until it is closed.
    open: "ClassVar[Distributed | None]" = None

    def __init__(self, timeout: float = TIMEOUT):
        self.timeout = timeout
        limit = timedelta(seconds=timeout)
        server, self.rank, self.size = next(rendezvous("env://", timeout=timedelta(seconds=JOINING)))
        if th.cuda.is_available():
            th.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % th.cuda.device_count())
        self.kind = "cpu:gloo,cuda:nccl" if th.cuda.is_available() else "gloo"
        prefix = _meet(server, self.rank, self.size, JOINING)
        self._is_owner = not dist.is_initialized()
        if self._is_owner:
            store = PrefixStore(f"{prefix}/torch", server)
            dist.init_process_group(self.kind, store=store, rank=self.rank, world_size=self.size, timeout=limit)
            self._processes = dist.group.WORLD
        else:
            self._processes = dist.new_group(backend=self.kind, timeout=limit)
        self._watch = Watch(PrefixStore(prefix, server), self.rank, self.size, timeout)
        self._n_calls = 0
        self._next_report = 0.0
        self._failure: Failure | None = None
        self._is_pending = False
        Distributed.open = self

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The vectors of all processes, ``[size, n]``."""
        self._begin()
        return self._all_gather(vector)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes."""
        self._begin()
        pickled = th.frombuffer(bytearray(pickle.dumps(value)), dtype=th.uint8)
        lengths = self._all_gather(th.tensor([len(pickled)])).view(-1).tolist()
        padded = pickled.new_zeros(max(lengths))
        padded[: len(pickled)] = pickled
        everything = self._all_gather(padded)
        return [pickle.loads(row[:length].numpy()) for row, length in zip(everything, lengths, strict=True)]

    @contextmanager
    def telling_failures(self) -> Iterator[None]:
        """Whatever is raised is raised in all other processes, once they next gather; for that it waits up to 20 s."""
        try:
            yield
        except RankFailedError:
            raise
        except BaseException as error:
            self._failure = self._watch.report_error(error)
            self._disconnect()
            self._watch.settle(self._failure)
            raise

    def close(self) -> None:
        """Leave the group; whoever is still in it does not notice."""
        self._watch.close()
        if Distributed.open is self:
            Distributed.open = None
        self._disconnect()

    def __deepcopy__(self, memo: Any) -> "Distributed":
        return self  # a copy of a model trains in the same group

    def _disconnect(self) -> None:
        """So that the others wait for nothing from here. What waits itself cannot be ended before they have answered,
        and NCCL would wait for what they never send.
        """
        processes, self._processes = self._processes, None
        if processes is None or self._is_pending or (self._failure is not None and "nccl" in self.kind):
            return
        if dist.is_initialized():
            dist.destroy_process_group(None if self._is_owner else processes)

    def _begin(self) -> None:
        if self._failure is not None:
            raise self._failure.error()
        self._n_calls += 1
        if time.monotonic() > self._next_report:
            self._next_report = time.monotonic() + 1.0
            failure = self._watch.arrived(self._n_calls)
            if failure is not None:
                self._fail(failure)

    def _all_gather(self, vector: th.Tensor) -> th.Tensor:
        gathered = vector.new_empty(self.size, len(vector))
        begin = time.monotonic()
        try:
            work = ALL_GATHER(gathered.view(-1), vector.contiguous(), group=self._processes, async_op=True)
            if vector.is_cuda:
                work.wait()  # for the stream, not for this process
            else:
                self._wait(lambda seconds: _is_done(work, seconds))
        except RankFailedError:
            raise
        except RuntimeError as error:
            self._is_pending = False
            is_late = time.monotonic() - begin > self.timeout - PATIENCE
            watch, call = self._watch, self._n_calls
            self._fail(watch.look(call) or watch.late(call) if is_late else watch.broken(call, error))
        return gathered

    def _wait(self, is_done: Callable[[float], bool]) -> None:
        """Until a function says so, which takes the seconds that it may wait itself."""
        end = time.monotonic() + self.timeout
        self._is_pending = True
        while not is_done(PATIENCE):
            failure = self._watch.look(self._n_calls)
            if failure is None and time.monotonic() > end:
                failure = self._watch.late(self._n_calls)
            # Whoever was the last to come may have gone on, ended, and taken the store along.
            if failure is not None and not is_done(PATIENCE):
                self._fail(failure)
        self._is_pending = False

    def _fail(self, failure: Failure) -> None:
        self._failure = failure
        self._watch.settle(failure)
        self._disconnect()
        raise failure.error()


def _is_done(work: Any, seconds: float) -> bool:
    """Wait for gloo's work a while; raises what ended it.

    Unlike gloo's own timeout this one does not end the work, and between two of them Python can serve signals.
    """
    try:
        work.wait(timedelta(seconds=seconds))
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()
    return True


def _meet(server: Any, rank: int, size: int, seconds: float) -> str:
    """Prefix of the keys of this meeting. torchrun keeps the store when it starts the processes again, and each machine
    counts starts for itself; so rank 0 answers whoever calls until all have followed the answer.
    """
    token = f"sb3_ppo_notes/{uuid4().hex}"
    if rank > 0:
        server.set(f"sb3_ppo_notes/caller/{rank}", token)
        prefix = str(server.get(token).decode())
        server.set(f"{prefix}/met/{rank}", "")
        return prefix
    absent = list(range(1, size))
    end = time.monotonic() + seconds
    while absent and time.monotonic() < end:
        for caller in absent:
            key = f"sb3_ppo_notes/caller/{caller}"
            if server.check([key]):
                server.set(server.get(key).decode(), token)
        absent = [other for other in absent if not server.check([f"{token}/met/{other}"])]
        time.sleep(0.01)
    if absent:
        raise RankFailedError(f"{ranks_in_words(absent)} did not come within {seconds:g} s", absent)
    return token
