"""From runs to words: the verdicts of made-up runs, and what the report and the files then say."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from sb3_ppo_notes.configs.tuned import Scale
from sb3_ppo_notes.formulas.checks import InvalidValueError, NonFiniteError
from sb3_ppo_notes.runs.compare import verdict as compare_verdict
from sb3_ppo_notes.runs.compare.arms import Arm
from sb3_ppo_notes.runs.compare.models import Settings
from sb3_ppo_notes.runs.compare.outcome import apply_protocol
from sb3_ppo_notes.runs.compare.output import show, write_files
from sb3_ppo_notes.runs.compare.plan import Plan
from sb3_ppo_notes.runs.compare.results import fill_gaps
from sb3_ppo_notes.runs.compare.run import POINTS, RANDOM, WATCHED, bin_means


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(compare_verdict, "RESAMPLES", 2000)


TASKS = {"CartPole-v1": Scale(0.0, 500.0, "published"), "Pendulum-v1": Scale(-1200.0, -200.0, "published")}
ABOUT = {
    "command": "python -m sb3_ppo_notes compare --envs CartPole-v1 --arms a,b",
    "options": {"n_eval_episodes": 100},
    "machine": {"processors": 2, "system": "a <machine>"},
    "jobs": 2,
    "started": "2026-11-21 12:00 UTC",
    "seconds": 90.0,
    "runs_done_before": 0,
}


def plan_of(arms, seeds, tasks=TASKS, a_a=False):
    settings = Settings("a test", 1, "MlpPolicy", {"n_steps": 8})
    made = [Arm(name, "stable_baselines3:PPO") for name in arms]
    return Plan(
        arms=made,
        envs=list(tasks),
        seeds=range(seeds),
        other_seeds=range(seeds, 2 * seeds) if a_a else (),
        budgets=dict.fromkeys(tasks, 4000),
        n_eval_episodes=100,
        settings={(arm.name, env): settings for arm in made for env in tasks},
        scales=tasks,
    )


def finished(score, parameters="same", steps_per_second=1000.0):
    curves = {name: [None] * 3 + [0.02] * (POINTS - 3) for name in WATCHED}
    curves["return"] = [None, score / 2, None] + [score] * (POINTS - 3)
    return {
        "status": "finished",
        "score": score,
        "episode_returns": [score],
        "steps": 4096,
        "train_seconds": 4096 / steps_per_second,
        "cpu_seconds": 4096 / (2 * steps_per_second),
        "evaluation_seconds": 0.1,
        "parameters": parameters,
        "curves": curves,
    }


FAILED = {"status": "failed", "error": "RuntimeError: the <roof> is on fire", "traceback": "Traceback …"}


def outcome_of(normalised, tasks=TASKS, seeds=10, a_a=False, change=None):
    """Runs whose normalised scores are as given, by arm: a number, or ``[seeds]`` for all tasks."""
    plan = plan_of(list(normalised), seeds, tasks, a_a)
    records = {}
    for run in plan.runs():
        if run.arm is None:
            records[run.key] = {"status": "finished", "score": 1.0}
            continue
        scores = np.resize(normalised[run.arm.name], 2 * seeds)
        scale = tasks[run.env]
        low, high = scale.random or 0.0, scale.reference or 1.0
        score = low + float(scores[run.seed]) * (high - low)
        records[run.key] = finished(score, parameters=f"{run.env} {run.seed} {scores[run.seed]}")
    for key, record in (change or {}).items():
        records[key] = record
    return apply_protocol(plan, records, ABOUT)


SCATTER = np.tile(np.linspace(-0.03, 0.03, 10), 2)
SHUFFLED = np.roll(SCATTER, 3)


def verdict_of(candidate, baseline=None, **settings):
    baseline = 0.9 + SCATTER if baseline is None else baseline
    return outcome_of({"base": baseline, "new": candidate}, **settings).judgements[0]


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        (0.9 + SHUFFLED, "as good"),
        (0.7 + SCATTER, "worse"),
        (1.1 + SCATTER, "better"),
        (0.9 + 20 * SHUFFLED, "no difference shown"),
    ],
)
@pytest.mark.parametrize("seeds", [10, 20])
def test_the_four_verdicts(candidate, verdict, seeds):
    judgement = verdict_of(candidate, seeds=seeds)
    assert judgement.verdict == verdict
    assert not judgement.identical
    assert judgement.preliminary is (seeds < 20)
    assert judgement.headline == (f"{verdict} (preliminary)" if seeds < 20 else verdict)
    assert ("below 20 seeds the intervals cover about 93 %" in judgement.meaning[-1]) is (seeds < 20)


def test_equal_runs_are_as_good_however_much_the_seeds_scatter():
    noisy = 0.5 + 10 * SCATTER
    judgement = verdict_of(noisy, noisy)
    assert judgement.numbers.verdict == "no difference shown"  # the intervals alone cannot tell
    assert judgement.verdict == "as good"
    assert judgement.headline == "as good: identical, bit for bit, on all 10 seeds of 2 tasks"
    assert not judgement.preliminary


@pytest.mark.parametrize("what", ["parameters", "episode_returns"])
def test_one_bit_in_one_run_ends_identity(what):
    key = ("new", "Pendulum-v1", 7)
    record = finished(-300.0, parameters=f"Pendulum-v1 7 {0.9}")
    outcome = outcome_of({"base": 0.9, "new": 0.9})
    assert outcome.judgements[0].identical
    record[what] = "another" if what == "parameters" else [-300.0000001]
    assert not outcome_of({"base": 0.9, "new": 0.9}, change={key: record}).judgements[0].identical


def test_two_failed_runs_are_not_identical():
    change = {(arm, "Pendulum-v1", 0): FAILED for arm in ("base", "new")}
    assert not outcome_of({"base": 0.9, "new": 0.9}, change=change).judgements[0].identical


def test_a_failed_run_counts_as_a_random_policy_and_forbids_as_good():
    outcome = outcome_of({"base": 0.9, "new": 0.9}, change={("new", "Pendulum-v1", 3): FAILED})
    assert outcome.results.scores("new")[3].tolist() == [pytest.approx(0.9), 0.0]
    assert outcome.results.curves("new", "Pendulum-v1", "return")[3].tolist() == [-1200.0] * POINTS
    judgement = outcome.judgements[0]
    assert judgement.numbers.failed_runs == (1, 0)
    assert judgement.verdict == "no difference shown"
    assert "1 run of new failed, of the baseline 0" in " ".join(judgement.meaning)


def test_one_bad_task_is_named():
    outcome = outcome_of(
        {"base": 0.9 + SCATTER, "new": 0.9 + SCATTER},
        change={("new", "Pendulum-v1", seed): finished(-600.0, parameters="other") for seed in range(10)},
    )
    assert outcome.judgements[0].verdict == "worse"
    assert "it is worse on Pendulum-v1 (Welch's test" in " ".join(outcome.judgements[0].meaning)
    assert outcome.is_bad_news


def test_below_ten_seeds_there_are_numbers_and_no_verdict():
    outcome = outcome_of({"base": 0.9 + SCATTER, "new": 0.7 + SCATTER}, seeds=9)
    judgement = outcome.judgements[0]
    assert (judgement.verdict, judgement.numbers, judgement.headline) == (None, None, "no verdict")
    assert outcome.summaries[1].iqm.value == pytest.approx(0.7, abs=0.05)
    assert "Fewer than 10 seeds" in judgement.meaning[0]
    assert not outcome.is_bad_news


def test_arms_that_have_learnt_nothing_are_said_so():
    assert any("says little" in sentence for sentence in verdict_of(0.02 + SCATTER, 0.02 + SHUFFLED).meaning)
    unknown = {"New-v0": Scale(None, None, "the best arm's mean")}
    outcome = outcome_of({"base": 0.5, "new": 0.4}, tasks=unknown)  # random plays 1.0
    assert outcome.judgements[0].verdict is None
    assert "nothing to compare" in " ".join(outcome.judgements[0].meaning)


def test_an_unknown_task_is_scaled_by_a_random_policy_and_the_best_arm():
    unknown = {"New-v0": Scale(None, None, "the best arm's mean")}
    outcome = outcome_of({"base": 3.0, "new": 5.0}, tasks=unknown)
    assert outcome.results.scales["New-v0"] == Scale(1.0, 5.0, "the best arm's mean")
    assert outcome.results.scores("base").ravel().tolist() == [0.5] * 10
    with pytest.raises(InvalidValueError, match="envs: a random policy cannot play New-v0: RuntimeError"):
        outcome_of({"base": 3.0, "new": 5.0}, tasks=unknown, change={(RANDOM, "New-v0", 0): FAILED})


@pytest.mark.parametrize(
    ("others", "outcome"),
    [(0.9 + SCATTER, "passed"), (0.9 + 20 * SCATTER, "not conclusive"), (0.6 + SCATTER, "FAILED")],
)
def test_the_a_a_check(others, outcome):
    base = np.concatenate([0.9 + SCATTER[:10], others[-10:]])
    made = outcome_of({"base": base, "new": base}, a_a=True)
    assert made.a_a.outcome == outcome
    assert made.is_bad_news is (outcome == "FAILED")
    assert "base with seeds 10 to 19 against base with seeds 0 to 9" in made.a_a.meaning


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, "500"])
def test_a_score_that_is_no_number_is_refused(score):
    record = finished(1.0) | {"score": score}
    with pytest.raises(NonFiniteError, match=r"^scores must be finite, got .* for new on Pendulum-v1, seed 3"):
        outcome_of({"base": 0.9, "new": 0.9}, change={("new", "Pendulum-v1", 3): record})


def test_unequal_tasks_are_refused():
    plan = plan_of(["base", "new"], seeds=10)
    records = {run.key: finished(1.0) for run in plan.runs() if run.key != ("new", "Pendulum-v1", 9)}
    line = "arms must have run the same tasks and seeds: new on Pendulum-v1, seed 9 is missing"
    with pytest.raises(InvalidValueError, match=line):
        apply_protocol(plan, records, ABOUT)


def test_speed_is_by_the_clock_and_by_processor_time():
    slow, fast = (finished(450.0, steps_per_second=speed) for speed in (1000.0, 3000.0))
    fast["cpu_seconds"] = slow["cpu_seconds"] / 2
    runs = {"base": slow, "new": fast}
    change = {(arm, env, seed): run for arm, run in runs.items() for env in TASKS for seed in range(10)}
    judgement = outcome_of({"base": 0.9, "new": 0.9}, change=change).judgements[0]
    assert judgement.speed_ratio["Pendulum-v1"] == pytest.approx((3, 3, 3))
    assert judgement.cpu_speed_ratio["Pendulum-v1"] == pytest.approx((2, 2, 2))


def test_the_same_runs_have_the_same_intervals():
    assert verdict_of(0.9 + SHUFFLED) == verdict_of(0.9 + SHUFFLED)


def test_who_begins_changes_from_seed_to_seed():
    keys = [run.key for run in plan_of(["a", "b", "c"], seeds=3, tasks={"New-v0": Scale(None, None, "")}).runs()]
    assert keys[0] == (RANDOM, "New-v0", 0)
    assert [arm for arm, _, _ in keys[1:]] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_bins_are_means_over_equal_parts():
    parts = bin_means([1, 100, 101, 4000, 4096], [1.0, 3.0, float("nan"), 5.0, 7.0], total_timesteps=4000)
    assert (parts[0], parts[1], parts[-1], len(parts)) == (2.0, None, 6.0, POINTS)
    assert fill_gaps(np.array(parts, dtype=float), 0.0)[[0, 20, -1]].tolist() == [2.0, 2.0, 6.0]
    assert fill_gaps(np.full(3, np.nan), 8.0).tolist() == [8.0] * 3


LONG = "notes:clip_range=0.1,learning_rate=1e-3,policy_kwargs={'net_arch': [128, 128]}"


def test_the_terminal_shows_everything_in_100_columns():
    outcome = outcome_of({"base": 0.9 + SCATTER, LONG: 0.7 + SCATTER}, change={(LONG, "Pendulum-v1", 0): FAILED})
    file = io.StringIO()
    show(outcome, Console(file=file))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(file.getvalue().split())
    assert f"{LONG} against base: worse (preliminary)" in text.replace("\n", " ")
    assert "Pendulum-v1, seed 0: RuntimeError: the <roof> is on fire" in text
    assert "difference of the scores -0.2" in text


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_file_is_written_and_agrees(tmp_path):
    outcome = outcome_of({"base": 0.9 + SCATTER, "new": 0.7 + SCATTER}, change={("new", "Pendulum-v1", 0): FAILED})
    assert set(write_files(outcome, tmp_path)) == {path.name for path in tmp_path.iterdir()}
    document = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert document["verdicts"][0]["verdict"] == "worse"
    assert document["verdicts"][0]["numbers"]["difference"] == pytest.approx(-0.2, abs=0.05)
    assert document["tasks"]["Pendulum-v1"]["total_timesteps"] == 4000
    assert document["versions"]["stable_baselines3"]
    rows = rows_of(tmp_path / "runs.csv")
    assert len(rows) == len(document["runs"]) == 40
    failed = [row for row in rows if row["status"] == "failed"]
    assert [(row["arm"], row["env"], row["seed"], float(row["score"])) for row in failed] == [
        ("new", "Pendulum-v1", "0", 0)
    ]
    curves = rows_of(tmp_path / "learning_curves.csv")
    assert len(curves) == 2 * 2 * POINTS
    assert all(float(row["low"]) <= float(row["iqm"]) <= float(row["high"]) for row in curves)
    for name in ("performance_profile", "diagnostics", "speed", "verdicts", "learning_curves_of_runs"):
        assert len(rows_of(tmp_path / f"{name}.csv")) >= 1
    assert (tmp_path / "diagnostics-Pendulum-v1.png").read_bytes().startswith(b"\x89PNG")
