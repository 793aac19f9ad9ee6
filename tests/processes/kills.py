"""A training on two processes of which one is killed at a random moment, again and again, and taken up each time.

``python -m tests.processes.kills FOLDER N_KILLS SEED`` prints what happened as JSON. The processes are forked from one
that has everything imported, and form a real group, with the environment variables of torchrun.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.algorithms.processes import digest_of
from sb3_ppo_notes.envs import ShardedVecEnv
from sb3_ppo_notes.persistence import ExactCheckpoint, load_checkpoint
from sb3_ppo_notes.persistence.storage import checkpoints_in, read_checkpoint
from sb3_ppo_notes.processes import Alone
from tests.persistence.trainer import forked
from tests.processes.launch import free_port, variables

SIZE, SHARDS = 2, 2
TOTAL, EVERY = 128 * 4 * 24, 256
ARGUMENTS = dict(n_steps=128, batch_size=128, n_epochs=2, seed=3, device="cpu", learning_rate="lin_1e-2")


def environments():
    return VecNormalize(make_vec_env("CartPole-v1", 2))


def expected():
    env = ShardedVecEnv([environments() for _ in range(SHARDS)])
    model = NotesPPO("MlpPolicy", env, processes=Alone(), shards=SHARDS, **ARGUMENTS).learn(TOTAL)
    return digest_of(model.policy)


def train(folder, rank, port):
    os.environ.update(variables(rank, SIZE, port))
    sys.stderr = (folder / f"rank-{rank}.err").open("a")
    is_new = not checkpoints_in(folder)
    if is_new:
        model = NotesPPO("MlpPolicy", environments(), processes="auto", shards=SHARDS, **ARGUMENTS)
    else:
        model = load_checkpoint(folder, environments(), device="cpu", processes="auto")
        assert model.resume_report.is_exact, model.resume_report
    total = TOTAL if is_new else model.resume_report.remaining_timesteps
    model.learn(total, ExactCheckpoint(EVERY, keep=2, path=folder), reset_num_timesteps=is_new)
    if rank == 0:
        (folder / "digest").write_text(digest_of(model.policy))
    model.processes.close()
    return 0


def wait_for(children, seconds):
    """Their states; whoever is not there in time is ended, and stands as None."""
    states, end = {}, time.monotonic() + seconds
    while len(states) < len(children) and time.monotonic() < end:
        for child in set(children) - set(states):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                states[child] = status
        time.sleep(0.005)
    for child in set(children) - set(states):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        states[child] = None
    return states


def begin(folder):
    folder.mkdir(exist_ok=True)
    port = free_port()
    return [forked(lambda rank=rank: train(folder, rank, port)) for rank in range(SIZE)]


def kill_loop(folder, n_kills, seed):
    """Kill until it was enough, begin another run whenever one is finished."""
    generator, digest = random.Random(seed), expected()
    seen = {"kills": 0, "while_writing": 0, "runs": 0, "checkpoints_checked": 0, "damaged": 0, "steps_lost": 0}
    seen |= {"wrong_results": 0, "hung": 0, "slowest": 0.0, "seed": seed}
    run, newest = 0, 0
    while seen["kills"] < n_kills:
        own = folder / f"run{run}"
        children = begin(own)
        time.sleep(generator.uniform(0.5, 3.0))
        victim = generator.choice(children)
        os.kill(victim, signal.SIGKILL)
        moment = time.monotonic()
        states = wait_for(children, 40)
        if states[victim] is not None and os.WIFSIGNALED(states[victim]):
            seen["kills"] += 1
            seen["slowest"] = max(seen["slowest"], round(time.monotonic() - moment, 2))
            seen["while_writing"] += any(own.glob(".tmp-*"))
        seen["hung"] += sum(state is None for state in states.values())
        newest = look_at(own, newest, seen)
        if (own / "digest").exists():
            seen["runs"] += 1
            seen["wrong_results"] += (own / "digest").read_text() != digest
            run, newest = run + 1, 0
    own = folder / f"run{run}"
    wait_for(begin(own), 120)
    seen["runs"] += 1
    seen["wrong_results"] += (own / "digest").read_text() != digest
    return seen


def look_at(folder, newest, seen):
    """The newest checkpoint is whole, and no newer one has been there before."""
    if not checkpoints_in(folder):
        return newest
    stored = read_checkpoint(folder)
    seen["checkpoints_checked"] += 1
    seen["damaged"] += len(stored.skipped)
    seen["steps_lost"] += max(newest - stored.document["num_timesteps"], 0)
    return max(newest, stored.document["num_timesteps"])


if __name__ == "__main__":
    th.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)
    print(json.dumps(kill_loop(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
