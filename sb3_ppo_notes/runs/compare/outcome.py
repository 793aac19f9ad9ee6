"""A finished comparison: its verdicts, and the rows behind every plot and file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.runs.compare import rows
from sb3_ppo_notes.runs.compare.models import describe_settings
from sb3_ppo_notes.runs.compare.plan import Plan
from sb3_ppo_notes.runs.compare.pool import Key
from sb3_ppo_notes.runs.compare.results import Results, check_scores, complete_scales
from sb3_ppo_notes.runs.compare.verdict import AACheck, Judgement, Summary, a_a_check, judge, summary


@dataclass(frozen=True)
class Outcome:
    """A finished comparison.

    :param summaries: of every arm.
    :param judgements: of every candidate.
    :param a_a: the comparison's own test, ``None`` if it was not asked for.
    :param about: ``command``, ``machine``, ``options``, ``started``, ``seconds``, ``runs_done_before``, ``jobs``,
        ``hyperparameters`` and ``sources``.
    """

    plan: Plan
    results: Results
    summaries: Sequence[Summary]
    judgements: Sequence[Judgement]
    a_a: AACheck | None
    about: Mapping[str, Any]

    @property
    def is_bad_news(self) -> bool:
        """True if a candidate is worse, or the comparison fails its own test."""
        fails_its_own_test = self.a_a is not None and self.a_a.outcome == "FAILED"
        return fails_its_own_test or any(judgement.verdict == "worse" for judgement in self.judgements)

    @cached_property
    def rows(self) -> dict[str, list[rows.Row]]:
        """The rows behind the plots, by the names of their CSV files."""
        results, budgets = self.results, self.plan.budgets
        return {
            "runs": rows.run_rows(results),
            "learning_curves": rows.curve_rows(results, budgets),
            "learning_curves_of_runs": rows.seed_curve_rows(results, budgets),
            "performance_profile": rows.profile_rows(results),
            "diagnostics": rows.diagnostics_rows(results, budgets),
            "speed": rows.speed_rows(results),
            "verdicts": rows.interval_rows(self.judgements),
        }


def apply_protocol(plan: Plan, records: dict[Key, dict[str, Any]], about: dict[str, Any]) -> Outcome:
    """Judge runs that are done by the protocol.

    :raises ValueError: for a score that is no number, or a missing run.
    """
    missing = [run.key for run in plan.runs() if run.key not in records]
    if missing:
        arm, env, seed = missing[0]
        raise InvalidValueError(f"arms must have run the same tasks and seeds: {arm} on {env}, seed {seed} is missing")
    check_scores(records)
    arms = [arm.name for arm in plan.arms]
    scales = complete_scales(plan.scales, arms, plan.seeds, records)
    results = Results(arms, plan.envs, plan.seeds, records, scales)
    settings = {env: [(arm, plan.settings[(arm.name, env)]) for arm in plan.arms] for env in plan.envs}
    hyperparameters = {
        env: {arm.name: describe_settings(arm, own) for arm, own in pairs} for env, pairs in settings.items()
    }
    sources = {env: {arm.name: own.source for arm, own in pairs} for env, pairs in settings.items()}
    return Outcome(
        plan=plan,
        results=results,
        summaries=[summary(results, arm) for arm in arms],
        judgements=[judge(results, arm) for arm in arms[1:]],
        a_a=a_a_check(results, plan.other_seeds) if plan.other_seeds else None,
        about=about | {"hyperparameters": hyperparameters, "sources": sources},
    )
