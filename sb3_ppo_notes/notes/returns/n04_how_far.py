"""How many steps should one look ahead?

As many as the critic is bad. An n-step return takes n rewards as they came and the critic's word for the rest. The
rewards are luck: more of them, more variance. The critic's word is wrong: the earlier it is asked, the more of its
error comes through as bias. So a good n depends on how wrong the critic is, and no n is best for all of a training.

A walk along {n_states} states shows both, because its true values are known. It goes left or right with equal chance
and is paid −1 at the left end and 1 at the right one. Mean squared error of the returns, over all states:

| n | critic says 0 | critic says a quarter of V | critic is right |
|---|---|---|---|
| {n[0]} | {errors[0][0]:.3f} | {errors[1][0]:.3f} | {errors[2][0]:.3f} |
| {n[1]} | {errors[0][1]:.3f} | {errors[1][1]:.3f} | {errors[2][1]:.3f} |
| {n[2]} | {errors[0][2]:.3f} | {errors[1][2]:.3f} | {errors[2][2]:.3f} |
| {n[3]} | {errors[0][3]:.3f} | {errors[1][3]:.3f} | {errors[2][3]:.3f} |
| {n[4]} | {errors[0][4]:.3f} | {errors[1][4]:.3f} | {errors[2][4]:.3f} |
| {n[6]} | {errors[0][6]:.3f} | {errors[1][6]:.3f} | {errors[2][6]:.3f} |
| {n[8]} | {errors[0][8]:.3f} | {errors[1][8]:.3f} | {errors[2][8]:.3f} |

With a critic that knows nothing the error falls and then rises again: {best[0]} steps are best. With one that knows a
little {best[1]} are, and with a right one a single reward is all there should be: every further one adds its luck and
repairs nothing. More steps are *not* better, and neither are fewer.

That the return is what it should be can be seen at n = 1, where it can be worked out. With the critic 0 the squared
bias is {closed_bias:.4f} (measured {bias[0][0]:.4f}) and the variance {closed_variance:.4f} (measured
{variance[0][0]:.4f}).

**Does an n-step return end in the largest Q of the next state?** No. R + γR + γ²·max Q is the target of n-step
Q-learning, which learns about the best policy whatever it does. A2C and PPO ask what *this* policy is worth and end in
V(sₜ₊ₙ). At the end of an episode nothing is added.

**A rollout of five steps does not hold five-step returns.** Its first row sees five rewards, its last one a single
reward: the window ends with the rollout, and is closed by the value of the state that comes then.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.advantages import n_step_returns
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.random_walk import means_and_variances, true_values, walks

NOTE = Note(
    name="how-far",
    number=4,
    titles=dict(
        en="How many steps should one look ahead?",
        ja="何ステップ先まで見るべきか",
        fr="Combien de pas faut-il regarder devant soi ?",
        ko="몇 스텝 앞까지 봐야 하는가?",
    ),
    answers=("5.2", "5.12"),
    formulas=(n_step_returns,),
    tests=(
        "tests/formulas/test_advantages.py::test_n_step_returns_equal_the_explicit_window",
        "tests/recipes/test_rules.py::test_a2c_five_steps",
    ),
)
N_STATES, N_STEPS, N_WALKERS = 19, 300, 400
#: Rows with room for a long window below them.
N_ROWS = 150
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 300)
CRITICS = {"critic says 0": 0.0, "critic says V/4": 0.25, "critic is right": 1.0}


class Result(NamedTuple):
    n_states: int
    n: tuple[int, ...]  # [K]
    bias: np.ndarray  # [critics, K], squared, mean over the states
    variance: np.ndarray  # [critics, K]
    errors: np.ndarray  # [critics, K], mean squared
    best: list[int]  # [critics], window with the smallest error
    closed_bias: float
    closed_variance: float
    difference_of_the_last: float
    difference_of_the_window: float


def experiment(seed: int = 0) -> Result:
    """Bias and variance of n-step returns for three critics."""
    generator = np.random.default_rng(seed)
    states, rewards, nonterminal = walks(generator, N_STATES, N_STEPS, N_WALKERS)
    truth = true_values(N_STATES)
    bias, variance = np.empty((2, len(CRITICS), len(WINDOWS)))
    for row, share in enumerate(CRITICS.values()):
        following_values = share * truth[states[1:]]
        for column, n in enumerate(WINDOWS):
            returns = n_step_returns(rewards, following_values, nonterminal, gamma=1.0, n=n)
            means, variances = means_and_variances(states[:N_ROWS], returns[:N_ROWS], N_STATES)
            bias[row, column] = ((means - truth) ** 2).mean()
            variance[row, column] = variances.mean()
    errors = bias + variance

    rewards, values = generator.normal(size=(2, 9, 1))
    explicit = sum(0.9**k * rewards[k] for k in range(4)) + 0.9**4 * values[3]
    returns = n_step_returns(rewards, values, np.ones((9, 1)), gamma=0.9, n=4)
    # After one step the walk says nothing yet, but at the ends, where it is over by half.
    inner, end = truth[1:-1], truth[-1]
    return Result(
        n_states=N_STATES,
        n=WINDOWS,
        bias=bias,
        variance=variance,
        errors=errors,
        best=[WINDOWS[column] for column in errors.argmin(axis=1)],
        closed_bias=float((inner**2).sum() + 2 * (end - 0.5) ** 2) / N_STATES,
        closed_variance=2 * 0.25 / N_STATES,
        difference_of_the_last=float(np.abs(returns[-1] - (rewards[-1] + 0.9 * values[-1])).max()),
        difference_of_the_window=float(np.abs(returns[0] - explicit).max()),
    )


def picture(result: Result, figure: Figure) -> None:
    """Bias, variance and their sum over n."""
    panels = figure.subplots(1, 3, sharey=True)
    for axes, critic, bias, variance, errors, best in zip(
        panels, CRITICS, result.bias, result.variance, result.errors, result.best, strict=True
    ):
        axes.plot(result.n, bias, color=PALETTE[1], linestyle="--", label="bias²")
        axes.plot(result.n, variance, color=PALETTE[2], linestyle=":", label="variance")
        axes.plot(result.n, errors, color=PALETTE[0], label="their sum")
        axes.plot(best, errors.min(), color=PALETTE[0], marker="o")
        axes.set(xscale="log", xlabel="steps n", title=critic)
    panels[0].set_ylabel("error of the return")
    panels[0].legend()


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "At n = 1 the squared bias of a critic that says 0 is the closed form.",
        result.bias[0, 0],
        result.closed_bias,
        0.006,
        mutant="n-step window one too long",
    )
    yield Claim(
        "At n = 1 the variance is the closed form.",
        result.variance[0, 0],
        result.closed_variance,
        0.004,
        mutant="n-step window one too long",
    )
    yield Claim(
        "With a critic that says 0 the error falls, then rises.",
        result.errors[0, [0, 2, 4, 6, 8]],
        [0.258, 0.218, 0.182, 0.326, 0.652],
        0.03,
        mutant="n-step returns go on after the end of an episode",
    )
    yield Claim(
        "With a right critic one step is best, and has the error of one step's luck.",
        result.errors[2, 0],
        0.01,
        0.001,
        mutant="n-step window one too long",
    )
    yield Claim(
        "With a right critic every further step makes it worse.",
        np.diff(result.errors[2]),
        0.0,
        relation=">",
        mutant="n-step returns are one step long",
    )
    yield Claim(
        "The more wrong the critic, the longer the best window.",
        result.best[0] > result.best[1] > result.best[2] == 1,
        mutant="n-step returns are one step long",
    )
    yield Claim(
        "A return is n discounted rewards and the discounted value after them.",
        result.difference_of_the_window,
        0.0,
        1e-12,
        mutant="n-step window one too long",
    )
    yield Claim(
        "The last row of a rollout has a single reward, whatever n is.",
        result.difference_of_the_last,
        0.0,
        1e-12,
        mutant="n-step windows do not end with the rollout",
    )
