"""What does λ trade?

Bias against variance, and more finely than a number of steps can. GAE(λ) is a blend of all n-step returns at once: each
further step counts λ times as much as the one before. λ = 0 is the TD residual (one reward, then the critic's word), λ
= 1 is return − V(s) (all rewards, and the critic is only what they are compared with).

On a walk along {n_states} states whose true values are known the mean squared error of the λ-return is

| λ | critic says 0 | critic says half of V | critic is right |
|---|---|---|---|
| {positions[0]:g} | {errors[0][0]:.3f} | {errors[1][0]:.3f} | {errors[2][0]:.3f} |
| {positions[1]:g} | {errors[0][1]:.3f} | {errors[1][1]:.3f} | {errors[2][1]:.3f} |
| {positions[2]:g} | {errors[0][2]:.3f} | {errors[1][2]:.3f} | {errors[2][2]:.3f} |
| {positions[3]:g} | {errors[0][3]:.3f} | {errors[1][3]:.3f} | {errors[2][3]:.3f} |
| {positions[4]:g} | {errors[0][4]:.3f} | {errors[1][4]:.3f} | {errors[2][4]:.3f} |
| {positions[5]:g} | {errors[0][5]:.3f} | {errors[1][5]:.3f} | {errors[2][5]:.3f} |
| {positions[6]:g} | {errors[0][6]:.3f} | {errors[1][6]:.3f} | {errors[2][6]:.3f} |
| {positions[7]:g} | {errors[0][7]:.3f} | {errors[1][7]:.3f} | {errors[2][7]:.3f} |

With the critic that says 0 both ends are bad, for opposite reasons. And the blend beats every single number of steps:
the best n-step return has an error of {best_n_step:.3f}, the best λ one of {least[0]:.3f}.

**The better the critic, the smaller the best λ.** With a critic that says nothing {best[0]:g} is best here, with one
that is half right {best[1]:g}, with a right one {best[2]:g}. That is no rule for choosing λ in a real problem, where
nobody knows how wrong the critic is; it says in which direction to look.

**Is the λ-return a value of the state or of the action?** It is one sample of the value of the action that was taken,
as every return that begins with a real reward. Its mean over the policy's actions is V(s) if the critic is right or λ =
1; else it is pulled towards what the critic says. The slider shows that pull.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.advantages import (
    gae,
    lambda_returns,
    monte_carlo_returns,
    n_step_returns,
    next_values,
    td_residuals,
)
from sb3_ppo_notes.notes.note import Claim, Frame, Note
from sb3_ppo_notes.notes.random_walk import Walks, means_and_variances, true_values, walks

NOTE = Note(
    name="what-lambda-trades",
    number=5,
    titles=dict(
        en="What does λ trade?",
        ja="λは何と何の折り合いか",
        fr="Qu'échange-t-on avec λ ?",
        ko="λ는 무엇과 무엇을 맞바꾸는가?",
    ),
    answers=("1.2",),
    formulas=(gae, lambda_returns, td_residuals),
    tests=(
        "tests/formulas/test_advantages.py::test_gae_equals_the_explicit_sum",
        "tests/formulas/test_advantages.py::test_gae_with_lambda_one_is_return_minus_value",
    ),
    slider="λ",
)
N_STATES, N_STEPS, N_WALKERS = 19, 300, 400
#: Rows with room for a long return below them.
N_ROWS = 150
LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)
WINDOWS = (1, 2, 4, 8, 16, 32, 64)
CRITICS = {"critic says 0": 0.0, "critic says V/2": 0.5, "critic is right": 1.0}


class Result(NamedTuple):
    n_states: int
    positions: tuple[float, ...]  # [K], of λ
    errors: np.ndarray  # [critics, K], squared bias and variance, mean over the states
    best: list[float]  # [critics], λ with the smallest error
    least: np.ndarray  # [critics], that error
    best_n_step: float  # smallest error of an n-step return with the first critic
    difference_at_0: float  # of the advantage from the TD residual
    difference_at_1: float  # of the advantage from return − V
    frames: Mapping[str, Frame]


def experiment(seed: int = 0) -> Result:
    """Bias and variance of λ-returns for three critics."""
    generator = np.random.default_rng(seed)
    walked, truth = walks(generator, N_STATES, N_STEPS, N_WALKERS), true_values(N_STATES)
    states = walked.states[:N_ROWS]
    errors = np.empty((len(CRITICS), len(LAMBDAS)))
    frames = {}
    for row, share in enumerate(CRITICS.values()):
        for column, gae_lambda in enumerate(LAMBDAS):
            returns = _lambda_returns(walked, share * truth, gae_lambda)
            means, variances = means_and_variances(states, returns[:N_ROWS], N_STATES)
            errors[row, column] = ((means - truth) ** 2 + variances).mean()
            if row == 0:
                curves = {"state": np.arange(N_STATES), "V": truth, "mean": means, "std": np.sqrt(variances)}
                frames[f"{gae_lambda:g}"] = Frame(gae_lambda, curves)

    n_step_errors = []
    for n in WINDOWS:
        returns = n_step_returns(walked.rewards, 0 * walked.rewards, walked.nonterminal, gamma=1.0, n=n)
        means, variances = means_and_variances(states, returns[:N_ROWS], N_STATES)
        n_step_errors.append(((means - truth) ** 2 + variances).mean())
    at_0, at_1 = _differences_at_the_ends(generator)
    return Result(
        n_states=N_STATES,
        positions=LAMBDAS,
        errors=errors,
        best=[LAMBDAS[column] for column in errors.argmin(axis=1)],
        least=errors.min(axis=1),
        best_n_step=min(n_step_errors),
        difference_at_0=at_0,
        difference_at_1=at_1,
        frames=frames,
    )


def _lambda_returns(walked: Walks, critic: np.ndarray, gae_lambda: float) -> np.ndarray:
    states, rewards, nonterminal = walked
    values = critic[states[:-1]]
    deltas = td_residuals(rewards, values, next_values(values, critic[states[-1]]), nonterminal, gamma=1.0)
    return lambda_returns(gae(deltas, nonterminal, gamma=1.0, gae_lambda=gae_lambda), values)


def _differences_at_the_ends(generator: np.random.Generator) -> tuple[float, float]:
    """λ = 0 against the TD residual, λ = 1 against return − V, in a rollout of random numbers."""
    rewards, values, last_values = generator.normal(size=(9, 4)), generator.normal(size=(9, 4)), np.ones(4)
    nonterminal = (generator.random((9, 4)) < 0.8).astype(float)
    deltas = td_residuals(rewards, values, next_values(values, last_values), nonterminal, gamma=0.9)
    at_0 = gae(deltas, nonterminal, gamma=0.9, gae_lambda=0.0) - deltas
    returns = monte_carlo_returns(rewards, last_values, nonterminal, gamma=0.9)
    at_1 = gae(deltas, nonterminal, gamma=0.9, gae_lambda=1.0) - (returns - values)
    return float(np.abs(at_0).max()), float(np.abs(at_1).max())


def picture(result: Result, figure: Figure) -> None:
    """The error over λ for three critics."""
    axes = figure.subplots()
    for critic, errors, best, color in zip(CRITICS, result.errors, result.best, PALETTE, strict=False):
        axes.plot(range(len(errors)), errors, color=color, marker=".", label=critic)
        axes.plot(result.positions.index(best), errors.min(), color=color, marker="o", markersize=9)
    words = "best number of steps, critic says 0"
    axes.axhline(result.best_n_step, color=PALETTE[0], linestyle="--", linewidth=1, label=words)
    axes.set_xticks(range(len(result.positions)), [f"{gae_lambda:g}" for gae_lambda in result.positions])
    axes.set(xlabel="λ (large dots: the best)", ylabel="bias² + variance", yscale="log")
    axes.legend()


def frame(result: Result, frame: Frame, figure: Figure) -> None:
    """What the λ-return says of each state, for a critic that says 0."""
    axes, curves = figure.subplots(), frame.curves
    low, high = curves["mean"] - curves["std"], curves["mean"] + curves["std"]
    axes.fill_between(curves["state"], low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="± one deviation")
    axes.plot(curves["state"], curves["mean"], color=PALETTE[0], label="mean of the λ-returns")
    axes.plot(curves["state"], curves["V"], color=PALETTE[1], linestyle="--", label="V")
    axes.set(xlabel="state", ylabel="value", ylim=(-2.1, 2.1), title=f"λ = {frame.position:g}, critic says 0")
    axes.legend(loc="upper left")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "With a critic that says 0 both ends are bad and the best λ lies between.",
        result.errors[0],
        [0.258, 0.229, 0.185, 0.150, 0.127, 0.131, 0.236, 0.652],
        0.03,
        mutant="lambda forgotten",
    )
    yield Claim(
        "Its best λ is above a half and below 1.",
        0.9 <= result.best[0] < 1,
        mutant="lambda forgotten",
    )
    yield Claim(
        "The better the critic, the smaller the best λ, and with a right one it is 0.",
        result.best[0] > result.best[1] > result.best[2] == 0,
        mutant="lambda forgotten",
    )
    yield Claim(
        "A right critic and λ = 0 leave the luck of one step.",
        result.errors[2, 0],
        0.01,
        0.001,
        mutant="lambda forgotten",
    )
    yield Claim(
        "The best λ beats the best number of steps.",
        result.least[0],
        result.best_n_step - 0.02,
        relation="<",
        mutant="lambda forgotten",
    )
    yield Claim(
        "λ = 0 is the TD residual.",
        result.difference_at_0,
        0.0,
        mutant="lambda forgotten",
    )
    yield Claim(
        "λ = 1 is return − V.",
        result.difference_at_1,
        0.0,
        1e-12,
        mutant="advantage leaks over the border",
    )
