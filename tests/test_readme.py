"""README.md is executed: its Python blocks here, its shell commands here or, where they install, in ``.ci/run``."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "bash"]


def run(command, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def test_every_block_says_what_it_is():
    assert {language for language, _ in BLOCKS} <= {"python", "bash", "text"}
    assert len(BLOCKS) == README.count("\n```") // 2


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(code, tmp_path):
    (tmp_path / "block.py").write_text(code)
    result = run([sys.executable, "-W", "error::DeprecationWarning:__main__", "block.py"], tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for code in SHELL if "pip install" not in code])
def test_shell_blocks_run(code, tmp_path):
    for link in ("tests", "tuning", "pyproject.toml", "sb3_ppo_notes"):
        if (ROOT / link).exists():
            (tmp_path / link).symlink_to(ROOT / link)
    script = code.replace("python ", f"{sys.executable} ")
    result = run(["bash", "-euc", script], tmp_path)
    assert result.returncode == 0, result.stderr


def test_installing_blocks_are_the_two_that_ci_runs():
    installing = [code for code in SHELL if "pip install" in code]
    assert len(installing) == 2
    ci = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in ci
    assert all("torch==2.13.0" in code for code in installing)


def test_the_table_of_the_rule_is_the_one_the_code_prints():
    from sb3_ppo_notes.rules import UpdateRule

    assert str(UpdateRule()) in README


def test_the_table_of_recipes_is_generated():
    from sb3_ppo_notes.recipes import RECIPES
    from sb3_ppo_notes.rules.tables import markdown_table

    assert markdown_table({name: recipe.rule for name, recipe in RECIPES.items()}) in README


def test_the_table_of_combinations_is_generated():
    from tests.policies.combinations import markdown_table

    assert markdown_table() in README


def test_the_table_of_symptoms_is_generated():
    from sb3_ppo_notes.callbacks.symptoms import markdown_table

    assert markdown_table() in README
