"""Failures of the processes of a group, and how each comes to know of those of the others.

They are written into the group's store: a server of small values that torchrun's agent keeps, or rank 0 where no agent
has started the processes. The first failure that is written is the one that all raise. A process that dies without a
word is seen by those on its host.
"""

import json
import os
import select
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Seconds in which the processes that still live are expected to hear of a failure. Whoever ends later is ended by
#: torchrun, without its own last words.
SETTLING = 20.0
#: Seconds within which another host is expected to say which process has broken a connection.
BLAMING = 5.0


class RankFailedError(RuntimeError):
    """Another process of the group has failed; its own error and traceback are part of the message.

    :param message: its first line says which rank and why.
    :param ranks: that failed.
    """

    is_self_contained = True

    def __init__(self, message: str, ranks: Sequence[int] = ()):
        super().__init__(message)
        self.ranks = list(ranks)


class ProcessesDivergedError(RuntimeError):
    """Processes that must compute the same have not.

    :param ranks: in which it is not as in most, or, of two, not as in rank 0.
    """

    is_self_contained = True

    def __init__(self, message: str, ranks: Sequence[int] = ()):
        super().__init__(message)
        self.ranks = list(ranks)


@dataclass(frozen=True)
class Failure:
    """``ranks`` have failed; ``is_silent``: nothing more will be heard from them."""

    ranks: list[int]
    text: str
    is_silent: bool = True

    def error(self) -> RankFailedError:
        """To be raised in the other ranks."""
        return RankFailedError(self.text, self.ranks)


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Rank 1; ranks 1, 2 and 5."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(str(rank) for rank in ranks[:-1])} and {ranks[-1]}"


