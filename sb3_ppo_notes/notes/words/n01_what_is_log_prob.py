"""What is log_prob?

The logarithm of the probability of *the action that was taken*. The network gives a distribution over all actions; the
action is drawn from it; log_prob is that one action's entry, log π(a|s). It is a number for each sample, it is
differentiable in the network's weights, and it is not itself a derivative.

Its use is this. We want the gradient of the expected reward, but the reward came from the environment, and nobody knows
how it would have changed with the action. The way round: multiply the reward by the gradient of log π. Averaged over
the policy's own actions that is the gradient of the expected reward, exactly, and no derivative of the reward is in it.
What is climbed is the *expected* reward, a function of the weights; the reward function itself is never differentiated.

Try it with three actions of probability {probabilities[0]:.3f}, {probabilities[1]:.3f} and {probabilities[2]:.3f},
which pay {rewards[0]:g}, {rewards[1]:g} and {rewards[2]:g}. The gradient of the expected reward in the three logits is
({exact[0]:.4f}, {exact[1]:.4f}, {exact[2]:.4f}). The mean of reward times ∇log π over {n_samples:,} draws is
({sampled[0]:.4f}, {sampled[1]:.4f}, {sampled[2]:.4f}). The mean of ∇log π alone is 0 but for chance (largest entry
{score:.4f}): what raises one action's log-probability lowers the others', and without a reward to weigh them it
cancels.

**Nobody differentiates the probability by hand.** For a softmax the derivative in the logits is onehot(a) − p; autograd
arrives there by itself when `backward` is called.

**Why not differentiate through the sample, as a VAE does?** A Gaussian action can be written as μ + σ·ε, and its
gradient in μ does exist. What does not exist is the gradient of the reward in the action. Let an action pay 1 if it
exceeds 1 and 0 otherwise: that reward is flat on both sides of its jump, so the path through the sample gives the
gradient {pathwise:g}. The chance to exceed 1 does change with μ, though, at a rate of {threshold_exact:.4f}. The score
function finds {threshold_sampled:.4f}.

**May it be positive?** For discrete actions never: a probability is at most 1. For continuous ones log_prob is the
logarithm of a *density*, which has no such bound: with σ = {narrow_std:g} the most likely action has log_prob
{narrow:.4f}. Nothing is wrong then.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import categorical_log_prob, categorical_sample, log_probabilities
from sb3_ppo_notes.formulas.distributions.gaussian import gaussian_log_prob, gaussian_sample
from sb3_ppo_notes.formulas.objectives import policy_gradient
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="what-is-log-prob",
    number=1,
    titles=dict(
        en="What is log_prob?",
        ja="log_probとは何か",
        fr="Qu'est-ce que log_prob ?",
        ko="log_prob는 무엇인가?",
    ),
    answers=("1.3", "1.4", "5.11", "A1", "A3"),
    formulas=(categorical_log_prob, log_probabilities, policy_gradient, gaussian_log_prob),
    tests=(
        "tests/formulas/test_distributions.py::test_derivative_of_log_prob_is_onehot_minus_probabilities",
        "tests/formulas/test_objectives.py::test_score_function_gradient_on_a_bandit",
    ),
)
LOGITS = th.tensor([0.2, -0.1, 0.4], dtype=th.float64)
REWARDS = th.tensor([1.0, 0.0, 2.0], dtype=th.float64)
N_SAMPLES = 200_000
NARROW_STD = 0.1


class Result(NamedTuple):
    n_samples: int
    rewards: np.ndarray  # [3], what each action pays
    probabilities: np.ndarray  # [3]
    exact: np.ndarray  # [3], gradient of the expected reward in the logits
    expected: np.ndarray  # [3], the same as the policy's mean of reward times score
    sampled: np.ndarray  # [3], the same estimated
    score: float  # largest entry of the mean score
    shares: np.ndarray  # [3], of the actions drawn
    derivative_error: float  # of autograd against onehot - p
    counts: np.ndarray  # [K], samples so far
    estimates: np.ndarray  # [K, 3], gradient estimated from them
    pathwise: float
    threshold_exact: float
    threshold_sampled: float
    narrow_std: float
    narrow: float


def experiment(seed: int = 0) -> Result:
    """A bandit's policy gradient three ways, a reward with a step, and a narrow density."""
    th.manual_seed(seed)
    logits = LOGITS.clone().requires_grad_()
    log_probs = log_probabilities(logits[None])
    p = log_probs.exp().detach()[0]
    scores = th.stack(
        [th.autograd.grad(log_probs[0, action], logits, retain_graph=True)[0] for action in range(len(REWARDS))]
    )

    actions = categorical_sample(log_probs.detach().expand(N_SAMPLES, -1))
    taken = categorical_log_prob(log_probs.expand(N_SAMPLES, -1), actions)
    objective = policy_gradient(taken, REWARDS[actions])
    counts = np.unique(np.geomspace(10, N_SAMPLES, 25).astype(int))
    estimates = [th.autograd.grad(objective[:n].mean(), logits, retain_graph=True)[0] for n in counts.tolist()]
    (score,) = th.autograd.grad(taken.mean(), logits, retain_graph=True)
    (expected,) = th.autograd.grad((p * policy_gradient(log_probs[0], REWARDS)).sum(), logits)

    pathwise, sampled = _reward_with_a_step()
    std = th.full((1, 1), NARROW_STD, dtype=th.float64)
    return Result(
        n_samples=N_SAMPLES,
        rewards=REWARDS.numpy(),
        probabilities=p.numpy(),
        exact=(p * (REWARDS - p @ REWARDS)).numpy(),
        expected=expected.numpy(),
        sampled=estimates[-1].numpy(),
        score=float(score.abs().max()),
        shares=(th.bincount(actions, minlength=3) / N_SAMPLES).numpy(),
        derivative_error=float((scores - (th.eye(3) - p)).abs().max()),
        counts=counts,
        estimates=th.stack(estimates).numpy(),
        pathwise=pathwise,
        threshold_exact=float(gaussian_log_prob(th.zeros(1, 1), th.ones(1, 1), th.ones(1, 1)).exp()),
        threshold_sampled=sampled,
        narrow_std=NARROW_STD,
        narrow=float(gaussian_log_prob(0 * std, std, 0 * std)),
    )


