"""What a comparison shows on the terminal, and the files that it leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sb3_ppo_notes._atomic import write_text, write_whole
from sb3_ppo_notes.files import write_csv, write_json
from sb3_ppo_notes.formulas.statistics import iqm
from sb3_ppo_notes.runs.compare.models import described
from sb3_ppo_notes.runs.compare.phrases import counted, signed
from sb3_ppo_notes.runs.compare.plan import Plan
from sb3_ppo_notes.runs.compare.plots import diagnostics, learning_curves, write_png
from sb3_ppo_notes.runs.compare.report import Report, report
from sb3_ppo_notes.runs.compare.results import Results, estimate
from sb3_ppo_notes.runs.compare.rows import (
    Row,
    curve_rows,
    diagnostics_rows,
    interval_rows,
    profile_rows,
    run_rows,
    seed_curve_rows,
    speed_rows,
)
from sb3_ppo_notes.runs.compare.run import versions
from sb3_ppo_notes.runs.compare.verdict import AACheck, Judgement, Summary
from sb3_ppo_notes.runs.console import table_console


@dataclass(frozen=True)
class Outcome:
    """A finished comparison.

    :param plan: what was to be done.
    :param results: of all runs.
    :param summaries: of every arm.
    :param judgements: of every candidate.
    :param a_a: the comparison's own test, ``None`` if it was not asked for.
    :param about: the command, the options, the machine and the times.
    """

    plan: Plan
    results: Results
    summaries: Sequence[Summary]
    judgements: Sequence[Judgement]
    a_a: AACheck | None
    about: Mapping[str, Any]

    @property
    def is_bad_news(self) -> bool:
        """Whether a candidate is worse, or the comparison fails its own test."""
        return any(judgement.verdict == "worse" for judgement in self.judgements) or (
            self.a_a is not None and self.a_a.outcome == "FAILED"
        )


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
            low, high = (signed(end) for end in numbers.difference_interval)
            least, most = numbers.improvement_interval
            console.print(
                f"  difference of the scores {signed(numbers.difference)} [{low}, {high}], "
                f"probability to beat it {numbers.improvement:.2f} [{least:.2f}, {most:.2f}]",
                highlight=False,
                markup=False,
            )
        console.print("  " + " ".join(judgement.meaning), highlight=False, markup=False)
    if outcome.a_a is not None:
        console.print(f"A/A check {outcome.a_a.outcome}: {outcome.a_a.meaning}", highlight=False, markup=False)


def result_table(results: Results) -> Table:
    """One row for each task and arm."""
    seeds = counted(len(results.seeds), "seed")
    table = Table(title=f"final return, {seeds}: interquartile mean", collapse_padding=True, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("arm", overflow="fold")
    for name in ("return", "95 % interval", "lowest", "highest", "failed", "steps/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for env in results.envs:
        for arm in results.arms:
            returns, speeds = results.returns(arm, env), results.numbers(arm, env, "steps_per_second")
            found = estimate(iqm, returns[:, np.newaxis])
            table.add_row(
                env,
                arm,
                f"{found.value:.1f}",
                f"{found.low:.1f} to {found.high:.1f}",
                f"{returns.min():.1f}",
                f"{returns.max():.1f}",
                str(sum(results.is_failed(arm, env, seed) for seed in results.seeds)),
                f"{np.median(speeds):,.0f}" if len(speeds) else "-",
            )
        table.add_section()
    return table


def write_files(outcome: Outcome, outdir: Path) -> list[str]:
    """Write everything, the JSON last, so that with it there is all the rest; names of the files."""
    results, budgets = outcome.results, dict(outcome.plan.budgets)
    rows: dict[str, list[Row]] = {
        "runs": run_rows(results),
        "learning_curves": curve_rows(results, budgets),
        "learning_curves_of_runs": seed_curve_rows(results, budgets),
        "performance_profile": profile_rows(results),
        "diagnostics": diagnostics_rows(results, budgets),
        "speed": speed_rows(results),
        "verdicts": interval_rows(outcome.judgements),
    }
    written = []
    for name, lines in rows.items():
        columns = list(lines[0]) if lines else []
        write_csv(outdir / f"{name}.csv", columns, (list(line.values()) for line in lines))
        written.append(f"{name}.csv")
    arms, envs = list(results.arms), list(results.envs)
    pictures = {"learning_curves.png": learning_curves(rows["learning_curves"], envs, arms)}
    pictures |= {f"diagnostics-{slug(env)}.png": diagnostics(rows["diagnostics"], env, arms) for env in envs}
    for name, picture in pictures.items():
        write_whole(outdir / name, lambda path, picture=picture: write_png(picture, path))  # type: ignore[misc]
        written.append(name)
    described_arms = {
        env: {arm.name: described(arm, outcome.plan.settings[(arm.name, env)]) for arm in outcome.plan.arms}
        for env in envs
    }
    about = dict(outcome.about) | {"hyperparameters": described_arms, "sources": sources(outcome.plan)}
    text = report(Report(results, budgets, rows, outcome.summaries, outcome.judgements, outcome.a_a, about, versions()))
    write_text(outdir / "report.html", text)
    write_json(outdir / "comparison.json", _document(outcome, about, rows["runs"]))
    return ["report.html", "comparison.json", *written]


def sources(plan: Plan) -> dict[str, dict[str, str]]:
    """Where each arm's hyperparameters are from, by task and arm."""
    return {env: {arm.name: plan.settings[(arm.name, env)].source for arm in plan.arms} for env in plan.envs}


def slug(env: str) -> str:
    """A name for a file, from an id which may hold slashes and colons.

    >>> slug("ALE/Pong-v5")
    'ALE_Pong-v5'
    """
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in env)


def _document(outcome: Outcome, about: Mapping[str, Any], runs: list[Row]) -> dict[str, Any]:
    judgements = [asdict(judgement) for judgement in outcome.judgements]
    for judgement, of in zip(judgements, outcome.judgements, strict=True):
        # As names, not as positions.
        judgement["numbers"] = None if of.numbers is None else of.numbers._asdict()
        for name in ("speed_ratio", "cpu_speed_ratio"):
            judgement[name] = {env: found and found._asdict() for env, found in getattr(of, name).items()}
    a_a = None
    if outcome.a_a is not None:
        a_a = {**asdict(outcome.a_a), "numbers": outcome.a_a.numbers._asdict()}
    return {
        **about,
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
        "runs": runs,
    }
