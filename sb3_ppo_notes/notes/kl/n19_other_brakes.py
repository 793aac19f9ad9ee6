"""What else can hold the policy back?

Two things follow the KL instead of clipping the ratio: a **penalty** whose coefficient β grows when the policy goes too
far, and a **learning rate** that shrinks then.

The penalty is subtracted from the surrogate, L = ρ·Â − β·KL(old ‖ new). After each update β is multiplied by
{penalty_factor:g} if KL was above {high:g} times the target, and divided by it below {low:g} times (batch-ppo; the PPO
paper has a wider band and the factor 2). On CartPole, at a learning rate of {learning_rate:g} and without a clip,
{n_updates} updates move the policy by {mean_kl[0]:.2f} nats on average; with the penalty and a target of {target:g} by
{mean_kl[1]:.3f}.

Two details decide whether it works, and the first alone holds the policy even where β is tiny:

* batch-ppo adds a *wall*, c·(KL − KL_max)² from twice the target on. It begins without a kink: at a KL of
  {wall_at[0]:g}, {wall_at[1]:g}, {wall_at[2]:g} and {wall_at[3]:g} it costs {wall[0]:g}, {wall[1]:.1f}, {wall[2]:.1f}
  and {wall[3]:.1f}, with the slopes {wall_slopes[0]:g}, {wall_slopes[1]:.0f}, {wall_slopes[2]:.0f} and
  {wall_slopes[3]:.0f}.
* β needs a *floor*. {decreases} decreases in a row bring it to {dead:.0e}, below the smallest normal number of float32;
  a processor that flushes those to 0 makes it 0, and 0 can never grow again. Ours stops at {floor:g}.

The learning rate is skrl's scheduler: after each *epoch* it is divided by {rate_factor:g} if the KL was above twice the
threshold, and multiplied below half of it. For the KLs {trace_kl[0]:g}, {trace_kl[1]:g}, {trace_kl[2]:g},
{trace_kl[3]:g} it goes from {rates_trace[0]:.2e} over {rates_trace[1]:.2e} and {rates_trace[2]:.2e} to
{rates_trace[3]:.2e}: exactly at a border nothing happens, both comparisons are strict. It is no schedule of time: after
it has arrived where the KL is right it stays.

By itself it is a late brake: it acts after an epoch, on the next one. In the first update it let the policy go by
{first_kl_of_rate:.2f} nats although its threshold was {threshold:g}, and after a quiet update the rate is high again.
That is why skrl keeps the clip beside it.
"""

import math
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
from sb3_ppo_notes.formulas.adaptation import adapted_learning_rate, adapted_penalty
from sb3_ppo_notes.formulas.divergences import kl_cutoff, kl_penalized
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.rollouts.reevaluation import mean_kl_from_old
from sb3_ppo_notes.rules import AdaptiveLearningRate, ClippedSurrogate, KLPenalty, UpdateRule
from sb3_ppo_notes.rules.objectives import PENALTY_ADAPTATIONS

NOTE = Note(
    name="other-brakes",
    number=19,
    titles=dict(
        en="What else can hold the policy back?",
        ja="ほかに方策を抑える方法は",
        fr="Quels autres freins y a-t-il ?",
        ko="정책을 붙잡는 다른 방법은?",
    ),
    answers=("1.11",),
    formulas=(kl_penalized, kl_cutoff, adapted_penalty, adapted_learning_rate),
    tests=(
        "tests/recipes/test_rules.py::test_adaptive_learning_rate_trace",
        "tests/recipes/test_rules.py::test_penalty_trace",
        "tests/recipes/test_rules.py::test_cutoff_golden_values_and_slopes",
    ),
)
N_ENVS, N_STEPS, N_UPDATES, LEARNING_RATE = 8, 64, 8, 1e-3
NO_CLIP, PENALTY, RATE = ClippedSurrogate(math.inf), KLPenalty(), AdaptiveLearningRate()
BAND, FACTOR = PENALTY_ADAPTATIONS["batch_ppo"]
RULES = (
    UpdateRule(policy_objective=NO_CLIP),
    UpdateRule(policy_objective=PENALTY),
    UpdateRule(policy_objective=NO_CLIP, kl_controls=(RATE,)),
)
RATES_KL, PENALTY_KL = (
    (0.016, 0.0161, 0.004, 0.0039, 0.008, 0.0, 0.5),
    (0.013, 0.0131, 0.007, 0.0069, 0.01, 0.02, 0.02, 0.001),
)
DECREASES = 216


