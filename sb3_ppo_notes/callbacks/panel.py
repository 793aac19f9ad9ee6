"""The picture of a run's diagnostics: nine questions, one small plot each."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sb3_ppo_notes._atomic import write_whole


class Plot(NamedTuple):
    """One small plot: its question, measures with their legends, the usual band, a logarithmic axis or not."""

    title: str
    curves: tuple[tuple[str, str], ...]
    band: tuple[float, float] | None = None
    log: bool = False


PLOTS = (
    Plot("How far does an update move the policy?\nKL(old ‖ new), nats", (("kl", "k3"),), (0.0, 0.02)),
    Plot("How often does the clip hold it back?\nshare of ratios", (("clip_fraction", "clipped"),), (0.05, 0.3)),
    Plot(
        "What is left of the sample?\nshare",
        (("ratio/sample_size", "effective sample size"),),
        (0.5, 1.0),
    ),
    Plot(
        "How undecided is it?\nentropy of the largest, or σ",
        (("entropy", "entropy"), ("std/min", "smallest σ"), ("std/max", "largest σ")),
    ),
    Plot(
        "Does the critic predict the returns?\nexplained variance", (("explained_variance", "explained"),), (0.0, 1.0)
    ),
    Plot(
        "How long are the gradients?\nnorm before clipping",
        (("gradient/norm", "whole"), ("gradient/actor", "actor"), ("gradient/critic", "critic")),
        log=True,
    ),
    Plot(
        "How large are the targets?\nstandard deviation, reward units",
        (("scale/return_std", "returns"), ("scale/value_std", "values"), ("scale/advantage_std", "advantages")),
    ),
    Plot(
        "Can the networks still learn?\nshare of units, worst layer",
        (("units/dormant", "dormant"), ("units/saturated", "saturated")),
        (0.0, 0.3),
    ),
    Plot("How far do the weights go?\nchange by an update / their length", (("weights/change", "change"),), log=True),
)

#: Okabe and Ito's colours: told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73")


def draw_panel(history: Sequence[Mapping[str, float]], warned: Mapping[str, str], path: Path) -> Path:
    """Draw measures by name, one mapping a look with ``timesteps``, and the warnings below."""
    from matplotlib.figure import Figure

    lines = [line for text in warned.values() for line in textwrap.wrap(f"! {text}", 130, subsequent_indent="   ")]
    figure = Figure(figsize=(11, 8 + 0.2 * max(len(lines), 1)), layout="constrained")
    for axes, plot in zip(figure.subplots(3, 3, sharex=True).ravel(), PLOTS, strict=True):
        _draw(axes, plot, history)
    words = "\n".join(lines) or "No warnings."
    figure.supxlabel(f"environment steps\n\n{words}", fontsize=9, x=0.02, ha="left")
    write_whole(path, lambda beside: figure.savefig(beside, dpi=110))
    return path


def _draw(axes: Any, plot: Plot, history: Sequence[Mapping[str, float]]) -> None:
    axes.set_title(plot.title, fontsize=9, loc="left")
    if plot.band is not None:
        axes.axhspan(*plot.band, color="#e6eef6", zorder=0, label="usual")
    is_drawn = False
    for (name, label), colour in zip(plot.curves, COLORS, strict=False):
        points = [(each["timesteps"], each[name]) for each in history if name in each and each[name] == each[name]]
        if points:
            is_drawn = True
            axes.plot(*zip(*points, strict=True), color=colour, label=label, lw=1.3, marker=".", ms=4)
    if not is_drawn:
        axes.text(0.5, 0.5, "not seen in this run", transform=axes.transAxes, ha="center", va="center", color="0.4")
        axes.set_yticks([])
    elif plot.log and _spans_a_decade(axes):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(_thousands)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if is_drawn:
        axes.legend(fontsize=7, edgecolor="none", framealpha=0.9, loc="best")


def _spans_a_decade(axes: Any) -> bool:
    values = [value for line in axes.get_lines() for value in line.get_ydata() if value > 0]
    return bool(values) and max(values) > 10 * min(values)


def _thousands(value: float, _: int) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
