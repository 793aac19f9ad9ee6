"""The plugin by which .ci/run gives slow tests their turns."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = """
import pytest

@pytest.fixture(scope="module")
def expensive(): ...

@pytest.mark.parametrize("number", range(8))
def test_alone(number): ...

def test_together(expensive): assert False, "planted"

@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_long(number): ...
"""


def run(folder, *options):
    (folder / "test_it.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "tests.turns",
        "-p",
        "no:cacheprovider",
        *options,
        "test_it.py",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def order(result):
    return [line.split()[0] for line in result.stdout.splitlines() if line.startswith("test_it.py::")]


def test_each_commit_draws_another_order_and_the_same_one_the_same(tmp_path):
    one, again, other = (run(tmp_path, "--turn-order", name) for name in ("a", "a", "b"))
    assert order(one) == order(again) != order(other)
    assert sorted(order(one)) == sorted(order(other))
    assert len(order(one)) == 12


def test_what_has_no_turn_is_named_and_counted_and_its_failure_is_found_without_a_limit(tmp_path):
    result = run(tmp_path, "--turn-seconds", "0")
    assert result.returncode == 0
    assert "12 slow tests had no turn within 0 s: python -m pytest -m slow" in result.stdout
    assert "   8 test_it.py::test_alone\n   3 test_it.py::test_long\n   1 test_it.py::test_together\n" in result.stdout
    assert run(tmp_path).returncode == 1


def test_of_those_that_take_minutes_one_is_drawn_and_goes_first(tmp_path):
    result = run(tmp_path, "--turn-seconds", "1000", "--turn-order", "a")
    assert "test_long" in order(result)[0]
    assert "2 slow tests had no turn within 1000 s" in result.stdout
    assert "   2 test_it.py::test_long\n" in result.stdout
