"""The commands' help: what it says, that it fits a terminal, and that a command is what it was."""

import io
from dataclasses import dataclass
from typing import Annotated

import pytest
import tyro

from sb3_ppo_notes.__main__ import COMMANDS
from sb3_ppo_notes.runs.options import _Folded, parse_command
from tuning.study import COMMANDS as VERBS


def help_of(name, commands, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        parse_command(commands, "prog", [*([name] if name else []), "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "commands"),
    [*((name, COMMANDS) for name in (None, *COMMANDS)), *((name, VERBS) for name in (None, *VERBS))],
)
def test_help_fits_a_terminal_and_speaks_of_no_types_of_ours(name, commands, capsys, monkeypatch):
    text = help_of(name, commands, capsys, monkeypatch)
    assert "{None" not in text
    assert "default: None" not in text
    assert "(default: )" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_an_unknown_option_leads_to_the_help_of_its_command(capsys):
    with pytest.raises(SystemExit) as end:
        parse_command(COMMANDS, "prog", ["train", "--n-step", "3"])
    assert end.value.code == 2
    assert "run prog train --help" in " ".join(capsys.readouterr().err.split())


def test_the_three_ways_of_compare_are_told_apart(capsys, monkeypatch):
    text = help_of("compare", COMMANDS, capsys, monkeypatch)
    assert [line[:2] for line in text.splitlines() if line[:2] in ("1.", "2.", "3.")] == ["1.", "2.", "3."]
    words = " ".join(text.replace("│", " ").split())
    assert "--recipes STR (2)" in words
    for option in ("--envs STR", "--arms STR", "--a-a, --no-a-a", "--resume, --no-resume", "--jobs INT"):
        assert f"{option} (3)" in words


@dataclass
class Base:
    """A command's base."""

    first: int = 1
    """Of the base;
    in two lines."""


@dataclass
class Command(Base):
    """A command."""

    second: Annotated[str | None, tyro.conf.arg(metavar="WORD")] = None
    """Its own."""
    third: tuple[str, ...] = ()

    def __call__(self):
        return type(self).first, vars(self)


def test_a_command_is_what_it_was_and_knows_its_defaults():
    command = parse_command({"command": Command, "other": dict}, "prog", ["command", "--second", "word"])
    assert isinstance(command, Command)
    assert command() == (1, {"first": 1, "second": "word", "third": ()})


def test_help_is_of_bases_too_and_keeps_their_words(capsys, monkeypatch):
    text = help_of("command", {"command": Command}, capsys, monkeypatch)
    assert any("Of the base; in two lines." in line for line in text.splitlines())  # though the docstring has two
    words = " ".join(text.replace("│", " ").split())
    assert "--first INT Of the base; in two lines. (default: 1)" in words
    assert "--second WORD Its own. --third" in words


def test_a_long_line_is_folded_by_what_is_seen_of_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    stream = io.StringIO()
    print("four words, two lines", "\x1b[1mwide\x1b[0m box", sep="\n", file=_Folded(stream))
    assert stream.getvalue() == "four\nwords, two\nlines\n\x1b[1mwide\x1b[0m box\n"
    assert not _Folded(stream).isatty()
