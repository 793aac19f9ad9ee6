"""Is A2C a PPO?

Yes: it is PPO with one epoch over one batch. Give PPO A2C's numbers (rollouts of {n_steps} steps, all of them in one
batch, `n_epochs=1`, λ = 1, advantages as they are, RMSprop at its learning rate), and after {timesteps:,} steps on
CartPole all weights of the two are equal: the largest difference is {difference:g}. (Bit for bit, where the processor
multiplies a few rows and many rows alike; else in the last digits.) *With* PPO's clipped objective, clip and all: at
the first and only look at a rollout every ratio is 1, inside the range of any clip, and there the gradient of ρ·Â is
that of log π·Â.

What makes PPO a PPO is the **second** look. With two epochs the weights differ by {second_epoch:.3f}. From the second
one on the ratio says how far the policy has gone, and the clip has something to do.

The numbers that have to be the same are more than one thinks: RMSprop's ε is {rms_prop_eps:g} in A2C, torch's own is
smaller, and that alone makes a difference of {other_eps:.2f}; to normalise the advantages, {normalized:.2f}.

What is asynchronous in A2C? Nothing. In *A3C* each worker had its own copy of the network and sent gradients whenever
it was done; A2C waits until all environments have made their {n_steps} steps and then takes one step of the optimiser
on all {per_update} samples: {updates} updates in {timesteps:,} steps. The first A is for *advantage*.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.objectives import clipped_surrogate, policy_gradient
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="a2c-is-ppo",
    number=25,
    titles=dict(
        en="Is A2C a PPO?",
        ja="A2CはPPOの一種か",
        fr="A2C est-il un PPO ?",
        ko="A2C는 PPO의 한 경우인가?",
    ),
    answers=("5.3",),
    formulas=(policy_gradient, clipped_surrogate),
    tests=("tests/formulas/test_objectives.py::test_gradient_table_of_the_clip",),
)
N_ENVS, N_STEPS, TIMESTEPS, EPS = 8, 5, 2000, 1e-5
RMS_PROP = dict(alpha=0.99, eps=EPS, weight_decay=0)


class Result(NamedTuple):
    n_steps: int
    timesteps: int
    rms_prop_eps: float
    distances: np.ndarray  # [updates], of A2C's and PPO's weights
    distances_of_two_epochs: np.ndarray
    difference: float
    second_epoch: float
    other_eps: float
    normalized: float
    moved: float  # by A2C's own learning
    largest_ratio_error: float
    per_update: int
    updates: int
    environment_steps: int


class Weights(BaseCallback):
    """Keeps all weights after each update."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[th.Tensor] = []
        self.ratio_errors: list[float] = []

    def _on_step(self) -> bool:
        return True

    def on_update(self, report: Any) -> None:
        """Copy the weights.

        :param report: of the update.
        """
        self.after.append(th.cat([weight.detach().flatten() for weight in self.model.policy.parameters()]).clone())
        self.ratio_errors.append(report.first_ratio_error)


def experiment(seed: int = 0) -> Result:
    """A2C, and four PPOs of its size."""
    a2c = Weights()
    NotesA2C("MlpPolicy", _envs(), seed=seed, device="cpu").learn(TIMESTEPS, callback=a2c)
    ppo = _ppo(seed)
    two = _ppo(seed, n_epochs=2)
    other_eps = _ppo(seed, policy_kwargs=_rms_prop(eps=1e-8))
    normalized = _ppo(seed, normalize_advantage=True)
    return Result(
        n_steps=N_STEPS,
        timesteps=TIMESTEPS,
        rms_prop_eps=EPS,
        distances=_distances(a2c, ppo),
        distances_of_two_epochs=_distances(a2c, two),
        difference=_distances(a2c, ppo).max(),
        second_epoch=_distances(a2c, two)[-1],
        other_eps=_distances(a2c, other_eps)[-1],
        normalized=_distances(a2c, normalized)[-1],
        moved=float((a2c.after[-1] - a2c.after[0]).abs().max()),
        largest_ratio_error=max(ppo.ratio_errors),
        per_update=TIMESTEPS // len(a2c.after),
        updates=len(a2c.after),
        environment_steps=5 * TIMESTEPS,
    )


def _envs() -> LeanVecEnv:
    return LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)


def _rms_prop(**others: float) -> dict[str, Any]:
    return dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=RMS_PROP | others)


def _ppo(seed: int, **others: Any) -> Weights:
    """PPO with A2C's numbers."""
    settings: dict[str, Any] = dict(
        n_steps=N_STEPS,
        batch_size=N_STEPS * N_ENVS,
        n_epochs=1,
        gae_lambda=1.0,
        normalize_advantage=False,
        learning_rate=7e-4,
        policy_kwargs=_rms_prop(),
    )
    weights = Weights()
    NotesPPO("MlpPolicy", _envs(), seed=seed, device="cpu", **settings | others).learn(TIMESTEPS, callback=weights)
    return weights


def _distances(one: Weights, other: Weights) -> np.ndarray:
    """Largest difference of any weight, after each update."""
    return np.array([float((a - b).abs().max()) for a, b in zip(one.after, other.after, strict=True)])


def picture(result: Result, figure: Figure) -> None:
    """One line at 0, and one that leaves."""
    axes = figure.subplots()
    updates = 1 + np.arange(result.updates)
    axes.plot(updates, result.distances, color=PALETTE[0], label="PPO with one epoch, clip and all")
    axes.plot(updates, result.distances_of_two_epochs, color=PALETTE[1], label="PPO with two epochs")
    axes.set(xlabel="updates", ylabel="largest difference to A2C's weights", xlim=(0, result.updates))
    axes.legend(loc="upper left")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "PPO with one epoch over one batch is A2C: the weights are equal after every update.",
        result.difference,
        0.0,
        1e-5,
        mutant="note 25: RMSprop of another ε",
    )
    yield Claim(
        "Both have learned something meanwhile.",
        result.moved,
        0.01,
        relation=">",
        mutant="note 25: nothing is learned",
    )
    yield Claim(
        "At the only look at a rollout every ratio is 1, but for rounding.",
        result.largest_ratio_error,
        0.0,
        1e-5,
        mutant="note 25: log-probabilities doubled while acting",
    )
    yield Claim(
        "A second epoch makes another algorithm of it.",
        result.second_epoch,
        0.01,
        relation=">",
        mutant="note 25: every PPO has the same settings",
    )
    yield Claim(
        "So does another ε of RMSprop, and normalised advantages.",
        [result.other_eps, result.normalized],
        1e-4,
        relation=">",
        mutant="note 25: every PPO has the same settings",
    )
    yield Claim(
        "A2C updates once for every five steps of every environment.",
        (result.per_update, result.updates),
        (N_STEPS * N_ENVS, TIMESTEPS // (N_STEPS * N_ENVS)),
        mutant="note 25: rollouts twice as long",
    )
