"""Rows 26 and 29: a run that is cut at any step and resumed equals the straight run to the last bit."""

import random

import numpy as np
import pytest
import torch as th

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
