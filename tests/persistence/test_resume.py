"""Rows 26 and 29: a run that is cut at any step and resumed equals the straight run to the last bit."""

import random

import numpy as np
import pytest
import torch as th

from sb3_ppo_notes.callbacks import DiagnosticsCallback, EntropyCallback, KLCallback, Phase, PhasesCallback
from tests.persistence.cases import CASES, TOTAL, assert_equal, disturb, resumed, run_to, with_rows


def straight(name):
    model, rows = with_rows(CASES[name]())
    model.learn(TOTAL)
    generators = (th.rand(1).item(), np.random.rand(), random.random())
    return model, rows.rows, generators


def check(name, cuts, tmp_path):
    expected, expected_rows, expected_generators = straight(name)
    disturb()
    model, rows = with_rows(CASES[name]())
    logged = []
    for cut in cuts:
        run_to(model, cut, tmp_path)
        logged += rows.rows
        model = resumed(name, tmp_path)
        assert model.resume_report.is_exact, model.resume_report
        model, rows = with_rows(model)
        # Whoever has loaded a run may draw numbers before it goes on.
        disturb()
    model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert (th.rand(1).item(), np.random.rand(), random.random()) == expected_generators
    assert_equal(model, expected)
    # Where a run is cut its log is dumped once more; every row of the straight run is there.
    logged += rows.rows
    for row in expected_rows:
        assert any(same(row, other) for other in logged), row


def same(row, other):
    return row.keys() == other.keys() and all(np.array_equal(row[key], other[key], equal_nan=True) for key in row)


@pytest.mark.parametrize("name", [name for name in CASES if name != "compiled"])
def test_a_run_cut_at_a_random_step_equals_the_straight_run(name, tmp_path):
    """And before or after that in the middle of the second rollout."""
    generator = random.Random(f"one cut of {name}")
    check(name, sorted({generator.randrange(1, TOTAL), 104}), tmp_path)


@pytest.mark.parametrize("name", ["float16", "separate"])
def test_gradient_norms_of_actor_and_critic_are_those_of_the_straight_run(name, tmp_path):
    expected = CASES[name]().learn(TOTAL)
    run_to(CASES[name](), 104, tmp_path)
    model = resumed(name, tmp_path)
    model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
    norms = [(one.last_report.actor_gradient_norm, one.last_report.critic_gradient_norm) for one in (model, expected)]
    assert min(norms[0]) > 0
    assert norms[0] == norms[1]


@pytest.mark.parametrize("log_interval", [1, 2])
def test_what_is_logged_after_a_cut_is_what_would_have_been(log_interval, tmp_path):
    """An update's numbers are written after the next rollout, and every so many rollouts since the run began."""
    model, expected = with_rows(CASES["mlp"]())
    model.learn(TOTAL, log_interval=log_interval)
    run_to(with_rows(CASES["mlp"]())[0], 150, tmp_path, log_interval=log_interval)
    model, found = with_rows(resumed("mlp", tmp_path))
    model.learn(model.resume_report.remaining_timesteps, log_interval=log_interval, reset_num_timesteps=False)
    late = [row for row in expected.rows if row["step"] > 150]
    assert len(late) == {1: 4, 2: 2}[log_interval]
    assert len(found.rows) == len(late)
    assert all(same(row, other) for row, other in zip(found.rows, late, strict=True))


def test_the_callbacks_of_this_package_remember_too(tmp_path):
    """What they had seen before the cut, they know after it."""

    def callbacks():
        return [KLCallback(), EntropyCallback(), DiagnosticsCallback()]

    straight = callbacks()
    CASES["mlp"]().learn(TOTAL, straight)
    first = callbacks()
    run_to(CASES["mlp"](), 150, tmp_path, callbacks=first)
    model, then = resumed("mlp", tmp_path), callbacks()
    assert model.resume_report.is_exact, model.resume_report
    model.learn(model.resume_report.remaining_timesteps, then, reset_num_timesteps=False)
    assert model.resume_report.is_exact, model.resume_report
    for one, other in zip(then, straight, strict=True):
        assert one.n_calls == other.n_calls
        for name, value in vars(other).items():
            if name == "history":
                assert [without_time(entry) for entry in one.history] == [without_time(entry) for entry in value]
            elif name.startswith(("_n_", "_counts", "warned", "_scales")):
                assert getattr(one, name) == value, name


def without_time(entry):
    return str({name: value for name, value in entry.items() if "share" not in name and "seconds" not in name})


def test_phases_that_are_cut_report_the_same_scores(tmp_path):
    def phases():
        turns = [Phase("train", 100, report_every=70, is_training=True), Phase("evaluate", 120, report_every=150)]
        return PhasesCallback(turns, "CartPole-v1", seed=5)

    expected = phases()
    CASES["mlp"]().learn(TOTAL, [expected])
    assert any(report.mean is not None for report in expected.reports if report.phase == "evaluate")
    for cut in (65, 130, 202, 260):
        folder = tmp_path / str(cut)
        run_to(CASES["mlp"](), cut, folder, callbacks=[phases()])
        model, found = resumed("mlp", folder), phases()
        model.learn(model.resume_report.remaining_timesteps, [found], reset_num_timesteps=False)
        assert model.resume_report.is_exact, model.resume_report
        assert found.reports == expected.reports


def test_a_run_that_is_cut_beyond_its_last_step_finishes_its_rollout(tmp_path):
    # 300 steps are asked for, and 320 made: whole rollouts.
    straight = CASES["mlp"]().learn(300)
    run_to(CASES["mlp"](), 310, tmp_path, total=300)
    model = resumed("mlp", tmp_path)
    assert (model.num_timesteps, model.resume_report.remaining_timesteps) == (310, 0)
    model.learn(0, reset_num_timesteps=False)
    assert_equal(model, straight)
    model.learn(0, reset_num_timesteps=False)  # nothing is left to do
    assert_equal(model, straight)
