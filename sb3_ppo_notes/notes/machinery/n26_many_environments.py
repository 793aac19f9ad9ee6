"""Why many environments, and no replay?

Consecutive steps of one environment repeat each other: the pole that leans now leans in the next step too. {size}
samples are therefore worth far less than {size} *independent* ones, and the more environments they come from the more
they are worth. Of the pole's angle in CartPole under random actions, measured by how much the mean of {size} samples
still varies:

| samples | worth, in independent ones |
|---|---|
| {sources[0]} environment × {lengths[0]} steps | {worth[0]:.1f} |
| {sources[1]} × {lengths[1]} | {worth[1]:.1f} |
| {sources[2]} × {lengths[2]} | {worth[2]:.1f} |
| {sources[3]} × {lengths[3]} | about {size} ({worth[3]:.0f} by this sample) |

DQN has the same trouble and draws at random from a replay memory. Is replay left out here because many environments
make the samples random anyway? No: that takes the *correlation* away, and is a reason for many environments. Replay is
left out because of the *policy*. The policy gradient is an average over what the present policy does, and old samples
were drawn from another one. After one update the ratios of the rollout that was learned from are off by up to
{old_error:.2f}; those of a new rollout by {new_error:.1g}. DQN learns Q of an action, whoever chose it, and may keep
its memory.

So the memory here is no replay buffer, though it looks like one: it is filled in order, gone through `n_epochs` times
in random order, and then overwritten. The ratios of PPO make a few such passes possible, no more. Shuffling the rollout
does not make its samples independent either: it only spreads what is alike over the minibatches.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.objectives import probability_ratio
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.policies.actor_critic import evaluate_minibatch

NOTE = Note(
    name="many-environments",
    number=26,
    titles=dict(
        en="Why many environments, and no replay?",
        ja="なぜ多数の環境を使い、経験再生を使わないのか",
        fr="Pourquoi plusieurs environnements et pas de mémoire de rejeu ?",
        ko="왜 여러 환경을 쓰고 리플레이는 쓰지 않는가?",
    ),
    answers=("5.4", "4.4"),
    formulas=(probability_ratio,),
    tests=("tests/parity/test_reached_into.py::test_samples_of_a_rollout_are_sb3s",),
)
SIZE, SOURCES = 80, (1, 4, 16, 80)
#: Steps in which the episodes of all environments, begun together, get out of step.
WARM_UP, N_STEPS = 60, 300
PPO_ENVS, PPO_STEPS = 8, 64


class Result(NamedTuple):
    size: int
    sources: tuple[int, ...]
    lengths: tuple[int, ...]
    worth: np.ndarray  # [4]
    one: np.ndarray  # [80], angles of one environment as they come
    some: np.ndarray  # [80], of 16, step by step
    old_error: float
    new_error: float
    environment_steps: int


class Ratios(BaseCallback):
    """How far off the ratios of each rollout are when it is complete, and when the next one is."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None
        self.new: list[float] = []
        self.old: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        samples = next(model.rollout_buffer.get())
        self.new.append(_ratio_error(model, samples))
        if self.last is not None:
            self.old.append(_ratio_error(model, self.last))
        self.last = samples


def experiment(seed: int = 0) -> Result:
    """The pole's angle in eighty environments; and how old a rollout gets in one update."""
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * SIZE)
    env.seed(seed)
    env.reset()
    generator = np.random.default_rng(seed)
    steps = []
    for _ in range(WARM_UP + N_STEPS):
        observations, *_ = env.step(generator.integers(2, size=SIZE))
        steps.append(np.asarray(observations)[:, 2].astype(np.float64))
    angles = np.array(steps[WARM_UP:])

    ratios = Ratios()
    model = NotesPPO(
        "MlpPolicy",
        LeanVecEnv([lambda: gym.make("CartPole-v1")] * PPO_ENVS),
        n_steps=PPO_STEPS,
        learning_rate=1e-3,
        seed=seed,
        device="cpu",
    )
    model.learn(2 * PPO_ENVS * PPO_STEPS, callback=ratios)
    return Result(
        size=SIZE,
        sources=SOURCES,
        lengths=tuple(SIZE // n for n in SOURCES),
        worth=np.array([_worth(angles, n) for n in SOURCES]),
        one=angles[:SIZE, 0],
        some=angles[: SIZE // 16, :16].ravel(),
        old_error=ratios.old[0],
        new_error=max(ratios.new),
        environment_steps=SIZE * (WARM_UP + N_STEPS) + 2 * PPO_ENVS * PPO_STEPS,
    )


def _worth(angles: np.ndarray, sources: int) -> float:
    """Var[x] / Var[mean of a batch]: of independent samples this is how many there are."""
    length = SIZE // sources
    batches = angles[: len(angles) // length * length].reshape(-1, length, SIZE // sources, sources).swapaxes(1, 2)
    return float(angles.var() / batches.reshape(-1, SIZE).mean(1).var())


def _ratio_error(model: Any, samples: Any) -> float:
    with th.no_grad():
        log_probs = evaluate_minibatch(model.policy, samples).log_probs
    return float((probability_ratio(log_probs, samples.old_log_prob) - 1).abs().max())


def picture(result: Result, figure: Figure) -> None:
    """Eighty angles of one environment and of sixteen, and what they are worth."""
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2))
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper, sharey=upper)
    for axes, angles, title, color in (
        (upper, result.one, f"{result.size} steps of 1 environment", PALETTE[1]),
        (lower, result.some, "5 steps of 16", PALETTE[0]),
    ):
        axes.plot(angles, ".", color=color, markersize=4)
        axes.set_title(title)
        axes.set_ylabel("angle")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("sample")
    right = figure.add_subplot(grid[:, 1])
    labels = [f"{n}×{length}" for n, length in zip(result.sources, result.lengths, strict=True)]
    right.bar(labels, result.worth, color=[PALETTE[1], "silver", PALETTE[0], "silver"])
    right.axhline(result.size, color=INK, linestyle=":", linewidth=1)
    right.set(title="worth, independent samples", xlabel="environments × steps")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Samples from more environments are worth more.",
        np.diff(result.worth),
        0.0,
        relation=">",
        mutant="note 26: environments all seeded and driven alike",
    )
    yield Claim(
        "Eighty samples of one environment are worth less than a dozen.",
        result.worth[0],
        12.0,
        relation="<",
        mutant="note 26: samples are shuffled in time",
    )
    yield Claim(
        "One of each of eighty environments are worth more than forty.",
        result.worth[3],
        40.0,
        relation=">",
        mutant="note 26: environments all seeded and driven alike",
    )
    yield Claim(
        "After one update the ratios of the rollout that was learned from are far from 1.",
        result.old_error,
        0.05,
        relation=">",
        mutant="note 26: nothing is learned",
    )
    yield Claim(
        "Those of a new rollout are 1, but for rounding.",
        result.new_error,
        0.0,
        1e-4,
        mutant="note 25: log-probabilities doubled while acting",
    )
