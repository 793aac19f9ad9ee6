"""The shell's door: ``python -m sb3_ppo_notes COMMAND``. It only dispatches."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.runs.bench.command import Bench
from sb3_ppo_notes.runs.compare.command import Compare
from sb3_ppo_notes.runs.export import Export
from sb3_ppo_notes.runs.hub.command import Hub
from sb3_ppo_notes.runs.notes import Notes
from sb3_ppo_notes.runs.options import parse_command
from sb3_ppo_notes.runs.study import Study, study_words
from sb3_ppo_notes.runs.train.command import Train
from sb3_ppo_notes.runs.visualize.command import Visualize

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": Train,
    "compare": Compare,
    "visualize": Visualize,
    "export": Export,
    "hub": Hub,
    "bench": Bench,
    "notes": Notes,
    "study": Study,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :param arguments: words of the command line, ``None`` for the process's own.
    :return: the exit code: 0 done, 1 what was to be shown is not so, 2 bad input.
    """
    # Each command is a dataclass: its fields are the options, their docstrings the help, calling it does the work.
    words = study_words(arguments)
    command = parse_command(COMMANDS, "sb3_ppo_notes", arguments) if words is None else Study(tuple(words))
    try:
        return int(command())
    except (Exception, SystemExit) as error:  # an environment may end the program, too
        line = environment_error(error)
        if line is None and not isinstance(error, ValueError | TypeError | OSError):
            raise
        print(f"error: {line or error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
