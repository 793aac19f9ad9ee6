"""The table of faults is true: its tests are there."""

import ast
from pathlib import Path

import pytest

from tests.persistence.fault_matrix import ROWS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("test", sorted({test for row in ROWS for test in row.tests}))
def test_every_named_test_exists(test):
    file, _, name = test.partition("::")
    functions = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert name in functions
