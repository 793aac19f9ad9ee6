"""The winner against SB3's defaults and rl_zoo3's values, on seeds that nobody tuned on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from sb3_ppo_notes.formulas.statistics import bootstrap_interval, difference_of_iqms, iqm, probability_of_improvement
from tuning.report.data import StudyRecord, TestedSetup

RESAMPLE_SEED = 0


def score_matrix(name: str, arm: TestedSetup) -> np.ndarray:
    """Scores of one arm as the statistics take them, ``[runs, 1]``; at least two, and finite."""
    scores = np.array([arm.scores[seed] for seed in sorted(arm.scores)], dtype=np.float64)[:, None]
    if len(scores) < 2:
        raise ValueError(
            f"{name} must be a finite [runs, tasks] array of at least 2 runs, {arm.name!r} has {len(scores)}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{name} must be a finite [runs, tasks] array, {arm.name!r} has {scores[~np.isfinite(scores)]}"
        )
    return scores


def comparison_table(record: StudyRecord) -> Table:
    """The table of the test: each arm's interquartile mean, and how the winner differs from it."""
    arms: Sequence[TestedSetup] = record.tested
    if len(arms) < 2 or arms[0].name != "tuned":
        raise ValueError(f"study {record.name!r} has no test to compare: its test stage has not run")
    table = Table(title=f"{record.name}: test scores on {record.env_id}, {record.total_timesteps:,} steps a run")
    for column in ("arm", "runs", "IQM", "95 % interval", "tuned is better by", "95 % interval", "P(tuned > arm)"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    tuned = score_matrix("scores", arms[0])
    for arm in arms:
        scores = score_matrix("scores", arm)
        low, high = bootstrap_interval(iqm, [scores], np.random.default_rng(RESAMPLE_SEED))
        row = [arm.name, str(len(scores)), f"{float(iqm(scores)):.1f}", f"[{low:.1f}, {high:.1f}]"]
        if arm is arms[0]:
            row += ["", "", ""]
        else:
            generator = np.random.default_rng(RESAMPLE_SEED)
            low, high = bootstrap_interval(difference_of_iqms, [tuned, scores], generator)
            improvement = float(probability_of_improvement(tuned, scores))
            row += [
                f"{float(difference_of_iqms(tuned, scores)):+.1f}",
                f"[{low:+.1f}, {high:+.1f}]",
                f"{improvement:.2f}",
            ]
        table.add_row(*row)
    return table


def optimism_line(record: StudyRecord) -> str:
    """The line that is always printed about a winner: how much of its tuning score was luck."""
    tested = next((arm for arm in record.tested if arm.name == "tuned" and arm.scores), None)
    if record.tuning_score is None or tested is None:
        return "tuning score minus test score: not known before the test"
    mean = float(np.mean(list(tested.scores.values())))
    return f"tuning score {record.tuning_score:.1f} minus test score {mean:.1f}: {record.tuning_score - mean:+.1f}"
