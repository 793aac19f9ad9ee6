"""Why the minimum?

It keeps the gradient exactly where a step went the wrong way. With the clip alone a sample that has left the range
{range[0]:g} … {range[1]:g} has no gradient any more, on either side. That is wanted where it left on the side that its
advantage asked for. Where it left on the *other* side, it can never come back.

There are four ways out of the range, and the two that are mistakes keep their slope only through the minimum:

| | ρ = {ratios[0]:g} | ρ = {ratios[1]:g} | ρ = {ratios[2]:g} |
|---|---|---|---|
| Â = 1: objective | {objectives[0][0]:g} | {objectives[0][1]:g} | {objectives[0][2]:g} |
| its slope | {slopes[0][0]:g} | {slopes[0][1]:g} | {slopes[0][2]:g} |
| slope with the clip alone | {foil_slopes[0][0]:g} | {foil_slopes[0][1]:g} | {foil_slopes[0][2]:g} |
| Â = −1: objective | {objectives[1][0]:g} | {objectives[1][1]:g} | {objectives[1][2]:g} |
| its slope | {slopes[1][0]:g} | {slopes[1][1]:g} | {slopes[1][2]:g} |
| slope with the clip alone | {foil_slopes[1][0]:g} | {foil_slopes[1][1]:g} | {foil_slopes[1][2]:g} |

Take a policy of two actions that makes an action {walk[0]:g} times as likely as the old one did, although its advantage
is negative. With the minimum, gradient descent brings the ratio to {walk[3]:.3f} in three steps; with the clip alone it
is still {foil_walk[60]:g} after sixty.

The same formula has three spellings. The loss is minus the objective, and −min(a, b) is max(−a, −b): this is the
maximum that some code has. Spinning Up moves the clip to the advantage: with g = (1+ε)·Â for a positive advantage and
(1−ε)·Â for a negative one the objective is min(ρ·Â, g). It is a minimum for *both* signs: for a negative advantage the
constant branch lies below 1−ε, not beyond 1+ε.

The minimum also makes the objective a lower bound of the unclipped one: it never promises more.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import categorical_log_prob, log_probabilities
from sb3_ppo_notes.formulas.objectives import clipped_surrogate, probability_ratio, surrogate
from sb3_ppo_notes.notes.note import Claim, Frame, Note

NOTE = Note(
    name="why-min",
    number=13,
    titles=dict(en="Why the minimum?", ja="なぜminを取るのか", fr="Pourquoi le minimum ?", ko="왜 min이 필요한가?"),
    answers=("4.1", "4.2", "A7", "A8"),
    formulas=(clipped_surrogate, surrogate),
    tests=(
        "tests/formulas/test_objectives.py::test_gradient_table_of_the_clip",
        "tests/formulas/test_objectives.py::test_clipped_surrogate_is_a_lower_bound",
    ),
    slider="ε, the clip range",
)
CLIP_RANGE = 0.2
CLIP_RANGES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
Objective = Callable[[th.Tensor, th.Tensor, float], th.Tensor]


class Result(NamedTuple):
    range: tuple[float, float]
    ratios: np.ndarray  # [3]
    objectives: np.ndarray  # [2, 3], advantages 1 and -1
    slopes: np.ndarray  # [2, 3]
    foil_slopes: np.ndarray  # [2, 3]
    walk: np.ndarray  # [61], the ratio step by step
    foil_walk: np.ndarray  # [61]
    difference_of_the_loss: float
    difference_of_spinning_up: float
    largest_excess: float
    frames: Mapping[str, Frame]


def clip_alone(ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """The foil: PPO's objective with the minimum left out."""
    return th.clamp(ratio, 1 - clip_range, 1 + clip_range) * advantages


def experiment(seed: int = 0) -> Result:
    """Six cases, a walk back from outside, and three spellings of one formula."""
    generator = th.Generator().manual_seed(seed)
    ratios = th.tensor([0.5, 1.0, 1.5], dtype=th.float64)
    cases = [_with_slope(clipped_surrogate, ratios, advantage, CLIP_RANGE) for advantage in (1.0, -1.0)]
    foils = [_with_slope(clip_alone, ratios, advantage, CLIP_RANGE) for advantage in (1.0, -1.0)]

    ratio = th.rand(1000, generator=generator, dtype=th.float64) * 3
    advantages = th.randn(1000, generator=generator, dtype=th.float64)
    objective = clipped_surrogate(ratio, advantages, CLIP_RANGE)
    loss = th.max(-surrogate(ratio, advantages), -clip_alone(ratio, advantages, CLIP_RANGE))
    bound = (1 + CLIP_RANGE * advantages.sign()) * advantages
    spinning_up = th.min(surrogate(ratio, advantages), bound)
    return Result(
        range=(1 - CLIP_RANGE, 1 + CLIP_RANGE),
        ratios=ratios.numpy(),
        objectives=np.stack([values for values, _ in cases]),
        slopes=np.stack([slopes for _, slopes in cases]),
        foil_slopes=np.stack([slopes for _, slopes in foils]),
        walk=_walk(clipped_surrogate),
        foil_walk=_walk(clip_alone),
        difference_of_the_loss=float((objective + loss).abs().max()),
        difference_of_spinning_up=float((objective - spinning_up).abs().max()),
        largest_excess=float((objective - surrogate(ratio, advantages)).max()),
        frames={f"{clip_range:g}": _frame(clip_range) for clip_range in CLIP_RANGES},
    )


