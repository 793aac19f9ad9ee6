"""Rows 26 and 29: a run that is cut at any step and resumed equals the straight run to the last bit."""

import random

import numpy as np
import pytest
import torch as th

from sb3_ppo_notes.callbacks import Phase, PhasesCallback
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
    generator = random.Random(f"one cut of {name}")
    check(name, [generator.randrange(1, TOTAL)], tmp_path)


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
    with pytest.raises(ValueError, match="^total_timesteps must be an int >= 1, got 0"):
        model.learn(0, reset_num_timesteps=False)
