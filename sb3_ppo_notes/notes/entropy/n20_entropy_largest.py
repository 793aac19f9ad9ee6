"""When is entropy largest?

When all actions are equally likely. H = −Σ p·log p is 0 for a policy that is certain, whatever it is certain of, and
log n for the uniform policy of n actions: {largest_of_two:.6f} nats for two, {largest_of_three:.4f} for three. In
between, ({uneven[0]:g}, {uneven[1]:g}) has {of_uneven:.6f}.

Why there? H is *concave*: the entropy of a mixture of two policies is at least the mixture of their entropies (the
smallest excess over {n_pairs:,} pairs was {smallest_excess:.1e}). A concave function that treats all actions alike has
its maximum where they are alike.

It hangs on the minus. Every p·log p is negative or 0, so the sum without it is a valley whose bottom lies at the
uniform policy. A loss contains −H: small losses, undecided policies.

Of a *Gaussian* policy all this is different. Its entropy is that of a density, ½ + ½·log 2π + log σ in each dimension:

| σ | {deviations[0]:g} | {deviations[1]:.3f} | {deviations[2]:g} | {deviations[3]:g} |
|---|---|---|---|---|
| H | {gaussian[0]:.4f} | 0 | {gaussian[2]:.4f} | {gaussian[3]:.4f} |

It grows with σ without end, and below σ = {zero:.6f} it is *negative*. A negative entropy in the log of a robot's
training is no error: the policy has become precise. A bonus on it never stops pushing σ up, there is no "fully
undecided" to arrive at.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import categorical_entropy
from sb3_ppo_notes.formulas.distributions.gaussian import gaussian_entropy
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="entropy-largest",
    number=20,
    titles=dict(
        en="When is entropy largest?",
        ja="エントロピーはいつ最大になるか",
        fr="Quand l'entropie est-elle maximale ?",
        ko="엔트로피는 언제 최대인가?",
    ),
    answers=("5.6", "A16"),
    formulas=(categorical_entropy, gaussian_entropy),
    tests=("tests/formulas/test_distributions.py::test_entropy_is_largest_for_the_uniform_policy",),
)
ZERO = 1 / math.sqrt(2 * math.pi * math.e)
N_PAIRS = 1000
UNEVEN = (0.9, 0.1)


class Result(NamedTuple):
    shares: np.ndarray  # [2001], of the first of two actions
    of_two: np.ndarray  # [2001]
    best_of_two: float
    largest_of_two: float
    uneven: tuple[float, float]
    of_uneven: float
    triangle: np.ndarray  # [5050, 3]
    of_three: np.ndarray  # [5050]
    best_of_three: np.ndarray  # [3]
    largest_of_three: float
    of_certain: np.ndarray  # [3]
    n_pairs: int
    smallest_excess: float
    deviations: np.ndarray  # [4]
    gaussian: np.ndarray  # [4]
    zero: float
    sigmas: np.ndarray
    of_sigmas: np.ndarray


def experiment(seed: int = 0) -> Result:
    """Two actions on a line, three in a triangle, mixtures of policies, and a Gaussian."""
    generator = th.Generator().manual_seed(seed)
    shares = th.linspace(0, 1, 2001, dtype=th.float64)
    of_two = _entropy(th.stack([shares, 1 - shares], dim=1))
    # 100·101/2 policies, the uniform one among them: 33 + 33 + 33 of 99 parts.
    triangle = th.tensor([[i, j, 99 - i - j] for i in range(100) for j in range(100 - i)], dtype=th.float64) / 99
    of_three = _entropy(triangle)

    pairs = th.rand(2, N_PAIRS, 3, generator=generator, dtype=th.float64)
    pairs = pairs / pairs.sum(-1, keepdim=True)
    share = th.rand(N_PAIRS, generator=generator, dtype=th.float64)
    mixtures = share[:, None] * pairs[0] + (1 - share[:, None]) * pairs[1]
    excess = _entropy(mixtures) - (share * _entropy(pairs[0]) + (1 - share) * _entropy(pairs[1]))

    deviations = th.tensor([0.1, ZERO, 1.0, 3.0], dtype=th.float64)
    sigmas = th.linspace(0.01, 3, 300, dtype=th.float64)
    return Result(
        shares=shares.numpy(),
        of_two=of_two.numpy(),
        best_of_two=shares[of_two.argmax()].item(),
        largest_of_two=of_two.max().item(),
        uneven=UNEVEN,
        of_uneven=_entropy(th.tensor([UNEVEN], dtype=th.float64)).item(),
        triangle=triangle.numpy(),
        of_three=of_three.numpy(),
        best_of_three=triangle[of_three.argmax()].numpy(),
        largest_of_three=of_three.max().item(),
        of_certain=_entropy(th.eye(3, dtype=th.float64)).numpy(),
        n_pairs=N_PAIRS,
        smallest_excess=excess.min().item(),
        deviations=deviations.numpy(),
        gaussian=gaussian_entropy(deviations[:, None]).numpy(),
        zero=ZERO,
        sigmas=sigmas.numpy(),
        of_sigmas=gaussian_entropy(sigmas[:, None]).numpy(),
    )


def _entropy(probabilities: th.Tensor) -> th.Tensor:
    return categorical_entropy(probabilities.log())


def picture(result: Result, figure: Figure) -> None:
    """The arc over two actions, the arc without its minus, and the triangle of three."""
    left, right = figure.subplots(1, 2)
    left.plot(result.shares[::20], result.of_two[::20], color=PALETTE[0])
    left.plot(result.shares[::20], -result.of_two[::20], color=PALETTE[5], linestyle="--")
    left.text(0.5, 0.45, "H", color=PALETTE[0], ha="center")
    left.text(0.5, -0.5, "no minus", color=PALETTE[5], ha="center")
    left.plot(result.best_of_two, result.largest_of_two, "o", color=PALETTE[0])
    left.set(xlabel="probability of action 1 of 2", ylabel="nats")

    p = result.triangle
    x, y = p[:, 1] + p[:, 2] / 2, p[:, 2] * math.sqrt(3) / 2
    colored = right.tricontourf(x, y, result.of_three, levels=np.linspace(0, 1.1, 12), cmap="viridis")
    right.plot(0.5, math.sqrt(3) / 6, "o", color="white")
    for corner, (place, where) in enumerate((((0, 0), "top"), ((1, 0), "top"), ((0.5, math.sqrt(3) / 2), "bottom"))):
        right.annotate(
            f"only action {corner + 1}", place, (0, -3 if where == "top" else 3), textcoords="offset points",
            ha="center", va=where,
        )  # fmt: skip
    right.set(aspect="equal", xlim=(-0.1, 1.1), ylim=(-0.1, 1.0))
    right.axis("off")
    figure.colorbar(colored, ax=right, label="H of three actions, nats", shrink=0.8)


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Of two actions the entropy is largest where both are equally likely.",
        result.best_of_two,
        0.5,
        1e-12,
        mutant="entropy without its minus",
    )
    yield Claim(
        "There it is log 2.",
        result.largest_of_two,
        math.log(2),
        1e-12,
        mutant="note 20: without the logarithm",
    )
    yield Claim(
        "Of nine to one it is −Σ p·log p, with the minus.",
        result.of_uneven,
        -0.9 * math.log(0.9) - 0.1 * math.log(0.1),
        1e-12,
        mutant="entropy without its minus",
    )
    yield Claim(
        "Of three actions it is largest in the middle of the triangle.",
        result.best_of_three,
        np.full(3, 1 / 3),
        1e-12,
        mutant="entropy without its minus",
    )
    yield Claim(
        "There it is log 3.",
        result.largest_of_three,
        math.log(3),
        1e-12,
        mutant="note 20: without the logarithm",
    )
    yield Claim(
        "It is 0 for a policy that is certain, whatever of.",
        result.of_certain,
        0.0,
        1e-12,
        mutant="note 20: a product of zero and minus infinity",
    )
    yield Claim(
        "It is concave: no mixture has less than the mixture of the entropies.",
        result.smallest_excess,
        -1e-12,
        relation="≥",
        mutant="entropy without its minus",
    )
    yield Claim(
        "A Gaussian's grows with the logarithm of σ, through 0 at 1/√(2πe).",
        result.gaussian,
        [math.log(each / result.zero) for each in result.deviations],
        1e-12,
        mutant="note 20: a Gaussian's entropy without its constant",
    )
    yield Claim(
        "A Gaussian's may be negative.",
        result.gaussian[0],
        -0.8,
        relation="<",
        mutant="note 20: a Gaussian's entropy without log σ",
    )
