"""No claim is empty: the deliberate bug that it names turns it red."""

import ast
from pathlib import Path

import pytest

import sb3_ppo_notes
from sb3_ppo_notes.notes import NOTES
from tests.mutants import MUTANTS
from tests.notes.mutants import NOTE_MUTANTS
from tests.test_mutants import copy_of_the_project, run_tests_against  # noqa: F401

FOLDER = Path(sb3_ppo_notes.__file__).parent / "notes"
BY_NAME = {mutant.name: mutant for mutant in [*MUTANTS, *NOTE_MUTANTS]}


def mutants_named_in(path):
    """Literals, so that they are read without running the experiment."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "mutant":
                    assert isinstance(keyword.value, ast.Constant), f"{path.name}:{keyword.lineno}: no literal"
                    yield keyword.value.value


#: (note, mutant), each once.
PAIRS = sorted(
    {
        (path.stem[4:].replace("_", "-"), mutant)
        for path in sorted(FOLDER.glob("*/n[0-9]*.py"))
        for mutant in mutants_named_in(path)
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mutant"), PAIRS, ids=[f"{note}-{bug.replace(' ', '_')}" for note, bug in PAIRS])
def test_the_claims_that_name_it_turn_red(name, mutant, tmp_path, run_tests_against):  # noqa: F811
    bug = BY_NAME[mutant]
    copy_of_the_project(tmp_path)
    file = tmp_path / "sb3_ppo_notes" / bug.file
    text = file.read_text()
    assert text.count(bug.right) == 1, f"{bug.right!r} stands {text.count(bug.right)} times in {bug.file}"
    file.write_text(text.replace(bug.right, bug.wrong))
    result = run_tests_against(tmp_path, [f"tests/notes/test_notes.py::test_every_claim_holds[{name}]"])
    assert result.code == 1, result.output
    if f"✗ [{name}] the experiment raised" in result.output:
        return
    for claim in NOTES[name].claims():
        assert claim.mutant != mutant or f"✗ [{name}] {claim.sentence}" in result.output, claim.sentence


def test_every_claim_names_a_mutant_that_there_is():
    assert {mutant for _, mutant in PAIRS} <= set(BY_NAME)


def test_every_mutant_of_the_notes_is_named_by_a_claim():
    assert {mutant.name for mutant in NOTE_MUTANTS} <= {mutant for _, mutant in PAIRS}
    assert len(BY_NAME) == len(MUTANTS) + len(NOTE_MUTANTS)


def test_the_text_of_every_deliberate_bug_stands_exactly_once():
    counts = {bug.name: (FOLDER.parent / bug.file).read_text().count(bug.right) for bug in [*MUTANTS, *NOTE_MUTANTS]}
    assert {name: count for name, count in counts.items() if count != 1} == {}
