"""README.md and ``sb3_ppo_notes/docs``: every block is executed, every table that code prints is up to date, every link leads somewhere.

The two commands that install stand in README.md alone; ``.ci/run`` executes those.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import sb3_ppo_notes
from sb3_ppo_notes import rules
from sb3_ppo_notes.algorithms.update import Update
from sb3_ppo_notes.callbacks import symptoms
from sb3_ppo_notes.engine.step import EagerStepper
from sb3_ppo_notes.notes.pages import site
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules.tables import markdown_table
from tests.envs import families
from tests.persistence import fault_matrix
from tests.policies import combinations

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sb3_ppo_notes"
README = ROOT / "README.md"
PAGES = sorted((PACKAGE / "docs").glob("*.md"))
DOCUMENTS = {path.name: path for path in [README, *PAGES]}
#: The methods that README shows as the update, without their docstrings.
UPDATE_METHODS = (Update._learn_epoch, EagerStepper.step)


class Block(NamedTuple):
    document: str
    number: int
    language: str
    code: str

    def __str__(self):
        return f"{self.document}-{self.number}"

    @property
    def is_excerpt(self):
        """Is it a function of ours, to be read and not to be executed?"""
        return self.language == "python" and self.code.startswith("def ")


def text_of(name):
    return DOCUMENTS[name].read_text()


def blocks_of(name):
    matches = re.finditer(r"^```(\w+)\n(.*?)^```$", text_of(name), flags=re.M | re.S)
    return [Block(name, number, *match.groups()) for number, match in enumerate(matches)]


BLOCKS = [block for name in DOCUMENTS for block in blocks_of(name)]
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.is_excerpt]
SHELL = [block for block in BLOCKS if block.language == "bash"]
INSTALLING = [block for block in SHELL if "pip install" in block.code]


def prose_of(name):
    """The text without its blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(name), flags=re.M | re.S)


def section(name, heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text_of(name), flags=re.M | re.S).group(1)


def run(command, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


# -- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_says_what_it_is(name):
    blocks = blocks_of(name)
    assert {block.language for block in blocks} <= {"python", "bash", "text"}
    assert len(blocks) == text_of(name).count("\n```") / 2


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_run(block, tmp_path):
    (tmp_path / "block.py").write_text(block.code)
    result = run([sys.executable, "-W", "error::DeprecationWarning:__main__", "block.py"], tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in SHELL if block not in INSTALLING], ids=str)
def test_shell_blocks_run(block, tmp_path):
    for link in ("tests", "tuning", "pyproject.toml", "sb3_ppo_notes"):
        if (ROOT / link).exists():
            (tmp_path / link).symlink_to(ROOT / link)
    script = block.code.replace("python ", f"{sys.executable} ")
    result = run(["bash", "-euc", script], tmp_path)
    if extra := re.search(r"^error: .*(pip install 'sb3-ppo-notes\[\w+\]')$", result.stderr, flags=re.M):
        pytest.skip(extra.group(1))  # as a user would be told; .ci/run installs them all
    assert result.returncode == 0, result.stderr


def test_installing_blocks_are_the_two_that_ci_runs():
    assert [block.document for block in INSTALLING] == ["README.md", "README.md"]
    ci = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in ci
    assert all("torch==2.13.0" in block.code for block in INSTALLING)


def test_the_update_that_readme_shows_is_the_one_that_runs():
    excerpts = [block for block in BLOCKS if block.is_excerpt]
    assert {excerpt.document for excerpt in excerpts} == {"README.md"}
    assert [excerpt.code for excerpt in excerpts] == list(map(without_docstring, UPDATE_METHODS))


def without_docstring(method):
    source = textwrap.dedent(inspect.getsource(method))
    [function] = ast.parse(source).body
    docstring, lines = function.body[0], source.splitlines(keepends=True)
    return "".join(lines[: docstring.lineno - 1] + lines[docstring.end_lineno :])


# -- tables and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("README.md", lambda: str(rules.UpdateRule())),
        ("rules.md", lambda: str(rules.UpdateRule())),
        ("recipes.md", lambda: markdown_table({name: recipe.rule for name, recipe in RECIPES.items()})),
        ("policies.md", combinations.markdown_table),
        ("diagnostics.md", symptoms.markdown_table),
        ("reliability.md", fault_matrix.markdown_table),
        ("environments.md", families.markdown_table),
        ("read.md", site.markdown_table),
        ("README.md", site.front_page_table),
    ],
)
def test_tables_that_code_prints_are_up_to_date(name, table):
    assert table() in text_of(name)


def test_rows_on_the_front_page_stand_in_the_table_of_the_page_on_speed():
    rows = re.findall(r"^\| .*$", section("README.md", "Outrun"), flags=re.M)
    assert len(rows) > 4
    assert set(rows) <= set(text_of("speed.md").splitlines())


def test_every_choice_of_a_rule_is_on_the_page_of_rules():
    choices = set(rules.__all__) - {"PolicyTerms", "RolloutArrays", "Schedule"}
    assert choices <= set(re.findall(r"`(\w+)", text_of("rules.md")))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_of_ours_that_is_named_exists(name):
    for file in re.findall(r"`((?:\w+/)+\w+\.py)", prose_of(name)):
        assert (PACKAGE / file).exists() or (ROOT / file).exists(), file


def test_the_version_is_the_one_in_the_change_log_and_the_citation():
    version = re.escape(sb3_ppo_notes.__version__)
    assert re.search(rf"^## {version}\b", text_of("changelog.md"), flags=re.M)
    assert re.search(rf"version = {{{version}}}", text_of("README.md"))


# -- pages and links --------------------------------------------------------------------------------------------------


def links_of(name):
    """Targets in this checkout, as (path, heading)."""
    targets = re.findall(r"\]\(([^()\s]+)\)", prose_of(name))
    for target in targets:
        if "://" not in target:
            path, _, heading = target.partition("#")
            yield (DOCUMENTS[name].parent / path).resolve() if path else DOCUMENTS[name], heading


def anchors_of(path):
    """The headings of a page as GitHub writes them into addresses."""
    headings = re.findall(r"^#+ (.*)$", prose_of(path.name), flags=re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(name):
    for path, heading in links_of(name):
        assert path.is_relative_to(ROOT)
        assert path.exists(), path
        assert not heading or heading in anchors_of(path), f"{path.name}#{heading}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_headings_differ(name):
    anchors = anchors_of(DOCUMENTS[name])
    assert len(anchors) == len(set(anchors))


def test_every_page_is_reached_from_readme():
    reachable, queue = set(), ["README.md"]
    while queue:
        name = queue.pop()
        reachable.add(name)
        if name != "changelog.md":  # names everything, and is nobody's way to it
            queue += {path.name for path, _ in links_of(name) if path in PAGES} - reachable
    assert reachable == set(DOCUMENTS)


def test_readme_is_short():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 14_000


def test_pages_and_licence_are_part_of_the_package():
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["sb3_ppo_notes"]
    assert PAGES
    assert set(PAGES) <= {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    [licence] = project["project"]["license-files"]
    assert (ROOT / licence).read_text().startswith(f"{project['project']['license']} License")
