"""Commands as tyro shows them: a dataclass each, its fields the options and their docstrings the help."""

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro
from docstring_parser import parse_from_object

#: Defaults of which the help says nothing: the docstring says what happens without the option.
UNSAID = (None, "", ())


def parse_command(commands: Mapping[str, Callable[..., Any]], prog: str, arguments: Sequence[str] | None) -> Any:
    """The command of a command line (``None`` for the process's own), ready to be called."""
    shown = {name: _as_shown(command) for name, command in commands.items()}
    # An option that is not given is None; nobody has to be told that "None" can be typed for it.
    config = (tyro.conf.DisallowNone,)
    return tyro.extras.subcommand_cli_from_dict(shown, prog=prog, args=arguments, config=config)


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
