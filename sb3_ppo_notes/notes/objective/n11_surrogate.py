"""What is the surrogate?

A function that stands in for the expected return: at the old policy it has the same gradient, and it can be computed
from the samples at hand. It is the mean of ratio times advantage. One wants to climb the return, cannot differentiate
it, and climbs the surrogate instead, as long as it may be trusted.

**Same gradient.** The derivative of ρ = π/π_old is ρ·∇log π, and at the old policy ρ is 1. So the gradient of ρ·Â is
Â·∇log π, the policy gradient; on random numbers the two are the same but for rounding. Away from the old policy the
functions part. In a chain where the reward takes two right actions in a row and π takes each with probability p, the
return is p². At p = ½ surrogate and return have the same value ({old_return:g}) and the same slope ({slopes[0]:.4f} and
{slopes[1]:.4f} in the logit). At a logit of {far[0]:.1f} the return is {far[1]:.3f} and the surrogate says
{far[2]:.3f}; the clipped one has stopped at {far[3]:.3f}.

**Its value is no score.** Add {shift:g} to all advantages and the surrogate is {value_change:g} higher for every
policy, while its gradient is what it was. So it says nothing about how good a policy is, only in which direction a
better one lies. The loss that is logged is minus this number.

**The "gain"** that some texts maximise is this very objective, and a loss is its negative: gradient *descent* on the
loss is ascent on the gain. Ascent makes what turned out well more likely: after a step on one sample with Â > 0 its
action's probability has gone from {before:.3f} to {praised:.3f}, with Â < 0 to {blamed:.3f}.

The word means stand-in. Surrogate functions are older than PPO: conservative policy iteration (Kakade & Langford 2002)
has this one, TRPO maximises it under a bound on the KL, and PPO clips it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import categorical_log_prob, log_probabilities
from sb3_ppo_notes.formulas.objectives import clipped_surrogate, policy_gradient, probability_ratio, surrogate
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="surrogate",
    number=11,
    titles=dict(
        en="What is the surrogate?",
        ja="代理関数とは何か",
        fr="Qu'est-ce que la fonction de substitution ?",
        ko="대리 목적 함수란 무엇인가?",
    ),
    answers=("1.6", "5.8"),
    formulas=(surrogate, policy_gradient, probability_ratio, clipped_surrogate),
    tests=(
        "tests/formulas/test_objectives.py::test_at_ratio_one_the_gradient_is_the_policy_gradient",
        "tests/formulas/test_objectives.py::test_clipped_surrogate_is_a_lower_bound",
    ),
)
CLIP_RANGE, SHIFT = 0.2, 5.0
#: Right and wrong action in the first state and in the second: how often they are taken, and their advantage.
VISITS = th.tensor([0.5, 0.5, 0.25, 0.25], dtype=th.float64)
ADVANTAGES = th.tensor([0.25, -0.25, 0.5, -0.5], dtype=th.float64)
ACTIONS = th.tensor([1, 0, 1, 0])


class Result(NamedTuple):
    gradient_error: float
    old_return: float
    logits: np.ndarray  # [K]
    returns: np.ndarray  # [K]
    objectives: np.ndarray  # [K]
    clipped: np.ndarray  # [K]
    slopes: np.ndarray  # [3], of return, surrogate and clipped surrogate at the old policy
    values: np.ndarray  # [3], there
    far: tuple[float, float, float, float]  # logit, return, surrogate, clipped
    shift: float
    value_change: float
    gradient_change: float
    before: float  # probability of an action
    praised: float  # after a step with a positive advantage
    blamed: float


def experiment(seed: int = 0) -> Result:
    """Two gradients, three curves, a shift, and one step up."""
    generator = th.Generator().manual_seed(seed)
    log_probs = th.randn(1000, generator=generator, dtype=th.float64).requires_grad_()
    advantages = th.randn(1000, generator=generator, dtype=th.float64)
    ratio = probability_ratio(log_probs, log_probs.detach())
    (by_surrogate,) = th.autograd.grad(surrogate(ratio, advantages).sum(), log_probs, retain_graph=True)
    (by_score,) = th.autograd.grad(policy_gradient(log_probs, advantages).sum(), log_probs)

    logits = np.linspace(-np.pi, np.pi, 101)
    curves = np.array([[value.item() for value in _curves(th.tensor(logit))] for logit in logits])
    zero = th.tensor(0.0, dtype=th.float64, requires_grad=True)
    slopes = [th.autograd.grad(value, zero, retain_graph=True)[0].item() for value in _curves(zero)]

    (value, gradient), (shifted, shifted_gradient) = (_value_and_gradient(shift) for shift in (0.0, SHIFT))
    return Result(
        gradient_error=float((by_surrogate - by_score).abs().max()),
        old_return=curves[50, 0],
        logits=logits,
        returns=curves[:, 0],
        objectives=curves[:, 1],
        clipped=curves[:, 2],
        slopes=np.array(slopes),
        values=curves[50],
        far=(logits[-1], *curves[-1]),
        shift=SHIFT,
        value_change=shifted - value,
        gradient_change=float((shifted_gradient - gradient).abs().max()),
        before=0.5,
        praised=_probability_after_a_step(1.0),
        blamed=_probability_after_a_step(-1.0),
    )


def _curves(logit: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Return, surrogate and clipped surrogate of the chain, if the logit of the right action is this."""
    log_probs = log_probabilities(th.stack([th.zeros_like(logit), logit]).double()[None])[0]
    ratio = probability_ratio(log_probs[ACTIONS], th.full((4,), 0.5, dtype=th.float64).log())
    old = 0.25
    return (
        (2 * log_probs[1]).exp(),
        old + VISITS @ surrogate(ratio, ADVANTAGES),
        old + VISITS @ clipped_surrogate(ratio, ADVANTAGES, CLIP_RANGE),
    )


