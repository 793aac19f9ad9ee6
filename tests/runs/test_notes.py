"""``notes``: what it writes, what it prints, and how it ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.notes import NOTES, Notes
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.pages import site
from sb3_ppo_notes.notes.pages.walk import STATIONS
from sb3_ppo_notes.notes.pages.walk_pages import page_of
from sb3_ppo_notes.runs import notes as command

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def few(monkeypatch):
    """One note: what holds of the command holds of it with any number."""
    notes = Notes()
    notes._modules = {"why-min": "objective.n13_why_min"}
    notes.numbers, notes.parts = {"why-min": 13}, {"why-min": "The objective"}
    for module in (command, site):
        monkeypatch.setattr(module, "NOTES", notes)
    return notes


def files(folder):
    """Content by name, without the walk."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_walk_is_written(few, tmp_path):
    assert main(["notes", "--no-run", "--outdir", str(tmp_path)]) == 0
    names = {path.name for path in (tmp_path / "walk").iterdir()}
    assert {"index.html", *map(page_of, STATIONS)} == names
    objectives = next(path for path in (tmp_path / "walk").iterdir() if 'id="clipped_surrogate"' in path.read_text())
    assert "../why-min.html" in objectives.read_text()
    assert f"walk/{objectives.name}#clipped_surrogate" in (tmp_path / "why-min.html").read_text()


def test_all_files_are_written(few, tmp_path, capsys):
    outdir = tmp_path / "out" / "notes"
    assert main(["notes", "--outdir", str(outdir), "--jobs", "1", "--notebooks"]) == 0
    assert set(files(outdir)) == {"index.html", "why-min.html", "why-min.csv", "why-min.ipynb", "notes.json"}
    assert "✓" * len(NOTES["why-min"].claims()) in capsys.readouterr().out
    report = json.loads((outdir / "notes.json").read_text())
    assert report["seed"] == 0
    (note,) = report["notes"]
    assert note["holds"]
    assert note["claims"][0]["measured"] == [[0.5, 1.0, 1.2], [-0.8, -1.0, -1.5]]
    assert note["claims"][0]["mutant"] == "max in place of min"
    table = (outdir / "why-min.csv").read_text().splitlines()
    assert table[0] == "field,values"
    assert "objectives/0,0.5,1,1.2" in table
    assert sum("frames/0.2/" in line for line in table) == 6  # its position and five curves
    assert "✓ 8 claims" in (outdir / "index.html").read_text()


def test_two_builds_are_the_same_to_the_byte(few, tmp_path):
    for name in ("one", "two"):
        assert main(["notes", "--outdir", str(tmp_path / name), "--jobs", "1", "--notebooks"]) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_without_running_there_is_text_alone(few, tmp_path, monkeypatch):
    monkeypatch.setattr(Note, "run", lambda *_: pytest.fail("an experiment was carried out"))
    assert main(["notes", "--no-run", "--outdir", str(tmp_path)]) == 0
    assert set(files(tmp_path)) == {"index.html", "why-min.html"}
    page = (tmp_path / "why-min.html").read_text()
    assert "<math" in page
    assert "<svg" not in page


@pytest.mark.slow
def test_processes_of_their_own_write_the_same(tmp_path):
    """The notes of this project, two at a time, as a user starts them."""
    words = [sys.executable, "-c", SMALL, "notes", "--outdir"]
    for jobs in ("1", "2"):
        done = subprocess.run([*words, str(tmp_path / jobs), "--jobs", jobs], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    # A process of its own knows of all notes, and links to the neighbours.
    one, two = (
        {name: re.sub(rb"(?s)<nav[^>]*>.*?</nav>", b"", text) for name, text in files(tmp_path / jobs).items()}
        for jobs in "12"
    )
    assert one == two


# Two notes of all: the command is started as it is, with a shorter list.
SMALL = """
import sys
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.notes import NOTES

if __name__ == "__main__":
    kept = list(NOTES)[-2:] if "why-min" not in NOTES else ["why-min"]
    NOTES._modules = {name: module for name, module in NOTES._modules.items() if name in kept}
    NOTES.numbers = {name: NOTES.numbers[name] for name in kept}
    sys.exit(main(sys.argv[1:]))
"""


def test_one_note_on_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["notes", "why-min"]) == 0
    out = capsys.readouterr().out
    assert "Why the minimum?" in out
    assert "L = min(ρ·Â, clip(ρ, 1−ε, 1+ε)·Â)" in out
    assert out.count("✓") == len(NOTES["why-min"].claims())
    assert list(tmp_path.iterdir()) == []


