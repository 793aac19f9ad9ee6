"""The report as sections: a heading, what it says in words, a table or a picture. Markdown and HTML show the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tuning.report.data import StudyRecord, TrialRecord
from tuning.report.export import best_yaml
from tuning.report.numbers import arm_numbers, importances, optimism_of, outcomes, ranking

STATES = ("complete", "diverged", "pruned", "failed", "running", "waiting")


@dataclass(frozen=True)
class Section:
    """One section: paragraphs, a table, names of PNGs, and code that is shown as it is."""

    title: str
    paragraphs: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[str, ...] = ()
    code: str = ""


def sections_of(record: StudyRecord, pictures: Sequence[str]) -> list[Section]:
    """The report, section by section; those with nothing to show are left out."""
    sections = [
        _headline(record),
        _test(record),
        _winner(record),
        _top(record),
        _importances(record),
        Section(
            "How the trials learned",
            (
                "Each line is one trial of the search, evaluated at fixed environment steps. Grey lines were stopped "
                "early because they were below the median of all trials that got as far.",
            ),
            pictures=("learning_curves", "history"),
        ),
        Section(
            "Where good configurations lie",
            (
                "Each line is one completed trial, from left to right through its values; dark lines scored higher in "
                "the search, the black one is the winner. Where dark lines bundle, a value matters.",
            ),
            pictures=("parallel_coordinates",),
        ),
        _budget(record),
        _failures(record),
        _settings(record),
    ]
    filled = []
    for section in sections:
        there = tuple(name for name in section.pictures if name in pictures)
        if section.pictures and not there and not section.rows:
            continue
        filled.append(Section(section.title, section.paragraphs, section.header, section.rows, there, section.code))
    return filled


def number(value: float | None) -> str:
    """A number for a table: four digits; ``"-"`` for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _headline(record: StudyRecord) -> Section:
    trials = ranking(record)
    counts = outcomes(record)
    ends = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none yet"
    paragraphs = [
        f"{record.algo} on {record.env_id}, {record.total_timesteps:,} environment steps a run. Trials: {ends}."
    ]
    if not trials:
        paragraphs.append("No trial has been completed, so there is no winner. What failed is listed below.")
        return Section("Result", tuple(paragraphs))
    if record.winner is None:
        paragraphs.append(
            f"The search's best so far is trial {trials[0].number} with {number(trials[0].score)}. That is one lucky "
            "seed among many and says little: the finalists have not all run again on fresh seeds."
        )
        return Section("Result", tuple(paragraphs))
    arms = {arm.name: arm_numbers(arm) for arm in record.tested if arm.scores}
    if "tuned" not in arms:
        paragraphs.append(
            f"The winner is trial {record.winner} with a tuning score of {number(record.tuning_score)}. It has not "
            "been tested yet on seeds that nobody tuned on; until then, expect less than that."
        )
        return Section("Result", tuple(paragraphs))
    tuned = arms["tuned"]
    others = [f"{name} {number(arm.mean)}" for name, arm in arms.items() if name != "tuned"]
    against = f", against {' and '.join(others)}" if others else ""
    paragraphs.append(
        f"The winner, trial {record.winner}, scores {number(tuned.mean)} on {len(tuned.scores)} seeds that nobody "
        f"tuned on{against}."
    )
    paragraphs.append(_optimism_words(record))
    return Section("Result", tuple(paragraphs))


def _optimism_words(record: StudyRecord) -> str:
    difference, test = optimism_of(record), next(arm for arm in record.tested if arm.name == "tuned")
    mean = statistics.fmean(test.scores.values())
    return (
        f"Tuning score minus test score: {number(record.tuning_score)} - {number(mean)} = {difference:+.4g}. "
        "Far above 0, the winner was lucky while tuning; the test score is what to expect."
    )


def _test(record: StudyRecord) -> Section:
    numbers = [arm_numbers(arm) for arm in record.tested if arm.scores]
    rows = tuple(
        (
            arm.name,
            str(len(arm.scores)),
            number(arm.mean),
            number(arm.iqm),
            f"[{number(arm.low)}, {number(arm.high)}]" if math.isfinite(arm.low) else "-",
            f"{number(min(arm.scores))} to {number(max(arm.scores))}",
        )
        for arm in numbers
    )
    return Section(
        "Test: the winner against what everybody has",
        (
            "Each dot is one training run with a seed that was used for nothing else. Where the 95 % intervals of two "
            "arms do not overlap, the difference is hardly chance.",
        ),
        ("arm", "seeds", "mean", "interquartile mean", "95 % interval", "lowest to highest"),
        rows,
        ("test_seeds", "test_learning_curves"),
    )


