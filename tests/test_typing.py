"""What a type checker says to a user: nothing about the lines that README and the pages show, the right thing about wrong ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import PYTHON

ROOT = Path(__file__).parent.parent
WRONG = """from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.persistence import load_checkpoint, load_safe
from sb3_ppo_notes.rules import EarlyStop, UpdateRule
"""
#: A line, and a part of what is said about it.
WRONG_LINES = [
    ('NotesPPO("MlpPolicy", "CartPole-v1", n_step=64)', 'did you mean "n_steps"'),
    ('NotesPPO("MlpPolicy", "CartPole-v1", learning_rate=None)', "learning_rate"),
    ('NotesPPO("MlpPolicy", "CartPole-v1", clip_range=(0.1, 0.2))', "clip_range"),
    ('NotesPPO("MlpPolicy", "CartPole-v1", rule="ppo")', "UpdateRule | None"),
    ('NotesPPO("MlpPolicy", "CartPole-v1").learn(512, callback=[1])', '"SomeCallback" of "learn"'),
    ('NotesPPO("MlpPolicy", "CartPole-v1").learn("512")', '"int"'),
    ('NotesA2C.from_recipe("skrl", 1)', "from_recipe"),
    ('UpdateRule(kl_controls=EarlyStop(target="0.01"))', "target"),
    ('load_safe(1, "CartPole-v1")', "load_safe"),
    ('load_checkpoint("run", "CartPole-v1").stepps', "stepps"),
    ('a2c: NotesA2C = load_checkpoint("run", "CartPole-v1", algorithm=NotesPPO)', 'expression has type "NotesPPO"'),
]
#: What is said of a page and is not ours to change.
NOT_OURS = re.compile(
    r"type\[DummyVecEnv\] \| type\[SubprocVecEnv\]"  # SB3's make_vec_env names two classes of its own
    r'|"VecEnv" has no attribute'  # and returns whatever it made as a VecEnv
    r'|of "ActorCriticPolicy"|"Distribution" object|"Tensor \| Module"'  # SB3 says that every policy is one of its own
    r'|"\*\*dict\[str, int\]"'  # arguments put together in a dictionary
    r"|\[import-(not-found|untyped)\]"
)


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """What mypy says, as (line, message), by the name of the file."""
    folder = tmp_path_factory.mktemp("programs")
    for block in PYTHON:
        # Methods of a page's classes are shown without annotations.
        (folder / f"{block.document[:-3]}_{block.number}.py").write_text(f"# mypy: allow-untyped-defs\n{block.code}")
    (folder / "typed_program.py").write_text((ROOT / "tests" / "typed_program.py").read_text())
    (folder / "wrong.py").write_text(WRONG + "".join(f"{line}\n" for line, _ in WRONG_LINES))
    options = ("--config-file=", "--strict", "--follow-imports=silent", "--hide-error-context", "--no-error-summary")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir=cache", *(path.name for path in folder.glob("*.py"))],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.stderr == ""
    assert result.returncode == 1, result.stdout  # there are errors in wrong.py
    found = {path.name: [] for path in folder.glob("*.py")}
    for name, line, message in re.findall(r"^(\w+\.py):(\d+): error: (.*)$", result.stdout, flags=re.M):
        found[name].append((int(line), message))
    return found


@pytest.mark.slow
def test_mypy_strict_accepts_a_typed_program(errors):
    assert errors["typed_program.py"] == []


@pytest.mark.slow
def test_a_typed_program_runs(tmp_path):
    program = [sys.executable, str(ROOT / "tests" / "typed_program.py")]
    result = subprocess.run(
        program, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("document", sorted({block.document for block in PYTHON}))
def test_mypy_strict_accepts_what_the_pages_show(errors, document):
    messages = [said for name in errors if name.startswith(f"{document[:-3]}_") for _, said in errors[name]]
    left = [said for said in messages if not NOT_OURS.search(said)]
    assert not left, "\n".join(left)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(WRONG_LINES)), ids=[line for line, _ in WRONG_LINES])
def test_mypy_refuses_a_wrong_line(errors, number):
    line = WRONG.count("\n") + 1 + number
    said = [message for where, message in errors["wrong.py"] if where == line]
    assert any(WRONG_LINES[number][1] in message for message in said), said
