"""Commands as tyro shows them: a dataclass each, its fields the options and their docstrings the help."""

import contextlib
import dataclasses
import re
import shutil
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro
from docstring_parser import parse_from_object

#: Defaults of which the help says nothing: the docstring says what happens without the option.
UNSAID = (None, "", ())


def parse_command(commands: Mapping[str, Callable[..., Any]], prog: str, arguments: Sequence[str] | None) -> Any:
    """The command of a command line (``None`` for the process's own), ready to be called."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # An option that is not given is None; nobody has to be told that "None" can be typed for it.
    config = (tyro.conf.DisallowNone,)
    with contextlib.redirect_stdout(_Folded(sys.stdout)):
        if words and words[0] in commands:  # an error then leads to the help of the command
            shown: Any = _as_shown(commands[words[0]])
            return tyro.cli(shown, prog=f"{prog} {words[0]}", args=words[1:], config=config)
        all_shown = {name: _as_shown(command) for name, command in commands.items()}
        return tyro.extras.subcommand_cli_from_dict(all_shown, prog=prog, args=words, config=config)


class _Folded:
    """Standard output as wide as the terminal: tyro folds what stands in its boxes, not usage and descriptions."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        width, lines = shutil.get_terminal_size().columns, []
        for line in text.split("\n"):
            first, *words = line.split(" ") if _width_of(line) > width else [line]
            lines.append(first)
            for word in words:
                if _width_of(f"{lines[-1]} {word}") > width:
                    lines.append(word)
                else:
                    lines[-1] += f" {word}"
        return int(self._stream.write("\n".join(lines)))


def _width_of(line: str) -> int:
    """Its length on a terminal, where bold and colours take no room."""
    return len(re.sub(r"\x1b\[[\d;]*m", "", line))


def _as_shown(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, its help flowing text (tyro breaks it where a docstring's lines end) without empty defaults."""
    if not (isinstance(command, type) and dataclasses.is_dataclass(command)):
        return command
    types, helps, fields = typing.get_type_hints(command, include_extras=True), _docstrings(command), []
    for field in dataclasses.fields(command):
        hint = "" if field.default in UNSAID else None
        option = tyro.conf.arg(help=helps.get(field.name), help_behavior_hint=hint)
        same = dataclasses.field(default=field.default, default_factory=field.default_factory)
        fields.append((field.name, Annotated[types[field.name], option], same))
    namespace = {"__doc__": command.__doc__, "__module__": command.__module__}
    return dataclasses.make_dataclass(command.__name__, fields, bases=(command,), namespace=namespace)


def _docstrings(command: type) -> dict[str, str]:
    """Of a dataclass's fields, those of its bases among them."""
    texts: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(command.__mro__)):
        parameters = parse_from_object(base).params
        texts |= {part.arg_name: " ".join((part.description or "").split()) for part in parameters}
    return texts
