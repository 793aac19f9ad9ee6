"""Verdicts in words, for somebody who has not read the protocol."""

from sb3_ppo_notes.formulas.statistics import (
    MARGIN,
    SEEDS_FOR_A_VERDICT,
    SEEDS_TO_REPORT,
    SIGNIFICANCE,
    Comparison,
    iqm,
)
from sb3_ppo_notes.runs.compare.results import Results

#: Normalised; below it an arm has hardly learnt anything.
HARDLY_ABOVE_RANDOM = 0.1


def plural(number: int, noun: str) -> str:
    """A number of things, in the plural if there is not one.

    >>> plural(1, "seed"), plural(10, "seed")
    ('1 seed', '10 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def headline(results: Results, verdict: str | None, identical: bool) -> str:
    """The verdict in a line; it is ``None`` where none can be given."""
    seeds = f"all {plural(len(results.seeds), 'seed')}"
    same = f"identical, bit for bit, on {seeds} of {plural(len(results.envs), 'task')}"
    if verdict is None:
        return f"no verdict{': ' + same if identical else ''}"
    if identical:
        return f"{verdict}: {same}"
    return f"{verdict} (preliminary)" if len(results.seeds) < SEEDS_FOR_A_VERDICT else verdict


def meaning(
    results: Results, candidate: str, baseline: str, verdict: str | None, identical: bool, numbers: Comparison | None
) -> tuple[str, ...]:
    """Sentences that explain a verdict to somebody who has not read the protocol."""
    sentences = []
    if identical:
        sentences.append(
            f"Every weight of every network that {candidate} trained is {baseline}'s to the last bit, and so is every "
            "evaluation episode: there is no difference for statistics to find."
        )
    elif numbers is not None and verdict is not None:
        sentences += _explain(results, candidate, baseline, numbers)
    if numbers is None:
        sentences.append(
            f"Fewer than {SEEDS_TO_REPORT} seeds show the numbers and allow no verdict: two groups of so few runs of "
            "one and the same algorithm often look different."
        )
    elif results.unlearnt_tasks():
        sentences.append(
            f"No arm does better than a random policy on {', '.join(results.unlearnt_tasks())}: there is nothing to "
            "compare. Train for longer, or choose other hyperparameters."
        )
    elif max(float(iqm(results.scores(arm))) for arm in (candidate, baseline)) < HARDLY_ABOVE_RANDOM:
        sentences.append("Neither arm does much better than a random policy, so that this says little.")
    if verdict is not None and not identical and len(results.seeds) < SEEDS_FOR_A_VERDICT:
        sentences.append(
            f"Preliminary: the rule asks for {SEEDS_FOR_A_VERDICT} seeds and this is its answer on "
            f"{len(results.seeds)}; below {SEEDS_FOR_A_VERDICT} seeds the intervals cover about 93 % instead of 95 %."
        )
    return tuple(sentences)


def _explain(results: Results, candidate: str, baseline: str, numbers: Comparison) -> list[str]:
    low, high = (with_sign(end) for end in numbers.difference_interval)
    reach = f"the difference of the scores lies between {low} and {high} with 95 % confidence"
    scale = "on a scale from 0, a random policy, to 1, the reference"
    reasons = _reasons(results, candidate, numbers)
    if numbers.verdict == "better":
        return [f"{candidate} does better than {baseline}: {reach}, all of it above 0, {scale}."]
    if numbers.verdict == "as good":
        return [
            f"{candidate} gives up at most {MARGIN} of the score, the margin that was fixed beforehand: {reach}, "
            f"{scale}. That is not a proof that the two are equal."
        ]
    if numbers.verdict == "worse":
        return [f"{candidate} does worse than {baseline}: {reasons}.", f"{reach[0].upper()}{reach[1:]}, {scale}."]
    sentences = [f"Neither is shown to be better, and they are not shown to be equal: {reach}, {scale}."]
    if numbers.difference_interval[0] <= -MARGIN:
        sentences.append(f"To be called as good, all of it has to be above -{MARGIN}; more seeds make it shorter.")
    return [*sentences, f"{reasons}."] if reasons else sentences


def with_sign(number: float) -> str:
    """A difference of scores with its sign and three decimals."""
    return f"{number:+.3f}"


def _reasons(results: Results, candidate: str, numbers: Comparison) -> str:
    """The rule's questions that were answered against the candidate."""
    reasons = []
    if numbers.difference_interval[1] < 0:
        reasons.append("all of the difference's interval is below 0")
    if numbers.improvement_interval[1] < 0.5:
        share = 100 * numbers.improvement_interval[1]
        reasons.append(f"a run of it beats one of the baseline in at most {share:.0f} % of all pairs")
    tests = zip(results.envs, numbers.task_differences, numbers.task_p_values, strict=True)
    for env, difference, p_value in tests:
        if difference < 0 and p_value < SIGNIFICANCE:
            reasons.append(f"it is worse on {env} (Welch's test, p = {p_value:.2g} after Holm's correction)")
    if numbers.failed_runs[0] > numbers.failed_runs[1]:
        reasons.append(
            f"{plural(numbers.failed_runs[0], 'run')} of {candidate} failed, of the baseline {numbers.failed_runs[1]}"
        )
    return "; ".join(reasons)
