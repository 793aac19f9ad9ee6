"""No process of SupervisedVecEnv outlives the one that started it, however that one ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.envs.faulty import is_alive, wait_until

ROOT = Path(__file__).parents[2]

PARENT = """
import sys
import time

import numpy as np

from sb3_ppo_notes.rollouts import SupervisedVecEnv
from sb3_ppo_notes.envs import worker_process
from tests.envs.faulty import FaultyEnv


def hanging():
    return FaultyEnv("hang", 2)


if __name__ == "__main__":
    start_method, is_linux, how = sys.argv[1:]
    if is_linux == "no":
        # As on a system that has no such call; what is forked inherits it.
        worker_process.sys = type("sys", (), {"platform": "another"})
    env = SupervisedVecEnv([FaultyEnv, hanging], start_method=start_method)
    env.reset()
    env.step(np.zeros(2, dtype=int))
    env.step_async(np.zeros(2, dtype=int))
    print(*(worker.process.pid for worker in env._workers), flush=True)
    if how == "falls off the end":
        env.limits = env.limits._replace(step_timeout=None)
        env._finalizer._args = (env._workers, 2.0)
    else:
        time.sleep(1000)
"""


def started(folder, start_method, is_linux="yes", how="waits"):
    script = folder / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), start_method, is_linux, how]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder)
    with parent.stdout as output:
        pids = [int(word) for word in output.readline().split()]
    assert len(pids) == 2
    return parent, pids


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_no_process_is_left_when_the_parent_is_killed(start_method, tmp_path):
    parent, pids = started(tmp_path, start_method)
    assert all(map(is_alive, pids))
    parent.kill()
    parent.wait()
    try:
        assert wait_until(lambda: not any(map(is_alive, pids)), 5)
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_no_process_is_left_where_the_system_does_not_see_to_it(tmp_path):
    parent, pids = started(tmp_path, "fork", is_linux="no")
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(map(is_alive, pids)), 5)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_a_program_that_forgets_to_close_ends_and_leaves_no_process(start_method, tmp_path):
    parent, pids = started(tmp_path, start_method, how="falls off the end")
    assert parent.wait(60) == 0
    assert not any(map(is_alive, pids))
