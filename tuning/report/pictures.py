"""The pictures of a report, as PNGs."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tuning.report.data import StudyRecord, TrialRecord
from tuning.report.numbers import arm_numbers, importances, ranking, tried_space
from tuning.space.dimensions import Dimension

# Okabe and Ito's colours, told apart by the colour-blind too.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#9A9A9A"
ARM_COLORS = (BLUE, ORANGE, GREEN, PINK)


def pictures_of(record: StudyRecord) -> dict[str, bytes]:
    """All pictures for which there are data, as PNGs by name."""
    figures = {
        "test_seeds": _test_strip(record),
        "test_learning_curves": _test_curves(record),
        "history": _history(record),
        "learning_curves": _search_curves(record),
        "importances": _importances(record),
        "parallel_coordinates": _parallel_coordinates(record),
    }
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _test_strip(record: StudyRecord) -> Figure | None:
    arms = [arm for arm in record.tested if arm.scores]
    if not arms:
        return None
    figure, axes = _figure(7, 0.9 + 0.7 * len(arms))
    for place, arm in enumerate(arms):
        numbers, color = arm_numbers(arm), ARM_COLORS[place % len(ARM_COLORS)]
        # One row of dots an arm, spread in the order of the seeds so that equal scores are all seen.
        spread = np.linspace(-0.18, 0.18, len(numbers.scores)) if len(numbers.scores) > 1 else [0.0]
        axes.plot(numbers.scores, place + np.asarray(spread), "o", color=color, alpha=0.65, markersize=6)
        axes.plot([numbers.iqm] * 2, [place - 0.34, place + 0.34], color="black", linewidth=2)
        if math.isfinite(numbers.low):
            axes.plot([numbers.low, numbers.high], [place - 0.34] * 2, color="black", linewidth=1.2)
    axes.set_yticks(range(len(arms)), [f"{arm.name}\n({len(arm.scores)} seeds)" for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("test score (return); bar: interquartile mean, line: its 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _test_curves(record: StudyRecord) -> Figure | None:
    arms = [arm for arm in record.tested if any(arm.learning_curves.values())]
    if not arms:
        return None
    figure, axes = _figure(7, 3.6)
    for place, arm in enumerate(arms):
        curves = [curve for curve in arm.learning_curves.values() if curve]
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        if not steps:
            continue
        values = np.array([[curve[step] for step in steps] for curve in curves])
        color = ARM_COLORS[place % len(ARM_COLORS)]
        axes.plot(steps, np.median(values, axis=0), color=color, label=arm.name, marker="o", markersize=3)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def _history(record: StudyRecord) -> Figure | None:
    trials = [trial for trial in record.trials if trial.score is not None and trial.reason != "diverged"]
    if not trials:
        return None
    figure, axes = _figure(7, 3)
    numbers, scores = [trial.number for trial in trials], [trial.score or 0.0 for trial in trials]
    axes.plot(numbers, scores, "o", color=BLUE, alpha=0.6, markersize=5, label="completed trial")
    axes.step(numbers, np.maximum.accumulate(scores), where="post", color=BLUE, linewidth=1, label="best so far")
    warm = [trial for trial in trials if trial.origin != "sampler"]
    axes.plot(
        [trial.number for trial in warm],
        [trial.score or 0.0 for trial in warm],
        "s",
        color=ORANGE,
        markersize=8,
        markerfacecolor="none",
        label="warm start",
    )
    _mark_winner(axes, record, {trial.number: (trial.number, trial.score or 0.0) for trial in trials})
    axes.set_xlabel("trial")
    axes.set_ylabel("score in the search")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _search_curves(record: StudyRecord) -> Figure | None:
    trials = [trial for trial in record.trials if trial.evaluations]
    if not trials:
        return None
    figure, axes = _figure(7, 3.6)
    top = {trial.number for trial in ranking(record)[:5]}
    labels = set()
    for trial in sorted(trials, key=lambda trial: (trial.number in top, trial.number == record.winner)):
        kind, style = _curve_style(trial, top, record.winner)
        label = None if kind in labels else kind
        labels.add(kind)
        steps = sorted(trial.evaluations)
        axes.plot(steps, [trial.evaluations[step] for step in steps], label=label, **style)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _curve_style(trial: TrialRecord, top: set[int], winner: int | None) -> tuple[str, dict[str, Any]]:
    if trial.number == winner:
        return "the winner", dict(color="black", linewidth=2.2)
    if trial.number in top:
        return "the other best five", dict(color=BLUE, linewidth=1.4)
    if trial.state == "complete":
        return "completed", dict(color=BLUE, linewidth=0.8, alpha=0.35)
    return "pruned or failed", dict(color=GREY, linewidth=0.8, alpha=0.5)


def _mark_winner(axes: Axes, record: StudyRecord, places: dict[int, tuple[float, float]]) -> None:
    if record.winner in places:
        horizontal, vertical = places[record.winner]
        axes.plot([horizontal], [vertical], "*", color="black", markersize=12, label="the winner")


def _importances(record: StudyRecord) -> Figure | None:
    shares = importances(record)
    if not shares:
        return None
    figure, axes = _figure(7, 0.6 + 0.28 * len(shares))
    axes.barh(list(shares), list(shares.values()), color=BLUE)
    axes.invert_yaxis()
    axes.set_xlabel("share of what tells the best trials from the others (PED-ANOVA)")
    return figure


def _parallel_coordinates(record: StudyRecord) -> Figure | None:
    dimensions = [one for one in tried_space(record).dimensions if not one.is_fixed]
    trials = [
        trial for trial in reversed(ranking(record)) if all(one.name in trial.configuration for one in dimensions)
    ]
    if len(trials) < 2 or len(dimensions) < 2:
        return None
    figure, axes = _figure(max(8.0, 0.95 * len(dimensions)), 4.4)
    scores = [trial.score or 0.0 for trial in trials]
    color = ScalarMappable(Normalize(min(scores), max(scores)), cmap="viridis_r")
    for trial, score in zip(trials, scores, strict=True):
        heights = [_height(one, trial.configuration[one.name]) for one in dimensions]
        is_winner = trial.number == record.winner
        line: dict[str, Any] = dict(color=color.to_rgba(np.array(score)), alpha=0.7)
        if is_winner:
            line = dict(color="black", linewidth=2.4, zorder=3)
        axes.plot(range(len(dimensions)), heights, **line)
    for place, one in enumerate(dimensions):
        axes.axvline(place, color=GREY, linewidth=0.8, zorder=0)
        for height, label in _ticks(one):
            axes.text(place + 0.03, height, label, fontsize=7, va="center", zorder=4, backgroundcolor="#FFFFFFB0")
    axes.set_xticks(range(len(dimensions)), [one.name for one in dimensions], rotation=35, ha="right", fontsize=8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-0.2, len(dimensions) - 0.4)
    figure.colorbar(color, ax=axes, label="score in the search", pad=0.01)
    return figure


def _height(dimension: Dimension, value: Any) -> float:
    """The place of a value on its axis, in [0, 1]."""
    if dimension.kind == "choice":
        return dimension.choices.index(value) / max(len(dimension.choices) - 1, 1)
    low, high, value = (math.log(one) if dimension.log else one for one in (dimension.low, dimension.high, value))
    return float((value - low) / (high - low))


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    if dimension.kind == "choice":
        return [(_height(dimension, choice), str(choice)) for choice in dimension.choices]
    return [(0.0, f"{dimension.low:g}"), (1.0, f"{dimension.high:g}")]
