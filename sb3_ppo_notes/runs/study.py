"""``study``: the commands of the checkout's ``tuning/study.py``, which is no part of the installed package."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import sb3_ppo_notes
from sb3_ppo_notes.formulas.checks import InvalidValueError

#: What ``tuning/`` imports beside the package's own requirements, as docs/tuning.md installs it.
NEEDS = 'pip install "optuna>=5" "psutil>=5.9" "sqlalchemy>=2"'


@dataclass
class Study:
    """Search for hyperparameters that hold up: tuning/study.py of a checkout."""

    words: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="COMMAND ...")]] = ()
    """run, status, report, export or compare, and its options; study --help shows them."""

    def __call__(self) -> int:
        """Hand the words on; the exit code is tuning's."""
        root = _checkout()
        if root is None:
            raise InvalidValueError(
                "study needs tuning/, which is no part of the installed package: give the command in a checkout of the "
                "repository, the folder with pyproject.toml (docs/tuning.md)"
            )
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))  # its workers, processes of their own, are given the path, too
        try:
            study = importlib.import_module("tuning.study")
        except ModuleNotFoundError as error:
            raise InvalidValueError(f"study needs {error.name}, which is not installed: {NEEDS}") from error
        return int(study.main(self.words, "sb3_ppo_notes study"))


def study_words(arguments: Sequence[str] | None) -> Sequence[str] | None:
    """What stands behind ``study``, options included; ``None`` for another command."""
    words = sys.argv[1:] if arguments is None else arguments
    return words[1:] if words[:1] == ["study"] else None


def _checkout() -> Path | None:
    """The folder with this package and ``tuning/``, or the present one, if it is a checkout."""
    folders = (Path(sb3_ppo_notes.__file__).parent.parent, Path.cwd())
    return next((path for path in folders if (path / "tuning" / "study.py").is_file()), None)
