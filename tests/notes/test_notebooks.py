"""A note as a notebook: whole, valid, and what its cells do when they are run."""

import json

import pytest

from sb3_ppo_notes.notes import NOTES
from sb3_ppo_notes.notes.pages.notebooks import notebook


def code_of(content):
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", list(NOTES))
def test_its_cells_are_whole_and_nothing_was_run(name):
    content = json.loads(notebook(NOTES[name]))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"]) == 6
    assert "".join(content["cells"][0]["source"]).startswith(f"# {NOTES[name].question}\n")
    for code in code_of(content):
        compile(code, name, "exec")
    assert all(cell["outputs"] == [] for cell in content["cells"] if cell["cell_type"] == "code")
    assert "NOTE = " not in code_of(content)[0]


def test_its_cells_run_one_after_the_other(capsys):
    namespace = {}
    for code in code_of(json.loads(notebook(NOTES["why-min"]))):
        exec(compile(code, "cell", "exec"), namespace)  # as a kernel would
    assert capsys.readouterr().out.count("✓") == len(NOTES["why-min"].claims())
    assert namespace["figure"].axes


def test_equations_are_latex():
    text = "".join(json.loads(notebook(NOTES["why-min"]))["cells"][1]["source"])
    assert (
        r"$$L = \operatorname{min}(\rho  \cdot  \hat{A}, \operatorname{clip}(\rho , 1 - \varepsilon , 1 + \varepsilon )"
        in text
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NOTES))
def test_jupyter_takes_and_runs_it(name):
    nbformat = pytest.importorskip("nbformat", reason="no nbformat (pip install nbformat)")
    nbclient = pytest.importorskip("nbclient", reason="no nbclient (pip install nbclient ipykernel)")
    pytest.importorskip("ipykernel", reason="no ipykernel (pip install ipykernel)")
    content = nbformat.reads(notebook(NOTES[name]), as_version=4)
    nbformat.validate(content)
    nbclient.NotebookClient(content, timeout=120).execute()
