"""What proves that it converges?

Nothing, in general. PPO ascends an *objective*, and the objective is not the return: it says how well the policy would
have done on the samples of one rollout, weighted by ratios. Its gradient is right at the old policy and there alone.
Followed further, the policy learns the noise of those samples.

Take {n_arms} arms, of which arm by arm the mean reward grows from 0 to 1, and a policy that is already good: its return
is {start:.3f}. It pulls {n_samples} times, sees noisy rewards, and then climbs the unclipped surrogate on these samples
for {n_epochs} epochs; the numbers are means over {n_runs} repetitions.

| epoch | 0 | {early} | {n_epochs} |
|---|---|---|---|
| surrogate objective | 0 | {objective_early:.3f} | {objective[300]:.3f} |
| true return | {returns[0]:.3f} | {returns_early:.3f} | **{returns[300]:.3f}** |

The objective rises all the way; the return rises first and then falls below where it began. The clip takes the reward
for going on away: the return ends at {clipped_returns[300]:.3f}, and KL(old ‖ new) at {clipped_kl:.3f} nats instead of
{kl:.1f}.

Do not take from this that overfitting always hurts. From a policy that knows nothing the same climb lifts the return
from {uniform_returns[0]:.2f} to {uniform_returns[300]:.2f}, though its KL goes to {uniform_kl:.1f}: to be greedy on
noise is still better than to guess.

So the loss is no score. Advantages with mean 0 make it begin at 0, and it is *negative* from the first step on, because
the loss is minus the objective; a loss that does not fall from update to update is no sign of anything, since each
update begins at 0 again. Look at the return of the episodes.

What is maximised, the "gain", is the expected return; the surrogate only lends its gradient. Guarantees exist under
strong assumptions. REINFORCE with small enough steps goes uphill to a point where the gradient is 0, and an
actor-critic too if its critic is of the compatible kind. Softmax policies in a table reach the best policy, and there
are global results for log-linear policies with the natural gradient and for very wide networks (Liu et al. 2019, on
neural PPO and TRPO). TRPO's bound on the loss of return holds for steps smaller than anybody takes. None of them covers
PPO as it is used, and for none of its stationary points does anything say that it is the best one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import (
    categorical_kl,
    categorical_log_prob,
    categorical_sample,
    log_probabilities,
    probabilities,
)
from sb3_ppo_notes.formulas.objectives import clipped_surrogate, probability_ratio, surrogate
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="converges",
    number=16,
    titles=dict(
        en="What proves that it converges?",
        ja="収束することは何が保証するのか",
        fr="Qu'est-ce qui prouve que cela converge ?",
        ko="수렴한다는 보장은 무엇인가?",
    ),
    answers=("3.2", "5.8", "A15"),
    formulas=(surrogate, clipped_surrogate),
    tests=(
        "tests/formulas/test_objectives.py::test_gradient_table_of_the_clip",
        "tests/formulas/test_objectives.py::test_clipped_surrogate_is_a_lower_bound",
    ),
)
N_ARMS, N_SAMPLES, N_RUNS, N_EPOCHS, EARLY = 10, 32, 400, 300, 20
MEANS = th.linspace(0, 1, N_ARMS, dtype=th.float64)


class Result(NamedTuple):
    n_arms: int
    n_samples: int
    n_runs: int
    n_epochs: int
    early: int
    start: float
    objective: np.ndarray  # [epochs + 1], the good start without a clip
    returns: np.ndarray
    kl: float
    objective_early: float
    returns_early: float
    clipped_objective: np.ndarray
    clipped_returns: np.ndarray
    clipped_kl: float
    uniform_objective: np.ndarray
    uniform_returns: np.ndarray
    uniform_kl: float


def experiment(seed: int = 0) -> Result:
    """Climb one batch of noisy samples far too long: from a good policy, with and without the clip, and from none."""
    objective, returns, kl = _climb(3 * MEANS, False, seed)
    clipped_objective, clipped_returns, clipped_kl = _climb(3 * MEANS, True, seed)
    uniform_objective, uniform_returns, uniform_kl = _climb(0 * MEANS, False, seed)
    return Result(
        n_arms=N_ARMS,
        n_samples=N_SAMPLES,
        n_runs=N_RUNS,
        n_epochs=N_EPOCHS,
        early=EARLY,
        start=returns[0],
        objective=objective,
        returns=returns,
        kl=kl,
        objective_early=objective[EARLY],
        returns_early=returns[EARLY],
        clipped_objective=clipped_objective,
        clipped_returns=clipped_returns,
        clipped_kl=clipped_kl,
        uniform_objective=uniform_objective,
        uniform_returns=uniform_returns,
        uniform_kl=uniform_kl,
    )


def _climb(start: th.Tensor, is_clipped: bool, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Objective and true return before each epoch, means over all repetitions, and the last KL(old ‖ new)."""
    th.manual_seed(seed)
    old = log_probabilities(start.expand(N_RUNS, N_ARMS))
    actions = categorical_sample(old.repeat_interleave(N_SAMPLES, 0))
    old_log_probs = categorical_log_prob(old.repeat_interleave(N_SAMPLES, 0), actions)
    rewards = MEANS[actions] + th.randn(len(actions), dtype=th.float64)
    groups = rewards.reshape(N_RUNS, N_SAMPLES)
    advantages = (groups - groups.mean(1, keepdim=True)).flatten()

    logits = start.repeat(N_RUNS, 1).requires_grad_()
    optimizer = th.optim.Adam([logits], lr=0.05)
    objectives, returns = [], []
    for _ in range(N_EPOCHS + 1):
        log_probs = log_probabilities(logits)
        log_prob = categorical_log_prob(log_probs.repeat_interleave(N_SAMPLES, 0), actions)
        ratio = probability_ratio(log_prob, old_log_probs)
        objective = clipped_surrogate(ratio, advantages, 0.2) if is_clipped else surrogate(ratio, advantages)
        objectives.append(objective.mean().item())
        returns.append((probabilities(log_probs) @ MEANS).mean().item())
        optimizer.zero_grad()
        th.autograd.backward(-objective.reshape(N_RUNS, N_SAMPLES).mean(1).sum())
        optimizer.step()
    return np.array(objectives), np.array(returns), categorical_kl(old, log_probs).mean().item()


