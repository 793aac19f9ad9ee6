"""Failures under torchrun's agent, and how processes end that no agent ends."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sb3_ppo_notes.processes.group import KIND
from tests.processes.launch import both_kinds, free_port, variables

ROOT = Path(__file__).parent.parent.parent
ERROR = "RankFailedError: rank {rank}: FloatingPointError: rewards of environment 3 are nan"
GONE = "RankFailedError: rank {rank} is gone without a word: killed, or out of memory"

pytestmark = pytest.mark.slow


def environment(kind):
    return os.environ | {KIND: kind, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def torchrun(how, failing, folder, kind="", size=3, *options):
    """Exit code of torchrun and what each process wrote down; all must have ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), *options]
    command += [str(ROOT / "tests/processes/program.py"), how, str(failing), str(folder)]
    started = subprocess.Popen(command, cwd=ROOT, env=environment(kind), stderr=subprocess.PIPE, text=True)
    try:
        _, errors = started.communicate(timeout=150)
    finally:
        started.kill()
        wait_for_the_end_of(folder)
    return started.returncode, written(folder), errors


def wait_for_the_end_of(folder, seconds=45):
    """Of all processes; whoever lives longer is ended, and noted."""
    end = time.monotonic() + seconds
    processes = [int(path.read_text()) for path in folder.glob("*.pid")]
    while any(map(lives, processes)) and time.monotonic() < end:
        time.sleep(0.1)
    late = [process for process in processes if lives(process)]
    for process in late:
        os.kill(process, signal.SIGKILL)
    assert not late


def lives(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def written(folder):
    return {
        path.name.removeprefix("rank-"): path.read_text() for path in folder.glob("rank-*") if path.suffix != ".pid"
    }


@both_kinds
def test_without_a_failure_all_is_well(kind, tmp_path):
    code, notes, errors = torchrun("never", 0, tmp_path, kind)
    assert code == 0, errors
    assert notes == {f"{rank}-0.done": kind for rank in range(3)}


@both_kinds
@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_is_told_to_all_before_torchrun_ends_them(kind, failing, tmp_path):
    code, notes, errors = torchrun("exception", failing, tmp_path, kind)
    assert code == 1
    for rank in {0, 1, 2} - {failing}:
        assert notes[f"{rank}-0.error"].splitlines()[0] == ERROR.format(rank=failing)
        assert "in raise_deep_down" in notes[f"{rank}-0.error"]
    # What a user sees: the error itself, and once more for each process that heard of it.
    assert errors.count("FloatingPointError: rewards of environment 3 are nan") >= 3


@both_kinds
@pytest.mark.parametrize("failing", [0, 1])
def test_who_is_killed_is_named(kind, failing, tmp_path):
    code, notes, errors = torchrun("SIGKILL", failing, tmp_path, kind)
    assert code == 1
    assert re.search(rf"rank +: {failing} .*\n +exitcode +: -9 ", errors)
    named = [note for note in notes.values() if note == GONE.format(rank=failing)]
    # torchrun ends the others as soon as it sees that one has died, within a tenth of a second.
    assert len(named) == len(notes)


@both_kinds
def test_the_processes_end_when_the_agent_is_killed(kind, tmp_path):
    code, notes, _ = torchrun("agent", 1, tmp_path, kind)
    assert code == -signal.SIGKILL
    assert len(notes) == 3
    assert all(note.startswith("RankFailedError: the agent of torchrun that started rank ") for note in notes.values())


@both_kinds
def test_who_sleeps_is_named_and_ended(kind, tmp_path):
    code, notes, _ = torchrun("asleep", 2, tmp_path, kind)
    assert code == 1
    for rank in (0, 1):
        assert notes[f"{rank}-0.error"].startswith("RankFailedError: rank 2 did not arrive at exchange")


def test_started_again_they_meet_again(tmp_path):
    code, notes, errors = torchrun("once", 1, tmp_path, "", 3, "--max-restarts", "1")
    assert code == 0, errors
    assert notes["0-0.error"].startswith("RankFailedError")
    assert sorted(name for name in notes if name.endswith(".done")) == [f"{rank}-1.done" for rank in range(3)]


@both_kinds
@pytest.mark.parametrize(("how", "failing"), [("exception", 1), ("SIGKILL", 0), ("leaves", 2)])
def test_nobody_hangs_on_the_way_out(kind, how, failing, tmp_path):
    """No agent ends them: the interpreter does, and gloo's threads let it."""
    port = free_port()
    command = [sys.executable, str(ROOT / "tests/processes/program.py"), how, str(failing), str(tmp_path)]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=environment(kind) | variables(rank, 4, port), stderr=subprocess.DEVNULL)
        for rank in range(4)
    ]
    while len(written(tmp_path)) < 4 - (how == "SIGKILL") and any(each.poll() is None for each in started):
        time.sleep(0.1)
    begin = time.monotonic()
    wait_for_the_end_of(tmp_path)
    assert time.monotonic() - begin < 20
    codes = [each.wait() for each in started]
    assert codes[failing] == {"exception": 1, "SIGKILL": -signal.SIGKILL, "leaves": 0}[how]
    assert [code for rank, code in enumerate(codes) if rank != failing] == [1, 1, 1]
