"""Processes that train one model, forked from the test's own, which has everything imported: a group of them costs
milliseconds and no network. That real groups do the same is tested with them.
"""

import multiprocessing
import os
import signal
import traceback
from contextlib import nullcontext

import torch as th

CONTEXT = multiprocessing.get_context("fork")


class Piped:
    """A group whose rank 0 hears from everybody and answers everybody."""

    kind = "pipes"

    def __init__(self, rank, size, pipes):
        self.rank, self.size, self.pipes = rank, size, pipes

    def gather(self, value):
        if self.rank:
            self.pipes[self.rank][1].send(value)
            return self.pipes[self.rank][1].recv()
        values = [value, *(self.pipes[other][0].recv() for other in range(1, self.size))]
        for other in range(1, self.size):
            self.pipes[other][0].send(values)
        return values

    def gather_vectors(self, vector):
        return th.stack([th.from_numpy(each) for each in self.gather(vector.detach().numpy().copy())])

    def telling_failures(self):
        return nullcontext()

    def close(self):
        pass


def _run(rank, size, pipes, results, function, arguments):
    os.setpgid(0, 0)
    for other, (ours, theirs) in pipes.items():  # or nobody would hear of an end
        if rank:
            ours.close()
        if other != rank:
            theirs.close()
    try:
        outcome = ("value", function(Piped(rank, size, pipes), *arguments))
    except BaseException as error:
        outcome = ("error", f"{type(error).__name__}: {error}", traceback.format_exc())
    results[rank][1].send(outcome)


def start(function, size, *arguments):
    """``function(group, *arguments)`` in each of ``size`` processes: the processes, and where their results come."""
    pipes = {rank: CONTEXT.Pipe() for rank in range(1, size)}
    results = {rank: CONTEXT.Pipe(duplex=False) for rank in range(size)}
    processes = [
        CONTEXT.Process(target=_run, args=(rank, size, pipes, results, function, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for ours, theirs in pipes.values():
        ours.close()
        theirs.close()
    for _, theirs in results.values():
        theirs.close()
    return processes, [results[rank][0] for rank in range(size)]


def outcomes(function, size, *arguments, limit=60):
    """Of each process ("value", what it returned), ("error", text, traceback) or ("gone",)."""
    processes, results = start(function, size, *arguments)
    try:
        return [end_of(each, limit) for each in results]
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)
                process.join()


def end_of(result, limit=60):
    assert result.poll(limit), "a process hangs"
    try:
        return result.recv()
    except EOFError:
        return ("gone",)


def values(function, size, *arguments):
    """What each process returned, none having failed."""
    ends = outcomes(function, size, *arguments)
    failed = [end for end in ends if end[0] != "value"]
    assert not failed, "\n".join(map(str, failed[0]))
    return [end[1] for end in ends]
