"""A program for torchrun: its processes exchange numbers until one fails, and write down how each has ended."""

import os
import signal
import sys
import time
from pathlib import Path

import torch as th

from sb3_ppo_notes.processes import join_group
from sb3_ppo_notes.processes.distributed import Distributed
from sb3_ppo_notes.processes.shared_memory import SharedMemory
from tests.processes import ranks


def main(how, failing, folder):
    """``how``: a way to fail of :func:`ranks.fail`, or "agent", "asleep", "once" (only when first started), "never"."""
    rank = os.environ["RANK"]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    note = Path(folder, f"rank-{rank}-{attempt}")
    note.with_suffix(".pid").write_text(str(os.getpid()))
    if how == "asleep":
        kind = SharedMemory if os.environ.get("SB3_PPO_NOTES_GROUP") != "gloo" else Distributed
        kind(timeout=3.0)
    group = join_group("auto")
    try:
        with group.telling_failures():
            if how == "never" or (how == "once" and attempt != "0"):
                group.gather_vectors(th.zeros(10))
            elif how == "agent":
                group.gather_vectors(th.zeros(10))  # all have come: who meets nobody has no group to be told by
                if int(rank) == failing:
                    os.kill(os.getppid(), signal.SIGKILL)
                ranks.fail(group, "leaves", -1, 0, 10**6)
            elif how == "asleep":
                if int(rank) == failing:
                    time.sleep(600)
                ranks.fail(group, "leaves", -1, 0)
            else:
                ranks.fail(group, "exception" if how == "once" else how, failing, 3)
    except BaseException as error:
        note.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        raise
    note.with_suffix(".done").write_text(group.kind)
    group.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
