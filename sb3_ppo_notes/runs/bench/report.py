"""A benchmark as a table and as a bar chart."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.runs.bench.arms import OURS, PEERS, VEC_ENVS, variant_of
from sb3_ppo_notes.runs.bench.rounds import Summary

#: Ours blue, as in the learning curves; each peer its own of Okabe and Ito's other colours.
COLORS = dict.fromkeys(OURS, PALETTE[0]) | dict(zip(PEERS, PALETTE[1:], strict=False))
#: The environments alone are often 30 times faster: if the longest bar were shorter than this share of the axis, no bar
#: could be read.
SHORTEST_LONGEST_BAR = 0.25
#: Cores that a single thread keeps busy while nothing else runs. JAX hands work to a thread of its own and goes on, so
#: its one computing thread may come to a little more than one.
CORES_OF_ONE_THREAD = (0.9, 1.1)
#: A benchmark that ended a moment ago has left 1.
IDLE_LOAD = 1.5


def bench_table(summaries: Mapping[str, Summary], evaluations: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """One row an arm, not wider than 100 columns."""
    reference = next(iter(summaries))
    table = Table(title=title, padding=0)
    table.add_column("arm")
    table.add_column("ran as")
    for heading in ("steps/s", "ratio", "lowest to\nhighest", "floor\nsteps/s", "% of\nfloor", "compile\ns"):
        table.add_column(heading, justify="right", style="bold" if heading == "ratio" else None)
    table.add_column(f"{summaries[reference].total_steps:,}\nsteps in s", justify="right")
    table.add_column("return\nthen", justify="right")
    for arm, summary in summaries.items():
        compiling, whole = f"{max(summary.compile_seconds, 0.0):.1f}", summary.seconds_to_total
        if summary.cold_compile_seconds is not None and summary.cold_seconds_to_total is not None:
            compiling, whole = f"{summary.cold_compile_seconds:.1f}/{compiling}", summary.cold_seconds_to_total
        table.add_row(
            arm.replace("+", " +"),
            summary.ran_as or "",
            f"{summary.steps_per_second:,.0f}",
            f"{summary.ratio:.2f}x",
            "" if arm == reference else f"{short(summary.lowest_ratio)}..{short(summary.highest_ratio)}",
            f"{summary.floor_steps_per_second:,.0f}",
            f"{100 * summary.share_of_floor:.1f}",
            compiling,
            f"{whole:.1f}",
            f"{evaluations[arm]['mean']:.1f} ±{evaluations[arm]['std']:.1f}",
        )
    return table


def short(ratio: float) -> str:
    """A ratio below 1000 in at most four characters.

    >>> short(0.531), short(11.54)
    ('0.53', '11.5')
    """
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def footnotes(summaries: Mapping[str, Summary], rounds: int, n_eval_episodes: int, load: float | None) -> list[str]:
    """Sentences without which the table cannot be judged.

    ``load`` counts the processes that wanted to run before the benchmark began, ``None`` if unknown.
    """
    reference = next(iter(summaries))
    is_cold = any(summary.cold_compile_seconds is not None for summary in summaries.values())
    cache = "empty cache / from cache; time to N steps: from an empty cache" if is_cold else "cache as it was"
    notes = [
        f"Medians of {rounds} interleaved rounds after a warm-up, one thread each; ratio to {reference}, lowest and "
        "highest of any round.",
        "floor: the environments alone, random actions. "
        f"compile: the warm-up beyond the same steps later ({cache}). "
        f"return: one model, {n_eval_episodes} deterministic episodes, mean ± deviation. "
        "ran as: what carried out the gradient steps, as model.engine.report() says.",
    ]
    notes += [f"{name} differs: {PEERS[name].differs}." for name in summaries if name in PEERS and PEERS[name].differs]
    ours = {name: OURS[variant_of(name)][1] for name in summaries if variant_of(name) in OURS}
    other_envs = {name: vec_env for name, vec_env in ours.items() if vec_env in VEC_ENVS}
    notes += [f"{name} steps {VEC_ENVS[vec_env]} instead of DummyVecEnv." for name, vec_env in other_envs.items()]
    fewest, most = CORES_OF_ONE_THREAD
    for name, summary in summaries.items():
        if summary.cores > most:
            notes.append(f"{name} kept {summary.cores:.2f} cores busy, more than one thread.")
        if summary.share_of_exchange is not None:
            share = f"{100 * summary.share_of_exchange:.0f} % of its time its first process"
            notes.append(f"{name}: {share} exchanged numbers with the others, or waited for them.")
        elif summary.cores < fewest:
            notes.append(f"{name} got {summary.cores:.2f} of a core: something else ran, do not trust these numbers.")
    if load is not None and load > IDLE_LOAD:
        notes.append(f"The machine was not idle before the start (load {load:.1f}).")
    return notes


def draw_bars(summaries: Mapping[str, Summary], title: str, path: Path) -> None:
    """Draw one bar an arm and the floor, the environments alone: a mark, or a number at the edge if that is far off."""
    figure = Figure(figsize=(9, 1.4 + 0.5 * len(summaries)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    longest = max(summary.steps_per_second for summary in summaries.values())
    floors = [summary.floor_steps_per_second for summary in summaries.values()]
    marks_fit = longest >= SHORTEST_LONGEST_BAR * max(floors)
    end = max(1.05 * max(floors), 1.2 * longest) if marks_fit else 2.4 * longest
    for row, (arm, summary) in enumerate(summaries.items()):
        speed = summary.steps_per_second
        axes.barh(row, speed, height=0.6, color=COLORS[variant_of(arm)])
        # Beside its bar if there is room for half a line, else within.
        within = speed > 0.55 * end
        axes.annotate(
            f"{speed:,.0f}  ({ratio_text(summary, is_reference=row == 0)})",
            (speed, row),
            xytext=(-5 if within else 5, 0),
            textcoords="offset points",
            va="center",
            ha="right" if within else "left",
            color="white" if within and variant_of(arm) in OURS else "black",
        )
        if marks_fit:
            axes.plot([floors[row]] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
        else:
            axes.text(end, row, f"floor {floors[row]:,.0f} ▸", va="center", ha="right", fontsize=9)
    floor_words = "black: the floor, environments alone" if marks_fit else "floor: the environments alone"
    axes.set(title=title, xlabel=f"environment steps per second; {floor_words}", xlim=(0, end))
    axes.set_yticks(range(len(summaries)), [arm.replace("+", " + ") for arm in summaries])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def ratio_text(summary: Summary, is_reference: bool) -> str:
    """The ratio and its range."""
    if is_reference:
        return "1.00x"
    return f"{summary.ratio:.2f}x, {summary.lowest_ratio:.2f} to {summary.highest_ratio:.2f}"
