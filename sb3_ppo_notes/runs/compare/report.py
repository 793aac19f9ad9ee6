"""``report.html``: a comparison on one page, for somebody who was not there."""

from collections.abc import Callable, Iterator
from functools import partial

from matplotlib.figure import Figure

from sb3_ppo_notes import pages as html
from sb3_ppo_notes.charts import svg
from sb3_ppo_notes.formulas.statistics import MARGIN, SEEDS_FOR_A_VERDICT
from sb3_ppo_notes.runs.compare import plots
from sb3_ppo_notes.runs.compare.outcome import Outcome
from sb3_ppo_notes.runs.compare.phrases import plural
from sb3_ppo_notes.runs.compare.results import RESAMPLES_OF_PLOTS, Estimate, Results
from sb3_ppo_notes.runs.compare.run import POINTS, versions

CARDS = {"as good": "good", "better": "better", "worse": "worse", "no difference shown": "open", None: "open"}
#: Letters.
LONGEST_TITLE = 70
A_A_CARDS = {"passed": "good", "not conclusive": "open", "FAILED": "worse"}
THE_RULE = (
    f"The rule was fixed before anything was measured. With the 95 % bootstrap intervals of the difference of the "
    f"interquartile means and of the probability that a run of the candidate beats one of the baseline: “as good” if "
    f"the whole difference is above -{MARGIN}, the probability may be 0.5 or more, no task is shown to be worse "
    f"(Welch's test with Holm's correction) and no more runs failed; “better” if the whole difference is above 0 as "
    f"well; “worse” if all of the difference is below 0, all of the probability below 0.5, or a task is shown to be "
    f"worse; else “no difference shown”. It asks for {SEEDS_FOR_A_VERDICT} seeds. A run that failed counts as a random "
    f"policy. Arms whose weights and evaluation episodes are all equal, bit for bit, are as good without statistics."
)


def report_page(outcome: Outcome) -> str:
    """The page: HTML, complete in itself."""
    arms = list(outcome.results.arms)
    title = f"{' and '.join(arms[1:])} against {arms[0]}"
    if len(title) > LONGEST_TITLE:
        title = f"{plural(len(arms) - 1, 'candidate')} against {arms[0]}"
    body = [
        f"<h1>{html.escaped(title)}</h1>",
        *(html.paragraph(words, "pale") for words in (_introduce_arms(outcome), _describe_runs(outcome))),
        *_verdicts(outcome),
        *_numbers(outcome),
        *_learning(outcome),
        *_finals(outcome),
        *_updates(outcome),
        *_speed(outcome),
        *_settings(outcome),
        *_repeat(outcome),
    ]
    return html.page(title, body)


def _introduce_arms(outcome: Outcome) -> str:
    """Names on the command line say little to somebody who did not write it."""
    of_a_task = outcome.about["hyperparameters"][outcome.results.envs[0]]
    names = []
    for place, arm in enumerate(outcome.results.arms):
        module, _, name = of_a_task[arm]["class"].rpartition(":")
        who = f"the recipe {name} of sb3_ppo_notes" if module == "recipe" else f"{name} of {module}"
        names.append(f"{arm} is {who}{', the baseline' if place == 0 else ''}")
    return "; ".join(names) + "."


def _plot(draw: Callable[[bool], Figure], name: str, description: str, caption: str = "") -> str:
    broad, narrow = (
        svg(draw(narrow), f"{name}-{kind}", description, kind) for narrow, kind in ((False, "broad"), (True, "narrow"))
    )
    return html.plot(broad, narrow, caption)


def _describe_runs(outcome: Outcome) -> str:
    results = outcome.results
    tasks = ", ".join(f"{env} ({outcome.plan.budgets[env]:,} steps)" for env in results.envs)
    episodes = outcome.about["options"]["n_eval_episodes"]
    before = outcome.about["runs_done_before"]
    resumed = f", after {plural(before, 'run')} that were there already" if before else ""
    return (
        f"{plural(len(results.arms), 'algorithm')} trained on {tasks} with {plural(len(results.seeds), 'seed')} "
        f"each, then played {episodes} episodes without exploration, in environments that training never saw. The "
        f"mean return of those episodes is a run's final return. A seed fixes all random numbers of a run, so that the "
        f"spread over seeds is luck. {outcome.about['started']}, "
        f"{outcome.about['seconds'] / 60:.1f} minutes{resumed}; all runs together {_seconds_of_runs(results) / 60:.1f} "
        "minutes."
    )


