"""What is said of an environment beside its id, in every command that makes some: packages, arguments, wrappers."""

import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from sb3_ppo_notes.configs.values import wrap_function
from sb3_ppo_notes.configs.words import data_from_words, split_at_commas
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError


@dataclass
class EnvironmentOptions:
    """Options of a command that makes environments."""

    env: Any = None
    """Id of a registered environment."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import", metavar="PACKAGE ...")] = ()
    """Packages to import first, in every process: they register environments. One alone can also stand before the id:
    package:id."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Arguments of the environment: goal=[1,2] config.lanes_count=3 max_episode_steps=100; rl_zoo3's name:value is
    read, too."""
    wrapper: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:CLASS ...")] = ()
    """Wrappers around the environment, the innermost first, with arguments as
    gymnasium.wrappers:RescaleAction:min_action=-1,max_action=1."""

    def environment(self) -> dict[str, Any]:
        """The options as plain data; the packages have been imported.

        :return: ``imports``, ``env_kwargs`` and ``env_wrapper``, as configurations have them; what was not said is
            left out.
        :raises ValueError: for a package that cannot be imported, or a word that cannot be read.
        """
        import_packages(self.imports)
        for word in self.wrapper:
            if word.replace(":", ".").startswith("gymnasium.wrappers.TimeLimit"):
                # Episodes are counted under the wrappers: an evaluation would wait for ends that are never seen there.
                raise InvalidValueError(
                    f"wrapper must not end episodes, got {word!r}: give --env-kwargs max_episode_steps=100, say"
                )
        data = {
            "imports": list(self.imports),
            "env_kwargs": data_from_words("env_kwargs", self.env_kwargs),
            "env_wrapper": [wrapper_from_word(word) for word in self.wrapper],
        }
        wrap_function(data["env_wrapper"])  # refuses what is none
        return {name: value for name, value in data.items() if value}


def wrapper_from_word(word: str) -> Any:
    """A wrapper as rl_zoo3's files write it.

    :param word: ``module:Class``, and after another colon arguments, separated by commas.
    :return: its path, with arguments ``{path: {name: value}}``.
    :raises ValueError: for arguments that cannot be read.

    >>> wrapper_from_word("gymnasium.wrappers:RescaleAction:min_action=-1,max_action=1")
    {'gymnasium.wrappers.RescaleAction': {'min_action': -1, 'max_action': 1}}
    >>> wrapper_from_word("gymnasium.wrappers.FlattenObservation")
    'gymnasium.wrappers.FlattenObservation'
    """
    module, _, rest = word.partition(":")
    name, _, arguments = rest.partition(":")
    path = f"{module}.{name}" if name else module
    return {path: data_from_words("wrapper", split_at_commas(arguments))} if arguments else path


def import_packages(packages: Iterable[str]) -> None:
    """Import packages, also from the folder that the process was started in.

    :param packages: their names.
    :raises TypeError: if they are no names.
    :raises ValueError: naming the one that cannot be imported.
    """
    if isinstance(packages, str) or not all(isinstance(package, str) for package in packages):
        raise InvalidTypeError(f"imports must be a list of names, got {packages!r}")
    look_here()
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, ValueError) as error:
            raise InvalidValueError(f"import must be packages that are installed, got {package!r}: {error}") from error


def look_here() -> None:
    """Let modules of the present folder be imported, as ``python -m`` does and a console script does not."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
