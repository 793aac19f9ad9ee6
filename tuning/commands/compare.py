"""The winner against SB3's defaults and rl_zoo3's values, on seeds that nobody tuned on."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from sb3_ppo_notes.formulas.statistics import bootstrap_interval, difference_of_iqms, probability_of_improvement
from tuning.report.data import StudyRecord, TestedSetup
from tuning.report.numbers import RESAMPLE_SEED, TUNED, arm_numbers, tuned_arm


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
    arms = record.tested
    if len(arms) < 2 or arms[0].name != TUNED:
        raise ValueError(f"study {record.name!r} has no test to compare: its test stage has not run")
    table = Table(title=f"{record.name}: test scores on {record.env_id}, {record.total_timesteps:,} steps a run")
    for column in ("arm", "runs", "IQM", "95 % interval", "tuned is better by", "95 % interval", "P(tuned > arm)"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    tuned = score_matrix("scores", arms[0])
    for arm in arms:
        scores, numbers = score_matrix("scores", arm), arm_numbers(arm)
        row = [arm.name, str(len(scores)), f"{numbers.iqm:.1f}", f"[{numbers.low:.1f}, {numbers.high:.1f}]"]
        if arm is not arms[0]:
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
    arm = tuned_arm(record)
    if record.tuning_score is None or arm is None:
        return "tuning score minus test score: not known before the test"
    mean = arm_numbers(arm).mean
    return f"tuning score {record.tuning_score:.1f} minus test score {mean:.1f}: {record.tuning_score - mean:+.1f}"