def _seconds_of_runs(results: Results) -> float:
    names = ("train_seconds", "evaluation_seconds")
    return float(sum(record.get(name, 0.0) for record in results.records.values() for name in names))


def _verdicts(outcome: Outcome) -> Iterator[str]:
    for judgement in outcome.judgements:
        title = f"{judgement.candidate} against {judgement.baseline}"
        yield html.card(CARDS[judgement.verdict], title, judgement.headline, judgement.meaning)
    if len(outcome.judgements) > 1:
        yield html.paragraph(
            "Each verdict stands for itself: of many candidates that are all the same, some will look better.", "pale"
        )
    if outcome.a_a is None:
        yield html.paragraph(
            "Does this comparison find differences that are not there? --a-a tests it (A/A check: the baseline against "
            "itself); here it was left out.",
            "pale",
        )
    else:
        title = "A/A check: does this comparison find differences that are not there?"
        yield html.card(A_A_CARDS[outcome.a_a.outcome], title, outcome.a_a.outcome, [outcome.a_a.meaning])
    if outcome.rows["verdicts"]:
        caption = (
            "What the verdict rests on: points are the measured values, bars their 95 % intervals. Scores go from 0, a "
            "random policy, to 1, the reference. Left of the dashed "
            "line a candidate is worse by more than the margin; a bar that crosses 0, or 0.5, may be chance."
        )
        if any(judgement.identical for judgement in outcome.judgements):
            caption += " An arm that is identical has bars, too: they are as long as its own seeds scatter."
        draw = partial(plots.verdict_figure, outcome.rows["verdicts"])
        yield _plot(draw, "verdict", "intervals of the verdict", caption)
    yield html.details("The rule, word for word", html.paragraph(THE_RULE))


def _interval(found: Estimate, digits: int = 3) -> str:
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _ratio(found: Estimate | None) -> str:
    return "too few runs" if found is None else _interval(found, 2)


def _numbers(outcome: Outcome) -> Iterator[str]:
    yield html.heading("In numbers")
    yield html.paragraph(
        "Scores are on one scale for all tasks: 0 plays like a random policy, 1 like the reference. The interquartile "
        "mean is the mean of the middle half of all runs; the optimality gap is what is missing to 1 on average; how "
        "early it learnt is the mean height of the curve while training. [In brackets: 95 % bootstrap intervals.]",
        "pale",
    )
    rows = [
        (of.arm, _interval(of.iqm), _interval(of.optimality_gap), _interval(of.area), of.failed_runs)
        for of in outcome.summaries
    ]
    yield html.table(
        ("arm", "score, interquartile mean", "optimality gap (less is better)", "how early", "failed runs"), rows
    )
    scales = [
        (env, f"{scale.random:.1f}", f"{scale.reference:.1f}", scale.source, f"{outcome.plan.budgets[env]:,}")
        for env, scale in outcome.results.scales.items()
    ]
    yield html.table(("task", "0 is a return of", "1 is a return of", "the 1 is from", "steps of a run"), scales)
    failed = [
        (arm, env, seed, outcome.results.record(arm, env, seed)["error"])
        for arm in outcome.results.arms
        for env, seed in outcome.results.failures(arm)
    ]
    if failed:
        yield html.paragraph("Runs that failed, each counted as a random policy:")
        yield html.table(("arm", "task", "seed", "the last it said"), failed)