def picture(result: Result, figure: Figure) -> None:
    """Objective above, return below: where the return lies below its beginning is shaded."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    epochs = np.arange(result.n_epochs + 1)
    upper.plot(result.objective, color=PALETTE[1], label="unclipped")
    upper.plot(result.clipped_objective, color=PALETTE[0], label="clipped")
    upper.set_ylabel("objective")
    lower.plot(result.returns, color=PALETTE[1])
    lower.plot(result.clipped_returns, color=PALETTE[0])
    lower.axhline(result.start, color="gray", linestyle=":", linewidth=1)
    lower.fill_between(
        epochs, result.returns, result.start, where=result.returns < result.start, color=PALETTE[1], alpha=0.25
    )
    lower.annotate(
        "where it began", (result.n_epochs, result.start), (0, -3), textcoords="offset points", ha="right", va="top"
    )
    lower.set(ylabel="true return", xlabel="epochs on the same samples", xlim=(0, result.n_epochs))
    upper.legend(loc="center right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "With advantages of mean 0 the objective begins at 0.",
        [result.objective[0], result.clipped_objective[0], result.uniform_objective[0]],
        0.0,
        1e-12,
        mutant="note 16: advantages not centred",
    )
    yield Claim(
        "The loss is negative from the first step on.",
        [-result.objective[1], -result.clipped_objective[1], -result.uniform_objective[1]],
        0.0,
        relation="<",
        mutant="note 16: descends the objective",
    )
    yield Claim(
        "The unclipped objective rises to the end.",
        result.objective[-1] - result.objective_early,
        0.3,
        relation=">",
        mutant="note 16: descends the objective",
    )
    yield Claim(
        "The return rises first.",
        result.returns_early - result.start,
        0.03,
        relation=">",
        mutant="ratio upside down",
    )
    yield Claim(
        "Then it falls below where it began.",
        result.returns[-1] - result.start,
        -0.05,
        relation="<",
        mutant="note 16: rewards without noise",
    )
    yield Claim(
        "With the clip the return ends above where it began.",
        result.clipped_returns[-1] - result.start,
        0.01,
        relation=">",
        mutant="clip deleted",
    )
    yield Claim(
        "With the clip KL(old ‖ new) stays below a tenth of a nat.",
        result.clipped_kl,
        0.1,
        relation="<",
        mutant="clip deleted",
    )
    yield Claim(
        "From a policy that knows nothing the return does not fall.",
        result.uniform_returns[-1] - result.uniform_returns[0],
        0.15,
        relation=">",
        mutant="ratio upside down",
    )
