"""The questions that a reader of a tuned result asks, answered from the study.

Source: the questions are those of Eimer, Lindauer, Raileanu (ICML 2023, arXiv:2306.01324), in our words.
"""

from __future__ import annotations

import math

from tuning.report.data import StudyRecord
from tuning.report.numbers import arm_numbers, best_trial, optimism_of, outcomes, ranking
from tuning.report.sections import number


def checklist(record: StudyRecord) -> str:
    """``CHECKLIST.md``."""
    lines = [
        f"# Checklist for the study {record.name}",
        "",
        "The questions that Eimer, Lindauer and Raileanu (ICML 2023) want answered before a tuned result is believed, "
        "in our words, with this study's answers. `no` and `not yet` are answers, too.",
        "",
        "| | question | answer |",
        "|---|---|---|",
    ]
    for place, (question, answer) in enumerate(_answers(record), 1):
        lines.append(f"| {place} | {question} | {answer.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _answers(record: StudyRecord) -> list[tuple[str, str]]:
    return [*_on_seeds(record), *_on_tuning(record), *_on_what_was_found(record)]


def _on_seeds(record: StudyRecord) -> list[tuple[str, str]]:
    protocol = record.protocol
    tuning = [*protocol.get("search_seeds", []), *protocol.get("finalist_seeds", [])]
    test = protocol.get("test_seeds", [])
    shared = sorted(set(tuning) & set(test))
    return [
        ("Is what was tuned on apart from what is tested on?", _apart(shared, tuning, test)),
        ("Which seeds were tuned on?", f"{tuning}"),
        ("Which seeds were tested on, and how many?", f"{test} ({len(test)}; 10 or more make a headline)"),
        (
            "How are seeds put together while tuning?",
            "one in the search; the finalists' score is the mean over fresh seeds, the search's left out",
        ),
    ]


def _on_tuning(record: StudyRecord) -> list[tuple[str, str]]:
    protocol = record.protocol
    budget = "without limit" if record.budget is None else f"of {record.budget:,}"
    return [
        ("Is the search space given, with ranges and choices?", f"yes: {', '.join(record.space)}; see `study.json`"),
        ("What was not searched, and what was it set to?", f"`{record.base}`; everything else as in SB3"),
        ("Which tuner, with which settings?", record.sampler or "Optuna's default sampler"),
        (
            "How is a trial stopped early?",
            f"below the median of those that got as far, at any mark from {protocol.get('prune_from')} of its steps on",
        ),
        (
            "What is optimised?",
            f"the mean return of a trial's last {protocol.get('n_averaged')} evaluations, larger is better",
        ),
        (
            "What did tuning cost?",
            f"{record.env_steps:,} environment steps {budget}, {len(record.trials)} trials, {record.seconds:.0f} s",
        ),
        (
            "Did what it is compared with get the same space and budget?",
            "no: SB3's defaults and rl_zoo3's values are taken as they are, without tuning here. Read the "
            "comparison as what tuning brings, not as one algorithm against another",
        ),
    ]


def _on_what_was_found(record: StudyRecord) -> list[tuple[str, str]]:
    counts, trials, difference = outcomes(record), ranking(record), optimism_of(record)
    arms = [arm_numbers(arm) for arm in record.tested if arm.scores]
    spread = "; ".join(
        f"{arm.name} {number(arm.mean)}"
        + (f", 95 % interval of the IQM [{number(arm.low)}, {number(arm.high)}]" if math.isfinite(arm.low) else "")
        for arm in arms
    )
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return [
        (
            "Is the configuration that was found given?",
            f"yes: trial {best_trial(record).number}, in `best.yml`" if trials else "not yet: no trial was completed",
        ),
        ("Is its test score given with its spread?", spread or "not yet: the test has not run"),
        (
            "How much of the tuning score was luck?",
            "not yet known: the test has not run" if difference is None else f"tuning minus test: {difference:+.4g}",
        ),
        (
            "What happened to trials that failed?",
            f"{counts['failed']} failed, {counts['diverged']} diverged, {counts['pruned']} pruned; all are in "
            "`trials.csv` and count towards the budget",
        ),
        ("Can it be repeated?", f"with {versions}" if versions else "no versions are known"),
    ]


def _apart(shared: list[int], tuning: list[int], test: list[int]) -> str:
    if shared:
        return f"no: seeds {shared} were used for both"
    return "yes: disjoint seeds, and evaluation environments seeded apart" if tuning and test else "no: no test seeds"
