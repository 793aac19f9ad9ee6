"""A training program that may be killed at any moment and started again, and the loop that does so.

``python -m tests.persistence.trainer FOLDER N_KILLS SEED`` prints what happened as JSON. Children are forked from a process that has everything imported:
fifty starts of an interpreter would take minutes.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.persistence import ExactCheckpoint, GracefulStop, StopOnSignal, load_checkpoint, load_safe
from sb3_ppo_notes.persistence.storage import checkpoints_in, read_checkpoint
from tests.persistence.cases import NET, SMALL, cart_poles

TOTAL, EVERY = 32 * 2 * 12, 20


class SaveModel(BaseCallback):
    """Replaces one model file again and again."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def _on_step(self):
        if self.n_calls % 16 == 0:
            self.model.save(self.path)
        return True


def new_model():
    return NotesPPO("MlpPolicy", cart_poles(), **SMALL, **NET)


def begun_or_resumed(folder):
    if not checkpoints_in(folder):
        return new_model(), TOTAL, True
    model = load_checkpoint(folder, cart_poles(), device="cpu")
    assert model.resume_report.is_exact, model.resume_report
    return model, model.resume_report.remaining_timesteps, False


def train(folder, slow_down=0.0):
    """Begin or go on; the exit code says why it ended."""
    model, remaining, is_new = begun_or_resumed(folder)
    with GracefulStop() as stop:
        callbacks = [ExactCheckpoint(EVERY, keep=2, path=folder), SaveModel(folder / "model.zip"), StopOnSignal(stop)]
        if remaining:
            model.learn(remaining, callbacks, reset_num_timesteps=is_new)
    if stop.requested is None:
        (folder / "digest").write_text(digest(model))
    return stop.exit_code


def digest(model):
    content = b"".join(parameter.detach().numpy().tobytes() for parameter in model.policy.parameters())
    return hashlib.sha256(content + str(model.num_timesteps).encode()).hexdigest()


def forked(body):
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = body()
        finally:
            os._exit(code)
    return child


def kill_loop(folder, n_kills, seed):
    """Kill until it was enough, begin another run whenever one is finished."""
    expected = digest(new_model().learn(TOTAL))
    generator = random.Random(seed)
    found = {"kills": 0, "while_writing": 0, "runs": 0, "checkpoints_checked": 0, "models_checked": 0, "damaged": 0}
    found |= {"wrong_results": 0, "steps_lost": 0, "bytes_lost": 0, "seed": seed}
    run, newest = 0, 0
    while found["kills"] < n_kills:
        own = folder / f"run{run}"
        own.mkdir(exist_ok=True)
        child = forked(lambda own=own: train(own))
        time.sleep(generator.uniform(0.01, 0.7))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            found["kills"] += 1
            found["while_writing"] += any(own.glob(".tmp-*")) or any(own.glob(".model.zip.tmp-*"))
        elif os.WEXITSTATUS(status):
            found["wrong_results"] += 1
        newest = look_at(own, newest, found)
        if (own / "digest").exists():
            found["runs"] += 1
            found["wrong_results"] += (own / "digest").read_text() != expected
            run, newest = run + 1, 0
    # The last one shall be finished too.
    own = folder / f"run{run}"
    own.mkdir(exist_ok=True)
    os.waitpid(forked(lambda: train(own)), 0)
    found["runs"] += 1
    found["wrong_results"] += (own / "digest").read_text() != expected
    return found


def look_at(folder, newest, found):
    """Everything that was saved is whole, and nothing newer has been there before."""
    if (folder / "model.zip").exists():
        load_safe(folder / "model.zip", cart_poles(), device="cpu")
        found["models_checked"] += 1
    if not checkpoints_in(folder):
        return newest
    stored = read_checkpoint(folder)
    found["checkpoints_checked"] += 1
    found["damaged"] += len(stored.skipped)
    found["bytes_lost"] += sum(stored.path.joinpath("state.json").stat().st_size for _ in stored.skipped)
    found["steps_lost"] += max(newest - stored.document["num_timesteps"], 0)
    return max(newest, stored.document["num_timesteps"])


if __name__ == "__main__":
    th.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)
    np.seterr(all="raise", under="ignore")
    print(json.dumps(kill_loop(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