class Watch:
    """Watches the other processes of a group.

    :param store: of the group, with no keys of others.
    :param timeout: seconds, of which messages speak.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float):
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout
        # torchrun's agent; with another parent this process may outlive it.
        self._agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._is_informed = False
        store.set(f"process/{rank}", json.dumps([_host(), os.getpid()]))
        addresses = [json.loads(store.get(f"process/{other}")) for other in range(size)]
        #: Of the processes of this host, a file that can be read as soon as one has ended.
        self._ends: dict[int, int] = {}
        for other, (host, process) in enumerate(addresses):
            if host == _host() and other != rank and hasattr(os, "pidfd_open"):
                try:
                    self._ends[other] = os.pidfd_open(process)
                except OSError:
                    continue  # a sandbox may forbid it: then as on another host

    @property
    def sees_all(self) -> bool:
        """``True`` if the end of every other process is seen from here."""
        return len(self._ends) == self.size - 1

    def close(self) -> None:
        """Watch nobody any more."""
        while self._ends:
            os.close(self._ends.popitem()[1])

    def arrived(self, call: int) -> Failure | None:
        """Say which call this process has come to, about once a second; a failure that this brings to light."""
        if self._is_orphan():
            return self._orphaned()
        try:
            self.store.set(f"call/{self.rank}", str(call))
        except RuntimeError as error:
            return self._lost(error)
        return None

    def look(self, call: int) -> Failure | None:
        """The failure of another process, or that of the agent, while this one waits."""
        try:
            failure = self.arrived(call) or self._reported()
            dead = self._dead()
            # It may have reported its failure while we looked for it.
            return failure or (self._reported() or self.report(self._silent(dead)) if dead else None)
        except RuntimeError as error:
            return self._lost(error)

    def late(self, call: int) -> Failure:
        """The ranks that have not come to a call in time."""
        try:
            calls = [
                int(self.store.get(f"call/{rank}")) if self.store.check([f"call/{rank}"]) else 0
                for rank in range(self.size)
            ]
            late = [rank for rank in range(self.size) if calls[rank] < call and rank != self.rank]
            heard = ", ".join(f"rank {rank} was last heard at exchange {calls[rank]}" for rank in late)
            who = f"{ranks_in_words(late)} did" if late else "all ranks came, but their numbers did"
            return self.report(
                Failure(late, f"{who} not arrive at exchange {call} within {self.timeout:g} s{heard and ': ' + heard}")
            )
        except RuntimeError as error:
            return self._lost(error)

    def broken(self, call: int, reason: Exception) -> Failure:
        """The rank that has broken a connection: it, or one on its host, has a few seconds to say so."""
        try:
            self.store.set(f"here/{self.rank}", "")
            end = time.monotonic() + BLAMING
            while time.monotonic() < end:
                failure = self.look(call)
                if failure is not None:
                    return failure
                time.sleep(0.05)
            mute = [rank for rank in range(self.size) if not self.store.check([f"here/{rank}"])]
            if mute:
                return self.report(self._silent(mute))
            return self.report(Failure([], f"a connection between the ranks broke: {reason}"))
        except RuntimeError as error:
            return self._lost(error)

    def report(self, failure: Failure) -> Failure:
        """Write a failure down for all, unless there is one already; the one that stands there."""
        return _decoded(self.store.compare_set("failure", "", json.dumps(asdict(failure))))

    def report_error(self, error: BaseException) -> Failure:
        """Write down what was raised in this process."""
        lines = "".join(traceback.format_exception(error)).rstrip()
        text = f"rank {self.rank}: {type(error).__name__}: {error}\n\nIn rank {self.rank}: {lines}"
        try:
            return self.report(Failure([self.rank], text, is_silent=False))
        except RuntimeError as lost:
            return self._lost(lost)

    def settle(self, failure: Failure) -> None:
        """Wait until all that live have heard of a failure: torchrun ends them as soon as the first has ended."""
        if self._is_informed:
            return
        self._is_informed = True
        silent = set(failure.ranks) if failure.is_silent else set()
        others = set(range(self.size)) - {self.rank} - silent
        end = time.monotonic() + SETTLING
        try:
            informed = self.store.add("informed", 1)
            while informed <= len(others) and time.monotonic() < end and not others <= set(self._dead()):
                time.sleep(0.05)
                informed = self.store.add("informed", 0)
        except RuntimeError:
            return  # nobody to hear from

    def _reported(self) -> Failure | None:
        return _decoded(self.store.get("failure")) if self.store.check(["failure"]) else None

    def _dead(self) -> list[int]:
        if not self._ends:
            return []
        poll = select.poll()
        for end in self._ends.values():
            poll.register(end, select.POLLIN)
        ended = {end for end, _ in poll.poll(0)}
        return [rank for rank, end in self._ends.items() if end in ended]

    def _is_orphan(self) -> bool:
        return self._agent not in (None, os.getppid())

    def _orphaned(self) -> Failure:
        text = f"the agent of torchrun that started rank {self.rank}, process {self._agent}, is gone"
        failure = Failure([self.rank], text, is_silent=False)
        try:
            return self.report(failure)
        except RuntimeError:
            return failure  # it kept the store

    def _silent(self, ranks: list[int]) -> Failure:
        verb = "is" if len(ranks) == 1 else "are"
        return Failure(ranks, f"{ranks_in_words(ranks)} {verb} gone without a word: killed, or out of memory")

    def _lost(self, error: Exception) -> Failure:
        """The store does not answer. Whoever keeps it closes its connections a moment before it has ended."""
        is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            if self._is_orphan():
                return self._orphaned()
            if not is_agents and 0 in self._dead():
                return self._silent([0])
            time.sleep(0.05)
        keeper = "torchrun's agent of the first machine" if is_agents else "rank 0, killed or out of memory"
        return Failure([], f"the processes' store is gone, and with it {keeper}: {str(error).splitlines()[0]}")


def _decoded(failure: bytes) -> Failure:
    return Failure(**json.loads(failure))


def _host() -> str:
    """Of processes with the same host and the same name space of process numbers."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
