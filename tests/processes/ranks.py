"""What the processes of the tests do: functions of a group, started by their names."""

import hashlib
import os
import signal
import time

import torch as th

from sb3_ppo_notes.processes import check_equal, failures, join_group, shared_memory


def exchange(group, lengths):
    """Vectors of several lengths: a digest of each result, of all ranks; the values, too, that were gathered between."""
    generator = th.Generator().manual_seed(group.rank)
    digests, gathered = [], []
    for length in lengths:
        vector = th.randn(length, generator=generator)
        before = vector.clone()
        result = group.gather_vectors(vector)
        assert result.shape == (group.size, length)
        assert th.equal(result[group.rank], before)
        digests.append(hashlib.sha256(result.numpy().tobytes()).hexdigest())
        gathered.append(group.gather({"rank": group.rank, "long": "x" * 1000 * group.rank, "length": length}))
    return {"kind": group.kind, "digests": digests, "gathered": gathered}


def write_and_read(group, n_times, length):
    """Numbers that say rank and turn, read at once and once more after the next exchange."""
    wrong, last = [], None
    offsets = th.arange(length, dtype=th.float32)
    for turn in range(n_times):
        expected = th.stack([offsets + 1000 * rank + turn for rank in range(group.size)])
        result = group.gather_vectors(expected[group.rank])
        # The end first: it is written last.
        is_right = th.equal(result[:, -1], expected[:, -1]) and th.equal(result, expected)
        if not is_right or (last is not None and not th.equal(*last)):
            wrong.append(turn)
        last = (result, expected)
        if turn % 1000 == group.rank * 10:
            time.sleep(0.01)  # the others come first
    return wrong


def run_over(group):
    """The counters after 2³² exchanges."""
    group._turn = (1 << 32) - 3
    group.gather(None)
    shared_memory.library().shared_put(group._counters + 64 * group.rank, 0, 0, 0, group._turn)
    group.gather(None)
    return write_and_read(group, 10, 5)


def differ_in_length(group):
    group.gather_vectors(th.zeros(3 + group.rank))


def have_no_code_in_rank_1(group):
    """As where one process has no compiled code."""
    if group.rank == 1:
        shared_memory.library = lambda: None
    second = shared_memory.SharedMemory(timeout=30)
    return second.kind, exchange(second, [5])["digests"]


def fail(group, how, rank, n_before, n_after=1000):
    """A rank fails after some exchanges."""
    for turn in range(n_before):
        group.gather_vectors(th.full((100,), float(turn)))
        group.gather(turn)
    if group.rank == rank:
        if how == "exception":
            raise_deep_down()
        if how == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if how == "SystemExit":
            raise SystemExit(3)
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "leaves":
            return
        if how == "hangs":
            time.sleep(3.5)
    for turn in range(n_after):
        group.gather_vectors(th.full((100,), float(turn)))
        group.gather(turn)


def fail_without_seeing_processes(group, *arguments):
    """As in a sandbox that shows no process to another."""
    group._watch.close()
    failures.BLAMING = 1.0
    fail(group, *arguments)


def raise_deep_down():
    raise FloatingPointError("rewards of environment 3 are nan")


def fail_again(group):
    """Whoever goes on after a failure hears of it again."""
    if group.rank == 1:
        raise_deep_down()
    for _ in range(2):
        try:
            group.gather(1)
        except RuntimeError as error:
            text = str(error)
    return text


def fail_before_others_come(group):
    """Rank 0 is away for a while when rank 1 fails."""
    if group.rank == 1:
        raise_deep_down()
    if group.rank == 0:
        time.sleep(1)
    group.gather_vectors(th.zeros(3))


def compare(group, digests):
    check_equal(group, "same", "names")
    check_equal(group, digests[group.rank], "weights")


def join_again(group):
    """One group until it is closed, then another."""
    same = join_group("auto") is group
    group.gather_vectors(th.zeros(3))
    kind = group.kind
    return kind, same


def be_interrupted(group):
    """A signal that comes while rank 0 waits is served before the others come."""
    served = []
    if group.rank == 0:
        signal.signal(signal.SIGALRM, lambda *_: served.append(time.monotonic()))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
    else:
        time.sleep(1.2)
    begin = time.monotonic()
    group.gather_vectors(th.zeros(3))
    return [moment - begin for moment in served]


def gather_other_numbers(group):
    """A double-precision vector, and whole numbers, keep every bit."""
    doubles = th.full((3,), 1 / 3, dtype=th.float64)
    assert th.equal(group.gather_vectors(doubles), doubles.expand(group.size, 3))
    assert th.equal(group.gather_vectors(th.tensor([2**40 + group.rank]))[:, 0], 2**40 + th.arange(group.size))
    return "exact"


def exchange_until_killed(group, rank, seconds):
    """A rank is ended by the system at some moment, of vectors, of values, or of new memory."""
    if group.rank == rank:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    turn = 0
    while True:
        turn += 1
        group.gather_vectors(th.full((1 + turn * turn % 50_000,), float(turn)))
        if turn % 7 == 0:
            group.gather("x" * (turn % 10_000))