def _with_slope(
    objective: Objective, ratios: th.Tensor, advantage: float, clip_range: float
) -> tuple[np.ndarray, np.ndarray]:
    ratios = ratios.clone().requires_grad_()
    values = objective(ratios, th.full_like(ratios, advantage), clip_range)
    (slopes,) = th.autograd.grad(values.sum(), ratios)
    return values.detach().numpy(), slopes.numpy()


def _walk(objective: Objective) -> np.ndarray:
    """The ratio of an action with a negative advantage, which begins at 1.5: its probability was ½ and is ¾."""
    logits = th.tensor([[np.log(3.0), 0.0]], dtype=th.float64, requires_grad=True)
    optimizer = th.optim.SGD([logits], lr=0.5)
    action, advantage = th.tensor([0]), th.tensor([-1.0], dtype=th.float64)
    old, ratios = categorical_log_prob(log_probabilities(th.zeros_like(logits)), action), []
    for _ in range(61):
        ratio = probability_ratio(categorical_log_prob(log_probabilities(logits), action), old)
        ratios.append(ratio.item())
        optimizer.zero_grad()
        th.autograd.backward(-objective(ratio, advantage, CLIP_RANGE))
        optimizer.step()
    return np.array(ratios)


def _frame(clip_range: float) -> Frame:
    ratios = th.linspace(0.4, 1.6, 61, dtype=th.float64)
    curves = {"ratio": ratios.numpy()}
    for name, advantage in (("positive", 1.0), ("negative", -1.0)):
        curves[name], _ = _with_slope(clipped_surrogate, ratios, advantage, clip_range)
        curves[f"{name}, clip alone"], _ = _with_slope(clip_alone, ratios, advantage, clip_range)
    return Frame(clip_range, curves)


def picture(result: Result, figure: Figure) -> None:
    """The way back, with the minimum and without it."""
    axes = figure.subplots()
    axes.axhspan(*result.range, color=PALETTE[2], alpha=0.15, linewidth=0, label="range of the clip")
    axes.plot(result.foil_walk, color=PALETTE[1], linestyle="--", label="clip alone")
    axes.plot(result.walk, color=PALETTE[0], label="with the minimum")
    axes.set(xlabel="steps of gradient descent", ylabel="ratio ρ of an action with Â < 0", xlim=(0, 60))
    axes.legend()


def frame(result: Result, frame: Frame, figure: Figure) -> None:
    """The two classic panels for one clip range."""
    for axes, name, sign in zip(figure.subplots(1, 2), ("positive", "negative"), (">", "<"), strict=True):
        axes.plot(frame.curves["ratio"], frame.curves[f"{name}, clip alone"], color=PALETTE[1], linestyle="--")
        axes.plot(frame.curves["ratio"], frame.curves[name], color=PALETTE[0])
        axes.axvspan(1 - frame.position, 1 + frame.position, color=PALETTE[2], alpha=0.15, linewidth=0)
        axes.set(title=f"Â {sign} 0", xlabel="ratio ρ", ylim=(0.2, 1.7) if sign == ">" else (-1.7, -0.2))
    figure.axes[0].set_ylabel("objective")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The objective in the six cases.",
        result.objectives,
        [[0.5, 1, 1.2], [-0.8, -1, -1.5]],
        1e-12,
        mutant="max in place of min",
    )
    yield Claim(
        "With the minimum the slope is 0 only where the step went the right way.",
        result.slopes,
        [[1, 1, 0], [0, -1, -1]],
        mutant="minimum dropped, clip alone",
    )
    yield Claim(
        "With the clip alone it is 0 on both sides of the range.",
        result.foil_slopes,
        [[0, 1, 0], [0, -1, 0]],
        mutant="note 13: the foil does not clip",
    )
    yield Claim(
        "With the minimum the ratio is back below 1+ε after three steps.",
        result.walk[3],
        result.range[1],
        relation="<",
        mutant="minimum dropped, clip alone",
    )
    yield Claim(
        "With the clip alone it stays where it was for sixty steps.",
        result.foil_walk,
        1.5,
        1e-12,
        mutant="note 13: the foil does not clip",
    )
    yield Claim(
        "The loss is the maximum of both losses, exactly.",
        result.difference_of_the_loss,
        0.0,
        mutant="max in place of min",
    )
    yield Claim(
        "Spinning Up's g(ε, Â) gives the same numbers, exactly.",
        result.difference_of_spinning_up,
        0.0,
        mutant="clip deleted",
    )
    yield Claim(
        "The clipped objective is never above the unclipped one.",
        result.largest_excess,
        0.0,
        relation="≤",
        mutant="max in place of min",
    )
