"""Is a time limit an end?

No. An episode that a time limit cuts did not end because of anything the agent did: there was more to come, and the
value of the state in which it was cut says how much. Calling it an end teaches the critic that the clock is a
catastrophe, which no observation shows.

Take the smallest example: one state, a reward of 1 a step for ever, a discount of γ = {gamma:g}, and a limit of {limit}
steps. The state is worth 1 + γ + γ² + … = 1/(1−γ) = {closed_bootstrap:.4g}. Three critics learn it:

| at the limit | target of the critic | learned | worked out by hand |
|---|---|---|---|
| bootstrap: add γ·V(last observation) | λ-return | {bootstrap:.3f} | {closed_bootstrap:.3f} |
| call it an end | TD(0) | {one_step:.3f} | {closed_one_step:.3f} |
| call it an end | all rewards, λ = 1 | {monte_carlo:.3f} | {closed_monte_carlo:.3f} |

*Which* wrong value comes out depends on the target. TD(0) is told in one step of {limit} that nothing follows, so it
solves V = 1 + γ·V·{share:g}. The sum of all rewards is longest at the start and a single one just before the cut; a
critic that cannot see the clock learns the mean of (1−γʲ)/(1−γ) over the steps that remain.

What to do: tell the two ends apart. Gymnasium does so with `terminated` and `truncated`. Where a limit has cut the
episode, γ·V(last observation) is added to the last reward, and the sum of rewards ends there all the same. That the
environment is reset at this moment matters too: the value to add is that of the observation *before* the reset, neither
that of the new episode's first one nor, as skrl has it, that of the state before the action. The price is that what the
buffer calls a reward is then no longer what the environment paid.

A limit that is part of the task (a game that lasts a minute) is an end. Then the time that is left belongs into the
observation.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium.wrappers import TimeLimit
from matplotlib.figure import Figure

from sb3_ppo_notes.algorithms import NotesA2C
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.advantages import bootstrap_time_limits, monte_carlo_returns
from sb3_ppo_notes.notes.environments import Forever
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.reports import Reports
from sb3_ppo_notes.rules import GAE, AdvantageNormalization, PolicyGradient, TDZero, UpdateRule

NOTE = Note(
    name="time-limit",
    number=7,
    titles=dict(
        en="Is a time limit an end?",
        ja="時間切れは終了なのか",
        fr="Une limite de temps est-elle une fin ?",
        ko="시간 제한은 에피소드의 끝인가?",
    ),
    answers=("4.6",),
    formulas=(bootstrap_time_limits, monte_carlo_returns),
    tests=(
        "tests/formulas/test_advantages.py::test_boundary_table",
        "tests/algorithms/test_contract.py::test_truncation_as_terminal_changes_the_rewards_that_are_learned_from",
    ),
)
GAMMA, LIMIT = 0.9, 10
N_ENVS, N_UPDATES = 4, 150


class Result(NamedTuple):
    gamma: float
    limit: int
    share: float  # of the steps after which there is another one
    bootstrap: float  # values that were learned
    one_step: float
    monte_carlo: float
    closed_bootstrap: float  # and those that were worked out
    closed_one_step: float
    closed_monte_carlo: float
    at_the_limit: np.ndarray  # [2], the last reward with the bootstrap and without it
    curves: np.ndarray  # [3, updates], V over the training
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """Three critics of one endless reward."""
    bootstraps = UpdateRule(
        advantage_estimator=GAE(1.0),
        advantage_normalization=AdvantageNormalization("none"),
        policy_objective=PolicyGradient(),
    )
    ends = replace(bootstraps, truncation="terminal")
    values, curves = zip(
        *(_learned(rule, seed) for rule in (bootstraps, replace(ends, value_target=TDZero()), ends)), strict=True
    )

    remaining = monte_carlo_returns(np.ones((LIMIT, 1)), np.zeros(1), np.ones((LIMIT, 1)), GAMMA)
    paid, last_value = np.ones(2), 1 / (1 - GAMMA)
    return Result(
        gamma=GAMMA,
        limit=LIMIT,
        share=1 - 1 / LIMIT,
        bootstrap=values[0],
        one_step=values[1],
        monte_carlo=values[2],
        closed_bootstrap=1 / (1 - GAMMA),
        closed_one_step=1 / (1 - GAMMA * (1 - 1 / LIMIT)),
        closed_monte_carlo=float(remaining.mean()),
        at_the_limit=bootstrap_time_limits(paid, np.array([last_value, 0.0]), GAMMA),
        curves=np.array(curves),
        environment_steps=len(values) * N_ENVS * LIMIT * N_UPDATES,
    )


def _learned(rule: UpdateRule, seed: int) -> tuple[float, list[float]]:
    """The value of the only state: after the training, and in every update of it."""
    model = NotesA2C(
        "MlpPolicy",
        LeanVecEnv([lambda: TimeLimit(Forever(), LIMIT)] * N_ENVS),
        learning_rate=lambda progress_remaining: 0.2 * progress_remaining,
        n_steps=LIMIT,
        gamma=GAMMA,
        use_rms_prop=False,
        policy_kwargs=dict(net_arch=[]),
        rule=rule,
        seed=seed,
        device="cpu",
    )
    watcher = Reports("update")
    model.learn(N_ENVS * LIMIT * N_UPDATES, callback=watcher)
    with th.no_grad():
        value = model.policy.predict_values(th.zeros(1, 1)).item()
    return value, [report.values.mean for report in watcher.reports if report.values]


def picture(result: Result, figure: Figure) -> None:
    """What the three critics learn, and what can be worked out."""
    axes = figure.subplots()
    words = ("bootstrap at the limit", "an end, TD(0)", "an end, all rewards")
    closed = (result.closed_bootstrap, result.closed_one_step, result.closed_monte_carlo)
    for curve, label, value, color in zip(result.curves, words, closed, PALETTE, strict=False):
        axes.plot(curve, color=color, label=label)
        axes.axhline(value, color=color, linestyle="--", linewidth=1)
    axes.set(xlabel="updates", ylabel="V of the only state", title="dashed: worked out by hand", xlim=(0, None))
    axes.legend(loc="lower right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "With the bootstrap the critic learns 1/(1−γ).",
        result.bootstrap,
        10.0,
        0.1,
        mutant="time-limit bootstrap dropped",
    )
    yield Claim(
        "Called an end, a TD(0) target learns 1/(1 − γ·share of steps that go on).",
        result.one_step,
        result.closed_one_step,
        0.06,
        mutant="a rule's truncation is not asked",
    )
    yield Claim(
        "Called an end, all rewards learn the mean over the steps that remain.",
        result.monte_carlo,
        result.closed_monte_carlo,
        0.06,
        mutant="a rule's truncation is not asked",
    )
    yield Claim(
        "That mean is the one of (1−γʲ)/(1−γ).",
        result.closed_monte_carlo,
        np.mean([(1 - 0.9**j) / 0.1 for j in range(1, 11)]),
        1e-12,
        mutant="Monte-Carlo sums are not discounted",
    )
    yield Claim(
        "The last reward carries γ·V where a limit has cut, and nothing at a true end.",
        result.at_the_limit,
        [10.0, 1.0],
        1e-5,
        mutant="time-limit bootstrap dropped",
    )
