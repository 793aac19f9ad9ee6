"""Why subtract V?

Because it takes most of the luck out of the gradient and changes nothing on average. The advantage is what an action
brought, less what the state was worth anyhow: Q(s, a) − V(s). Without the subtraction every action in a good state is
praised, the bad ones too, and it takes many samples until their praises cancel. (It compares an action with the
policy's own average. Two *policies* are compared by the ratio, which is another matter.)

Three actions with probabilities {probabilities[0]:.3f}, {probabilities[1]:.3f} and {probabilities[2]:.3f} that pay
{rewards[0]:g}, {rewards[1]:g} and {rewards[2]:g}. Everything about the gradient of one sample, (reward − b)·∇log π, can
be summed up exactly:

| baseline b | expected gradient, first logit | variance |
|---|---|---|
| 0 | {at_zero:.4f} | {variance_at_zero:.3f} |
| V = {value:.4f} | {at_value:.4f} | {variance_at_value:.3f} |
| the best one, {best:.2f} | {at_best:.4f} | {least:.3f} |

The expectation is the same to the last digit, whatever number b is, because the mean of ∇log π is 0. The variance is a
parabola, and V lies near its bottom: near, not at it. The best constant weighs each reward with the size of its score;
what it would gain over V here is {gain:.0%}, and V is what a critic can learn.

**All rewards positive?** Then it matters most. With {lift:g} added to every reward the gradient is the same and the
variance without a baseline {lifted:.0f} instead of {variance_at_zero:.2f}; with V as the baseline it has not changed at
all ({lifted_value:.3f}).

**The baseline must not depend on the action.** It may be any function of the state. Subtract from each action its own
reward and nothing is left to learn: the gradient of that is {action_dependent:g}.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import categorical_log_prob, log_probabilities
from sb3_ppo_notes.formulas.objectives import policy_gradient
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="why-subtract-v",
    number=8,
    titles=dict(
        en="Why subtract V?",
        ja="なぜVを引くのか",
        fr="Pourquoi soustraire V ?",
        ko="왜 V를 빼는가?",
    ),
    answers=("5.1", "A17"),
    formulas=(policy_gradient, categorical_log_prob),
    tests=("tests/formulas/test_objectives.py::test_score_function_gradient_on_a_bandit",),
)
LOGITS = th.tensor([0.2, -0.1, 0.4], dtype=th.float64)
REWARDS = th.tensor([1.0, 0.0, 2.0], dtype=th.float64)
LIFT = 10.0


class Result(NamedTuple):
    probabilities: np.ndarray  # [3]
    rewards: np.ndarray  # [3]
    baselines: np.ndarray  # [K]
    expectations: np.ndarray  # [K, 3], of the gradient
    variances: np.ndarray  # [K], total
    exact: np.ndarray  # [3], gradient of the expected reward
    value: float
    best: float  # baseline
    least: float  # variance
    gain: float
    at_zero: float  # first entry of the expected gradient
    at_value: float
    at_best: float
    variance_at_zero: float
    variance_at_value: float
    lift: float
    lifted: float
    lifted_value: float
    action_dependent: float


def experiment(seed: int = 0) -> Result:
    """Mean and variance of a bandit's gradient for many baselines, by summing over the three actions."""
    p = log_probabilities(LOGITS[None]).exp()[0]
    value = float(p @ REWARDS)
    baselines = np.linspace(-1, 3, 401)
    expectations, variances = zip(*(_moments(REWARDS - float(baseline)) for baseline in baselines), strict=True)
    best = float(baselines[np.argmin(variances)])
    at_zero, at_value, at_best = (_moments(REWARDS - baseline) for baseline in (0.0, value, best))
    return Result(
        probabilities=p.numpy(),
        rewards=REWARDS.numpy(),
        baselines=baselines,
        expectations=np.stack(expectations),
        variances=np.array(variances),
        exact=(p * (REWARDS - p @ REWARDS)).numpy(),
        value=value,
        best=best,
        least=min(variances),
        gain=at_value[1] / min(variances) - 1,
        at_zero=at_zero[0][0],
        at_value=at_value[0][0],
        at_best=at_best[0][0],
        variance_at_zero=at_zero[1],
        variance_at_value=at_value[1],
        lift=LIFT,
        lifted=_moments(REWARDS + LIFT)[1],
        lifted_value=_moments(REWARDS + LIFT - (value + LIFT))[1],
        action_dependent=float(np.abs(_moments(REWARDS - REWARDS)[0]).max()),
    )


def _moments(advantages: th.Tensor) -> tuple[np.ndarray, float]:
    """Mean and total variance of the gradient of one sample, exactly."""
    logits = LOGITS.clone().requires_grad_()
    log_probs = categorical_log_prob(log_probabilities(logits.expand(3, -1)), th.arange(3))
    objectives = policy_gradient(log_probs, advantages)
    gradients = th.stack([th.autograd.grad(objective, logits, retain_graph=True)[0] for objective in objectives])
    p = log_probs.exp().detach()
    mean = p @ gradients
    return mean.numpy(), float(p @ (gradients - mean).square().sum(dim=1))


def picture(result: Result, figure: Figure) -> None:
    """The variance over the baseline."""
    axes = figure.subplots()
    axes.plot(result.baselines, result.variances, color=PALETTE[0])
    for baseline, variance, words, color in (
        (0.0, result.variance_at_zero, "no baseline", PALETTE[1]),
        (result.value, result.variance_at_value, "V", PALETTE[5]),
        (result.best, result.least, "the best constant", PALETTE[2]),
    ):
        axes.plot(baseline, variance, "o", color=color, label=f"{words}: {variance:.3f}")
    axes.set(xlabel="baseline b", ylabel="variance of the gradient of one sample", ylim=(0, None))
    axes.legend(loc="upper center")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "No baseline changes the expected gradient.",
        result.expectations,
        np.tile(result.exact, (len(result.baselines), 1)),
        1e-12,
        mutant="logits taken for log-probabilities",
    )
    yield Claim(
        "V takes most of the variance away.",
        (result.variance_at_zero, result.variance_at_value),
        (0.88055, 0.23609),
        1e-4,
        mutant="log-probability of another action",
    )
    yield Claim(
        "The best constant is another number.",
        result.best,
        1.01,
        0.011,
        mutant="policy gradient without the advantage",
    )
    yield Claim(
        "The best constant is hardly better than V.",
        result.least,
        0.22003,
        1e-4,
        mutant="log-probability of another action",
    )
    yield Claim(
        "The variance with V is within a tenth of that with the best constant.",
        result.gain,
        0.1,
        relation="<",
        mutant="note 8: the value of the likeliest action",
    )
    yield Claim(
        "With all rewards lifted the variance explodes without a baseline, and is what it was with V.",
        (result.lifted > 10 * result.variance_at_zero, abs(result.lifted_value - result.variance_at_value) < 1e-9),
        (True, True),
        mutant="policy gradient without the advantage",
    )
    yield Claim(
        "A baseline that depends on the action takes the gradient away.",
        result.action_dependent,
        0.0,
        mutant="policy gradient without the advantage",
    )