class Result(NamedTuple):
    penalty_factor: float
    low: float
    high: float
    target: float
    threshold: float
    rate_factor: float
    learning_rate: float
    n_updates: int
    kl: np.ndarray  # [3, updates]: no brake, penalty, learning rate
    mean_kl: np.ndarray  # [3]
    first_kl_of_rate: float
    penalties: np.ndarray  # [updates + 1], β
    expected_penalties: np.ndarray
    rates: np.ndarray  # [epochs + 1]
    expected_rates: np.ndarray
    trace_kl: tuple[float, ...]
    rates_trace: np.ndarray
    penalty_traces: np.ndarray  # [2, 8]: batch-ppo's and the paper's
    wall_at: np.ndarray
    wall: np.ndarray
    wall_slopes: np.ndarray
    decreases: int
    dead: float
    floor: float
    environment_steps: int


class Brakes(BaseCallback):
    """Writes down KL, β and learning rate, and what the formulas say of the latter two."""

    needs_exact_kl = True

    def __init__(self) -> None:
        super().__init__()
        self.kl: list[Any] = []
        self.penalties, self.expected_penalties = [PENALTY.coefficient], [PENALTY.coefficient]
        self.rates, self.expected_rates = [LEARNING_RATE], [LEARNING_RATE]

    def _on_step(self) -> bool:
        return True

    def on_epoch(self, report: Any) -> None:
        """Note the learning rate.

        :param report: of the epoch.
        """
        self.expected_rates.append(RATE.next_learning_rate(self.rates[-1], float(report.kl[0].k3)))
        self.rates.append(report.learning_rate)

    def on_update(self, report: Any) -> None:
        """Note how far the policy went, and β.

        :param report: of the update.
        """
        self.kl.append(report.kl_after[-1].exact)
        model: Any = self.model
        if model.rule_state.kl_coef is not None:
            kl = mean_kl_from_old(model.rollout_buffer, model.policy, model.batch_size)
            self.expected_penalties.append(PENALTY.next_coefficient(self.penalties[-1], kl))
            self.penalties.append(model.rule_state.kl_coef)


def experiment(seed: int = 0) -> Result:
    """Traces of both rules, the wall and the floor; and a training without a brake, with either of them."""
    none, penalty, rate = (_train(rule, seed) for rule in RULES)
    kl = np.array([none.kl, penalty.kl, rate.kl])
    wall_at = th.tensor([0.02, 0.03, 0.05, 0.1], dtype=th.float64, requires_grad=True)
    wall = kl_cutoff(wall_at, PENALTY.cutoff_factor * PENALTY.target, PENALTY.cutoff_coef)
    (slopes,) = th.autograd.grad(wall.sum(), wall_at)
    dead = floor = 1.0
    for _ in range(DECREASES):
        dead = adapted_penalty(dead, 0.0, PENALTY.target, BAND, FACTOR, (0.0, math.inf))
        floor = adapted_penalty(floor, 0.0, PENALTY.target, BAND, FACTOR, PENALTY.bounds)
    return Result(
        penalty_factor=FACTOR,
        low=BAND[0],
        high=BAND[1],
        target=PENALTY.target,
        threshold=RATE.threshold,
        rate_factor=RATE.lr_factor,
        learning_rate=LEARNING_RATE,
        n_updates=N_UPDATES,
        kl=kl,
        mean_kl=kl.mean(1),
        first_kl_of_rate=kl[2, 0],
        penalties=np.array(penalty.penalties),
        expected_penalties=np.array(penalty.expected_penalties),
        rates=np.array(rate.rates),
        expected_rates=np.array(rate.expected_rates),
        trace_kl=RATES_KL,
        rates_trace=_trace(RATE.next_learning_rate, 1e-3, RATES_KL),
        penalty_traces=np.stack(
            [_trace(KLPenalty(adaptation=each).next_coefficient, 1.0, PENALTY_KL) for each in ("batch_ppo", "paper")]
        ),
        wall_at=wall_at.detach().numpy(),
        wall=wall.detach().numpy(),
        wall_slopes=slopes.numpy(),
        decreases=DECREASES,
        dead=dead,
        floor=floor,
        environment_steps=len(RULES) * N_UPDATES * N_ENVS * N_STEPS,
    )


