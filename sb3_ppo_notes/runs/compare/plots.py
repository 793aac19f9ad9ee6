"""The plots of a comparison's report, drawn from its rows, as figures that become SVG within the page or a PNG."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.statistics import MARGIN
from sb3_ppo_notes.runs.compare.rows import Row

#: Of a figure on a broad page, and of one on a telephone, whose letters would else be too small to read; inches.
WIDTH, NARROW_WIDTH = 9.0, 4.3
#: Colours after the baseline's orange.
COLORS = (PALETTE[1], PALETTE[0], *PALETTE[2:])
TITLES = {
    "kl": "KL of the update, nats",
    "entropy": "entropy, nats",
    "clip_fraction": "share of clipped ratios",
    "explained_variance": "explained variance",
}


def line_style(index: int) -> dict[str, Any]:
    """Lines of an arm; those of the baseline are broad and pale, so that both are seen where they are the same."""
    if index == 0:
        return dict(color=COLORS[0], linewidth=5.0, alpha=0.55, solid_capstyle="butt")
    return dict(color=COLORS[index % len(COLORS)], linewidth=1.6)


def label(arm: str) -> str:
    """An arm's name for a legend, in at most 48 letters; between dollar signs Matplotlib would see mathematics."""
    return (arm if len(arm) <= 48 else arm[:47] + "…").replace("$", r"\$")


def _names(axes: Axes, arms: Sequence[str], narrow: bool) -> None:
    """Arms from the top down, long names in several lines."""
    lines = [textwrap.wrap(label(arm).replace(",", ", "), 14 if narrow else 26) for arm in arms]
    axes.set_yticks(range(len(arms)), ["\n".join(name) for name in lines])
    axes.set_ylim(len(arms) - 0.5, -0.5)