def _value_and_gradient(shift: float) -> tuple[float, th.Tensor]:
    """Of the surrogate of three actions, summed up exactly, at a policy that is not the old one."""
    old = log_probabilities(th.zeros(3, 3, dtype=th.float64))
    logits = th.tensor([0.2, -0.1, 0.4], dtype=th.float64, requires_grad=True)
    actions = th.arange(3)
    ratio = probability_ratio(
        categorical_log_prob(log_probabilities(logits.expand(3, -1)), actions), categorical_log_prob(old, actions)
    )
    value = surrogate(ratio, th.tensor([1.0, 0.0, 2.0], dtype=th.float64) + shift).mean()
    return value.item(), th.autograd.grad(value, logits)[0]


def _probability_after_a_step(advantage: float) -> float:
    """Of an action that had ½, after one step up the objective of one sample of it."""
    logits = th.zeros(1, 2, dtype=th.float64, requires_grad=True)
    log_prob = categorical_log_prob(log_probabilities(logits), th.tensor([0]))
    gain = policy_gradient(log_prob, th.full((1,), advantage, dtype=th.float64))
    (gradient,) = th.autograd.grad(gain, logits)
    return log_probabilities(logits.detach() + 0.5 * gradient).exp()[0, 0].item()


def picture(result: Result, figure: Figure) -> None:
    """Three curves with one tangent at the old policy."""
    axes = figure.subplots()
    tangent = result.values[0] + result.slopes[0] * result.logits
    near = np.abs(result.logits) < 1.2
    axes.plot(result.logits[near], tangent[near], color=INK, linewidth=1, linestyle=":", label="their tangent")
    axes.plot(result.logits, result.returns, color=PALETTE[0], label="true return")
    axes.plot(result.logits, result.objectives, color=PALETTE[1], linestyle="--", label="surrogate")
    axes.plot(result.logits, result.clipped, color=PALETTE[2], linestyle="-.", label="clipped surrogate")
    axes.plot(0, result.values[0], "o", color=INK, label="old policy")
    axes.set(xlabel="logit of the right action", ylabel="return of the chain")
    axes.legend(loc="upper left")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    far = 1 / (1 + np.exp(-np.pi))
    yield Claim(
        "At the old policy the surrogate's gradient is the policy gradient.",
        result.gradient_error,
        0.0,
        1e-12,
        mutant="ratio upside down",
    )
    yield Claim(
        "There return, surrogate and clipped surrogate have one value.",
        result.values,
        0.25,
        1e-9,
        mutant="note 11: the surrogate begins at 0",
    )
    yield Claim(
        "There they have one slope, too.",
        result.slopes,
        result.slopes[0],
        1e-9,
        mutant="ratio upside down",
    )
    yield Claim(
        "Farther off they are p², p − ¼ and what the clip has left.",
        result.far[1:],
        (far**2, far - 0.25, 0.35),
        1e-9,
        mutant="ratio upside down",
    )
    yield Claim(
        "The clipped one promises no more than the other.",
        result.clipped,
        result.objectives + 1e-12,
        relation="≤",
        mutant="max in place of min",
    )
    yield Claim(
        "A constant added to all advantages is added to the surrogate.",
        result.value_change,
        result.shift,
        1e-9,
        mutant="logits taken for log-probabilities",
    )
    yield Claim(
        "A constant added to all advantages changes nothing in the gradient.",
        result.gradient_change,
        0.0,
        1e-9,
        mutant="logits taken for log-probabilities",
    )
    yield Claim(
        "A step up makes an action with a positive advantage likelier, and one with a negative advantage less likely.",
        result.blamed < result.before < result.praised,
        mutant="policy gradient with the wrong sign",
    )