def _learning(outcome: Outcome) -> Iterator[str]:
    yield html.heading("While learning")
    envs, arms = list(outcome.results.envs), list(outcome.results.arms)
    yield _plot(
        partial(plots.learning_curves, outcome.rows["learning_curves"], envs, arms),
        "curves",
        "learning curves",
        f"Return of the training episodes (with exploration), the mean of those that ended in each {POINTS}th of the "
        f"budget; line: interquartile mean over seeds, band: its 95 % bootstrap interval at each point "
        f"({RESAMPLES_OF_PLOTS:,} resamples). No other smoothing.",
    )


def _finals(outcome: Outcome) -> Iterator[str]:
    yield html.heading("At the end")
    envs, arms = list(outcome.results.envs), list(outcome.results.arms)
    yield _plot(
        partial(plots.strips, outcome.rows["runs"], envs, arms),
        "strips",
        "final return of every run",
        "Every run: a dot for each seed, from above in their order; a cross is a run that failed, black lines are "
        "medians. Two arms whose dots lie in the same places did the same.",
    )
    yield _plot(
        partial(plots.profiles, outcome.rows["performance_profile"], arms),
        "profile",
        "performance profile",
        "Performance profile: for each score, the share of all runs that got more. Higher is better; where the curves "
        "cross, one number cannot rank the arms. Bands: 95 % intervals.",
    )


def _updates(outcome: Outcome) -> Iterator[str]:
    yield html.heading("What the updates did")
    yield html.paragraph(
        "KL: how far an update moves the policy; above 0.03 for long it is hasty. Entropy: how undecided the policy "
        "is; it falls while it learns, and a plunge to nothing ends exploration. Clipped: healthy are 0.05 to 0.3. "
        "Explained variance: 1 is a critic that knows the returns, below 0 it is worse than a constant. Lines: median "
        "over seeds, bands: quartiles.",
        "pale",
    )
    for number, env in enumerate(outcome.results.envs):
        draw = partial(plots.diagnostics, outcome.rows["diagnostics"], env, list(outcome.results.arms))
        yield _plot(draw, f"updates{number}", f"diagnostics of {html.escaped(env)}")


def _speed(outcome: Outcome) -> Iterator[str]:
    yield html.heading("Speed")
    envs, arms = list(outcome.results.envs), list(outcome.results.arms)
    yield _plot(
        partial(plots.speeds, outcome.rows["speed"], envs, arms),
        "speed",
        "environment steps per second",
        f"Training alone, one thread a run, {outcome.about['jobs']} runs side by side; bars are medians, black lines "
        "95 % intervals. Runs that share a machine disturb one another, which processor time does not count; the bench "
        "command measures speed by itself.",
    )
    rows = [
        (judgement.candidate, env, _ratio(judgement.speed_ratio[env]), _ratio(judgement.cpu_speed_ratio[env]))
        for judgement in outcome.judgements
        for env in outcome.results.envs
    ]
    yield html.table(("arm", "task", f"times as fast as {outcome.results.arms[0]}", "by processor time"), rows)


def _settings(outcome: Outcome) -> Iterator[str]:
    yield html.heading("Hyperparameters")
    yield html.paragraph(
        "What is not listed is the class's default. Schedules written lin_… fall to 0 in a line, and never below. "
        "Lines in which the arms differ are marked.",
        "pale",
    )
    for env, by_arm in outcome.about["hyperparameters"].items():
        arms = list(by_arm)
        names = list(dict.fromkeys(name for values in by_arm.values() for name in values))
        rows = [(name, *(by_arm[arm].get(name, "default") for arm in arms)) for name in names]
        rows.append(("from", *(outcome.about["sources"][env][arm] for arm in arms)))
        marked = [index for index, row in enumerate(rows) if len(set(row[1:])) > 1]
        yield html.details(env, html.table(("", *arms), rows, marked))


def _repeat(outcome: Outcome) -> Iterator[str]:
    yield html.heading("The command that repeats it")
    yield html.preformatted(outcome.about["command"])
    machine = outcome.about["machine"]
    rows = [*versions().items(), *((name.replace("_", " "), value) for name, value in machine.items())]
    yield html.details("Versions and machine", html.table(("", ""), rows))
    yield html.paragraph(
        "Beside this page: comparison.json, the CSV behind every plot, and a file for every run in runs/.", "pale"
    )