def _reward_with_a_step() -> tuple[float, float]:
    """The gradient in μ of the chance that a normal action exceeds 1: through the sample, and by the score."""
    mean = th.zeros(1, 1, dtype=th.float64, requires_grad=True)
    means, std = mean.expand(N_SAMPLES, 1), th.ones(1, 1, dtype=th.float64)
    actions = gaussian_sample(means, std.expand(N_SAMPLES, 1))
    reward = (1 + th.sign(actions - 1)) / 2
    (pathwise,) = th.autograd.grad(reward.mean(), mean, retain_graph=True)
    log_probs = gaussian_log_prob(means, std, actions.detach())
    (score,) = th.autograd.grad(policy_gradient(log_probs, reward.detach()[:, 0]).mean(), mean)
    return pathwise.item(), score.item()


def picture(result: Result, figure: Figure) -> None:
    """The estimate from the samples so far enters the exact gradient."""
    axes = figure.subplots()
    for action, exact in enumerate(result.exact):
        axes.axhline(exact, color=PALETTE[action], linestyle="--", linewidth=1)
        label = f"action {action}, pays {result.rewards[action]:g}"
        axes.plot(result.counts, result.estimates[:, action], color=PALETTE[action], marker=".", label=label)
    axes.set(
        xscale="log",
        xlabel="samples",
        ylabel="mean of reward · ∇log π",
        title="dashed: gradient of the expected reward",
        ylim=(None, float(result.estimates.max()) + 0.3),
    )
    axes.legend(loc="upper right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The derivative of log π in the logits is onehot(a) − p.",
        result.derivative_error,
        0.0,
        1e-12,
        mutant="logits taken for log-probabilities",
    )
    yield Claim(
        "The policy's mean of reward · ∇log π is the gradient of the expected reward.",
        result.expected,
        result.exact,
        1e-12,
        mutant="logits taken for log-probabilities",
    )
    yield Claim(
        "So is the mean over samples, but for chance.",
        result.sampled,
        result.exact,
        0.01,
        mutant="log-probability of another action",
    )
    yield Claim(
        "Without a reward the mean of ∇log π is 0.",
        result.score,
        0.0,
        0.005,
        mutant="log-probability of another action",
    )
    yield Claim(
        "Actions are drawn in proportion to their probabilities.",
        result.shares,
        result.probabilities,
        0.005,
        mutant="a sample is the likeliest action",
    )
    yield Claim(
        "Through the sample a reward with a step has gradient 0.",
        result.pathwise,
        0.0,
        mutant="note 1: the reward is the action itself",
    )
    yield Claim(
        "The score function finds the gradient of that reward.",
        result.threshold_sampled,
        result.threshold_exact,
        0.01,
        mutant="note 1: the reward is the action itself",
    )
    yield Claim(
        "A density's logarithm may be positive.",
        result.narrow,
        1.3836,
        1e-4,
        mutant="Gaussian density without its width",
    )
