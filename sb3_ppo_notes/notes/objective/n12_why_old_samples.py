"""Why may old samples be used again?

Because the ratio ρ = π(a|s)/π_old(a|s) puts right what is wrong with them. After the first step the policy is no longer
the one that drew the actions: some it would now take more often than they occur in the batch, some more rarely.
Weighted with ρ an average over old actions is an average over new ones. (This is importance sampling.)

Two actions, π_old = ({old[0]:g}, {old[1]:g}), π = ({new[0]:g}, {new[1]:g}), advantages 1 and −1. Under the new policy
the mean advantage is {new_mean:.2g}. The old samples say {unweighted:.2g} as they are and {weighted:.2g} once weighted;
the weights themselves have the mean {mean_ratio:g}.

So PPO is still on-policy in what it estimates, and it can take several steps on one rollout. It cannot take any number
of them, for two reasons.

**The states stay old.** ρ corrects for the action, not for the policy having come by other states. In a chain where the
reward takes two right actions in a row and π takes each with probability ½+Δ, the true return is (½+Δ)². What the old
samples predict is lower by exactly Δ²: at Δ = {shifts[1]:g} {predicted[1]:.2f} for {true[1]:.2f}, at Δ = {shifts[4]:g}
{predicted[4]:.2f} for {true[4]:.2f}. An error of second order: next to nothing for small steps, and it grows faster
than they do.

**Fewer and fewer samples count.** Once the policy has moved far a few samples have large weights and the others hardly
any. For a Gaussian whose mean moves by μ deviations the share that still counts is e^(−μ²), or e^(−2·KL): of the old
samples {shares[0]:.0%} at a shift of {moves[0]:g}, {shares[1]:.0%} at {moves[1]:g}, {shares[2]:.0%} at {moves[2]:g}.
`effective_sample_size` in the report of an update is that share.

**Why the exponential of a difference and not the quotient?** It is the same number, and it can be computed. The density
of an action with {dimensions} dimensions and σ = {narrow_std:g} is e to the {log_density:.0f}, too large for a float32:
the quotient of two such densities is {quotient_words}, while exp(log π − log π_old) is {ratio:.4f}. (In exp(log π / log
π_old), which can be read here and there, the bar is at the wrong place: the logarithm of a quotient is a difference.)
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.diagnostics import effective_sample_size
from sb3_ppo_notes.formulas.distributions.gaussian import gaussian_kl, gaussian_log_prob, gaussian_sample
from sb3_ppo_notes.formulas.objectives import probability_ratio, surrogate
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="why-old-samples",
    number=12,
    titles=dict(
        en="Why may old samples be used again?",
        ja="なぜ古いサンプルを再利用できるのか（重点サンプリング）",
        fr="Pourquoi peut-on réutiliser d'anciens échantillons ?",
        ko="옛 샘플을 왜 다시 써도 되는가?",
    ),
    answers=("1.12", "A2"),
    formulas=(probability_ratio, effective_sample_size, surrogate),
    tests=("tests/formulas/test_objectives.py::test_at_ratio_one_the_gradient_is_the_policy_gradient",),
)
OLD, NEW = th.tensor([0.5, 0.5], dtype=th.float64), th.tensor([0.6, 0.4], dtype=th.float64)
SHIFTS = th.tensor([0.0, 0.1, 0.2, 0.3, 0.4], dtype=th.float64)
MOVES = (0.1, 0.5, 1.0)
N_SAMPLES = 100_000
DIMENSIONS, NARROW_STD = 40, 0.01


class Result(NamedTuple):
    old: np.ndarray  # [2]
    new: np.ndarray  # [2]
    mean_ratio: float
    new_mean: float  # advantage under the new policy
    unweighted: float  # the old samples' mean
    weighted: float
    shifts: np.ndarray  # [5], Δ
    predicted: np.ndarray  # [5], return by the old samples
    true: np.ndarray  # [5]
    moves: tuple[float, ...]  # [3], of a Gaussian's mean in deviations
    kl: np.ndarray  # [3]
    shares: np.ndarray  # [3], effective sample size
    dimensions: int
    narrow_std: float
    log_density: float
    ratio: float
    quotient: float
    quotient_words: str


def experiment(seed: int = 0) -> Result:
    """Two actions, a chain of two steps, a Gaussian that moves, and a narrow one in many dimensions."""
    th.manual_seed(seed)
    advantages = th.tensor([1.0, -1.0], dtype=th.float64)
    ratio = probability_ratio(NEW.log(), OLD.log())
    kl, shares = zip(*(_moved(move) for move in MOVES), strict=True)

    mean, std = th.zeros(1, DIMENSIONS), th.full((1, DIMENSIONS), NARROW_STD)
    old_log_prob = gaussian_log_prob(mean, std, mean)
    log_prob = gaussian_log_prob(mean + NARROW_STD / 10, std, mean)
    quotient = (log_prob.exp() / old_log_prob.exp()).item()
    return Result(
        old=OLD.numpy(),
        new=NEW.numpy(),
        mean_ratio=float(OLD @ ratio),
        new_mean=float(NEW @ advantages),
        unweighted=float(OLD @ advantages),
        weighted=float(OLD @ surrogate(ratio, advantages)),
        shifts=SHIFTS.numpy(),
        predicted=np.array([_predicted_return(shift) for shift in SHIFTS]),
        true=((0.5 + SHIFTS) ** 2).numpy(),
        moves=MOVES,
        kl=np.array(kl),
        shares=np.array(shares),
        dimensions=DIMENSIONS,
        narrow_std=NARROW_STD,
        log_density=old_log_prob.item(),
        ratio=probability_ratio(log_prob, old_log_prob).item(),
        quotient=quotient,
        quotient_words="no number (NaN)" if np.isnan(quotient) else f"{quotient:.4f}",
    )


def _predicted_return(shift: th.Tensor) -> float:
    """The old return and the surrogate: two states, the second of which half of the old episodes reach."""
    new = 0.5 + shift
    advantages = th.tensor([0.25, -0.25, 0.5, -0.5], dtype=th.float64)  # right and wrong action, first and second state
    visits = th.tensor([0.5, 0.5, 0.25, 0.25], dtype=th.float64)
    ratio = probability_ratio(th.stack([new, 1 - new, new, 1 - new]).log(), th.full((4,), 0.5).double().log())
    return float(0.25 + visits @ surrogate(ratio, advantages))


def _moved(move: float) -> tuple[float, float]:
    """KL and effective sample size once the mean of a normal distribution has moved."""
    old, one = th.zeros(N_SAMPLES, 1), th.ones(N_SAMPLES, 1)
    actions = gaussian_sample(old, one)
    ratio = probability_ratio(gaussian_log_prob(old + move, one, actions), gaussian_log_prob(old, one, actions))
    return gaussian_kl(old[:1], one[:1], old[:1] + move, one[:1]).item(), effective_sample_size(ratio).item()


def picture(result: Result, figure: Figure) -> None:
    """What the old states cost, and what the weights cost."""
    left, right = figure.subplots(1, 2)
    left.plot(result.shifts, result.true, color=PALETTE[0], marker=".", label="true return")
    left.plot(result.shifts, result.predicted, color=PALETTE[1], linestyle="--", marker=".", label="by old samples")
    left.fill_between(result.shifts, result.predicted, result.true, color=PALETTE[1], alpha=0.2, label="gap Δ²")
    left.set(xlabel="change Δ of the probability", ylabel="return of the chain", title="the states stay old")
    left.legend()
    kl = np.linspace(0, 0.55, 50)
    right.plot(kl, np.exp(-2 * kl), color=PALETTE[2], label="exp(−2·KL)")
    right.plot(result.kl, result.shares, "o", color=PALETTE[0], label="measured")
    right.set(xlabel="KL(old ‖ new)", ylabel="share that counts", title="fewer samples count", ylim=(0, 1.05))
    right.legend(loc="lower left")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The ratio has the mean 1 under the old policy.",
        result.mean_ratio,
        1.0,
        1e-12,
        mutant="ratio upside down",
    )
    yield Claim(
        "Weighted, the old samples have the mean of the new policy.",
        result.weighted,
        result.new_mean,
        1e-12,
        mutant="ratio upside down",
    )
    yield Claim(
        "Unweighted, the old samples have the mean of the old policy.",
        (result.unweighted, result.new_mean),
        (0.0, 0.2),
        1e-12,
        mutant="note 12: the new policy is the old one",
    )
    yield Claim(
        "The prediction for a chain is too low by exactly Δ².",
        result.true - result.predicted,
        result.shifts**2,
        1e-12,
        mutant="ratio upside down",
    )
    yield Claim(
        "The share of samples that count is exp(−μ²).",
        result.shares,
        np.exp(-(np.array(result.moves) ** 2)),
        0.02,
        mutant="effective sample size without the squares",
    )
    yield Claim(
        "The share of samples that count is exp(−2·KL).",
        result.shares,
        np.exp(-2 * result.kl),
        0.02,
        mutant="effective sample size without the squares",
    )
    yield Claim(
        "The quotient of two large densities is no number.",
        bool(np.isnan(result.quotient)),
        mutant="Gaussian density without its width",
    )
    yield Claim(
        "The exponential of the difference is the ratio.",
        result.ratio,
        np.exp(-0.2),
        1e-3,
        mutant="ratio as a quotient of densities",
    )