def _of(rows: Sequence[Row], **values: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _axes_grid(number: int, height: float, narrow: bool, share_names: bool = False) -> tuple[Figure, list[Axes]]:
    columns = 1 if narrow else min(number, 2)
    rows = -(-number // columns)
    figure = Figure(figsize=(NARROW_WIDTH if narrow else WIDTH, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=share_names).ravel())
    for axes in panels[number:]:
        axes.remove()
    return figure, panels[:number]


def _step_axis(axes: Axes, name: str = "") -> None:
    axes.set_xlabel(name)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    _plain(axes)


def _line(axes: Axes, rows: Sequence[Row], arm: str, index: int, across: str, middle: str) -> None:
    """One arm's line and its band from ``low`` to ``high``."""
    style, x = line_style(index), _column(rows, across)
    low, high = _column(rows, "low"), _column(rows, "high")
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, _column(rows, middle), label=label(arm), **style)


def _legend(figure: Figure, axes: Axes, narrow: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if narrow or max(map(len, labels)) > 30 else min(len(labels), 4)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def verdict_figure(rows: Sequence[Row], narrow: bool = False) -> Figure:
    """The two intervals that each verdict rests on, from at least one of ``interval_rows``."""
    figure, (left, right) = _axes_grid(2, 1.6 + 0.45 * len(rows), narrow, share_names=True)
    for axes, name in ((left, "difference"), (right, "improvement")):
        for place, row in enumerate(rows):
            color = COLORS[(place + 1) % len(COLORS)]
            axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [place, place], color=color, linewidth=3)
            axes.plot(row[name], place, "o", color=color, markersize=8)
        _names(axes, [row["candidate"] for row in rows], narrow)
        _plain(axes)
    baseline = label(rows[0]["baseline"])
    furthest = max(abs(row[end]) for row in rows for end in ("difference_low", "difference_high"))
    reach = 1.15 * max(furthest, 2 * MARGIN)
    left.axvspan(-reach, -MARGIN, color=PALETTE[5], alpha=0.12, linewidth=0)
    left.axvline(-MARGIN, color=PALETTE[5], linewidth=1, linestyle="--")
    left.axvline(0, color="black", linewidth=1)
    left.set(xlim=(-reach, reach), xlabel=f"score minus {baseline}'s\n(shaded: worse by more than {MARGIN})")
    right.axvline(0.5, color="black", linewidth=1)
    right.set(xlim=(-0.03, 1.03), xlabel=f"probability that a run\nbeats one of {baseline}")
    return figure


def learning_curves(rows: Sequence[Row], envs: Sequence[str], arms: Sequence[str], narrow: bool = False) -> Figure:
    """Training returns over environment steps, a panel for each task, from ``curve_rows``."""
    figure, panels = _axes_grid(len(envs), 3.0, narrow)
    for axes, env in zip(panels, envs, strict=True):
        for index, arm in enumerate(arms):
            _line(axes, _of(rows, env=env, arm=arm), arm, index, "steps", "iqm")
        axes.set(title=env, ylabel="return while training")
        _step_axis(axes, "environment steps")
    _legend(figure, panels[0], narrow)
    return figure


def profiles(rows: Sequence[Row], arms: Sequence[str], narrow: bool = False) -> Figure:
    """Share of runs above each score, from ``profile_rows``."""
    figure, (axes,) = _axes_grid(1, 3.4, narrow)
    for index, arm in enumerate(arms):
        _line(axes, _of(rows, arm=arm), arm, index, "threshold", "share")
    axes.set(xlabel="score (0: random policy, 1: reference)", ylabel="share of runs above it", ylim=(-0.03, 1.03))
    _plain(axes)
    _legend(figure, axes, narrow)
    return figure


def strips(rows: Sequence[Row], envs: Sequence[str], arms: Sequence[str], narrow: bool = False) -> Figure:
    """Every run's final return, a dot each; a cross for one that failed; from ``run_rows``."""
    figure, panels = _axes_grid(len(envs), 1.2 + 0.5 * len(arms), narrow, share_names=True)
    for axes, env in zip(panels, envs, strict=True):
        for place, arm in enumerate(arms):
            of_arm = _of(rows, env=env, arm=arm)
            returns = _column(of_arm, "return")
            is_failed = np.array([row["status"] != "finished" for row in of_arm])
            # Side by side in the order of the seeds, so that equal returns do not hide one another.
            heights = place + np.linspace(-0.25, 0.25, len(of_arm))
            color = COLORS[place % len(COLORS)]
            axes.plot(returns[~is_failed], heights[~is_failed], "o", color=color, alpha=0.75, markersize=5)
            axes.plot(returns[is_failed], heights[is_failed], "x", color="black", markersize=7, markeredgewidth=2)
            axes.plot([np.median(returns)] * 2, [place - 0.36, place + 0.36], color="black", linewidth=1.5)
        _names(axes, arms, narrow)
        axes.set(title=env, xlabel="final return")
        axes.ticklabel_format(useOffset=False, axis="x")
        axes.locator_params(axis="x", nbins=5)
        _plain(axes)
    return figure


def diagnostics(rows: Sequence[Row], env: str, arms: Sequence[str], narrow: bool = False) -> Figure:
    """KL, entropy, clip fraction and explained variance on one task, from ``diagnostics_rows``."""
    figure, panels = _axes_grid(len(TITLES), 2.0 if narrow else 2.3, narrow)
    for axes, (metric, title) in zip(panels, TITLES.items(), strict=True):
        for index, arm in enumerate(arms):
            _line(axes, _of(rows, env=env, arm=arm, metric=metric), arm, index, "steps", "median")
        if not _of(rows, env=env, metric=metric):
            axes.text(0.5, 0.5, "no arm logs it", transform=axes.transAxes, ha="center", color="grey")
        axes.set_title(title, fontsize=10)
        _step_axis(axes)
    for axes in panels[-1 if narrow else -2 :]:
        axes.set_xlabel("environment steps")
    figure.suptitle(env)
    _legend(figure, panels[0], narrow)
    return figure


def speeds(rows: Sequence[Row], envs: Sequence[str], arms: Sequence[str], narrow: bool = False) -> Figure:
    """Median steps per second, with its interval, and the seconds of a training, from ``speed_rows``."""
    figure, panels = _axes_grid(len(envs), 1.1 + 0.5 * len(arms), narrow, share_names=True)
    for axes, env in zip(panels, envs, strict=True):
        of_env = [_of(rows, env=env, arm=arm)[0] for arm in arms]
        longest = max([row["high"] or 0.0 for row in of_env]) or 1.0
        for place, row in enumerate(of_env):
            if row["steps_per_second"] is None:
                axes.text(0, place, " fewer than two runs finished", va="center", color="grey")
                continue
            axes.barh(place, row["steps_per_second"], height=0.6, color=COLORS[place % len(COLORS)], alpha=0.8)
            axes.plot([row["low"], row["high"]], [place, place], color="black", linewidth=2)
            words = f"{row['steps_per_second']:,.0f} steps/s\n{row['train_seconds']:,.1f} s a run"
            axes.text(1.04 * longest, place, words, va="center", fontsize=9)
        _names(axes, arms, narrow)
        # Room for the words, to the right of every bar.
        axes.set(title=env, xlim=(0, 1.45 * longest))
        _step_axis(axes, "environment steps per second")
    return figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as a picture."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120, format="png")
