"""One training of CartPole in two parts: by a process that holds both, or by two processes that this one starts."""

import multiprocessing
import os
import socket
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.engine.vectors import FlatVector
from sb3_ppo_notes.envs import LeanVecEnv, ShardedVecEnv
from sb3_ppo_notes.processes import join_group

#: Parts, and environments in each.
N_PARTS = 2
N_UPDATES, STEPS_EACH, N_EPOCHS, BATCH_SIZE = 5, 32, 10, 32
N_SAMPLES = N_PARTS**2 * STEPS_EACH
#: Of the optimiser, in an update that nothing ends early.
MOST_STEPS = N_EPOCHS * N_SAMPLES // BATCH_SIZE
TARGET_KL, MAX_GRAD_NORM, LEARNING_RATE = 0.003, 0.5, 3e-3
#: Seconds after which a process that waits for the other gives up.
PATIENCE = 60.0


class Listening:
    """A group of processes, and all vectors that were exchanged in it.

    :param group: that exchanges them.
    """

    def __init__(self, group: Any) -> None:
        self.group, self.rank, self.size = group, group.rank, group.size
        self.exchanged: list[th.Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group, name)

    def gather_vectors(self, vector: th.Tensor) -> th.Tensor:
        """The group's own.

        :param vector: of this process.
        :return: of all.
        """
        vectors: th.Tensor = self.group.gather_vectors(vector)
        self.exchanged.append(vectors.flatten().clone())
        return vectors


class Trained(NamedTuple):
    """Weights, and what the parts told each other while they were learned.

    :param weights: ``[P]``.
    :param updates: ``[n, 2, k]`` each: in each of n steps two parts have sent k numbers.
    :param advantages: ``[2, N]``, of both parts in the first minibatch, as they were estimated.
    :param n_gradient: the first of the k numbers that are a gradient, with the zeros between its tensors.
    """

    weights: np.ndarray
    updates: list[np.ndarray]
    advantages: np.ndarray
    n_gradient: int


def train(group: Any, seed: int) -> Trained:
    """Train as one of a group of processes.

    :param group: ``Alone()``, which holds both parts, or one of two processes.
    :param seed: of both parts.
    :return: the same in every process.
    """
    listening = Listening(group)
    parts = [LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_PARTS) for _ in range(N_PARTS // group.size)]
    model = NotesPPO(
        "MlpPolicy",
        ShardedVecEnv(parts),
        n_steps=STEPS_EACH,
        batch_size=BATCH_SIZE,
        n_epochs=N_EPOCHS,
        learning_rate=LEARNING_RATE,
        target_kl=TARGET_KL,
        max_grad_norm=MAX_GRAD_NORM,
        seed=seed,
        device="cpu",
        processes=listening,
        shards=N_PARTS,
    )
    updates, advantages = [], []
    for _ in range(N_UPDATES):
        listening.exchanged.clear()
        model.learn(N_SAMPLES, reset_num_timesteps=False)
        # A gradient is longer than a rollout; a wish is shorter.
        advantages += [each.view(N_PARTS, -1) for each in listening.exchanged if len(each) == N_SAMPLES]
        updates.append(th.stack([e.view(N_PARTS, -1) for e in listening.exchanged if len(e) > N_SAMPLES]).numpy())
    weights = list(model.policy.parameters())
    return Trained(
        th.nn.utils.parameters_to_vector(weights).detach().numpy(),
        updates,
        advantages[0][:, : BATCH_SIZE // N_PARTS].numpy(),
        len(FlatVector(weights).vector),
    )


def train_in_two_processes(seed: int) -> tuple[list[Trained], str]:
    """Start two processes that train together.

    :param seed: as :func:`train` takes it.
    :return: what each has learned, and ``""``; or nothing, and why this machine starts none.
    """
    # A fork needs no second import; but the threads of a GPU do not survive one.
    method = "fork" if sys.platform == "linux" and not th.cuda.is_available() else "spawn"
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()  # or they would look for each other long
        with ProcessPoolExecutor(N_PARTS, multiprocessing.get_context(method)) as pool:
            return list(pool.map(_train_as_rank, range(N_PARTS), [port] * N_PARTS, [seed] * N_PARTS)), ""
    except (OSError, ImportError, NotImplementedError, BrokenProcessPool) as error:
        return [], str(error)


def _train_as_rank(rank: int, port: int, seed: int) -> Trained:
    """In a process of its own, by the variables that torchrun sets."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": N_PARTS, "LOCAL_WORLD_SIZE": N_PARTS}
    os.environ |= {name: str(value) for name, value in {**place, "MASTER_PORT": port}.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    th.set_num_threads(1)
    group = join_group("auto", PATIENCE)
    trained = train(group, seed)
    group.close()
    return trained
