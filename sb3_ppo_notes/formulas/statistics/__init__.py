"""Is one algorithm as good as another? Statistics of final scores ``[seeds, tasks]`` and learning curves.

``scores``: one number or curve for a matrix of scores. ``bootstrap``: its interval. ``welch``: one test per task,
corrected for their number. ``protocol``: the rule that turns all of these into one of four claims.

Every random number comes from the generator that is handed in, so that the same seed gives the same interval.
"""

from sb3_ppo_notes.formulas.statistics.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_interval,
    percentile_interval,
    stratified_resamples,
)
from sb3_ppo_notes.formulas.statistics.protocol import (
    MARGIN,
    SEEDS_FOR_A_VERDICT,
    SEEDS_TO_REPORT,
    SIGNIFICANCE,
    Comparison,
    a_a_check,
    comparison,
    difference_of_iqms,
    verdict,
    worse_tasks,
)
from sb3_ppo_notes.formulas.statistics.scores import (
    iqm,
    normalized_scores,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    sample_efficiency_area,
)
from sb3_ppo_notes.formulas.statistics.welch import (
    WelchTest,
    holm_adjusted,
    incomplete_beta,
    student_t_p_value,
    welch_test,
)

__all__ = [
    "CONFIDENCE",
    "MARGIN",
    "RESAMPLES",
    "SEEDS_FOR_A_VERDICT",
    "SEEDS_TO_REPORT",
    "SIGNIFICANCE",
    "Comparison",
    "WelchTest",
    "a_a_check",
    "bootstrap_interval",
    "comparison",
    "difference_of_iqms",
    "holm_adjusted",
    "incomplete_beta",
    "iqm",
    "normalized_scores",
    "optimality_gap",
    "percentile_interval",
    "performance_profile",
    "probability_of_improvement",
    "sample_efficiency_area",
    "stratified_resamples",
    "student_t_p_value",
    "verdict",
    "welch_test",
    "worse_tasks",
]