def test_a_note_without_its_numbers(capsys):
    assert main(["notes", "why-min", "--no-run"]) == 0
    out = capsys.readouterr().out
    assert "…" in out
    assert "✓" not in out


def test_the_list_has_all_of_them(capsys):
    assert main(["notes", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NOTES)
    assert any(line.split()[:2] == ["13", "why-min"] for line in lines)


@pytest.mark.parametrize("name", list(NOTES))
def test_a_note_is_found_by_each_of_its_titles(name, capsys):
    for title in NOTES[name].titles.values():
        assert main(["notes", "--search", title]) == 0
        assert name in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    "query",
    [
        "min",
        "MIN",
        "\uff2d\uff29\uff2e",
        "clipped_surrogate",
        "clip(ρ",
        "plage de coupure",
        "클리핑 범위",
        "クリップ範囲",
    ],
)
def test_a_note_is_found_by_words_and_symbols(query, capsys):
    assert main(["notes", "--search", query]) == 0
    assert "why-min" in capsys.readouterr().out


def test_each_row_of_the_table_of_questions_leads_to_its_answer_in_one_command(capsys):
    rows = re.findall(r"^\| (.*\?) \| `([\w-]+)` \|$", (ROOT / "sb3_ppo_notes/docs/read.md").read_text(), flags=re.M)
    assert len(rows) == len(NOTES)
    for question, name in rows:
        assert main(["notes", name, "--no-run"]) == 0
        assert question in " ".join(capsys.readouterr().out.split())


def test_what_nobody_wrote_of_is_not_found(capsys):
    assert main(["notes", "--search", "zebra"]) == 1
    assert "no note is about 'zebra'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["why-mim"], "names must be notes, got 'why-mim'; the nearest are why-min"),
        (["--jobs", "0"], "jobs must be"),
        (["--seed", "-1"], "seed must be"),
        (["--search", " "], "search must be a word"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["notes", *arguments]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_three_are_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "NOTES", {"why-min": None, "why-break": None, "which-kl": None, "order": None})
    assert main(["notes", "why-kl"]) == 2
    assert len(capsys.readouterr().err.split("nearest are ")[1].split(", ")) == 3


def test_a_file_in_the_place_of_the_folder_is_kept(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["notes", "--outdir", str(tmp_path / "file")]) == 2
    assert "outdir must be a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_claim_that_does_not_hold_is_named_and_the_rest_goes_on(few, tmp_path, monkeypatch, capsys):
    def broken(self, seed=0):
        yield Claim("One is two.", 1.0, 2.0, 0.5, mutant="clip deleted")
        yield Claim("One is one.", 1.0, 1.0, mutant="clip deleted")

    monkeypatch.setattr(Note, "claims", lambda self, seed=0: tuple(broken(self)))
    assert main(["notes", "--outdir", str(tmp_path), "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "✗ why-min: One is two. measured 1, expected 2 ± 0.5" in out
    assert "✗✓" in out
    assert "<b>✗</b>One is two." in (tmp_path / "why-min.html").read_text()
    assert "1 of 2 claims do not hold here" in (tmp_path / "index.html").read_text()
    assert not json.loads((tmp_path / "notes.json").read_text())["notes"][0]["holds"]
    assert main(["notes", "why-min"]) == 1


def test_an_experiment_that_raises_is_shown_with_its_traceback(few, tmp_path, monkeypatch, capsys):
    def run(self, seed=0):
        raise ZeroDivisionError("a <deliberate> error")

    monkeypatch.setattr(Note, "run", run)
    assert main(["notes", "--outdir", str(tmp_path), "--jobs", "1"]) == 1
    assert "✗ why-min: the experiment raised ZeroDivisionError: a <deliberate> error" in capsys.readouterr().out
    page = (tmp_path / "why-min.html").read_text()
    assert "ZeroDivisionError: a &lt;deliberate&gt; error" in page
    assert "Traceback" in page
    assert "its experiment failed" in (tmp_path / "index.html").read_text()


def test_ctrl_c_leaves_whole_pages(few, tmp_path, monkeypatch, capsys):
    def run(self, seed=0):
        raise KeyboardInterrupt

    monkeypatch.setattr(Note, "run", run)
    assert main(["notes", "--outdir", str(tmp_path), "--jobs", "1"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert set(files(tmp_path)) == {"index.html", "why-min.html"}
    assert (tmp_path / "why-min.html").read_text().endswith("</html>\n")
