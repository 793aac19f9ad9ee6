"""The shell's door: ``python tuning/study.py run | status | report | export | compare``. It only dispatches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: Python then looks for modules in its folder, and not in the one above
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sb3_ppo_notes.rollouts import environment_error
from sb3_ppo_notes.runs.options import parse_command
from tuning.commands.run import Run
from tuning.commands.verbs import Compare, Export, Report, Status
from tuning.storage.database import close_databases

COMMANDS: dict[str, Callable[..., Any]] = {
    "run": Run,
    "status": Status,
    "report": Report,
    "export": Export,
    "compare": Compare,
}


def main(arguments: Sequence[str] | None = None, prog: str = "tuning/study.py") -> int:
    """Run one command; exit code 0 done, 1 stopped by failures, 2 bad input, 130 or 143 after a signal."""
    # Each command is a dataclass: its fields are the options, their docstrings the help, calling it does the work.
    command = parse_command(COMMANDS, prog, arguments)
    try:
        return int(command())
    except (Exception, SystemExit) as error:  # an environment may end the program, too
        line = environment_error(error)
        if line is None and not isinstance(error, ValueError | TypeError | OSError):
            raise
        print(f"error: {command.hide(line or str(error))}", file=sys.stderr)
        return 2
    finally:
        close_databases()


if __name__ == "__main__":
    sys.exit(main())
