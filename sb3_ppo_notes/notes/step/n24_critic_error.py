"""Which error for the critic?

Four are in use, and their *slopes* tell them apart, for it is the slope that moves the critic.

* **Squared**, (V − Ĝ)²: no invention of PPO's, its eq. 9 only names it. The slope grows with the distance: an outlier
  {outlier:g} away pulls with {outlier_slopes[0]:g}.
* **Huber** ("smooth L1"): squared near the target, a line from β on, so that the same outlier pulls with
  {outlier_slopes[1]:g}. It is not the L1 norm: |V − Ĝ| has a slope of 1 right up to the target and never settles there.
* **Clipped**, as in SB3 and skrl: V is held within ±ε of what it was when the rollout was gathered, and *then* squared.
* **Pessimistic**, as in OpenAI baselines and CleanRL: the *larger* of the plain and the clipped error.

A target of {target:g}, V_old = 0 and ε = {clip_range:g}:

| V = | {places[0]:g} | {places[1]:g} | {places[2]:g} | {places[3]:g} |
|---|---|---|---|---|
| squared | {plain[0]:.2f} | {plain[1]:.2f} | {plain[2]:.2f} | {plain[3]:.2f} |
| clipped | {clipped[0]:.2f} | {clipped[1]:.2f} | {clipped[2]:.2f} | {clipped[3]:.2f} |
| pessimistic | {pessimistic[0]:.2f} | {pessimistic[1]:.2f} | {pessimistic[2]:.2f} | {pessimistic[3]:.2f} |

Is it the minimum or the maximum, and can a value that was clipped come back? The counterpart of the policy's minimum is
a *maximum*, because an error is descended and an objective ascended. And that decides the second question. A value that
other samples have pushed to {begin:g}, away from its target, has the slope 0 with the clip alone: after {n_steps} steps
of gradient descent it is still at {walks[1][60]:g}. With the maximum it is at {walks[2][60]:.2f}, at the band's edge on
the target's side, and the plain error brings it to {walks[0][60]:.2f}.

Mind the unit: ε of this clip is in *reward units*, not a share as the policy's. A value clip of {clip_range:g} is
nothing where returns are in the hundreds. That is one reason why it is off by default.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.objectives import (
    clipped_values,
    huber_value_error,
    mean_squared_error,
    pessimistic_value_error,
    squared_value_error,
)
from sb3_ppo_notes.notes.note import Claim, Frame, Note

NOTE = Note(
    name="critic-error",
    number=24,
    titles=dict(
        en="Which error for the critic?",
        ja="クリティックの誤差は何を使うか",
        fr="Quelle erreur pour le critique ?",
        ko="크리틱의 오차로 무엇을 쓰는가?",
    ),
    answers=("1.8", "4.5", "A18"),
    formulas=(squared_value_error, mean_squared_error, clipped_values, pessimistic_value_error, huber_value_error),
    tests=("tests/recipes/test_rules.py::test_other_value_objectives_learn_something_else",),
    slider="ε, the clip range of the values",
)
TARGET, CLIP_RANGE, BEGIN, N_STEPS, OUTLIER = 1.0, 0.2, -0.5, 60, 100.0
PLACES, CLIP_RANGES = (0.1, 0.5, 1.0, -0.5), (0.1, 0.2, 0.4, 0.6, 0.8, 1.2)
Error = Callable[[th.Tensor], th.Tensor]


class Result(NamedTuple):
    target: float
    clip_range: float
    places: tuple[float, ...]
    plain: np.ndarray  # [4]
    clipped: np.ndarray
    pessimistic: np.ndarray
    huber: np.ndarray  # [4], at distances ½, 1, 2 and −3
    huber_slopes: np.ndarray
    outlier: float
    outlier_slopes: np.ndarray  # [2], squared and Huber
    begin: float
    n_steps: int
    walks: np.ndarray  # [3, 61], plain, clipped, pessimistic
    fused: float
    frames: Mapping[str, Frame]


def experiment(seed: int = 0) -> Result:
    """The errors at four places, their slopes, and the way back from the wrong side."""
    errors = _errors(CLIP_RANGE)
    values = [_with_slope(error, np.array(PLACES))[0] for error in errors]
    distances = TARGET + np.array([0.5, 1.0, 2.0, -3.0])
    huber, huber_slopes = _with_slope(_huber, distances)
    outliers = [_with_slope(error, np.array([TARGET + OUTLIER]))[1][0] for error in (errors[0], _huber)]
    some = th.randn(64, 2, generator=th.Generator().manual_seed(seed), dtype=th.float64)
    return Result(
        target=TARGET,
        clip_range=CLIP_RANGE,
        places=PLACES,
        plain=values[0],
        clipped=values[1],
        pessimistic=values[2],
        huber=huber,
        huber_slopes=huber_slopes,
        outlier=OUTLIER,
        outlier_slopes=np.array(outliers),
        begin=BEGIN,
        n_steps=N_STEPS,
        walks=np.stack([_walk(error) for error in errors]),
        fused=(mean_squared_error(some[:, 0], some[:, 1]) - squared_value_error(some[:, 0], some[:, 1]).mean()).item(),
        frames={f"{clip_range:g}": _frame(clip_range) for clip_range in CLIP_RANGES},
    )


def _errors(clip_range: float) -> tuple[Error, Error, Error]:
    """Plain, clipped and pessimistic, of V alone: the target is 1, the old value 0."""

    def plain(values: th.Tensor) -> th.Tensor:
        return squared_value_error(values, th.full_like(values, TARGET))

    def clipped(values: th.Tensor) -> th.Tensor:
        return plain(clipped_values(values, th.zeros_like(values), clip_range))

    def pessimistic(values: th.Tensor) -> th.Tensor:
        old = th.zeros_like(values)
        return pessimistic_value_error(values, old, th.full_like(values, TARGET), clip_range)

    return plain, clipped, pessimistic


def _huber(values: th.Tensor) -> th.Tensor:
    return huber_value_error(values, th.full_like(values, TARGET))


def _with_slope(error: Error, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = th.tensor(places, dtype=th.float64, requires_grad=True)
    errors = error(values)
    (slopes,) = th.autograd.grad(errors.sum(), values)
    return errors.detach().numpy(), slopes.numpy()


def _walk(error: Error) -> np.ndarray:
    """V, step by step, from the wrong side of the band."""
    value, path = th.tensor([BEGIN], dtype=th.float64, requires_grad=True), [BEGIN]
    optimizer = th.optim.SGD([value], lr=0.05)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        th.autograd.backward(error(value).sum())
        optimizer.step()
        path.append(value.item())
    return np.array(path)


def _frame(clip_range: float) -> Frame:
    values = np.linspace(-2, 3, 201)
    curves = {"values": values}
    for name, error in zip(("squared", "clipped", "pessimistic"), _errors(clip_range), strict=True):
        curves[name], curves[f"slope, {name}"] = _with_slope(error, values)
    curves["Huber"], curves["slope, Huber"] = _with_slope(_huber, values)
    return Frame(clip_range, curves)


def picture(result: Result, figure: Figure) -> None:
    """The way back from the wrong side."""
    axes = figure.subplots()
    axes.axhspan(-result.clip_range, result.clip_range, color=PALETTE[2], alpha=0.15, linewidth=0, label="V_old ± ε")
    axes.axhline(result.target, color="gray", linestyle=":", linewidth=1, label="target")
    for i, (name, style) in enumerate((("squared", ":"), ("clipped alone", "--"), ("pessimistic", "-"))):
        axes.plot(result.walks[i], style, color=(PALETTE[3], PALETTE[1], PALETTE[0])[i], label=name)
    axes.set(xlabel="steps of gradient descent", ylabel="V", xlim=(0, result.n_steps))
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=5, handlelength=1.4, columnspacing=1
    )


def frame(result: Result, frame: Frame, figure: Figure) -> None:
    """Four errors and their slopes for one clip range."""
    left, right = figure.subplots(1, 2)
    styles = {
        "squared": (PALETTE[3], ":"),
        "Huber": (PALETTE[2], "-."),
        "clipped": (PALETTE[1], "--"),
        "pessimistic": (PALETTE[0], "-"),
    }
    for name, (color, style) in styles.items():
        left.plot(frame.curves["values"], frame.curves[name], style, color=color, label=name)
        right.plot(frame.curves["values"], frame.curves[f"slope, {name}"], style, color=color)
    for axes in (left, right):
        axes.axvspan(-frame.position, frame.position, color=PALETTE[2], alpha=0.15, linewidth=0)
        axes.axvline(result.target, color="gray", linestyle=":", linewidth=1)
        axes.set_xlabel("V")
    left.set(title="error", ylim=(-0.1, 4))
    right.set(title="its slope", ylim=(-4.2, 4.2))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=1.6)


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The squared error at the four places.",
        result.plain,
        [0.81, 0.25, 0, 2.25],
        1e-12,
        mutant="note 24: twice the squared error",
    )
    yield Claim(
        "The clipped one.",
        result.clipped,
        [0.81, 0.64, 0.64, 1.44],
        1e-12,
        mutant="note 24: values are not clipped",
    )
    yield Claim(
        "The pessimistic one is the larger of the two.",
        result.pessimistic,
        [0.81, 0.64, 0.64, 2.25],
        1e-12,
        mutant="note 24: the smaller error",
    )
    yield Claim(
        "Huber's error is half a square up to 1 and then a line.",
        [result.huber, result.huber_slopes],
        [[0.125, 0.5, 1.5, 2.5], [0.5, 1, 1, -1]],
        1e-12,
        mutant="note 24: Huber's β ignored",
    )
    yield Claim(
        "An outlier pulls with twice its distance, or with 1.",
        result.outlier_slopes,
        [2 * result.outlier, 1],
        1e-9,
        mutant="note 24: Huber's β ignored",
    )
    yield Claim(
        "From the wrong side the clip alone never comes back.",
        result.walks[1],
        result.begin,
        1e-12,
        mutant="note 24: values are not clipped",
    )
    yield Claim(
        "The maximum brings it over to the band's edge on the target's side.",
        result.walks[2][-1],
        result.clip_range,
        0.11,
        mutant="note 24: the smaller error",
    )
    yield Claim(
        "The fused mean that SB3 uses is the mean of the squared errors, but for rounding.",
        result.fused,
        0.0,
        1e-12,
        mutant="note 24: twice the squared error",
    )
