"""Every row of the table of faults has a test that exists."""

import ast
from pathlib import Path

import pytest

from tests.envs.fault_rows import ROWS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.number} {row.fault}" for row in ROWS])
def test_the_test_of_a_row_exists(row):
    file, name = row.test.split("::")
    functions = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert name in functions


def test_the_rows_are_in_order():
    assert [row.number for row in ROWS] == sorted(row.number for row in ROWS)
    assert set(range(1, 20)) <= {row.number for row in ROWS}
