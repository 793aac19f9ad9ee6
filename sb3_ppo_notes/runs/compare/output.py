"""The terminal's table and verdicts of a comparison, and its files."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sb3_ppo_notes._atomic import write_text, write_whole
from sb3_ppo_notes.files import write_csv, write_json
from sb3_ppo_notes.formulas.statistics import iqm
from sb3_ppo_notes.runs.compare.outcome import Outcome
from sb3_ppo_notes.runs.compare.phrases import plural, with_sign
from sb3_ppo_notes.runs.compare.plots import diagnostics, learning_curves, write_png
from sb3_ppo_notes.runs.compare.report import report_page
from sb3_ppo_notes.runs.compare.results import Results, estimate
from sb3_ppo_notes.runs.compare.run import versions
from sb3_ppo_notes.runs.console import table_console


def show(outcome: Outcome, console: Console) -> None:
    """Print the table and the verdicts, at most 100 columns wide where it is not a terminal."""
    console = table_console(console)
    console.print(result_table(outcome.results))
    for arm in outcome.results.arms:
        for env, seed in outcome.results.failures(arm):
            error = outcome.results.record(arm, env, seed)["error"]
            console.print(f"failed: {arm} on {env}, seed {seed}: {error}", highlight=False, markup=False)
    for judgement in outcome.judgements:
        words = f"{judgement.candidate} against {judgement.baseline}: {judgement.headline}"
        console.print(words, style="bold", highlight=False, markup=False)
        if (numbers := judgement.numbers) is not None:
            low, high = (with_sign(end) for end in numbers.difference_interval)
            least, most = numbers.improvement_interval
            console.print(
                f"  difference of the scores {with_sign(numbers.difference)} [{low}, {high}], "
                f"probability to beat it {numbers.improvement:.2f} [{least:.2f}, {most:.2f}]",
                highlight=False,
                markup=False,
            )
        console.print("  " + " ".join(judgement.meaning), highlight=False, markup=False)
    if outcome.a_a is not None:
        console.print(f"A/A check {outcome.a_a.outcome}: {outcome.a_a.meaning}", highlight=False, markup=False)


def result_table(results: Results) -> Table:
    """One row for each task and arm."""
    seeds = plural(len(results.seeds), "seed")
    table = Table(title=f"final return, {seeds}: interquartile mean", collapse_padding=True, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("arm", overflow="fold")
    for name in ("return", "95 % interval", "lowest", "highest", "failed", "steps/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for env in results.envs:
        for arm in results.arms:
            returns, speeds = results.returns(arm, env), results.numbers(arm, env, "steps_per_second")
            result = estimate(iqm, returns[:, np.newaxis])
            table.add_row(
                env,
                arm,
                f"{result.value:.1f}",
                f"{result.low:.1f} to {result.high:.1f}",
                f"{returns.min():.1f}",
                f"{returns.max():.1f}",
                str(sum(results.is_failed(arm, env, seed) for seed in results.seeds)),
                f"{np.median(speeds):,.0f}" if len(speeds) else "-",
            )
        table.add_section()
    return table


def write_files(outcome: Outcome, outdir: Path) -> list[str]:
    """Write everything, the JSON last, so that with it there is all the rest; names of the files."""
    names = []
    for name, rows in outcome.rows.items():
        write_csv(outdir / f"{name}.csv", list(rows[0]) if rows else [], (list(row.values()) for row in rows))
        names.append(f"{name}.csv")
    arms, envs = outcome.results.arms, outcome.results.envs
    pictures = {"learning_curves.png": learning_curves(outcome.rows["learning_curves"], envs, arms)}
    pictures |= {f"diagnostics-{slug(env)}.png": diagnostics(outcome.rows["diagnostics"], env, arms) for env in envs}
    for name, picture in pictures.items():
        write_whole(outdir / name, lambda path, picture=picture: write_png(picture, path))  # type: ignore[misc]
        names.append(name)
    write_text(outdir / "report.html", report_page(outcome))
    write_json(outdir / "comparison.json", _document(outcome))
    return ["report.html", "comparison.json", *names]


def slug(env: str) -> str:
    """A name for a file, from an id which may hold slashes and colons.

    >>> slug("ALE/Pong-v5")
    'ALE_Pong-v5'
    """
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in env)


def _document(outcome: Outcome) -> dict[str, Any]:
    judgements = [asdict(judgement) for judgement in outcome.judgements]
    for judgement, of in zip(judgements, outcome.judgements, strict=True):
        # As names, not as positions.
        judgement["numbers"] = None if of.numbers is None else of.numbers._asdict()
        for name in ("speed_ratio", "cpu_speed_ratio"):
            judgement[name] = {env: result and result._asdict() for env, result in getattr(of, name).items()}
    a_a = None
    if outcome.a_a is not None:
        a_a = {**asdict(outcome.a_a), "numbers": outcome.a_a.numbers._asdict()}
    return {
        **outcome.about,
        "versions": versions(),
        "seeds": list(outcome.plan.seeds),
        "tasks": {
            env: {"total_timesteps": outcome.plan.budgets[env], **asdict(scale)}
            for env, scale in outcome.results.scales.items()
        },
        "arms": [
            {
                "arm": summary.arm,
                "failed_runs": summary.failed_runs,
                **{name: getattr(summary, name)._asdict() for name in ("iqm", "optimality_gap", "area")},
            }
            for summary in outcome.summaries
        ],
        "verdicts": judgements,
        "a_a_check": a_a,
        "runs": outcome.rows["runs"],
    }
