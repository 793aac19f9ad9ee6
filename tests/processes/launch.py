"""Start processes that form a group, with the environment variables of torchrun and without its agent.

They are forked from a server that has imported PyTorch once, so that a start costs milliseconds, and they can be killed
like any other. Rank 0 keeps the store: what the agent does is tested with the agent.
"""

import multiprocessing
import os
import socket
import time
from typing import Any, NamedTuple

import pytest
import torch as th

from sb3_ppo_notes.processes import join_group
from sb3_ppo_notes.processes.distributed import Distributed
from sb3_ppo_notes.processes.shared_memory import SharedMemory, library

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes.launch"])

KINDS = {"gloo": Distributed, "shared memory": SharedMemory, "auto": lambda timeout: join_group("auto")}
built = pytest.mark.skipif(library() is None, reason="_shared.c was not built")
both_kinds = pytest.mark.parametrize("kind", ["gloo", pytest.param("shared memory", marks=built)])


class Outcome(NamedTuple):
    """Of one process: what its function returned, or the class, text and ranks of what it raised."""

    value: Any = None
    error: str | None = None
    text: str = ""
    ranks: list[int] | None = None
    seconds: float = 0.0
    code: int | None = None


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def variables(rank, size, port):
    """The environment variables of torchrun."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def be_a_rank(connection, environment, kind, timeout, function, arguments):
    os.environ.update(environment)
    th.set_num_threads(1)
    group = KINDS[kind](timeout=timeout)
    begin = time.monotonic()
    try:
        with group.telling_failures():
            outcome = Outcome(function(group, *arguments))
    except BaseException as error:
        outcome = Outcome(error=type(error).__name__, text=str(error), ranks=getattr(error, "ranks", None))
    connection.send(outcome._replace(seconds=time.monotonic() - begin))
    group.close()


def run(function, size, *arguments, kind="gloo", timeout=60.0, limit=60.0, **environment):
    """``function(group, *arguments)`` in ``size`` processes: an :class:`Outcome` of each.

    :param timeout: of the group.
    :param limit: seconds after which the processes must have ended.
    :param environment: variables beside those of torchrun.
    """
    port, started = free_port(), []
    for rank in range(size):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(
            target=be_a_rank,
            args=(theirs, variables(rank, size, port) | environment, kind, timeout, function, arguments),
        )
        process.start()
        theirs.close()
        started.append((process, ours))
    end = time.monotonic() + limit
    outcomes = []
    for process, ours in started:
        process.join(max(0, end - time.monotonic()))
        try:
            outcome = ours.recv() if ours.poll() else Outcome()
        except EOFError:
            outcome = Outcome()
        outcomes.append(outcome._replace(code=process.exitcode))
    for process, _ in started:
        if process.is_alive():
            process.kill()
    assert all(outcome.code is not None for outcome in outcomes), outcomes
    return outcomes


def values(outcomes):
    """What all processes returned, none having failed."""
    assert not [outcome for outcome in outcomes if outcome.error or outcome.code], outcomes
    return [outcome.value for outcome in outcomes]