def _winner(record: StudyRecord) -> Section:
    if not ranking(record):
        return Section("The configuration", pictures=("none",))
    title = "The winning configuration (best.yml)" if record.winner is not None else "The best configuration so far"
    return Section(title, code=best_yaml(record))


def _top(record: StudyRecord) -> Section:
    trials = ranking(record)[:10]
    names = [name for name in record.space if len({str(trial.configuration.get(name)) for trial in trials}) > 1]
    rows = tuple(
        (
            f"{trial.number}{' (winner)' if trial.number == record.winner else ''}",
            number(trial.score),
            _fresh(trial),
            trial.origin,
            *(_value(trial.configuration.get(name)) for name in names),
        )
        for trial in trials
    )
    return Section(
        "Top 10",
        (
            "First the finalists, by the mean over fresh seeds; then the rest, by their score on the one seed of the "
            "search, which is too optimistic the more trials there were.",
            "Names are rl_zoo3's: n_steps_pow 7 is n_steps 128, one_minus_gamma 0.01 is gamma 0.99.",
        )
        if rows
        else ("No trial has been completed.",),
        ("trial", "search", "fresh seeds", "from", *names) if rows else (),
        rows,
    )


def _fresh(trial: TrialRecord) -> str:
    scores = list(trial.finalist_scores.values())
    return f"{number(statistics.fmean(scores))} ({len(scores)})" if scores else "-"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importances(record: StudyRecord) -> Section:
    rows = tuple((name, f"{100 * share:.1f} %") for name, share in importances(record).items())
    text = (
        "How much each parameter has to do with being among the best trials (PED-ANOVA). With few trials this is a "
        "hint, no more; it says nothing of which value is good."
        if rows
        else "Too few completed trials to say."
    )
    return Section("Which parameters matter", (text,), ("parameter", "share") if rows else (), rows, ("importances",))


def _budget(record: StudyRecord) -> Section:
    steps = {state: 0 for state in STATES}
    counts = outcomes(record)
    for trial in record.trials:
        steps["diverged" if trial.reason == "diverged" else trial.state] += trial.env_steps
    rows = [(state, f"{counts[state]}", f"{steps[state]:,}") for state in STATES if counts[state]]
    rest = record.env_steps - sum(steps.values())
    if rest > 0:
        rows.append(("finalists again", "", f"{rest:,}"))
    rows.append(("together", f"{len(record.trials)}", f"{record.env_steps:,}"))
    limit = "no limit" if record.budget is None else f"{record.budget:,}"
    return Section(
        "Budget",
        (
            f"{record.env_steps:,} environment steps used of {limit}; {_time(record.seconds)} from the first trial to "
            "the last. Pruned and failed trials count. The test is not part of the budget.",
        ),
        ("trials", "number", "environment steps"),
        tuple(rows),
    )


def _failures(record: StudyRecord) -> Section:
    rows = tuple(
        (str(trial.number), trial.reason or trial.state, trial.error or "-")
        for trial in record.trials
        if trial.state == "failed" or trial.reason == "diverged"
    )
    problems = tuple(f"Not started from {problem}" for problem in record.warm_start_problems)
    return Section(
        "Failures",
        (f"{len(rows)} trials failed or diverged." if rows else "No trial failed.", *problems),
        ("trial", "why", "error") if rows else (),
        rows,
    )


def _settings(record: StudyRecord) -> Section:
    protocol, rows = record.protocol, []
    rows.append(("search seeds", str(protocol.get("search_seeds"))))
    rows.append(("finalists' seeds", str(protocol.get("finalist_seeds"))))
    rows.append(("test seeds", str(protocol.get("test_seeds"))))
    rows.append(("not searched", str(record.base)))
    rows += [(name, _range(described)) for name, described in record.space.items()]
    rows.append(("sampler", record.sampler or "-"))
    rows.append(("storage", record.storage))
    rows += [(name, version) for name, version in record.versions.items()]
    return Section("Seeds, search space, versions", (), ("what", "value"), tuple(rows))


def _range(described: object) -> str:
    if isinstance(described, dict):
        return f"{described['low']:g} to {described['high']:g}{', logarithmic' if described.get('log') else ''}"
    return ", ".join(map(str, described)) if isinstance(described, list) else str(described)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
