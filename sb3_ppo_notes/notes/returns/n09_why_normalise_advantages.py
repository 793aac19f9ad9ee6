"""Why normalise advantages?

So that the length of the policy's step does not depend on the scale of the reward: with all rewards times a thousand
the normalised advantages are the same. Learning rate and clip then mean the same in every environment. It happens in
two halves, and they are not equally innocent.

**Subtracting the mean** does what a baseline does, with the group's own mean in place of V. All possible groups of N
actions of a policy with three actions that pay {rewards[0]:g}, {rewards[1]:g} and {rewards[2]:g} can be counted
through: the expected gradient becomes exactly 1 − 1/N as long (for N = {sizes[0]}, {sizes[2]}, {sizes[4]}:
{shares[0]:.3f}, {shares[2]:.3f}, {shares[4]:.3f}) and keeps its direction. It is not 1 because each sample is part of
the mean that is subtracted from it.

**Why subtract it, if all advantages are positive?** Because then every action that was taken is pushed up, the worst
too, and only the differences between the pushes say anything. On average that is right; a group of two has a deviation
of {raw_deviation:.2f} around a gradient of length {length:.2f}, and of {centred_deviation:.3f} once the mean is gone.
What is below the mean is then pushed down, although it was positive: that is meant.

**Dividing by the deviation** bends the gradient a little. Groups differ in their deviation, and those in which the
rewards lie close together are made to count as much as the others. For groups of two the expected gradient is turned by
{angles[0]:.1f} degrees, for groups of eight by {angles[4]:.1f}. A group whose advantages are all alike becomes 0, and a
single sample, which has no deviation, is left as it is.

**Over which samples?** SB3 normalises each minibatch, skrl and Spinning Up the whole rollout, and the scope can turn
signs. Advantages {eight[0]:g} … {eight[3]:g} in one minibatch and {eight[4]:g} … {eight[7]:g} in the other: in
minibatches the better half of each is pushed up, over the rollout the first four are all pushed down. {flips} of eight
signs differ. The larger the minibatch, the rarer this is.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import categorical_log_prob, log_probabilities
from sb3_ppo_notes.formulas.objectives import normalize_advantages, policy_gradient
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="why-normalise-advantages",
    number=9,
    titles=dict(
        en="Why normalise advantages?",
        ja="アドバンテージを正規化するのはなぜか",
        fr="Pourquoi normaliser les avantages ?",
        ko="어드밴티지를 왜 정규화하는가?",
    ),
    answers=("A17",),
    formulas=(normalize_advantages, policy_gradient),
    tests=(
        "tests/formulas/test_objectives.py::test_normalising_minibatches_turns_signs_that_the_rollout_keeps",
        "tests/formulas/test_objectives.py::test_normalisation_ignores_scale_and_shift",
    ),
)
LOGITS = th.tensor([0.2, -0.1, 0.4], dtype=th.float64)
REWARDS = th.tensor([11.0, 10.0, 12.0], dtype=th.float64)
SIZES = (2, 3, 4, 6, 8)


class Result(NamedTuple):
    rewards: np.ndarray  # [3]
    sizes: tuple[int, ...]  # [K], of a group
    shares: np.ndarray  # [K], of the exact gradient that are left without the mean
    turns: np.ndarray  # [K], cosine between the two
    angles: np.ndarray  # [K], degrees between the normalised gradient and the exact one
    length: float  # of the exact gradient
    raw_deviation: float  # of the gradient of a group of two
    centred_deviation: float
    scale_error: float
    eight: np.ndarray  # [8]
    by_rollout: np.ndarray  # [8]
    by_minibatch: np.ndarray  # [8]
    flips: int
    constant: np.ndarray  # [4]
    single: float


def experiment(seed: int = 0) -> Result:
    """The expected gradient over all possible groups, and eight advantages normalised in two ways."""
    exact = _gradients(1, th.clone)[0]
    shares, turns, angles = [], [], []
    for size in SIZES:
        centred, whole = _gradients(size, _centred)[0], _gradients(size, normalize_advantages)[0]
        shares.append(float(centred.norm() / exact.norm()))
        turns.append(float(th.cosine_similarity(centred, exact, dim=0)))
        angles.append(float(th.rad2deg(th.arccos(th.cosine_similarity(whole, exact, dim=0)))))

    eight = th.tensor([1.0, 2, 3, 4, 101, 102, 103, 104], dtype=th.float64)
    by_rollout, by_minibatch = normalize_advantages(eight), normalize_advantages(eight.view(2, 4)).flatten()
    return Result(
        rewards=REWARDS.numpy(),
        sizes=SIZES,
        shares=np.array(shares),
        turns=np.array(turns),
        angles=np.array(angles),
        length=float(exact.norm()),
        raw_deviation=_gradients(2, th.clone)[1],
        centred_deviation=_gradients(2, _centred)[1],
        scale_error=float((normalize_advantages(1000 * eight) - by_rollout).abs().max()),
        eight=eight.numpy(),
        by_rollout=by_rollout.numpy(),
        by_minibatch=by_minibatch.numpy(),
        flips=int((by_rollout.sign() != by_minibatch.sign()).sum()),
        constant=normalize_advantages(th.full((4,), 3.0)).numpy(),
        single=normalize_advantages(th.tensor([3.0])).item(),
    )


def _centred(advantages: th.Tensor) -> th.Tensor:
    """Less their mean. Beside so large an eps no deviation counts, and the subtraction is all that is left."""
    return 1e9 * normalize_advantages(advantages, eps=1e9)


def _gradients(size: int, change: Callable[[th.Tensor], th.Tensor]) -> tuple[th.Tensor, float]:
    """Mean of the gradient of a group over all groups of a size, and its deviation in groups of two."""
    logits = LOGITS.clone().requires_grad_()
    actions = th.tensor(list(product(range(len(REWARDS)), repeat=size)))
    log_probs = log_probabilities(logits.expand(actions.numel(), -1))
    taken = categorical_log_prob(log_probs, actions.flatten()).view_as(actions)
    weights = taken.detach().sum(dim=1).exp()
    objectives = policy_gradient(taken, change(REWARDS[actions])).mean(dim=1)
    (mean,) = th.autograd.grad(weights @ objectives, logits, retain_graph=True)
    if size != 2:
        return mean, float("nan")
    gradients = th.stack([th.autograd.grad(each, logits, retain_graph=True)[0] for each in objectives])
    return mean, float((weights @ (gradients - mean).square()).sum().sqrt())


def picture(result: Result, figure: Figure) -> None:
    """Signs that depend on the scope, and how much of the gradient is left."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.arange(8)
    flipped = np.sign(result.by_rollout) != np.sign(result.by_minibatch)
    left.bar(places[flipped], 4, bottom=-2, width=0.9, color=PALETTE[1], alpha=0.2, linewidth=0, label="sign differs")
    left.plot(places, result.by_rollout, "o", color=PALETTE[0], label="over the rollout")
    left.plot(places, result.by_minibatch, "x", color=PALETTE[5], label="over each minibatch")
    left.axhline(0, color=INK, linewidth=0.8)
    left.plot([3.5, 3.5], [-2, 2], color=INK, linewidth=0.8, linestyle=":")
    left.set_xticks(places, [f"{advantage:g}" for advantage in result.eight])
    left.set(xlabel="advantage (two minibatches of four)", ylabel="normalised", ylim=(-2, 3.6))
    left.legend(loc="upper left")
    n = np.linspace(1, 8, 50)
    right.plot(n, 1 - 1 / n, color=PALETTE[2], label="1 − 1/N")
    right.plot(result.sizes, result.shares, "o", color=PALETTE[0], label="counted through")
    right.set(xlabel="samples N", ylabel="length of the expected gradient", ylim=(0, 1.02))
    right.legend(loc="lower right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    sizes = np.array(result.sizes)
    yield Claim(
        "Without the mean the expected gradient is 1 − 1/N as long.",
        result.shares,
        1 - 1 / sizes,
        1e-6,
        mutant="mean not subtracted",
    )
    yield Claim(
        "Subtracting the mean does not turn the expected gradient.",
        result.turns,
        1.0,
        1e-6,
        mutant="note 9: the median is subtracted",
    )
    yield Claim(
        "Dividing by the deviation turns it, a little, and less in a large group.",
        (result.angles[0], result.angles[-1]),
        (3.9, 2.4),
        0.5,
        mutant="deviation not divided by",
    )
    yield Claim(
        "In groups of two the gradient's deviation, without and with the mean subtracted.",
        (result.raw_deviation, result.centred_deviation),
        (6.30, 0.327),
        0.01,
        mutant="mean not subtracted",
    )
    yield Claim(
        "The scale of the rewards does not matter.",
        result.scale_error,
        0.0,
        1e-7,
        mutant="deviation not divided by",
    )
    yield Claim(
        "In minibatches of four, four of eight signs are others than over the rollout.",
        result.flips,
        4,
        mutant="mean not subtracted",
    )
    yield Claim(
        "Over the rollout it is the division by N−1 of the samples.",
        result.by_rollout.std(ddof=1),
        1.0,
        1e-6,
        mutant="normalisation with ddof 0",
    )
    yield Claim(
        "Advantages that are all alike become 0.",
        result.constant,
        [0.0] * 4,
        mutant="mean not subtracted",
    )
    yield Claim(
        "A single sample is left as it is.",
        result.single,
        3.0,
        mutant="one sample normalised",
    )
