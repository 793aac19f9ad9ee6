"""Plant each deliberate bug and see the test that is named for it turn red."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

import sb3_ppo_notes
from tests.mutants import MUTANTS

PACKAGE = Path(sb3_ppo_notes.__file__).parent
ROOT = Path(__file__).parent.parent


class Result(NamedTuple):
    code: int
    output: str


@pytest.fixture(scope="session")
def run_tests_against():
    """(folder of a copy, tests) -> pytest's exit code and what it printed. One process imports PyTorch for all of them."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.fork_server"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def run(folder, tests):
            server.stdin.write(json.dumps({"folder": str(folder), "tests": tests}) + "\n")
            server.stdin.flush()
            return Result(**json.loads(server.stdout.readline()))

        yield run
        server.stdin.write("\n")
        server.stdin.close()


def built_again(file):
    """The code in C of a copy, compiled; where it was never built its mutants cannot be seen."""
    source = file.parent / ("_lstm.c" if file.suffix == ".h" else file.name)
    compiler, libraries = shutil.which("cc") or shutil.which("gcc"), list(file.parent.glob(f"{source.stem}*.so"))
    if compiler is None or not libraries:
        pytest.skip("no C compiler")
    include = f"-I{sysconfig.get_paths()['include']}"
    flags = ["-O2", "-fno-tree-vectorize", "-ffp-contract=fast", "-shared", "-fPIC", include]
    for library in libraries:  # a checkout that was installed by an older version holds two
        subprocess.run([compiler, *flags, "-o", library, source], check=True)


def copy_of_the_project(folder):
    shutil.copytree(PACKAGE, folder / "sb3_ppo_notes", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, folder)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name.replace(" ", "_") for mutant in MUTANTS])
def test_mutant_is_caught(mutant, tmp_path, run_tests_against):
    copy_of_the_project(tmp_path)
    file = tmp_path / "sb3_ppo_notes" / mutant.file
    text = file.read_text()
    assert text.count(mutant.right) == 1, f"{mutant.right!r} stands {text.count(mutant.right)} times in {mutant.file}"
    file.write_text(text.replace(mutant.right, mutant.wrong))
    if file.suffix in (".c", ".h"):
        built_again(file)
    result = run_tests_against(tmp_path, [mutant.caught_by])
    # 1: tests failed. Anything else (2: interrupted, 4: no such test, 5: nothing collected) proves nothing.
    assert result.code == 1, result.output
    assert " failed" in result.output
    assert "error" not in result.output.splitlines()[-1]


@pytest.mark.slow
def test_without_a_mutant_the_named_tests_are_green(tmp_path, run_tests_against):
    copy_of_the_project(tmp_path)
    result = run_tests_against(tmp_path, sorted({mutant.caught_by for mutant in MUTANTS}))
    assert result.code == 0, result.output


@pytest.mark.slow
def test_a_copy_is_what_runs(tmp_path, run_tests_against):
    """Not the checkout that the server was started in, and not what an earlier copy left in memory."""
    for name in ("one", "other"):
        copy_of_the_project(tmp_path / name)
        (tmp_path / name / "sb3_ppo_notes" / "which.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "tests" / "test_which.py").write_text(
            "import os, subprocess, sys\nfrom sb3_ppo_notes import which\n\n"
            f"def test_it():\n    assert which.__file__.startswith({str(tmp_path / name)!r}) and which.NAME == {name!r}\n"
            "    subprocess.run([sys.executable, '-c', 'import sb3_ppo_notes.which'], cwd='/', check=True)\n"
        )
        result = run_tests_against(tmp_path / name, ["tests/test_which.py"])
        assert result.code == 0, result.output


def test_there_are_enough_mutants_and_their_names_differ():
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