def _trace(follow: Any, start: float, kls: tuple[float, ...]) -> np.ndarray:
    """A number that follows some KLs one after the other."""
    trace = [start]
    for kl in kls:
        trace.append(follow(trace[-1], kl))
    return np.array(trace[1:])


def _train(rule: UpdateRule, seed: int) -> Brakes:
    env, brakes = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS), Brakes()
    model = NotesPPO("MlpPolicy", env, LEARNING_RATE, n_steps=N_STEPS, seed=seed, device="cpu", rule=rule)
    model.learn(N_UPDATES * N_ENVS * N_STEPS, callback=brakes)
    return brakes


def picture(result: Result, figure: Figure) -> None:
    """How far each update went, and what the two brakes did."""
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
    updates = 1 + np.arange(result.n_updates)
    names = ("no brake", "penalty", "learning rate alone")
    for i, (name, color) in enumerate(zip(names, ("gray", PALETTE[0], PALETTE[1]), strict=True)):
        upper.semilogy(updates, result.kl[i], color=color, marker="o", markersize=4, label=name)
    upper.axhline(result.target, color=INK, linestyle=":", linewidth=1)
    upper.set_ylabel("KL of an update, nats")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    lower.step(np.arange(len(result.penalties)), result.penalties, where="post", color=PALETTE[0])
    lower.set_ylabel("β", color=PALETTE[0])
    right = lower.twinx()
    epochs = np.arange(len(result.rates)) / (len(result.rates) - 1) * result.n_updates
    right.step(epochs, result.rates, where="post", color=PALETTE[1], linewidth=1)
    right.set_yscale("log")
    right.set_ylabel("learning rate", color=PALETTE[1])
    right.grid(False)
    lower.set_xlabel("updates; dotted: the KL that is aimed at")
    for axes in (upper, lower):
        axes.set_xlim(0, result.n_updates + 0.2)


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Without a brake the policy goes at least five times as far as with the penalty.",
        result.mean_kl[0] / result.mean_kl[1],
        5.0,
        relation=">",
        mutant="note 19: neither penalty nor wall",
    )
    yield Claim(
        "The penalty keeps an update within three times its target on average.",
        result.mean_kl[1],
        3 * result.target,
        relation="<",
        mutant="note 19: neither penalty nor wall",
    )
    yield Claim(
        "After every update β is what the formula says of the KL.",
        result.penalties,
        result.expected_penalties,
        1e-9,
        mutant="note 19: β follows ten times the KL",
    )
    yield Claim(
        "batch-ppo's β over eight KLs, and the paper's.",
        result.penalty_traces,
        [[1, 1.5, 1.5, 1, 1, 1.5, 2.25, 1.5], [1, 1, 1, 1, 1, 2, 4, 2]],
        1e-9,
        mutant="note 19: β shrinks by another factor",
    )
    yield Claim(
        "The wall begins without a kink.",
        [result.wall, result.wall_slopes],
        [[0, 0.1, 0.9, 6.4], [0, 20, 60, 160]],
        1e-6,
        mutant="note 19: a wall with a kink",
    )
    yield Claim(
        "Without a floor β ends below float32's smallest normal number.",
        result.dead,
        float(np.finfo(np.float32).tiny),
        relation="<",
        mutant="note 19: β shrinks by another factor",
    )
    yield Claim(
        "With its floor it stops there.",
        result.floor,
        PENALTY.bounds[0],
        mutant="penalty without a floor",
    )
    yield Claim(
        "After every epoch the learning rate is what the formula says of the KL.",
        result.rates,
        result.expected_rates,
        1e-12,
        mutant="note 19: the learning rate stays",
    )
    yield Claim(
        "skrl's learning rate over seven KLs.",
        result.rates_trace / 1e-3,
        [1, 2 / 3, 2 / 3, 1, 1, 1.5, 1],
        1e-9,
        mutant="adaptive learning rate not strict",
    )
    yield Claim(
        "The learning rate is a late brake: the first update goes beyond thrice its threshold.",
        result.first_kl_of_rate,
        3 * result.threshold,
        relation=">",
        mutant="note 19: nothing is learned",
    )
